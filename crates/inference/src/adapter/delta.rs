//! The low-rank change of one linear module.

use candle_core::{DType, Tensor};

use crate::device::Compute;
use crate::error::Result;
use crate::kernels::{self, FrozenLinear, RightFactor};

/// `y += row_scale * scaling * (x Aᵀ) Bᵀ`, in f32 as PEFT computes it (`autocast_adapter_dtype`).
#[derive(Debug)]
pub struct LoraDelta {
    factors: Factors,
    rank: usize,
    /// `alpha / r`, or `alpha / sqrt(r)` with rsLoRA.
    scaling: f64,
    /// Whether A or B is all zeros.
    pub(crate) zero: bool,
}

enum Factors {
    Fused {
        a: FrozenLinear,
        b: RightFactor,
    },
    Composed {
        /// `[inputs, r]`, contiguous.
        a_t: Tensor,
        /// `[r, outputs]`, contiguous.
        b_t: Tensor,
    },
}

impl std::fmt::Debug for Factors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fused { .. } => "Fused",
            Self::Composed { .. } => "Composed",
        })
    }
}

impl LoraDelta {
    /// From A `[r, inputs]` and B `[outputs, r]`, f32 on the CPU.
    pub(crate) fn new(a: &Tensor, b: &Tensor, scaling: f64, compute: &Compute) -> Result<Self> {
        let is_zero = |tensor: &Tensor| -> Result<bool> {
            Ok(tensor.flatten_all()?.to_vec1::<f32>()?.iter().all(|value| value.abs() == 0.0))
        };
        let zero = is_zero(a)? || is_zero(b)?;
        let factors = if compute.fused().is_some() {
            Factors::Fused {
                a: FrozenLinear::from_tensor(a, kernels::Precision::F32)?,
                b: RightFactor::new(b)?,
            }
        } else {
            Factors::Composed {
                a_t: a.t()?.contiguous()?.to_device(&compute.device)?,
                b_t: b.t()?.contiguous()?.to_device(&compute.device)?,
            }
        };
        Ok(Self { factors, rank: a.dims()[0], scaling, zero })
    }

    /// Adds the branch of the rows `start..start + len` of `x` `[rows, inputs]` to those rows of a
    /// fresh `y` `[rows, outputs]`; differentiable in both. Other rows keep every bit.
    pub(crate) fn add_to(
        &self,
        y: Tensor,
        x: &Tensor,
        start: usize,
        len: usize,
        row_scale: f32,
    ) -> Result<Tensor> {
        let scale = self.scaling * f64::from(row_scale);
        let x = x.narrow(0, start, len)?;
        match &self.factors {
            Factors::Fused { a, b } => Ok(b.add_to(y, &a.forward(&x)?, start, scale as f32)?),
            Factors::Composed { a_t, b_t } => {
                let branch = (x.to_dtype(DType::F32)?.contiguous()?.matmul(a_t)? * scale)?.matmul(b_t)?;
                // PEFT adds in f32 and casts the sum back.
                let frozen = y.narrow(0, start, len)?;
                let sum = (frozen.to_dtype(DType::F32)? + branch)?.to_dtype(y.dtype())?;
                let rest = y.dims()[0] - start - len;
                let mut parts = Vec::with_capacity(3);
                // No empty parts: CUDA launches nothing for them, and their gradient would be an error.
                if start > 0 {
                    parts.push(y.narrow(0, 0, start)?);
                }
                parts.push(sum);
                if rest > 0 {
                    parts.push(y.narrow(0, start + len, rest)?);
                }
                Ok(Tensor::cat(&parts, 0)?)
            }
        }
    }

    /// Rank of the factors.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The factor from the config, before any row scale.
    #[must_use]
    pub fn scaling(&self) -> f64 {
        self.scaling
    }
}
