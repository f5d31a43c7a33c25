//! Norms of rows.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::architectures::NormKind;
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::kernels;

/// A norm of rows `[rows, width]`, in f32 whatever their type.
#[derive(Clone)]
pub(crate) enum Norm {
    /// Root mean square.
    Rms(RmsNorm),
    /// Mean and variance.
    Layer(LayerNorm),
}

impl Norm {
    /// From a weight `[width]` in f32, and a bias where the kind has one.
    pub(crate) fn new(
        kind: NormKind,
        weight: &Tensor,
        bias: Option<&Tensor>,
        eps: f64,
        compute: &Compute,
    ) -> Result<Self> {
        Ok(match kind {
            NormKind::Rms => Self::Rms(RmsNorm::new(weight, eps, compute)?),
            NormKind::RmsPlusOne => Self::Rms(RmsNorm::plus_one(weight, eps, compute)?),
            NormKind::LayerNorm | NormKind::LayerNormWithoutBias => {
                Self::Layer(LayerNorm::new(weight, bias, eps, compute)?)
            }
        })
    }

    /// Rows `[.., width]` to the same; differentiable.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Rms(norm) => norm.forward(x),
            Self::Layer(norm) => norm.forward(x),
        }
    }
}

/// `x / sqrt(mean(x²) + eps) * w` over rows; the norm in f32 whatever the type of `x`.
#[derive(Clone)]
pub(crate) struct RmsNorm {
    weight: Weight,
    eps: f64,
}

#[derive(Clone)]
enum Weight {
    Fused(Arc<[f32]>),
    /// Applied after the rows have their own type again.
    Composed(Tensor),
    /// In f32, applied before.
    ComposedWide(Tensor),
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

    /// With one plus the weight, as the Gemma family has it.
    pub(crate) fn plus_one(weight: &Tensor, eps: f64, compute: &Compute) -> Result<Self> {
        let weight = (weight.to_dtype(DType::F32)? + 1.0)?;
        match compute.fused() {
            Some(_) => Self::new(&weight, eps, compute),
            None => Ok(Self { weight: Weight::ComposedWide(weight.to_device(&compute.device)?), eps }),
        }
    }

    /// Rows `[.., width]` to the same; differentiable (candle's fused norm is not).
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let normed = |x: &Tensor| -> Result<Tensor> {
            let wide = x.to_dtype(DType::F32)?;
            let mean_square = wide.sqr()?.mean_keepdim(candle_core::D::Minus1)?;
            Ok(wide.broadcast_div(&(mean_square + self.eps)?.sqrt()?)?)
        };
        Ok(match &self.weight {
            Weight::Fused(weight) => kernels::rms_norm(x, weight, self.eps as f32)?,
            Weight::Composed(weight) => normed(x)?.to_dtype(x.dtype())?.broadcast_mul(weight)?,
            Weight::ComposedWide(weight) => normed(x)?.broadcast_mul(weight)?.to_dtype(x.dtype())?,
        })
    }

    /// `residual` plus the gradient of `x` from that of the result; of our fused form only.
    pub(crate) fn gradient(&self, x: &Tensor, grad: &Tensor, residual: &Tensor) -> Result<Tensor> {
        match &self.weight {
            Weight::Fused(weight) => {
                Ok(kernels::rms_norm_gradient(x, weight, self.eps as f32, grad, residual)?)
            }
            Weight::Composed(_) | Weight::ComposedWide(_) => {
                Err(Error::Request("expected the fused form of a norm".into()))
            }
        }
    }
}

/// `(x - mean) / sqrt(variance + eps) * w + b` over rows, in f32 whatever the type of `x`.
#[derive(Clone)]
pub(crate) struct LayerNorm {
    /// f32; `[width]`, or `[heads, width]` for rows of heads.
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f64,
}

impl LayerNorm {
    /// From a weight in f32, and a bias of the same shape.
    pub(crate) fn new(weight: &Tensor, bias: Option<&Tensor>, eps: f64, compute: &Compute) -> Result<Self> {
        let placed = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.to_device(&compute.device);
        Ok(Self { weight: placed(weight)?, bias: bias.map(placed).transpose()?, eps })
    }

    /// Rows to the same, where the weight's shape is that of their last dimensions; differentiable.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let wide = x.to_dtype(DType::F32)?;
        let centred = wide.broadcast_sub(&wide.mean_keepdim(candle_core::D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(candle_core::D::Minus1)?;
        let normed = centred.broadcast_div(&(variance + self.eps)?.sqrt()?)?;
        let scaled = normed.broadcast_mul(&self.weight)?;
        let shifted = match &self.bias {
            Some(bias) => scaled.broadcast_add(bias)?,
            None => scaled,
        };
        Ok(shifted.to_dtype(x.dtype())?)
    }
}
