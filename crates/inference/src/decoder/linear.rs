//! Frozen projections with an unmerged LoRA branch a row range.
//!
//! This is the only file that knows how an adapter acts on a linear module: the frozen product is
//! one for all rows and for all modules that share an input, and the branch is added to the rows of
//! its side. The product is our packed one on the CPU and candle's elsewhere.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::capture::Watched;
use super::rows::{AdaptedRange, Rows};
use crate::adapter::delta::{Branch, Branches, add_composed};
use crate::device::{Compute, Precision};
use crate::error::{Error, Result};
use crate::kernels::{AdaptedRows, FrozenLinear};

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

    /// Whether [`Self::weight_rows`] can be read.
    pub(crate) fn has_rows(&self) -> bool {
        matches!(self.product, Product::Packed(_))
    }

    /// Rows of the weight, `[rows, inputs]` in f32; of our fused form only.
    pub(crate) fn weight_rows(&self, rows: &[u32]) -> Result<Tensor> {
        match &self.product {
            Product::Packed(weight) => Ok(weight.weight_rows(rows)?),
            Product::Composed { .. } => Err(Error::Request("expected the fused form of a product".into())),
        }
    }

    /// Rows `[rows, inputs]` to `[rows, outputs]`; differentiable in `x`. Rows of the base are not
    /// touched by any branch, so that they are bit for bit those of a run without adapter.
    pub(crate) fn forward(&self, x: &Tensor, rows: &Rows, adapters: &[Branches]) -> Result<Tensor> {
        let y = match &self.product {
            Product::Packed(weight) => weight.forward_adapted(x, &self.adapted(rows, adapters))?,
            Product::Composed { weight_t, precision } => {
                let mut y = operand(x, *precision)?.matmul(weight_t)?;
                for range in &rows.adapted {
                    let branch = adapters.get(range.adapter).and_then(|a| a.of(self.projection));
                    if let Some(Branch::Composed(parts)) = branch {
                        y = add_composed(parts, &y, x, (range.start, range.len), range.scale)?;
                    }
                }
                y
            }
        };
        if let Some(watched) = &rows.watched {
            self.watch(watched, x, &y, rows, adapters)?;
        }
        Ok(match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        })
    }

    /// Leaves how large the branches are at the watched rows, from the input and the sum `y` of frozen product and
    /// branches.
    fn watch(
        &self,
        watched: &Watched,
        x: &Tensor,
        y: &Tensor,
        rows: &Rows,
        adapters: &[Branches],
    ) -> Result<()> {
        for range in &rows.adapted {
            let branch = adapters.get(range.adapter).and_then(|a| a.of(self.projection));
            let own = watched.within(range.start, range.len);
            if let Some(branch) = branch.filter(|_| !own.is_empty()) {
                for (column, energies) in branch.energies(&own.of(x)?, &own.of(y)?, range.scale)? {
                    own.energies(self.projection, column, &energies);
                }
            }
        }
        Ok(())
    }

    /// From the gradient of [`Self::forward`]'s result, that of `x`; of our fused form only. `x` is asked for where
    /// the gradients of a branch's factors are summed up as well.
    pub(crate) fn gradient(
        &self,
        grad: &Tensor,
        rows: &Rows,
        adapters: &[Branches],
        x: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        match &self.product {
            Product::Packed(weight) => {
                let adapted = self.adapted(rows, adapters);
                let x = adapted.iter().any(|rows| rows.sums.is_some()).then(x).transpose()?;
                Ok(weight.gradient_adapted(grad, &adapted, x.as_ref())?)
            }
            Product::Composed { .. } => Err(Error::Request("expected the fused form of a projection".into())),
        }
    }

    /// What [`Self::gradient`] needs and a forward pass does not.
    pub(crate) fn prepare_gradient(&self) {
        if let Product::Packed(weight) = &self.product {
            weight.prepare_gradient();
        }
    }

    /// The rows with a branch of this projection.
    fn adapted(&self, rows: &Rows, adapters: &[Branches]) -> Arc<[AdaptedRows]> {
        let with_branch = |range: &AdaptedRange| match adapters.get(range.adapter)?.of(self.projection)? {
            Branch::Fused { branch, sums } => Some(AdaptedRows {
                start: range.start,
                len: range.len,
                scale: range.scale,
                branch: branch.clone(),
                sums: sums.clone(),
            }),
            Branch::Composed(_) => None,
        };
        rows.adapted.iter().filter_map(with_branch).collect()
    }
}

/// The left operand of candle's product, rounded where the product is narrow.
fn operand(x: &Tensor, precision: Precision) -> Result<Tensor> {
    let x = match (precision, x.dtype()) {
        (Precision::F32, _) => x.clone(),
        (precision, DType::F32) => x.to_dtype(precision.dtype())?.to_dtype(DType::F32)?,
        _ => x.clone(),
    };
    Ok(x.contiguous()?)
}
