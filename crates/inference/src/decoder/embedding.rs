//! The input embedding: a table, or the packed weight of a head that is tied to it.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::linear::Linear;
use crate::device::Compute;
use crate::error::Result;

#[derive(Clone)]
pub(crate) enum Embedding {
    /// `[vocabulary, hidden]`, in the precision of the products, with its factor.
    Table(Tensor),
    /// The head holds the numbers already; a second copy of them may be a fifth of a model.
    Head {
        head: Arc<Linear>,
        /// Of every row; `None` is 1.
        factor: Option<f32>,
    },
}

impl Embedding {
    /// Of a table `[vocabulary, hidden]` in f32 without its factor.
    pub(super) fn table(embedding: &Tensor, scale: f64, compute: &Compute) -> Result<Self> {
        let table = match factor(scale, compute)? {
            Some(factor) => (embedding * f64::from(factor))?,
            None => embedding.clone(),
        };
        Ok(Self::Table(table.to_dtype(compute.precision.dtype())?.to_device(&compute.device)?))
    }

    /// Of the head that is tied to it, if that can be read row by row.
    pub(super) fn tied(head: &Arc<Linear>, scale: f64, compute: &Compute) -> Result<Option<Self>> {
        let factor = factor(scale, compute)?;
        Ok(head.has_rows().then(|| Self::Head { head: head.clone(), factor }))
    }

    /// The rows of some ids, `[ids, hidden]`.
    pub(super) fn rows(&self, ids: &[u32], compute: &Compute) -> Result<Tensor> {
        match self {
            Self::Table(table) => {
                let ids = Tensor::from_slice(ids, ids.len(), &compute.device)?;
                Ok(table.index_select(&ids, 0)?.to_dtype(compute.activation_dtype())?)
            }
            Self::Head { head, factor } => {
                let rows = head.weight_rows(ids)?;
                Ok(match factor {
                    Some(factor) => {
                        let scaled = (rows * f64::from(*factor))?;
                        scaled.to_dtype(compute.precision.dtype())?.to_dtype(compute.activation_dtype())?
                    }
                    None => rows,
                })
            }
        }
    }
}

/// The factor as runtimes have it, rounded to the weights' type; `None` is 1.
fn factor(scale: f64, compute: &Compute) -> Result<Option<f32>> {
    if scale.to_bits() == 1f64.to_bits() {
        return Ok(None);
    }
    let rounded = Tensor::new(scale as f32, &Device::Cpu)?.to_dtype(compute.precision.dtype())?;
    Ok(Some(rounded.to_dtype(DType::F32)?.to_scalar()?))
}
