//! Frozen projections with an unmerged LoRA branch a row range.
//!
//! This is the only file that knows how an adapter acts on a linear module: the frozen product is
//! one for all rows and for all modules that share an input, and the branch is added to the rows of
//! its side. The product is our packed one on the CPU and candle's elsewhere.

use candle_core::{DType, Tensor};

use super::rows::Rows;
use crate::adapter::delta::Branches;
use crate::device::{Compute, Precision};
use crate::error::{Error, Result};
use crate::kernels::FrozenLinear;

/// `y = x Wᵀ + b`, frozen; `W` may be several modules' weights, one below the other.
pub(crate) struct Linear {
    /// Index among the decoder's projections.
    projection: usize,
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
    /// From weights `[outputs, inputs]` in f32, and the biases of all or of none.
    pub(crate) fn new(
        projection: usize,
        weights: &[Tensor],
        biases: &[Tensor],
        compute: &Compute,
    ) -> Result<Self> {
        let stacked = |parts: &[Tensor]| -> Result<Tensor> {
            Ok(if let [one] = parts { one.clone() } else { Tensor::cat(parts, 0)? })
        };
        let weight = stacked(weights)?;
        let dtype = compute.activation_dtype();
        let product = match compute.fused() {
            Some(precision) => Product::Packed(FrozenLinear::from_tensor(&weight, precision)?),
            None => {
                // On the CPU narrow operands are rounded and widened again: sums stay in f32.
                let weight = weight.to_dtype(compute.precision.dtype())?.to_dtype(dtype)?;
                let weight_t = weight.t()?.contiguous()?.to_device(&compute.device)?;
                Product::Composed { weight_t, precision: compute.precision }
            }
        };
        let bias = if biases.is_empty() {
            None
        } else {
            Some(stacked(biases)?.to_dtype(dtype)?.to_device(&compute.device)?)
        };
        Ok(Self { projection, product, bias })
    }

    /// Rows `[rows, inputs]` to `[rows, outputs]`; differentiable in `x`.
    pub(crate) fn forward(&self, x: &Tensor, rows: &Rows, adapters: &[Branches]) -> Result<Tensor> {
        let mut y = self.product.of(x)?;
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(bias)?;
        }
        // Rows of the base are not touched, so that they are bit for bit those of a run without adapter.
        for range in &rows.adapted {
            if let Some(branch) = adapters.get(range.adapter).and_then(|adapter| adapter.of(self.projection))
            {
                y = branch.add_to(y, x, range.start, range.len, range.scale)?;
            }
        }
        Ok(y)
    }

    /// From the gradient of [`Self::forward`]'s result, that of `x`; of our fused form only.
    pub(crate) fn gradient(&self, grad: &Tensor, rows: &Rows, adapters: &[Branches]) -> Result<Tensor> {
        let Product::Packed(weight) = &self.product else {
            return Err(Error::Request("expected the fused form of a projection".into()));
        };
        let to_x = weight.gradient(grad)?;
        for range in &rows.adapted {
            if let Some(branch) = adapters.get(range.adapter).and_then(|adapter| adapter.of(self.projection))
            {
                branch.add_gradient(&to_x, grad, range.start, range.len, range.scale)?;
            }
        }
        Ok(to_x)
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
