//! Low-rank branches of a frozen product: `y += scale * (x Aᵀ) Bᵀ` for some rows.
//!
//! The left half is a product of its own; the right half continues the sums of the frozen product's tiles while they
//! are in registers, so that the result is written once. Rows without a branch keep every bit.

use super::energy::Energy;
use super::factors::FactorSums;
use super::gemm::BranchRows;
use super::linear::FrozenLinear;
use super::pack::{PANEL, PanelRow, Precision};
use super::residual::add_to_rows;
use super::rows::Rows;
use candle_core::{DType, Result, Tensor, bail};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

const OP: &str = "low-rank branch";

/// The frozen factors of one module among those that share a product.
pub struct Factors<'a> {
    /// A, a CPU tensor `[rank, k]` of `f32`.
    pub a: &'a Tensor,
    /// B, a CPU tensor `[outputs, rank]` of `f32`.
    pub b: &'a Tensor,
    /// The module's first column in the product.
    pub column: usize,
    /// Factor of the product.
    pub scaling: f64,
}

/// The branches of the modules that share a product: their A are one product, too, and each B writes its own
/// columns. A clone shares the factors.
#[derive(Clone, Debug)]
pub struct LowRank {
    a: FrozenLinear,
    right: Arc<Right>,
    parts: Arc<[Part]>,
}

/// One B for the gradient.
#[derive(Debug)]
struct Part {
    column: usize,
    width: usize,
    scaling: f64,
    /// `Bᵀ`, which the gradient multiplies with.
    back: FrozenLinear,
    /// B as it was given, `[width, rank]`; its values are shared.
    b: Tensor,
    /// `BᵀB`, `[rank * rank]`, once it is asked for.
    gram: OnceLock<Vec<f64>>,
}

/// `scaling_j * B_jᵀ` in the panels of the frozen product.
pub(super) struct Right {
    /// Rows of all panels, one after the other.
    rows: Vec<PanelRow<f32>>,
    /// For each panel its rows, and which columns of the left half they belong to.
    panels: Vec<(usize, Range<usize>)>,
}

impl std::fmt::Debug for Right {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Right").field("panels", &self.panels.len()).finish_non_exhaustive()
    }
}

/// Rows of a batch with a branch and its strength.
#[derive(Clone, Debug)]
pub struct AdaptedRows {
    /// First row.
    pub start: usize,
    /// Rows.
    pub len: usize,
    /// Strength: 1 is the branch as it was trained.
    pub scale: f32,
    /// The branch.
    pub branch: LowRank,
    /// Where backward passes add the gradients of the branch's factors, if these are wanted.
    pub sums: Option<Arc<FactorSums>>,
}

/// [`AdaptedRows`] with their left halves, for the tiles of the frozen product.
pub(super) struct Adapted<'a> {
    pub(super) rows: Range<usize>,
    /// `scale * x Aᵀ`, `[rows, sum of ranks]`.
    pub(super) left: Rows<'a>,
    pub(super) right: &'a Right,
}

