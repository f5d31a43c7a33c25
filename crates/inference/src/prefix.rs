//! Keys and values of earlier positions: a frozen prefix shared by many sequences, and the growing
//! cache of one.

use std::sync::Arc;

use candle_core::Tensor;

use crate::decoder::Side;
use crate::error::Result;
use crate::kernels;

/// Keys and values of the first tokens of a context, computed once and shared without copies. Valid
/// for one side only: base and adapted rows have different keys. A prefix may continue another, so that
/// contexts form a tree.
pub struct Prefix {
    /// Number of positions, those of the continued prefix included.
    pub len: usize,
    /// The side that it was computed for.
    pub side: Side,
    parent: Option<Arc<Prefix>>,
    layers: Vec<LayerCache>,
    /// Tokens of its own positions.
    ids: Vec<u32>,
    /// The position from which the side's branches act in it; past its end if they do not.
    active_from: usize,
}

impl Prefix {
    /// Earlier positions of a layer, from the start of the context on.
    pub(crate) fn segments(&self, layer: usize) -> Vec<&LayerCache> {
        let mut segments = self.parent.as_ref().map_or_else(Vec::new, |parent| parent.segments(layer));
        segments.push(&self.layers[layer]);
        segments
    }

    /// The tokens of all positions.
    pub(crate) fn ids(&self) -> Vec<u32> {
        let mut ids = self.parent.as_ref().map_or_else(Vec::new, |parent| parent.ids());
        ids.extend_from_slice(&self.ids);
        ids
    }

    /// Whether it is what a longer context begins with in which branches act from this position on.
    pub(crate) fn begins(&self, active_from: usize) -> bool {
        self.active_from == active_from || self.active_from.min(active_from) >= self.len
    }
}

/// The growing keys and values of one sequence, after an optional shared prefix.
pub struct KvCache {
    prefix: Option<Arc<Prefix>>,
    /// Own positions, by layer; empty until the first pass.
    own: Vec<LayerCache>,
    /// Tokens of own positions.
    ids: Vec<u32>,
    /// The position from which branches act, as the first pass found it.
    active_from: usize,
}

/// Rotated keys and values of one layer, `[positions, kv_heads * head_dim]`.
pub(crate) enum LayerCache {
    /// In the layout of our attention.
    Fused(kernels::KvCache),
    /// As tensors on any device.
    Composed(Growing),
}

/// Rows in buffers that double when they are full.
pub(crate) struct Growing {
    k: Tensor,
    v: Tensor,
    len: usize,
}

/// Positions that a new buffer has room for.
const INITIAL_ROOM: usize = 64;

impl KvCache {
    /// An empty cache.
    #[must_use]
    pub fn new() -> Self {
        Self { prefix: None, own: Vec::new(), ids: Vec::new(), active_from: 0 }
    }

    /// A cache that starts with a shared prefix, which is not copied.
    #[must_use]
    pub fn after(prefix: &Arc<Prefix>) -> Self {
        Self { prefix: Some(prefix.clone()), ..Self::new() }
    }

    /// Positions held, the prefix included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len() + self.prefix.as_ref().map_or(0, |prefix| prefix.len)
    }

    /// Whether no position is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shared prefix that the cache starts with.
    pub(crate) fn prefix(&self) -> Option<&Arc<Prefix>> {
        self.prefix.as_ref()
    }

    /// Earlier positions of a layer, in order.
    pub(crate) fn segments(&self, layer: usize) -> impl Iterator<Item = &LayerCache> {
        self.prefix.iter().flat_map(move |prefix| prefix.segments(layer)).chain(self.own.get(layer))
    }

    /// Takes up the tokens of a finished forward pass, in whose context branches act from this position on.
    pub(crate) fn advance(&mut self, ids: &[u32], active_from: usize) {
        self.ids.extend_from_slice(ids);
        self.active_from = active_from;
    }

    /// The position from which branches act, if a pass has settled it.
    pub(crate) fn settled(&self) -> Option<usize> {
        (!self.ids.is_empty()).then_some(self.active_from)
    }

    /// Appends rows to a layer; layers come in order on the first pass.
    pub(crate) fn append(
        &mut self,
        layer: usize,
        k: &Tensor,
        v: &Tensor,
        empty: impl FnOnce() -> Result<LayerCache>,
    ) -> Result<()> {
        if layer == self.own.len() {
            self.own.push(empty()?);
        }
        match &mut self.own[layer] {
            LayerCache::Fused(cache) => Ok(cache.append(k, v)?),
            LayerCache::Composed(growing) => growing.append(&k.detach(), &v.detach()),
        }
    }

    /// Freezes the held positions into a prefix that others can share.
    #[must_use]
    pub fn freeze(self, side: Side) -> Prefix {
        let len = self.len();
        let Self { ids, active_from, .. } = self;
        Prefix { len, side, parent: self.prefix, layers: self.own, ids, active_from }
    }
}

impl Default for KvCache {
    fn default() -> Self {
        Self::new()
    }
}

impl Growing {
    /// An empty buffer for rows like these.
    pub(crate) fn like(rows: &Tensor) -> Result<Self> {
        let (_, width) = rows.dims2()?;
        let buffer = || Tensor::zeros((INITIAL_ROOM, width), rows.dtype(), rows.device());
        Ok(Self { k: buffer()?, v: buffer()?, len: 0 })
    }

    /// All keys and values held.
    pub(crate) fn view(&self) -> Result<(Tensor, Tensor)> {
        Ok((self.k.narrow(0, 0, self.len)?, self.v.narrow(0, 0, self.len)?))
    }

    fn append(&mut self, k: &Tensor, v: &Tensor) -> Result<()> {
        let needed = self.len + k.dims()[0];
        for (buffer, rows) in [(&mut self.k, k), (&mut self.v, v)] {
            let (room, width) = buffer.dims2()?;
            if needed > room {
                let larger =
                    Tensor::zeros((needed.next_power_of_two(), width), buffer.dtype(), buffer.device())?;
                larger.slice_set(&buffer.narrow(0, 0, self.len)?.contiguous()?, 0, 0)?;
                *buffer = larger;
            }
            buffer.slice_set(&rows.contiguous()?, 0, self.len)?;
        }
        self.len = needed;
        Ok(())
    }
}
