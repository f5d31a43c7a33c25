//! What a pass leaves of its inner states, for those who ask: the residual stream after every layer, how large the
//! branches of an adapter are beside the frozen products, and what is attended to, at the rows where logits are wanted.
//!
//! Only these rows are read, so memory and time do not grow with the prompts' length. A pass without a capture tests an
//! `Option` for every projection, and does nothing else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};

use super::config::DecoderConfig;
use super::site::Site;
use crate::error::{Error, Result};
use crate::kernels::Energy;

/// The inner states of a pass at its wanted rows, in row order. Plain data: no tensor is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Activations {
    hidden: usize,
    /// By layer, `[rows * hidden]`.
    residual: Vec<Vec<f32>>,
    /// By site; empty where no row has a branch.
    energies: Vec<Vec<Option<f32>>>,
    heads: usize,
    /// By layer and row, `[heads * positions]`; no layers if nobody asked.
    attention: Vec<Vec<Vec<f32>>>,
}

impl Activations {
    /// Number of layers.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.residual.len()
    }

    /// The residual stream after a layer at the wanted row of this index, `[hidden]`; `None` if there is no such layer
    /// or row. The last layer's is that before the final norm.
    #[must_use]
    pub fn residual(&self, layer: usize, row: usize) -> Option<&[f32]> {
        self.residual.get(layer)?.chunks_exact(self.hidden).nth(row)
    }

    /// `|s B A x| / |W x|` at a site, with the row's own scale in `s`: the length of what the adapter adds to the frozen
    /// product, before a bias. `None` where the row has no branch, or the frozen product is zero.
    #[must_use]
    pub fn energy(&self, site: usize, row: usize) -> Option<f32> {
        self.energies.get(site)?.get(row).copied().flatten()
    }

    /// How much each head of a layer attends from the wanted row of this index to every position of its context up to
    /// its own: one slice a head, which sums to 1. `None` if there is no such layer or row, or nobody asked
    /// ([`super::Decoder::forward_attended`]).
    pub fn attention(&self, layer: usize, row: usize) -> Option<impl Iterator<Item = &[f32]>> {
        let weights = self.attention.get(layer)?.get(row)?;
        Some(weights.chunks_exact((weights.len() / self.heads).max(1)))
    }
}

/// Where the parts of a pass, each on its own thread, leave what they see.
pub(crate) struct Capture {
    rows: usize,
    hidden: usize,
    residual: Vec<Mutex<Vec<f32>>>,
    energies: Mutex<Energies>,
    heads: usize,
    /// By layer and row; no layers if nobody asked.
    attention: Vec<Mutex<Vec<Vec<f32>>>>,
}

/// By projection and first column: one value a wanted row.
type Energies = BTreeMap<(usize, usize), Vec<Option<f32>>>;

impl Capture {
    /// For so many wanted rows of a decoder, with their attention or without.
    pub(super) fn new(rows: usize, config: &DecoderConfig, attention: bool) -> Self {
        let (hidden, layers) = (config.hidden_size, config.layers);
        let attended = if attention { layers } else { 0 };
        Self {
            rows,
            hidden,
            residual: (0..layers).map(|_| Mutex::new(vec![0.0; rows * hidden])).collect(),
            energies: Mutex::default(),
            heads: config.heads,
            attention: (0..attended).map(|_| Mutex::new(vec![Vec::new(); rows])).collect(),
        }
    }

    /// Whether attention is wanted.
    pub(super) fn has_attention(&self) -> bool {
        !self.attention.is_empty()
    }

    /// An error if a decoder has another number of layers.
    pub(super) fn check(&self, layers: usize) -> Result<()> {
        if layers == self.residual.len() {
            return Ok(());
        }
        Err(Error::Request(format!(
            "expected {} layers as the base has, found an adapter that runs on {layers}: their residual streams \
             cannot be compared layer by layer",
            self.residual.len()
        )))
    }

    /// Takes what another capture has, whose rows are those of this one at `places`.
    pub(super) fn take(&self, part: &Self, places: &[usize]) {
        for (own, part) in self.residual.iter().zip(&part.residual) {
            let (mut own, part) = (locked(own), locked(part));
            for (&place, row) in places.iter().zip(part.chunks_exact(self.hidden)) {
                own[place * self.hidden..(place + 1) * self.hidden].copy_from_slice(row);
            }
        }
        let mut energies = locked(&self.energies);
        for (&site, values) in locked(&part.energies).iter() {
            let own = energies.entry(site).or_insert_with(|| vec![None; self.rows]);
            for (&place, value) in places.iter().zip(values) {
                own[place] = *value;
            }
        }
        for (own, part) in self.attention.iter().zip(&part.attention) {
            let (mut own, mut part) = (locked(own), locked(part));
            for (&place, weights) in places.iter().zip(part.iter_mut()) {
                own[place] = std::mem::take(weights);
            }
        }
    }

