//! The gated feed-forward block: `down(silu(gate(x)) * up(x))`.

use candle_core::Tensor;

use super::linear::Linear;
use super::rows::Rows;
use crate::adapter::Adapter;
use crate::error::Result;
use crate::kernels;

pub(crate) struct Mlp {
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    /// Whether our fused operations run.
    pub(crate) fused: bool,
}

impl Mlp {
    /// Rows `[rows, hidden]` to the same.
    pub(crate) fn forward(&self, x: &Tensor, rows: &Rows, adapters: &[Adapter]) -> Result<Tensor> {
        let gate = self.gate.forward(x, rows, adapters)?;
        let up = self.up.forward(x, rows, adapters)?;
        let gated =
            if self.fused { kernels::swiglu(&gate, &up)? } else { (candle_nn::ops::silu(&gate)? * up)? };
        self.down.forward(&gated, rows, adapters)
    }
}
