//! The low-rank change of one linear module.

use candle_core::{DType, Device, Tensor};

use crate::error::Result;

/// `y += row_scale * scaling * (x Aᵀ) Bᵀ`, in f32 as PEFT computes it (`autocast_adapter_dtype`).
#[derive(Debug)]
pub struct LoraDelta {
    /// `[inputs, r]`, contiguous.
    a_t: Tensor,
    /// `[r, outputs]`, contiguous.
    b_t: Tensor,
    /// `alpha / r`, or `alpha / sqrt(r)` with rsLoRA.
    scaling: f64,
    /// Whether A or B is all zeros.
    pub(crate) zero: bool,
}

impl LoraDelta {
    /// From A `[r, inputs]` and B `[outputs, r]`, f32 on the CPU.
    pub(crate) fn new(a: &Tensor, b: &Tensor, scaling: f64, device: &Device) -> Result<Self> {
        let is_zero = |tensor: &Tensor| -> Result<bool> {
            Ok(tensor.flatten_all()?.to_vec1::<f32>()?.iter().all(|value| value.abs() == 0.0))
        };
        let zero = is_zero(a)? || is_zero(b)?;
        Ok(Self {
            a_t: a.t()?.contiguous()?.to_device(device)?,
            b_t: b.t()?.contiguous()?.to_device(device)?,
            scaling,
            zero,
        })
    }

    /// The branch for rows `x` `[rows, inputs]`: `[rows, outputs]` in f32; differentiable in `x`.
    pub(crate) fn apply(&self, x: &Tensor, row_scale: f32) -> Result<Tensor> {
        let x = x.to_dtype(DType::F32)?.contiguous()?;
        Ok((x.matmul(&self.a_t)? * (self.scaling * f64::from(row_scale)))?.matmul(&self.b_t)?)
    }

    /// Rank of the factors.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.a_t.dims()[1]
    }

    /// The factor from the config, before any row scale.
    #[must_use]
    pub fn scaling(&self) -> f64 {
        self.scaling
    }
}
