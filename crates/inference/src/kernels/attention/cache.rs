//! Keys and values of earlier positions, growing in place.

use super::product::row_vectors;
use crate::kernels::rows::{Rows, readable, with_rows};
use crate::kernels::simd::LANES;
use candle_core::{Result, Tensor, bail};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

const OP: &str = "key-value cache";

/// Keys (already rotated) and values of one layer for the positions of one sequence so far, as constants: no gradient
/// flows into them.
///
/// [`Self::past`] hands out a view that shares the memory, so any number of continuations can be scored against one
/// prefix. Appending is in place if no view is alive, and copies otherwise.
#[derive(Clone)]
pub struct KvCache {
    store: Arc<Store>,
}

/// The first positions of a [`KvCache`], as they were when the view was taken.
#[derive(Clone)]
pub struct Past {
    store: Arc<Store>,
    len: usize,
}

/// Keys are kept by sixteen positions, `[position / 16][kv head][feature][position % 16]`, so that a vector of scores
/// is a sum of vectors; values by position, `[position][kv head][feature]`, with features padded to whole vectors.
#[derive(Clone)]
struct Store {
    kv_heads: usize,
    head_dim: usize,
    len: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// The keys and values of one head in a run of positions.
#[derive(Clone, Copy)]
pub(super) struct Segment<'a> {
    /// Positions, counted from the start of the sequence.
    pub(super) start: usize,
    pub(super) len: usize,
    /// Blocks `[feature][16 positions]`, `block_stride` apart.
    pub(super) keys: &'a [f32],
    pub(super) block_stride: usize,
    /// Rows of features padded to whole vectors, `value_stride` apart.
    pub(super) values: &'a [f32],
    pub(super) value_stride: usize,
}

impl KvCache {
    /// An empty cache for `kv_heads` heads of `head_dim` features.
    pub fn new(kv_heads: usize, head_dim: usize) -> Self {
        Self { store: Arc::new(Store { kv_heads, head_dim, len: 0, keys: Vec::new(), values: Vec::new() }) }
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.store.len
    }

    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A view of all positions held.
    pub fn past(&self) -> Past {
        Past { store: self.store.clone(), len: self.len() }
    }

    /// Appends the positions of `k` and `v`, both `[positions, kv_heads * head_dim]`.
    ///
    /// # Errors
    /// If the shapes are others, or the tensors are not `f32` on the CPU.
    pub fn append(&mut self, k: &Tensor, v: &Tensor) -> Result<()> {
        let width = self.store.kv_heads * self.store.head_dim;
        let (rows, columns) = k.dims2()?;
        if columns != width || v.dims() != [rows, width] {
            bail!(
                "{OP}: expected keys and values of {width} features, found {:?} and {:?}",
                k.dims(),
                v.dims()
            );
        }
        let (k, v) = (readable(OP, k)?, readable(OP, v)?);
        let store = Arc::make_mut(&mut self.store);
        with_rows(OP, &k, |k| {
            with_rows(OP, &v, |v| {
                store.append(k, v);
                Ok(())
            })
        })
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len() {
            Arc::make_mut(&mut self.store).truncate(len);
        }
    }
}

impl Store {
    fn padded_dim(&self) -> usize {
        row_vectors(self.head_dim) * LANES
    }

    fn append(&mut self, k: Rows<'_>, v: Rows<'_>) {
        let width = self.kv_heads * self.head_dim;
        for i in 0..k.count {
            let (block, lane) = (self.len / LANES, self.len % LANES);
            if lane == 0 {
                self.keys.resize((block + 1) * width * LANES, 0.0);
            }
            let lanes = self.keys[block * width * LANES..].iter_mut().skip(lane).step_by(LANES);
            for (place, &x) in lanes.zip(k.row(i)) {
                *place = x;
            }
            let padded = self.padded_dim();
            for head in v.row(i).chunks_exact(self.head_dim) {
                self.values.extend_from_slice(head);
                self.values.resize(self.values.len() + padded - self.head_dim, 0.0);
            }
            self.len += 1;
        }
    }

    fn truncate(&mut self, len: usize) {
        self.len = len;
        self.keys.truncate(len.div_ceil(LANES) * self.kv_heads * self.head_dim * LANES);
        self.values.truncate(len * self.kv_heads * self.padded_dim());
    }
}

impl Past {
    /// Positions in view.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is in view.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The same view cut to its first `len` positions.
    pub fn truncated(&self, len: usize) -> Self {
        Self { store: self.store.clone(), len: self.len.min(len) }
    }

    /// Whether the view is of heads of this number and size.
    pub(super) fn fits(&self, kv_heads: usize, head_dim: usize) -> bool {
        (self.store.kv_heads, self.store.head_dim) == (kv_heads, head_dim)
    }

    /// One head's keys and values, for a sequence in which the view begins at position `start`.
    pub(super) fn segment(&self, kv_head: usize, start: usize) -> Segment<'_> {
        let Store { kv_heads, head_dim, keys, values, .. } = &*self.store;
        let padded = self.store.padded_dim();
        Segment {
            start,
            len: self.len,
            keys: keys.get(kv_head * head_dim * LANES..).unwrap_or(&[]),
            block_stride: kv_heads * head_dim * LANES,
            values: values.get(kv_head * padded..).unwrap_or(&[]),
            value_stride: kv_heads * padded,
        }
    }
}

impl Segment<'_> {
    /// Which of the positions `range` are in the segment, counted from its own start.
    pub(super) fn part(&self, range: &Range<usize>) -> Range<usize> {
        let end = range.end.clamp(self.start, self.start + self.len) - self.start;
        (range.start.max(self.start) - self.start).min(end)..end
    }

    /// Copies a key's features.
    pub(super) fn copy_key(&self, position: usize, to: &mut [f32]) {
        let block = &self.keys[position / LANES * self.block_stride..];
        for (to, &x) in to.iter_mut().zip(block.iter().skip(position % LANES).step_by(LANES)) {
            *to = x;
        }
    }

    /// A value's features, padded.
    pub(super) fn value(&self, position: usize, padded_dim: usize) -> &[f32] {
        &self.values[position * self.value_stride..][..padded_dim]
    }
}

impl fmt::Debug for KvCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvCache").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Past {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Past").field("len", &self.len).finish_non_exhaustive()
    }
}
