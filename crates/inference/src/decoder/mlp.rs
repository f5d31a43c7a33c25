//! The gated feed-forward block: `down(silu(gate(x)) * up(x))`.

use candle_core::Tensor;

use super::linear::Linear;
use super::rows::Rows;
use crate::adapter::delta::Branches;
use crate::error::Result;
use crate::kernels::{self, Activation};

pub(crate) struct Mlp {
    /// Gate and up side by side.
    pub(crate) gate_up: Linear,
    pub(crate) down: Linear,
    /// Whether our fused operations run.
    pub(crate) fused: bool,
}

impl Mlp {
    /// Rows `[rows, hidden]` to the same, and what the gradient needs: gate and up, `[rows, 2 * intermediate]`.
    pub(crate) fn forward(&self, x: &Tensor, rows: &Rows, adapters: &[Branches]) -> Result<(Tensor, Tensor)> {
        let gate_up = self.gate_up.forward(x, rows, adapters)?;
        let (gate, up) = halves(&gate_up)?;
        let gated =
            if self.fused { kernels::swiglu(&gate, &up)? } else { (candle_nn::ops::silu(&gate)? * up)? };
        Ok((self.down.forward(&gated, rows, adapters)?, gate_up))
    }

    /// The gradient of `x` from that of the result; of our fused form only. `x` is made again where it is needed.
    pub(crate) fn gradient(
        &self,
        gate_up: &Tensor,
        grad: &Tensor,
        rows: &Rows,
        adapters: &[Branches],
        x: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (gate, up) = halves(gate_up)?;
        let gated = self.down.gradient(grad, rows, adapters, || Ok(kernels::swiglu(&gate, &up)?))?;
        let gate_up = kernels::gated_gradient(Activation::Silu, &gate, &up, &gated)?;
        self.gate_up.gradient(&gate_up, rows, adapters, x)
    }
}

fn halves(gate_up: &Tensor) -> Result<(Tensor, Tensor)> {
    let width = gate_up.dims()[1] / 2;
    Ok((gate_up.narrow(1, 0, width)?, gate_up.narrow(1, width, width)?))
}
