//! Frozen linear modules with an unmerged LoRA branch a row range.
//!
//! This is the only file that knows how an adapter acts on a linear module: the frozen product is
//! one for all rows, and the branch is added to the rows of its side. The product is our packed one
//! on the CPU and candle's elsewhere.

use candle_core::{DType, Tensor};

use super::rows::Rows;
use crate::adapter::Adapter;
use crate::device::{Compute, Precision};
use crate::error::Result;
use crate::kernels::FrozenLinear;

/// `y = x Wᵀ + b`, frozen.
pub(crate) struct Linear {
    /// Index among the decoder's sites.
    site: usize,
    product: Product,
    /// `[outputs]`.
    bias: Option<Tensor>,
}

/// The frozen product in one of its forms.
enum Product {
    Packed(FrozenLinear),
    Composed {
        /// `[inputs, outputs]`, contiguous: candle's product packs a transposed view anew every call.
        weight_t: Tensor,
        precision: Precision,
    },
}

impl Linear {
    /// From a weight `[outputs, inputs]` in f32.
    pub(crate) fn new(site: usize, weight: &Tensor, bias: Option<Tensor>, compute: &Compute) -> Result<Self> {
        let dtype = compute.activation_dtype();
        let product = match compute.fused() {
            Some(precision) => Product::Packed(FrozenLinear::from_tensor(weight, precision)?),
            None => {
                // On the CPU narrow operands are rounded and widened again: sums stay in f32.
                let weight = weight.to_dtype(compute.precision.dtype())?.to_dtype(dtype)?;
                let weight_t = weight.t()?.contiguous()?.to_device(&compute.device)?;
                Product::Composed { weight_t, precision: compute.precision }
            }
        };
        let bias = bias.map(|bias| bias.to_dtype(dtype)?.to_device(&compute.device)).transpose()?;
        Ok(Self { site, product, bias })
    }

    /// Rows `[rows, inputs]` to `[rows, outputs]`; differentiable in `x`.
    pub(crate) fn forward(&self, x: &Tensor, rows: &Rows, adapters: &[Adapter]) -> Result<Tensor> {
        let mut y = self.product.of(x)?;
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(bias)?;
        }
        self.add_branches(x, y, rows, adapters)
    }

    /// Adds each side's branch to its own rows. Rows of the base are not touched, so that they are
    /// bit for bit those of a run without adapter.
    fn add_branches(&self, x: &Tensor, mut y: Tensor, rows: &Rows, adapters: &[Adapter]) -> Result<Tensor> {
        for range in &rows.adapted {
            if let Some(delta) = adapters.get(range.adapter).and_then(|adapter| adapter.delta(self.site)) {
                y = delta.add_to(y, x, range.start, range.len, range.scale)?;
            }
        }
        Ok(y)
    }
}

impl Product {
    /// `x Wᵀ`.
    fn of(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Packed(weight) => Ok(weight.forward(x)?),
            Self::Composed { weight_t, precision } => {
                let x = match (precision, x.dtype()) {
                    (Precision::F32, _) => x.clone(),
                    (precision, DType::F32) => x.to_dtype(precision.dtype())?.to_dtype(DType::F32)?,
                    _ => x.clone(),
                };
                Ok(x.contiguous()?.matmul(weight_t)?)
            }
        }
    }
}
