//! Gradients of a low-rank branch's factors.
//!
//! For `y += s * (x Aᵀ) Bᵀ` with the gradient `g` of `y`: `dA = (s * g B)ᵀ x` and `dB = gᵀ (s * x Aᵀ)`. Both are
//! products of two matrices with as many rows as the batch and few columns on one side, summed over the rows; nothing
//! of the size of the frozen weight is computed. Several passes add up in one [`FactorSums`].

use super::low_rank::AdaptedRows;
use super::rows::{Rows, readable, with_rows};
use super::simd::{LANES, Simd};
use super::tier::{Tier, Vectorized};
use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

const OP: &str = "factor gradient";
/// Columns of the narrow side that a register tile covers.
const TILE_RANKS: usize = 8;
/// Columns of the wide side that a register tile covers.
const TILE_COLUMNS: usize = 2 * LANES;

/// Gradients of the factors of a branch's modules, summed over the backward passes that it records.
#[derive(Debug)]
pub struct FactorSums {
    inputs: usize,
    modules: Vec<Module>,
    sums: Mutex<Option<Sums>>,
}

/// One module's place among those that share a product.
#[derive(Debug)]
struct Module {
    /// Its columns in the product.
    columns: Range<usize>,
    /// Its rows among those of all A.
    ranks: Range<usize>,
    scaling: f64,
}

#[derive(Debug)]
struct Sums {
    /// Gradients of all A, one below the other, `[sum of ranks, inputs]`.
    a: Vec<f32>,
    /// Gradients of each Bᵀ, `[rank, outputs]`.
    b_t: Vec<Vec<f32>>,
}

impl FactorSums {
    /// For modules with these `(first column, outputs, rank, scaling)` and this many inputs.
    pub(super) fn new(inputs: usize, modules: impl IntoIterator<Item = (usize, usize, usize, f64)>) -> Self {
        let mut ranks = 0;
        let module = |(column, outputs, rank, scaling)| {
            let first = ranks;
            ranks += rank;
            Module { columns: column..column + outputs, ranks: first..ranks, scaling }
        };
        Self { inputs, modules: modules.into_iter().map(module).collect(), sums: Mutex::new(None) }
    }

    /// The gradients of A `[rank, inputs]` and B `[outputs, rank]` of each module, in the order of their columns;
    /// `None` if no backward pass has come by.
    ///
    /// # Errors
    /// If an earlier sum was left unfinished.
    pub fn gradients(&self) -> Result<Option<Vec<(Tensor, Tensor)>>> {
        let guard = self.lock()?;
        let Some(sums) = &*guard else { return Ok(None) };
        let mut gradients = Vec::with_capacity(self.modules.len());
        for (module, b_t) in self.modules.iter().zip(&sums.b_t) {
            let rank = module.ranks.len();
            let own = module.ranks.start * self.inputs..module.ranks.end * self.inputs;
            let a = Tensor::from_slice(&sums.a[own], (rank, self.inputs), &Device::Cpu)?;
            let b_t = Tensor::from_slice(b_t, (rank, module.columns.len()), &Device::Cpu)?;
            gradients.push((a, b_t.t()?.contiguous()?));
        }
        Ok(Some(gradients))
    }

    /// Adds what some rows give: inputs `x` `[rows, inputs]`, gradients `grad` `[rows, n]` of the product, and with
    /// all modules side by side `left = x Aᵀ` and `to_left = s * grad B`, `[rows, sum of ranks]`.
    fn add(&self, x: &Tensor, grad: &Tensor, left: &Tensor, to_left: &Tensor, scale: f32) -> Result<()> {
        let tier = Tier::detect();
        let all = self.modules.last().map_or(0..0, |module| 0..module.ranks.end);
        let to_a = with_rows(OP, to_left, |to_left| {
            with_rows(OP, x, |x| transposed_product(tier, to_left, &all, 1.0, x))
        })?;
        let mut to_b = Vec::with_capacity(self.modules.len());
        for module in &self.modules {
            let own = readable(OP, &grad.narrow(1, module.columns.start, module.columns.len())?)?;
            let scaling = (module.scaling * f64::from(scale)) as f32;
            to_b.push(with_rows(OP, left, |left| {
                with_rows(OP, &own, |own| transposed_product(tier, left, &module.ranks, scaling, own))
            })?);
        }
        let mut guard = self.lock()?;
        match &mut *guard {
            Some(sums) => {
                let parts = std::iter::once(&mut sums.a).chain(&mut sums.b_t);
                for (sum, added) in parts.zip(std::iter::once(&to_a).chain(&to_b)) {
                    sum.iter_mut().zip(added).for_each(|(sum, added)| *sum += added);
                }
            }
            empty => *empty = Some(Sums { a: to_a, b_t: to_b }),
        }
        Ok(())
    }

