//! One layer, forwards for every form, and backwards for ours.
//!
//! candle's autograd clears and sums a buffer for every edge of its graph, in a second pool of threads
//! that spins. Our form therefore records one node a layer: what the layer's gradient needs is kept from
//! the forward pass, and its backward is the chain of our operations' own gradients. Composed forms are
//! differentiated by candle, operation by operation.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Storage, Tensor};

use super::attention::{Attended, Attention};
use super::mlp::Mlp;
use super::norm::RmsNorm;
use super::rope::Angles;
use super::rows::Rows;
use super::{Sequence, residual};
use crate::adapter::delta::Branches;
use crate::error::Result;

/// What all layers of a forward pass share.
pub(crate) struct Pass {
    pub(crate) rows: Arc<Rows>,
    pub(crate) angles: Angles,
    pub(crate) adapters: Arc<[Branches]>,
}

/// The rows that go on after a layer's attention, where others are not needed any more.
pub(crate) struct Picked {
    /// Indices of rows, u32.
    pub(crate) index: Tensor,
    /// The picked rows as a batch of their own.
    pub(crate) rows: Arc<Rows>,
}

pub(crate) struct Layer {
    pub(crate) input_norm: RmsNorm,
    pub(crate) attention: Attention,
    pub(crate) mlp_norm: RmsNorm,
    pub(crate) mlp: Mlp,
    /// Whether our fused operations run.
    pub(crate) fused: bool,
}

impl Layer {
    /// Rows `[rows, hidden]` to the same, or to the picked ones.
    pub(crate) fn forward(
        self: &Arc<Self>,
        x: &Tensor,
        pass: &Pass,
        sequences: &mut [Sequence<'_>],
        picked: Option<&Picked>,
    ) -> Result<Tensor> {
        let recorded = self.fused && x.track_op();
        let input = if recorded { x.detach() } else { x.clone() };
        let mut attended =
            self.attention.attend(&self.input_norm.forward(&input)?, pass, sequences, recorded)?;
        let (mut stream, mut rows) = (input.clone(), &pass.rows);
        if let Some(picked) = picked {
            attended.heads = attended.heads.index_select(&picked.index, 0)?;
            stream = stream.index_select(&picked.index, 0)?;
            rows = &picked.rows;
        }
        let projected = self.attention.project(&attended.heads, rows, &pass.adapters)?;
        let middle = residual(self.fused, &stream, &projected)?;
        let (added, gate_up) = self.mlp.forward(&self.mlp_norm.forward(&middle)?, rows, &pass.adapters)?;
        if !recorded {
            return residual(self.fused, &middle, &added);
        }
        let trace = Trace {
            layer: self.clone(),
            input,
            attended,
            middle,
            gate_up,
            added,
            rows: pass.rows.clone(),
            picked: picked.map(|picked| (picked.index.clone(), picked.rows.clone())),
            adapters: pass.adapters.clone(),
            angles: pass.angles.clone(),
        };
        Ok(x.apply_op1(trace)?)
    }
}

/// A layer's forward pass as a node of the graph, with what its gradient needs.
struct Trace {
    layer: Arc<Layer>,
    /// The layer's input, `[rows, hidden]`.
    input: Tensor,
    attended: Attended,
    /// The residual stream between attention and feed-forward block.
    middle: Tensor,
    gate_up: Tensor,
    /// What the feed-forward block adds to `middle`.
    added: Tensor,
    rows: Arc<Rows>,
    picked: Option<(Tensor, Arc<Rows>)>,
    adapters: Arc<[Branches]>,
    angles: Angles,
}

impl Trace {
    /// The gradient of the layer's input from that of its output. Where those of an adapter's factors are wanted, too,
    /// normed and gated rows are made again: keeping them would cost more memory than time is saved.
    fn gradient(&self, grad: &Tensor) -> Result<Tensor> {
        let Self { layer, adapters, .. } = self;
        let rows = self.picked.as_ref().map_or(&self.rows, |(_, rows)| rows);
        let again = || layer.mlp_norm.forward(&self.middle);
        let normed = layer.mlp.gradient(&self.gate_up, grad, rows, adapters, again)?;
        let mut middle = layer.mlp_norm.gradient(&self.middle, &normed, grad)?;
        let attended = &self.attended;
        let mut heads = layer.attention.project_gradient(&attended.heads, &middle, rows, adapters)?;
        if let Some((index, _)) = &self.picked {
            let spread = |picked: &Tensor| -> Result<Tensor> {
                let all = (self.rows.total, picked.dims()[1]);
                Ok(Tensor::zeros(all, picked.dtype(), picked.device())?.index_add(index, picked, 0)?)
            };
            (middle, heads) = (spread(&middle)?, spread(&heads)?);
        }
        let again = || layer.input_norm.forward(&self.input);
        let normed = layer.attention.gradient(attended, &heads, &self.rows, &self.angles, adapters, again)?;
        layer.input_norm.gradient(&self.input, &normed, &middle)
    }
}

impl CustomOp1 for Trace {
    fn name(&self) -> &'static str {
        "decoder layer"
    }

    /// The layer has run already, but for its last sum.
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let sum = residual(true, &self.middle, &self.added).map_err(candle_core::Error::wrap)?;
        let shape = sum.shape().clone();
        let storage = sum.storage_and_layout().0;
        match &*storage {
            Storage::Cpu(storage) => Ok((storage.clone(), shape)),
            _ => Err(candle_core::Error::Msg("expected the fused form on the cpu".into())),
        }
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        // As in the forward pass, the whole layer runs within the pool.
        rayon::scope(|_| self.gradient(grad)).map(Some).map_err(candle_core::Error::wrap)
    }
}
