//! The low-rank changes of linear modules, and the branches that add them to a product.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::decoder::site::Site;
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::kernels::{Energy, FactorSums, Factors, LowRank};

/// `W + scaling * B A`, the change of one linear module, as read; cheap to clone.
#[derive(Clone, Debug)]
pub struct LoraDelta {
    /// `[r, inputs]`, f32 on the CPU.
    a: Tensor,
    /// `[outputs, r]`, f32 on the CPU.
    b: Tensor,
    /// `alpha / r`, or `alpha / sqrt(r)` with rsLoRA.
    scaling: f64,
    /// Whether A or B is all zeros.
    pub(crate) zero: bool,
}

impl LoraDelta {
    /// From A `[r, inputs]`, B `[outputs, r]`, and the factor of their product; they are kept in f32 on the CPU.
    ///
    /// # Errors
    /// If the ranks differ or are 0, or a value is not finite.
    pub fn new(a: &Tensor, b: &Tensor, scaling: f64) -> Result<Self> {
        let ((rank, inputs), (outputs, b_rank)) = (a.dims2()?, b.dims2()?);
        if rank == 0 || rank != b_rank || !scaling.is_finite() {
            return Err(Error::Request(format!(
                "expected factors of one rank and a finite scaling, found [{rank}, {inputs}], [{outputs}, {b_rank}] and {scaling}"
            )));
        }
        // Variables of an optimiser go on changing; what was checked must not.
        let kept = |factor: &Tensor| -> Result<Tensor> {
            Ok(factor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.copy()?.detach())
        };
        let (a, b) = (kept(a)?, kept(b)?);
        let zero = checked_zero(&a)? | checked_zero(&b)?;
        Ok(Self { a, b, scaling, zero })
    }

    /// Rank of the factors.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.a.dims()[0]
    }

    /// The factor from the config, before any row scale.
    #[must_use]
    pub fn scaling(&self) -> f64 {
        self.scaling
    }

    /// A `[r, inputs]` and B `[outputs, r]`, f32 on the CPU.
    #[must_use]
    pub fn factors(&self) -> (&Tensor, &Tensor) {
        (&self.a, &self.b)
    }

    /// Shapes of A and B.
    pub(super) fn dims(&self) -> [&[usize]; 2] {
        [self.a.dims(), self.b.dims()]
    }
}

/// Whether a factor is all zeros; an error if one of its values is not finite.
fn checked_zero(factor: &Tensor) -> Result<bool> {
    let values = factor.flatten_all()?.to_vec1::<f32>()?;
    match values.iter().filter(|value| !value.is_finite()).count() {
        0 => Ok(values.iter().all(|value| value.abs() == 0.0)),
        bad => Err(Error::Request(format!(
            "expected finite factors, found {bad} of {} values that are NaN or infinite",
            values.len()
        ))),
    }
}

/// The branches of an adapter, and the tokens from which on they act; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Branches {
    /// One a projection.
    of: Arc<[Option<Arc<Branch>>]>,
    /// Where there are any, the branches act from their last occurrence on; else everywhere.
    invocation: Option<Arc<[u32]>>,
}

impl Branches {
    /// From one optional delta a site.
    pub(crate) fn new(sites: &[Site], deltas: &[Option<LoraDelta>], compute: &Compute) -> Result<Self> {
        let (mut branches, mut first) = (Vec::new(), 0);
        for group in sites.chunk_by(|a, b| a.projection == b.projection) {
            let parts: Vec<(usize, &LoraDelta)> = group
                .iter()
                .zip(&deltas[first..])
                .filter_map(|(site, delta)| delta.as_ref().map(|delta| (site.column, delta)))
                .collect();
            branches.push(if parts.is_empty() {
                None
            } else {
                Some(Arc::new(Branch::new(&parts, compute)?))
            });
            first += group.len();
        }
        Ok(Self { of: branches.into(), invocation: None })
    }

    /// The same, which act from the last occurrence of these tokens on, if there are any.
    pub(crate) fn invoked_by(self, tokens: Option<Arc<[u32]>>) -> Self {
        Self { invocation: tokens, ..self }
    }

    /// The tokens from whose last occurrence on they act.
    pub(crate) fn invocation(&self) -> Option<&Arc<[u32]>> {
        self.invocation.as_ref()
    }

    /// The branch of a projection, if the adapter changes any of its sites.
    pub(crate) fn of(&self, projection: usize) -> Option<&Branch> {
        self.of.get(projection)?.as_deref()
    }

    /// Whether backward passes are to sum up the gradients of factors.
    pub(crate) fn has_sums(&self) -> bool {
        self.of.iter().flatten().any(|branch| matches!(**branch, Branch::Fused { sums: Some(_), .. }))
    }

    /// The same projections with other branches.
    pub(crate) fn map(&self, mut change: impl FnMut(&Branch) -> Result<Branch>) -> Result<Self> {
        let mut changed = |branch: &Option<Arc<Branch>>| branch.as_deref().map(&mut change).transpose();
        let of: Result<Arc<[_]>> = self.of.iter().map(|branch| Ok(changed(branch)?.map(Arc::new))).collect();
        Ok(Self { of: of?, invocation: self.invocation.clone() })
    }

    /// The branches of these projections alone, which are shared.
    pub(crate) fn kept(&self, keep: impl Fn(usize) -> bool) -> Self {
        let of = self.of.iter().enumerate();
        let of = of.map(|(projection, branch)| branch.clone().filter(|_| keep(projection)));
        Self { of: of.collect(), invocation: self.invocation.clone() }
    }
}