    fn lock(&self) -> Result<MutexGuard<'_, Option<Sums>>> {
        self.sums.lock().map_err(|_| candle_core::Error::Msg(format!("{OP}: an earlier sum failed")))
    }
}

impl AdaptedRows {
    /// Adds the gradients of the branch's factors to [`Self::sums`], if they are wanted, from all rows `x` `[m, k]` of
    /// the product, and of these rows the gradient `grad` `[rows, n]` and `to_left`, that of `x Aᵀ`.
    pub(super) fn add_factor_gradients(
        &self,
        x: Option<&Tensor>,
        grad: &Tensor,
        to_left: &Tensor,
    ) -> Result<()> {
        let Some(sums) = &self.sums else { return Ok(()) };
        let Some(x) = x else { bail!("{OP}: expected the inputs of the product, found none") };
        let x = readable(OP, &x.detach().narrow(0, self.start, self.len)?)?;
        let left = self.branch.left(&x)?;
        if left.dims() != to_left.dims() || sums.inputs != x.dims()[1] {
            bail!("{OP}: expected {:?} of {} inputs, found {:?}", left.dims(), sums.inputs, to_left.dims());
        }
        sums.add(&x, grad, &left, to_left, self.scale)
    }
}

/// `factor * narrow[:, columns]ᵀ wide`, `[columns, wide's width]`: a sum over rows, taken in their order.
fn transposed_product(
    tier: Tier,
    narrow: Rows<'_>,
    columns: &Range<usize>,
    factor: f32,
    wide: Rows<'_>,
) -> Result<Vec<f32>> {
    if narrow.count != wide.count || columns.end > narrow.width {
        bail!(
            "{OP}: expected {} rows of {} or more, found {} of {}",
            wide.count,
            columns.end,
            narrow.count,
            narrow.width
        );
    }
    let blocks: Vec<Vec<[f32; TILE_RANKS]>> = columns
        .clone()
        .step_by(TILE_RANKS)
        .map(|first| {
            let own = first..(first + TILE_RANKS).min(columns.end);
            let of_row = |i| {
                let mut block = [0.0; TILE_RANKS];
                block.iter_mut().zip(&narrow.row(i)[own.clone()]).for_each(|(to, x)| *to = factor * x);
                block
            };
            (0..narrow.count).map(of_row).collect()
        })
        .collect();
    let tiles: Vec<Vec<[f32; TILE_COLUMNS]>> = (0..wide.width.div_ceil(TILE_COLUMNS))
        .into_par_iter()
        .map(|tile| {
            let mut sums = vec![[0.0; TILE_COLUMNS]; blocks.len() * TILE_RANKS];
            for (block, sums) in blocks.iter().zip(sums.chunks_exact_mut(TILE_RANKS)) {
                tier.run(Tile { block, wide, first: tile * TILE_COLUMNS, sums });
            }
            sums
        })
        .collect();
    let mut product = vec![0.0; columns.len() * wide.width];
    for (rank, row) in product.chunks_exact_mut(wide.width).enumerate() {
        for (row, tile) in row.chunks_mut(TILE_COLUMNS).zip(&tiles) {
            row.copy_from_slice(&tile[rank][..row.len()]);
        }
    }
    Ok(product)
}

/// The columns from `first` on for one block of ranks.
struct Tile<'a, 'o> {
    block: &'a [[f32; TILE_RANKS]],
    wide: Rows<'a>,
    first: usize,
    /// One row a rank.
    sums: &'o mut [[f32; TILE_COLUMNS]],
}