    /// What was seen, by the sites of the decoder.
    pub(super) fn activations(&self, sites: &[Site]) -> Activations {
        let energies = locked(&self.energies);
        let of = |site: &Site| energies.get(&(site.projection, site.column)).cloned().unwrap_or_default();
        Activations {
            hidden: self.hidden,
            residual: self.residual.iter().map(|layer| std::mem::take(&mut *locked(layer))).collect(),
            energies: sites.iter().map(of).collect(),
            heads: self.heads,
            attention: self.attention.iter().map(|layer| std::mem::take(&mut *locked(layer))).collect(),
        }
    }
}

/// A thread that panicked leaves data that nobody reads: its pass fails.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The rows of a batch, or of a part of it, that a capture reads.
#[derive(Clone)]
pub(crate) struct Watched {
    capture: Arc<Capture>,
    rows: Vec<WatchedRow>,
}

/// A row that is read.
#[derive(Clone, Copy)]
struct WatchedRow {
    /// Index among the rows at hand.
    row: u32,
    /// Index among the wanted rows of the pass.
    place: usize,
}

impl Watched {
    /// These rows, which are the wanted ones of the pass from `first` on.
    pub(super) fn new(capture: &Arc<Capture>, rows: &[u32], first: usize) -> Self {
        let rows = rows.iter().enumerate().map(|(i, &row)| WatchedRow { row, place: first + i }).collect();
        Self { capture: capture.clone(), rows }
    }

    /// Those that are among the rows picked for a batch of their own.
    pub(super) fn picked(&self, rows: &[u32]) -> Self {
        let watched = |(index, picked): (usize, &u32)| {
            let own = self.rows.iter().find(|watched| watched.row == *picked)?;
            Some(WatchedRow { row: index as u32, place: own.place })
        };
        Self { capture: self.capture.clone(), rows: rows.iter().enumerate().filter_map(watched).collect() }
    }

    /// Those from `start` on, `len` of all rows.
    pub(super) fn within(&self, start: usize, len: usize) -> Self {
        let inside = |watched: &&WatchedRow| (start..start + len).contains(&(watched.row as usize));
        Self { capture: self.capture.clone(), rows: self.rows.iter().filter(inside).copied().collect() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether attention is wanted.
    pub(super) fn has_attention(&self) -> bool {
        self.capture.has_attention()
    }

    /// The rows, as indices among those at hand, in order.
    pub(super) fn rows(&self) -> impl Iterator<Item = usize> {
        self.rows.iter().map(|watched| watched.row as usize)
    }

    /// Leaves what each row attends to in a layer, `[heads * positions]`, in the order of the rows.
    pub(super) fn attention(&self, layer: usize, weights: Vec<Vec<f32>>) {
        let Some(kept) = self.capture.attention.get(layer) else { return };
        let mut kept = locked(kept);
        for (watched, weights) in self.rows.iter().zip(weights) {
            kept[watched.place] = weights;
        }
    }

    /// The watched rows of a matrix.
    pub(super) fn of(&self, matrix: &Tensor) -> Result<Tensor> {
        let index: Vec<u32> = self.rows.iter().map(|watched| watched.row).collect();
        let index = Tensor::from_vec(index, self.rows.len(), matrix.device())?;
        Ok(matrix.detach().contiguous()?.index_select(&index, 0)?)
    }

    /// Leaves the residual stream `[rows, hidden]` after a layer.
    pub(super) fn residual(&self, layer: usize, stream: &Tensor) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let rows = self.of(stream)?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.to_vec2::<f32>()?;
        let hidden = self.capture.hidden;
        let mut kept = locked(&self.capture.residual[layer]);
        for (watched, row) in self.rows.iter().zip(&rows) {
            kept[watched.place * hidden..(watched.place + 1) * hidden].copy_from_slice(row);
        }
        Ok(())
    }

    /// Leaves the squared lengths of branch and frozen product of a site, in the order of the rows.
    pub(super) fn energies(&self, projection: usize, column: usize, squares: &[Energy]) {
        let mut energies = locked(&self.capture.energies);
        let rows = self.capture.rows;
        let kept = energies.entry((projection, column)).or_insert_with(|| vec![None; rows]);
        for (watched, energy) in self.rows.iter().zip(squares) {
            kept[watched.place] = energy.ratio();
        }
    }
}