impl LowRank {
    /// From the factors of one or more modules, in the order of their columns, for a product of this precision: the
    /// left halves are computed in it, from operands that the product has rounded already; the right halves in `f32`.
    ///
    /// # Errors
    /// If there is none, shapes do not fit together, or columns overlap.
    pub fn new(factors: &[Factors<'_>], precision: Precision) -> Result<Self> {
        let mut parts = Vec::with_capacity(factors.len());
        let mut end = 0;
        for Factors { a, b, column, scaling } in factors {
            let ((rank, _), (width, b_rank)) = (a.dims2()?, b.dims2()?);
            if rank != b_rank || *column < end {
                bail!("{OP}: expected rank {rank} from column {end} on, found rank {b_rank} at {column}");
            }
            end = column + width;
            let back =
                FrozenLinear::from_tensor(&b.to_dtype(DType::F32)?.t()?.contiguous()?, Precision::F32)?;
            let b = (*b).detach();
            parts.push(Part { column: *column, width, scaling: *scaling, back, b, gram: OnceLock::new() });
        }
        if factors.is_empty() {
            bail!("{OP}: expected at least one module");
        }
        let lefts: Vec<&Tensor> = factors.iter().map(|factors| factors.a).collect();
        let a = FrozenLinear::from_tensor(&Tensor::cat(&lefts, 0)?, precision)?;
        Ok(Self { a, right: Arc::new(Right::new(factors, end)?), parts: parts.into() })
    }

    /// An empty sum of gradients of these factors.
    pub fn factor_sums(&self) -> FactorSums {
        let modules =
            self.parts.iter().map(|part| (part.column, part.width, part.back.out_features(), part.scaling));
        FactorSums::new(self.a.in_features(), modules)
    }

    /// For each module its first column and how large its branch and its frozen product are, row by row, from inputs
    /// `x` `[rows, k]` and the sums `y` `[rows, n]` of [`FrozenLinear::forward_adapted`]. With the Gram matrix of B both
    /// lengths follow from the left half `l = A x` without the right one: `|B l|^2 = lᵀ(BᵀB)l`, and `|W x|^2 = |y|^2 -
    /// 2 l·(Bᵀy) + |B l|^2`.
    ///
    /// # Errors
    /// If `x` and `y` do not fit the factors.
    pub fn energies(&self, x: &Tensor, y: &Tensor, scale: f32) -> Result<Vec<(usize, Vec<Energy>)>> {
        let lefts = self.left(x)?.to_vec2::<f32>()?;
        let mut first = 0;
        let mut energies = Vec::with_capacity(self.parts.len());
        for part in self.parts.iter() {
            let rank = part.back.out_features();
            let sums = y.narrow(1, part.column, part.width)?.contiguous()?;
            let turned = part.back.forward(&sums)?.to_vec2::<f32>()?;
            let gram = part.gram()?;
            let scale = part.scaling * f64::from(scale);
            let rows = lefts.iter().zip(&turned).zip(sums.to_vec2::<f32>()?);
            let of = |((left, turned), sum): ((&Vec<f32>, &Vec<f32>), Vec<f32>)| {
                let left: Vec<f64> =
                    left[first..first + rank].iter().map(|l| scale * f64::from(*l)).collect();
                let quadratic = |(row, l): (&[f64], &f64)| {
                    l * row.iter().zip(&left).map(|(gram, l)| gram * l).sum::<f64>()
                };
                let branch: f64 = gram.chunks_exact(rank).zip(&left).map(quadratic).sum();
                let cross: f64 = left.iter().zip(turned).map(|(l, t)| l * f64::from(*t)).sum();
                let whole: f64 = sum.iter().map(|y| f64::from(*y) * f64::from(*y)).sum();
                // Rounding may leave a little less than nothing.
                Energy { branch: branch.max(0.0), frozen: (whole - 2.0 * cross + branch).max(0.0) }
            };
            energies.push((part.column, rows.map(of).collect()));
            first += rank;
        }
        Ok(energies)
    }

    /// `x Aᵀ` for all modules side by side, `[rows, sum of ranks]`.
    pub(super) fn left(&self, x: &Tensor) -> Result<Tensor> {
        self.a.forward(x)
    }

    /// Whether the branches have the layer's inputs, and no column that it has not.
    pub(super) fn fits(&self, layer: &FrozenLinear) -> bool {
        let width = self.parts.last().map_or(0, |part| part.column + part.width);
        self.a.in_features() == layer.in_features() && width <= layer.out_features()
    }
}

impl Part {
    /// `BᵀB`, made at the first call.
    fn gram(&self) -> Result<&[f64]> {
        if let Some(gram) = self.gram.get() {
            return Ok(gram);
        }
        let transposed = self.b.to_dtype(DType::F32)?.t()?.contiguous()?;
        let gram = self.back.forward(&transposed)?.flatten_all()?.to_vec1::<f32>()?;
        Ok(self.gram.get_or_init(|| gram.into_iter().map(f64::from).collect()))
    }
}

impl AdaptedRows {
    /// The rows for the product.
    pub(super) fn branch_rows(&self) -> BranchRows<'_> {
        BranchRows {
            rows: self.start..self.start + self.len,
            scale: self.scale,
            a: self.branch.a.packed(),
            right: &self.branch.right,
        }
    }

    /// Adds to the fresh gradient `to_x` `[m, k]` what flows through the branch, from the gradient `grad` `[m, n]` of
    /// the sum; and to [`Self::sums`] those of the factors, for which it needs the inputs `x` `[m, k]`.
    pub(super) fn add_gradient(&self, to_x: &Tensor, grad: &Tensor, x: Option<&Tensor>) -> Result<()> {
        let grad = grad.narrow(0, self.start, self.len)?;
        let mut lefts = Vec::with_capacity(self.branch.parts.len());
        for part in self.branch.parts.iter() {
            let to_left = part.back.forward(&grad.narrow(1, part.column, part.width)?)?;
            lefts.push((to_left * (part.scaling * f64::from(self.scale)))?);
        }
        let to_left = if lefts.len() == 1 { lefts.swap_remove(0) } else { Tensor::cat(&lefts, 1)? };
        self.add_factor_gradients(x, &grad, &to_left)?;
        add_to_rows(to_x, self.start, &self.branch.a.gradient(&to_left)?)
    }
}

