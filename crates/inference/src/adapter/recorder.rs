//! Gradients of an adapter's factors over the backward passes through a decoder.
//!
//! Our fused projections sum them up while they compute the gradient of their input. The composed form is candle's:
//! there the factors become variables of its graph.

use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};

use super::delta::{Branch, Branches, Part};
use crate::error::{Error, Result};
use crate::kernels::FactorSums;

/// The branches of an adapter, and the gradients of their factors that backward passes have brought so far.
pub(crate) struct Recorder {
    branches: Branches,
    projections: Vec<Recorded>,
}

/// What one projection with a branch is recorded by.
enum Recorded {
    Fused(Arc<FactorSums>),
    /// `Aᵀ` and `Bᵀ` of each site.
    Composed(Vec<[Variable; 2]>),
}

/// A factor in candle's graph, and the sum of its gradients.
struct Variable {
    var: Var,
    sum: Option<Tensor>,
}

impl Recorder {
    /// For branches that stay as they are: a pass with [`Self::branches`] gives the same values.
    pub(crate) fn new(branches: &Branches) -> Result<Self> {
        let mut projections = Vec::new();
        let branches = branches.map(|branch| {
            Ok(match branch {
                Branch::Fused { branch, .. } => {
                    let sums = Arc::new(branch.factor_sums());
                    projections.push(Recorded::Fused(sums.clone()));
                    Branch::Fused { branch: branch.clone(), sums: Some(sums) }
                }
                Branch::Composed(parts) => {
                    let mut variables = Vec::with_capacity(parts.len());
                    let mut tracked = Vec::with_capacity(parts.len());
                    for part in parts {
                        let own = [Variable::new(&part.a_t)?, Variable::new(&part.b_t)?];
                        let [a_t, b_t] = own.each_ref().map(|own| own.var.as_tensor().clone());
                        tracked.push(Part { a_t, b_t, ..*part });
                        variables.push(own);
                    }
                    projections.push(Recorded::Composed(variables));
                    Branch::Composed(tracked)
                }
            })
        })?;
        Ok(Self { branches, projections })
    }

    /// The branches to run a pass with.
    pub(crate) fn branches(&self) -> &Branches {
        &self.branches
    }

    /// Takes up what a backward pass has found.
    pub(crate) fn add(&mut self, gradients: &GradStore) -> Result<()> {
        for recorded in &mut self.projections {
            let Recorded::Composed(variables) = recorded else { continue };
            for Variable { var, sum } in variables.iter_mut().flatten() {
                let Some(added) = gradients.get(var.as_tensor()) else { continue };
                *sum = Some(match sum.take() {
                    Some(sum) => (sum + added)?,
                    None => added.clone(),
                });
            }
        }
        Ok(())
    }

    /// The summed gradients of A `[r, inputs]` and B `[outputs, r]` of every site with a delta, in site order; f32 on
    /// the CPU.
    pub(crate) fn gradients(self) -> Result<Vec<(Tensor, Tensor)>> {
        let lost = || Error::Request("no backward pass reached the factors of the adapter".into());
        let mut gradients = Vec::new();
        for recorded in self.projections {
            match recorded {
                Recorded::Fused(sums) => gradients.extend(sums.gradients()?.ok_or_else(lost)?),
                Recorded::Composed(variables) => {
                    for [a_t, b_t] in variables {
                        let turned = |variable: Variable| -> Result<Tensor> {
                            let sum = variable.sum.ok_or_else(lost)?.to_dtype(DType::F32)?;
                            Ok(sum.t()?.to_device(&Device::Cpu)?.contiguous()?)
                        };
                        gradients.push((turned(a_t)?, turned(b_t)?));
                    }
                }
            }
        }
        Ok(gradients)
    }
}

impl Variable {
    fn new(factor: &Tensor) -> Result<Self> {
        Ok(Self { var: Var::from_tensor(factor)?, sum: None })
    }
}