impl Vectorized for Tile<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn vectorized<S: Simd>(self, s: S) {
        let mut sums = [[s.splat(0.0); 2]; TILE_RANKS];
        let rest = self.wide.width - self.first;
        for (i, left) in self.block.iter().enumerate() {
            let row = &self.wide.row(i)[self.first..];
            let second = if rest > LANES { s.load_at(row, LANES) } else { s.splat(0.0) };
            let x = [s.load_at(row, 0), second];
            for rank in 0..TILE_RANKS {
                let factor = s.splat(left[rank]);
                for part in 0..2 {
                    sums[rank][part] = s.mul_add(factor, x[part], sums[rank][part]);
                }
            }
        }
        for (to, sums) in self.sums.iter_mut().zip(sums) {
            s.put_at(sums[0], to, 0);
            s.put_at(sums[1], to, LANES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::linear::FrozenLinear;
    use super::super::low_rank::{Factors, LowRank};
    use super::super::oracle::*;
    use super::super::pack::Precision;
    use super::*;
    use candle_core::Var;
    use std::sync::Arc;

    const COLUMNS: [usize; 2] = [0, 45];
    const SCALING: [f64; 2] = [1.5, 0.25];

    /// Two modules with a gap between them: A of both, then B of both.
    fn factors(k: usize) -> [Tensor; 4] {
        [noise(9, k, 2), noise(3, k, 3), noise(40, 9, 4), noise(21, 3, 5)]
    }

    fn branch(factors: &[Tensor; 4]) -> LowRank {
        let modules = [0, 1].map(|i| Factors {
            a: &factors[i],
            b: &factors[i + 2],
            column: COLUMNS[i],
            scaling: SCALING[i],
        });
        LowRank::new(&modules, Precision::F32).unwrap()
    }

    /// The gradients of a weighted sum of `x Wᵀ` with the branch at these rows, by candle.
    fn composed(
        x: &Tensor,
        factors: &[Tensor; 4],
        ranges: &[(usize, usize, f32)],
        grad: &Tensor,
    ) -> Vec<Tensor> {
        let vars: Vec<Var> = factors.iter().map(|factor| Var::from_tensor(factor).unwrap()).collect();
        let mut loss = Tensor::zeros((), candle_core::DType::F32, &Device::Cpu).unwrap();
        for &(start, len, scale) in ranges {
            for i in [0, 1] {
                let left = x.narrow(0, start, len).unwrap().matmul(&vars[i].t().unwrap()).unwrap();
                let y = left.matmul(&vars[i + 2].t().unwrap()).unwrap();
                let y = (y * (SCALING[i] * f64::from(scale))).unwrap();
                let own = grad.narrow(0, start, len).unwrap();
                let own = own.narrow(1, COLUMNS[i], factors[i + 2].dims()[0]).unwrap();
                loss = (loss + (y * own).unwrap().sum_all().unwrap()).unwrap();
            }
        }
        let grads = loss.backward().unwrap();
        vars.iter().map(|var| grads.get(var).unwrap().clone()).collect()
    }

    #[test]
    fn sums_equal_those_of_the_composed_form() {
        let k = 50;
        let factors = factors(k);
        let (branch, layer) =
            (branch(&factors), FrozenLinear::from_tensor(&noise(70, k, 1), Precision::F32).unwrap());
        let (x, grad) = (noise(37, k, 6), noise(37, 70, 7));
        let ranges = [(2, 5, 1.0), (9, 28, 0.5)];
        let expected = composed(&x, &factors, &ranges, &grad);
        let mut first: Option<Vec<u32>> = None;
        for threads in [1, 2] {
            let sums = Arc::new(branch.factor_sums());
            assert!(sums.gradients().unwrap().is_none(), "nothing has been summed");
            let adapted: Arc<[AdaptedRows]> = ranges
                .map(|(start, len, scale)| AdaptedRows {
                    start,
                    len,
                    scale,
                    branch: branch.clone(),
                    sums: Some(sums.clone()),
                })
                .into();
            // As a node of candle's graph, which hands the inputs to the backward pass itself.
            with_threads(threads, || {
                let input = Var::from_tensor(&x).unwrap();
                let y = layer.forward_adapted(input.as_tensor(), &adapted).unwrap();
                (y * &grad).unwrap().sum_all().unwrap().backward().unwrap();
            });
            let found = sums.gradients().unwrap().unwrap();
            for i in [0, 1] {
                assert_close(&found[i].0, &expected[i], 1e-5, "A");
                assert_close(&found[i].1, &expected[i + 2], 1e-5, "B");
            }
            let found: Vec<u32> = found.iter().flat_map(|(a, b)| [bits(a), bits(b)].concat()).collect();
            assert_eq!(*first.get_or_insert_with(|| found.clone()), found, "another number of threads");
            // A second pass is added.
            layer.gradient_adapted(&grad, &adapted, Some(&x)).unwrap();
            let twice = sums.gradients().unwrap().unwrap();
            assert_close(&twice[1].1, &(&expected[3] * 2.0).unwrap(), 1e-5, "two passes");
            assert!(layer.gradient_adapted(&grad, &adapted, None).is_err(), "inputs are needed");
        }
    }

    #[test]
    fn every_tier_sums_the_same_product() {
        for tier in Tier::available() {
            for (rows, ranks, width) in [(1, 1, 1), (7, 8, 32), (33, 11, 49), (64, 3, 130)] {
                let (narrow, wide) = (noise(rows, ranks + 2, 1), noise(rows, width, 2));
                let columns = 1..1 + ranks;
                let found = with_rows(OP, &narrow, |narrow| {
                    with_rows(OP, &wide, |wide| transposed_product(tier, narrow, &columns, 0.5, wide))
                });
                let found = Tensor::from_vec(found.unwrap(), (ranks, width), &Device::Cpu).unwrap();
                let own = (narrow.narrow(1, 1, ranks).unwrap() * 0.5).unwrap();
                let expected = own.t().unwrap().matmul(&wide).unwrap();
                assert_close(&found, &expected, 1e-5, tier.name());
            }
        }
    }
}
