//! Root-mean-square norm.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use crate::device::Compute;
use crate::error::{Error, Result};
use crate::kernels;

/// `x / sqrt(mean(x²) + eps) * w` over rows; the norm in f32 whatever the type of `x`.
#[derive(Clone)]
pub(crate) struct RmsNorm {
    weight: Weight,
    eps: f64,
}

#[derive(Clone)]
enum Weight {
    Fused(Arc<[f32]>),
    Composed(Tensor),
}

impl RmsNorm {
    /// From a weight `[width]` in f32.
    pub(crate) fn new(weight: &Tensor, eps: f64, compute: &Compute) -> Result<Self> {
        let weight = match compute.fused() {
            Some(_) => Weight::Fused(weight.to_dtype(DType::F32)?.to_vec1::<f32>()?.into()),
            None => {
                Weight::Composed(weight.to_dtype(compute.activation_dtype())?.to_device(&compute.device)?)
            }
        };
        Ok(Self { weight, eps })
    }

    /// Rows `[rows, width]` to the same; differentiable (candle's fused norm is not).
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.weight {
            Weight::Fused(weight) => Ok(kernels::rms_norm(x, weight, self.eps as f32)?),
            Weight::Composed(weight) => {
                let wide = x.to_dtype(DType::F32)?;
                let mean_square = wide.sqr()?.mean_keepdim(1)?;
                let normed = wide.broadcast_div(&(mean_square + self.eps)?.sqrt()?)?;
                Ok(normed.to_dtype(x.dtype())?.broadcast_mul(weight)?)
            }
        }
    }

    /// `residual` plus the gradient of `x` from that of the result; of our fused form only.
    pub(crate) fn gradient(&self, x: &Tensor, grad: &Tensor, residual: &Tensor) -> Result<Tensor> {
        match &self.weight {
            Weight::Fused(weight) => {
                Ok(kernels::rms_norm_gradient(x, weight, self.eps as f32, grad, residual)?)
            }
            Weight::Composed(_) => Err(Error::Request("expected the fused form of a norm".into())),
        }
    }
}
