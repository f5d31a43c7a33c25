//! One layer, forwards for every form, and backwards for ours.
//!
//! Our form records what the gradient needs, and its backward is the chain of our operations' own gradients.
//! Composed forms are differentiated by candle, operation by operation.

use std::sync::Arc;

use candle_core::Tensor;

use super::attention::{Attended, Attention};
use super::generic::GenericLayer;
use super::mlp::Mlp;
use super::norm::RmsNorm;
use super::rope::Angles;
use super::rows::Rows;
use super::{Sequence, residual};
use crate::adapter::delta::Branches;
use crate::error::{Error, Result};

/// What all layers of a forward pass share.
pub(crate) struct Pass {
    pub(crate) rows: Rows,
    /// One entry a rotary embedding.
    pub(crate) angles: Vec<Angles>,
    pub(crate) adapters: Arc<[Branches]>,
    /// Rows that go on after the last layer's attention.
    pub(crate) picked: Picked,
}

/// The rows that go on after a layer's attention, where others are not needed any more.
pub(crate) struct Picked {
    /// Indices of rows, u32.
    pub(crate) index: Tensor,
    /// The picked rows as a batch of their own.
    pub(crate) rows: Rows,
}

pub(crate) enum Layer {
    /// Of Llama's kind.
    Llama(Box<LlamaLayer>),
    /// Any other.
    Generic(Box<GenericLayer>),
}

pub(crate) struct LlamaLayer {
    pub(crate) input_norm: RmsNorm,
    pub(crate) attention: Attention,
    pub(crate) mlp_norm: RmsNorm,
    pub(crate) mlp: Mlp,
    /// Whether our fused operations run.
    pub(crate) fused: bool,
}

/// What a layer's gradient needs of its forward pass, in our fused form.
pub(crate) struct Trace {
    /// The layer's input, `[rows, hidden]`.
    input: Tensor,
    attended: Attended,
    /// The residual stream between attention and feed-forward block.
    middle: Tensor,
    gate_up: Tensor,
    picked: bool,
}

impl Layer {
    /// Whether there is a form with a gradient of its own.
    pub(crate) fn is_recordable(&self) -> bool {
        matches!(self, Self::Llama(_))
    }

    /// Rows `[rows, hidden]` to the same, or to the picked ones; with a trace if it is `recorded`.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        pass: &Pass,
        sequences: &mut [Sequence<'_>],
        picked: bool,
        recorded: bool,
    ) -> Result<(Tensor, Option<Trace>)> {
        match self {
            Self::Llama(layer) => layer.forward(x, pass, sequences, picked, recorded),
            Self::Generic(layer) => Ok((layer.forward(x, pass, sequences, picked)?, None)),
        }
    }

    /// The gradient of the input from that of the output; of our fused form only.
    pub(crate) fn gradient(&self, trace: &Trace, pass: &Pass, grad: &Tensor) -> Result<Tensor> {
        match self {
            Self::Llama(layer) => layer.gradient(trace, pass, grad),
            Self::Generic(_) => Err(Error::Request("expected a layer with a gradient of its own".into())),
        }
    }

    /// What [`Self::gradient`] needs beside a trace.
    pub(crate) fn prepare_gradient(&self) {
        if let Self::Llama(layer) = self {
            layer.prepare_gradient();
        }
    }
}

impl LlamaLayer {
    /// Rows `[rows, hidden]` to the same, or to the picked ones; with a trace if it is `recorded`.
    fn forward(
        &self,
        x: &Tensor,
        pass: &Pass,
        sequences: &mut [Sequence<'_>],
        picked: bool,
        recorded: bool,
    ) -> Result<(Tensor, Option<Trace>)> {
        let mut attended = self.attention.attend(&self.input_norm.forward(x)?, pass, sequences, recorded)?;
        let mut stream = x.clone();
        if picked {
            attended.heads = attended.heads.index_select(&pass.picked.index, 0)?;
            stream = stream.index_select(&pass.picked.index, 0)?;
        }
        let rows = pass.rows_after_attention(picked);
        let projected = self.attention.project(&attended.heads, rows, &pass.adapters)?;
        let middle = residual(self.fused, &stream, &projected)?;
        let (added, gate_up) = self.mlp.forward(&self.mlp_norm.forward(&middle)?, rows, &pass.adapters)?;
        let output = residual(self.fused, &middle, &added)?;
        let trace = recorded.then(|| Trace { input: x.clone(), attended, middle, gate_up, picked });
        Ok((output, trace))
    }

    /// The gradient of the input from that of the output; of our fused form only. Where those of an adapter's factors
    /// are wanted, too, normed and gated rows are made again: keeping them would cost more memory than time is saved.
    fn gradient(&self, trace: &Trace, pass: &Pass, grad: &Tensor) -> Result<Tensor> {
        let Trace { input, attended, middle, gate_up, picked } = trace;
        let (rows, adapters) = (pass.rows_after_attention(*picked), &pass.adapters);
        let normed = self.mlp.gradient(gate_up, grad, rows, adapters, || self.mlp_norm.forward(middle))?;
        let mut to_middle = self.mlp_norm.gradient(middle, &normed, grad)?;
        let mut to_heads = self.attention.project_gradient(&attended.heads, &to_middle, rows, adapters)?;
        if *picked {
            let spread = |picked: &Tensor| -> Result<Tensor> {
                let all = (pass.rows.total, picked.dims()[1]);
                let zeros = Tensor::zeros(all, picked.dtype(), picked.device())?;
                Ok(zeros.index_add(&pass.picked.index, picked, 0)?)
            };
            (to_middle, to_heads) = (spread(&to_middle)?, spread(&to_heads)?);
        }
        let again = || self.input_norm.forward(input);
        let normed =
            self.attention.gradient(attended, &to_heads, &pass.rows, &pass.angles[0], adapters, again)?;
        self.input_norm.gradient(input, &normed, &to_middle)
    }

    /// What [`Self::gradient`] needs beside a trace.
    fn prepare_gradient(&self) {
        self.attention.prepare_gradient();
        self.mlp.gate_up.prepare_gradient();
        self.mlp.down.prepare_gradient();
    }
}

impl Pass {
    pub(crate) fn rows_after_attention(&self, picked: bool) -> &Rows {
        if picked { &self.picked.rows } else { &self.rows }
    }
}