impl Right {
    fn new(factors: &[Factors<'_>], width: usize) -> Result<Self> {
        let mut turned = Vec::with_capacity(factors.len());
        let mut ranks = 0;
        for Factors { b, column, scaling, .. } in factors {
            let b = b.to_dtype(DType::F32)?.to_vec2::<f32>()?;
            let rank = b.first().map_or(0, Vec::len);
            turned.push((*column..column + b.len(), ranks..ranks + rank, b, *scaling));
            ranks += rank;
        }
        let (mut rows, mut panels) = (Vec::new(), Vec::new());
        for panel in 0..width.div_ceil(PANEL) {
            let columns = panel * PANEL..(panel + 1) * PANEL;
            let here: Vec<_> = turned
                .iter()
                .filter(|(own, ..)| own.start < columns.end && columns.start < own.end)
                .collect();
            let ranks = match (here.first(), here.last()) {
                (Some((_, first, ..)), Some((_, last, ..))) => first.start..last.end,
                _ => 0..0,
            };
            let start = rows.len();
            rows.resize(start + ranks.len(), PanelRow([0.0; PANEL]));
            for (own, own_ranks, b, scaling) in here {
                for column in own.start.max(columns.start)..own.end.min(columns.end) {
                    for (step, &weight) in own_ranks.clone().zip(&b[column - own.start]) {
                        rows[start + step - ranks.start].0[column - columns.start] =
                            (f64::from(weight) * scaling) as f32;
                    }
                }
            }
            panels.push((start, ranks));
        }
        Ok(Self { rows, panels })
    }

    /// The rows of a panel and the columns of the left half that they belong to; none past the last column.
    #[inline(always)]
    pub(super) fn panel(&self, panel: usize) -> (&[PanelRow<f32>], Range<usize>) {
        match self.panels.get(panel) {
            Some((start, ranks)) => (&self.rows[*start..start + ranks.len()], ranks.clone()),
            None => (&[], 0..0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::oracle::*;
    use super::super::tier::Tier;
    use super::*;

    const SCALING: [f64; 2] = [1.5, 0.25];

    /// Two modules side by side in a product, with columns of no module between and behind them.
    struct Case {
        layer: FrozenLinear,
        weight: Tensor,
        a: [Tensor; 2],
        b: [Tensor; 2],
        columns: [usize; 2],
    }

    impl Case {
        fn new(k: usize, widths: [usize; 2], gap: usize, ranks: [usize; 2]) -> Self {
            Self::with(k, widths, gap, ranks, Precision::F32, Tier::detect())
        }

        fn with(
            k: usize,
            widths: [usize; 2],
            gap: usize,
            ranks: [usize; 2],
            precision: Precision,
            tier: Tier,
        ) -> Self {
            let weight = noise(widths[0] + gap + widths[1] + 3, k, 1);
            Self {
                layer: FrozenLinear::with_tier(&weight, precision, tier).unwrap(),
                weight,
                a: [noise(ranks[0], k, 2), noise(ranks[1], k, 3)],
                b: [noise(widths[0], ranks[0], 4), noise(widths[1], ranks[1], 5)],
                columns: [0, widths[0] + gap],
            }
        }

        fn rows(&self, start: usize, len: usize, scale: f32) -> Arc<[AdaptedRows]> {
            let factors = [0, 1].map(|i| Factors {
                a: &self.a[i],
                b: &self.b[i],
                column: self.columns[i],
                scaling: SCALING[i],
            });
            let branch = LowRank::new(&factors, self.layer.precision()).unwrap();
            [AdaptedRows { start, len, scale, branch, sums: None }].into()
        }

        fn composed(&self, x: &Tensor, rows: &AdaptedRows) -> Tensor {
            let y = x.matmul(&self.weight.t().unwrap()).unwrap();
            let (m, n) = y.dims2().unwrap();
            let mut sum = y;
            for i in [0, 1] {
                let branch = x.matmul(&self.a[i].t().unwrap()).unwrap();
                let branch = branch.matmul(&self.b[i].t().unwrap()).unwrap();
                let branch = (branch * (SCALING[i] * f64::from(rows.scale))).unwrap();
                let branch = branch.narrow(0, rows.start, rows.len).unwrap();
                let behind = n - self.columns[i] - self.b[i].dims()[0];
                let placed = branch.pad_with_zeros(1, self.columns[i], behind).unwrap();
                let placed = placed.pad_with_zeros(0, rows.start, m - rows.start - rows.len).unwrap();
                sum = (sum + placed).unwrap();
            }
            sum
        }
    }

    #[test]
    fn equals_the_composed_form_and_leaves_other_rows() {
        for (case, m, start, len) in [
            (Case::new(20, [33, 40], 5, [3, 1]), 5, 1, 2),
            (Case::new(64, [96, 48], 0, [8, 8]), 300, 0, 300),
            (Case::new(131, [10, 200], 100, [17, 2]), 40, 13, 27),
        ] {
            let x = noise(m, case.weight.dims()[1], 7);
            let rows = case.rows(start, len, 2.0);
            let plain = bits(&case.layer.forward(&x).unwrap());
            let n = case.weight.dims()[0];
            for threads in [1, 2] {
                let found = with_threads(threads, || case.layer.forward_adapted(&x, &rows).unwrap());
                assert_close(&found, &case.composed(&x, &rows[0]), 1e-5, "sum");
                let found = bits(&found);
                for row in (0..m).filter(|row| !(start..start + len).contains(row)) {
                    assert_eq!(found[row * n..(row + 1) * n], plain[row * n..(row + 1) * n], "row {row}");
                }
            }
        }
    }

    #[test]
    fn every_tier_and_precision_agrees() {
        for tier in Tier::available() {
            for (precision, tolerance) in [(Precision::F32, 1e-5), (Precision::Bf16, 2e-2)] {
                let case = Case::with(65, [50, 60], 9, [8, 5], precision, tier);
                let x = noise(30, 65, 7);
                // Among them tiles of which some rows have a branch, and some not.
                for (start, len) in [(0, 30), (4, 7), (29, 1)] {
                    let rows = case.rows(start, len, 1.0);
                    let found = case.layer.forward_adapted(&x, &rows).unwrap();
                    let what = format!("{} {precision:?} {start}", tier.name());
                    assert_close(&found, &case.composed(&x, &rows[0]), tolerance, &what);
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_batch() {
        let case = Case::new(576, [100, 50], 7, [8, 3]);
        let x = noise(40, 576, 1);
        let n = case.weight.dims()[0];
        let whole = bits(&case.layer.forward_adapted(&x, &case.rows(11, 29, 0.5)).unwrap());
        for row in [11, 20, 39] {
            let alone = x.narrow(0, row, 1).unwrap();
            let alone = case.layer.forward_adapted(&alone, &case.rows(0, 1, 0.5)).unwrap();
            assert_eq!(bits(&alone), whole[row * n..(row + 1) * n]);
        }
    }

    #[test]
    fn gradients_equal_the_composed_form_and_differences() {
        let case = Case::new(9, [6, 4], 2, [4, 2]);
        let rows = case.rows(2, 3, 0.5);
        let x = [noise(6, 9, 1)];
        let fused = |x: &[Tensor]| case.layer.forward_adapted(&x[0], &rows).unwrap();
        let expected = gradients(&x, |x| case.composed(&x[0], &rows[0]));
        assert_close(&gradients(&x, fused)[0], &expected[0], 1e-5, "gradient");
        assert_gradients_match_differences(&x, 1e-3, fused);
    }

    #[test]
    fn energies_are_the_lengths_of_branch_and_frozen_product() {
        for (case, m) in [(Case::new(20, [33, 40], 5, [3, 1]), 5), (Case::new(64, [96, 48], 0, [8, 8]), 30)] {
            let x = noise(m, case.weight.dims()[1], 7);
            let rows = case.rows(0, m, 0.75);
            let sums = case.layer.forward_adapted(&x, &rows).unwrap();
            let frozen = case.layer.forward(&x).unwrap();
            let found = rows[0].branch.energies(&x, &sums, rows[0].scale).unwrap();
            for (index, (column, energies)) in found.iter().enumerate() {
                assert_eq!(*column, case.columns[index]);
                let width = case.b[index].dims()[0];
                let own = |t: &Tensor| t.narrow(1, *column, width).unwrap().to_vec2::<f32>().unwrap();
                let square = |row: &[f32]| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
                for ((sum, frozen), energy) in own(&sums).iter().zip(&own(&frozen)).zip(energies) {
                    let branch: Vec<f32> = sum.iter().zip(frozen).map(|(s, f)| s - f).collect();
                    let (branch, frozen) = (square(&branch), square(frozen));
                    assert!((energy.branch - branch).abs() < 1e-4 * (branch + frozen), "{energy:?} {branch}");
                    assert!((energy.frozen - frozen).abs() < 1e-4 * (branch + frozen), "{energy:?} {frozen}");
                }
            }
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let case = Case::new(9, [6, 4], 2, [4, 2]);
        assert!(case.layer.forward_adapted(&noise(3, 9, 1), &case.rows(1, 3, 1.0)).is_err(), "rows");
        let wide = Case::new(9, [16, 4], 2, [4, 2]);
        assert!(case.layer.forward_adapted(&noise(3, 9, 1), &wide.rows(0, 3, 1.0)).is_err(), "columns");
        assert!(LowRank::new(&[], Precision::F32).is_err());
    }
}