/// `y += row_scale * scaling * (x Aᵀ) Bᵀ` for the sites of one projection, in f32 as PEFT computes it
/// (`autocast_adapter_dtype`). The sites share their input, so their A are one product.
#[derive(Debug)]
pub(crate) enum Branch {
    /// For our packed product.
    Fused {
        branch: LowRank,
        /// Where the gradients of the factors go, if they are wanted.
        sums: Option<Arc<FactorSums>>,
    },
    /// For candle's.
    Composed(Vec<Part>),
}

/// Energies of one site by row, with the site's first column.
type SiteEnergies = (usize, Vec<Energy>);

/// One site's branch for candle's operations.
#[derive(Debug)]
pub(crate) struct Part {
    /// `[inputs, r]`, contiguous.
    pub(super) a_t: Tensor,
    /// `[r, outputs]`, contiguous.
    pub(super) b_t: Tensor,
    pub(super) scaling: f64,
    pub(super) column: usize,
}

impl Branch {
    fn new(parts: &[(usize, &LoraDelta)], compute: &Compute) -> Result<Self> {
        if let Some(precision) = compute.fused() {
            let factors: Vec<Factors<'_>> = parts
                .iter()
                .map(|&(column, LoraDelta { a, b, scaling, .. })| Factors { a, b, column, scaling: *scaling })
                .collect();
            return Ok(Self::Fused { branch: LowRank::new(&factors, precision)?, sums: None });
        }
        let turned =
            |factor: &Tensor| -> Result<Tensor> { Ok(factor.t()?.contiguous()?.to_device(&compute.device)?) };
        let parts: Result<Vec<Part>> = parts
            .iter()
            .map(|(column, delta)| {
                Ok(Part {
                    a_t: turned(&delta.a)?,
                    b_t: turned(&delta.b)?,
                    scaling: delta.scaling,
                    column: *column,
                })
            })
            .collect();
        Ok(Self::Composed(parts?))
    }

    /// How large each site's branch and frozen product are, for inputs `x` `[rows, inputs]` and the sums `y`
    /// `[rows, outputs]` of both.
    pub(crate) fn energies(&self, x: &Tensor, y: &Tensor, row_scale: f32) -> Result<Vec<SiteEnergies>> {
        match self {
            Self::Fused { branch, .. } => Ok(branch.energies(x, y, row_scale)?),
            Self::Composed(parts) => {
                let x = x.to_dtype(DType::F32)?;
                let of = |part: &Part| -> Result<SiteEnergies> {
                    let scale = part.scaling * f64::from(row_scale);
                    let branch = (x.matmul(&part.a_t)? * scale)?.matmul(&part.b_t)?;
                    let sum = y.narrow(1, part.column, part.b_t.dims()[1])?.to_dtype(DType::F32)?;
                    let squares = |rows: &Tensor| rows.sqr()?.sum(1)?.to_vec1::<f32>();
                    let (branch, frozen) = (squares(&branch)?, squares(&(sum - &branch)?)?);
                    let pairs = branch.into_iter().zip(frozen);
                    let energy =
                        |(branch, frozen)| Energy { branch: f64::from(branch), frozen: f64::from(frozen) };
                    Ok((part.column, pairs.map(energy).collect()))
                };
                parts.iter().map(of).collect()
            }
        }
    }
}

/// Adds the branches of one projection's sites to the rows `start..start + len` of `y` `[rows, outputs]`, from those
/// rows of `x` `[rows, inputs]`; differentiable in both.
pub(crate) fn add_composed(
    parts: &[Part],
    y: &Tensor,
    x: &Tensor,
    (start, len): (usize, usize),
    row_scale: f32,
) -> Result<Tensor> {
    let x = x.narrow(0, start, len)?.to_dtype(DType::F32)?.contiguous()?;
    let frozen = y.narrow(0, start, len)?;
    let width = y.dims()[1];
    // Side by side: columns without a delta as they are, the others with their branch.
    let (mut pieces, mut column) = (Vec::new(), 0);
    for part in parts {
        if part.column > column {
            pieces.push(frozen.narrow(1, column, part.column - column)?);
        }
        let outputs = part.b_t.dims()[1];
        let scale = part.scaling * f64::from(row_scale);
        let branch = (x.matmul(&part.a_t)? * scale)?.matmul(&part.b_t)?;
        // PEFT adds in f32 and casts the sum back.
        let own = frozen.narrow(1, part.column, outputs)?.to_dtype(DType::F32)?;
        pieces.push((own + branch)?.to_dtype(y.dtype())?);
        column = part.column + outputs;
    }
    if column < width {
        pieces.push(frozen.narrow(1, column, width - column)?);
    }
    let sum = if pieces.len() == 1 { pieces.swap_remove(0) } else { Tensor::cat(&pieces, 1)? };
    // No empty parts: on a GPU their gradients would be allocations and launches of nothing.
    let rest = y.dims()[0] - start - len;
    let mut parts = Vec::with_capacity(3);
    if start > 0 {
        parts.push(y.narrow(0, 0, start)?);
    }
    parts.push(sum);
    if rest > 0 {
        parts.push(y.narrow(0, start + len, rest)?);
    }
    Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Tensor::cat(&parts, 0)? })
}
