//! The right halves of low-rank branches, added to some rows of a product in place.

use super::linear::FrozenLinear;
use super::pack::Precision;
use super::rows::{Rows, readable};
use super::simd::{LANES, Simd};
use super::tier::{Tier, Vectorized};
use super::tile::accumulate_f32;
use candle_core::{CpuStorage, CustomOp2, DType, InplaceOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::sync::Arc;

const OP: &str = "low-rank branch";

/// Below this many multiply-adds, starting a second thread costs more than it saves.
const PARALLEL_PRODUCTS: usize = 1 << 17;
/// Vectors of columns, and rows, of the tile that is held in registers.
const TILE_VECTORS: usize = 2;
const TILE_ROWS: usize = 6;

/// One frozen right factor B `[n, rank]` with its factor and the columns that it writes.
#[derive(Clone, Debug)]
pub struct RightFactor {
    /// `Bᵀ`, `[rank, padded]`: whole tiles of columns, the last padded with zeros.
    rows: Arc<[f32]>,
    padded: usize,
    rank: usize,
    width: usize,
    column: usize,
    scaling: f64,
    /// What the gradient multiplies with.
    back: FrozenLinear,
}

impl RightFactor {
    /// From B, a CPU tensor `[n, rank]` of `f32`, for the columns from `column` on, scaled by `scaling`.
    ///
    /// # Errors
    /// If the tensor is not such a matrix.
    pub fn new(b: &Tensor, column: usize, scaling: f64) -> Result<Self> {
        let (width, rank) = b.dims2()?;
        let turned = b.to_dtype(DType::F32)?.t()?.contiguous()?;
        let padded = width.next_multiple_of(TILE_VECTORS * LANES);
        let mut rows = vec![0.0; rank * padded];
        for (to, from) in rows.chunks_exact_mut(padded).zip(turned.to_vec2::<f32>()?) {
            to[..width].copy_from_slice(&from);
        }
        let back = FrozenLinear::from_tensor(&turned, Precision::F32)?;
        Ok(Self { rows: rows.into(), padded, rank, width, column, scaling, back })
    }
}

/// The right factors of several branches that start from one product: their left halves stand side by side.
#[derive(Clone, Debug)]
pub struct RightFactors {
    parts: Arc<[RightFactor]>,
    rank: usize,
}

impl RightFactors {
    /// From factors in the order of their left halves.
    pub fn new(parts: Vec<RightFactor>) -> Self {
        Self { rank: parts.iter().map(|part| part.rank).sum(), parts: parts.into() }
    }

    /// `y` with `scale * scaling_j * left_j B_jᵀ` added, for each factor `j`, to its columns of the rows from `start`
    /// on, for `y: [m, n]` and `left: [rows, sum of ranks]`.
    ///
    /// Where no gradient is recorded `y` itself is changed, so it must not be shared. All other elements keep every
    /// bit. Gradients flow to `y` and `left`.
    ///
    /// # Errors
    /// If shapes do not fit together, or a tensor is not `f32` on the CPU.
    pub fn add_to(&self, y: Tensor, left: &Tensor, start: usize, scale: f32) -> Result<Tensor> {
        self.check(y.dims2()?, left.dims2()?, start)?;
        let op = AddLowRank { factors: self.clone(), start, scale, tier: Tier::detect() };
        let left = readable(OP, left)?;
        if y.track_op() || left.track_op() || !y.is_contiguous() {
            return y.contiguous()?.apply_op2(&left, op);
        }
        y.inplace_op2(&left, &op)?;
        Ok(y)
    }

    /// From the gradient `[m, n]` of what [`Self::add_to`] gave, that of its `rows` rows of `left`.
    ///
    /// # Errors
    /// If shapes do not fit together, or a tensor is not `f32` on the CPU.
    pub fn gradient(&self, grad: &Tensor, start: usize, rows: usize, scale: f32) -> Result<Tensor> {
        self.check(grad.dims2()?, (rows, self.rank), start)?;
        let grad = grad.narrow(0, start, rows)?;
        let mut lefts = Vec::with_capacity(self.parts.len());
        for part in self.parts.iter() {
            let to_left = part.back.forward(&grad.narrow(1, part.column, part.width)?)?;
            lefts.push((to_left * (part.scaling * f64::from(scale)))?);
        }
        if lefts.len() == 1 { Ok(lefts.swap_remove(0)) } else { Tensor::cat(&lefts, 1) }
    }

    fn check(&self, (m, n): (usize, usize), (rows, rank): (usize, usize), start: usize) -> Result<()> {
        let end = self.parts.iter().map(|part| part.column + part.width).max().unwrap_or(0);
        if end > n || rank != self.rank || start + rows > m {
            bail!(
                "{OP}: expected at least {end} columns, rows within {m} and rank {}, found {n}, {rows} from {start} and {rank}",
                self.rank
            );
        }
        Ok(())
    }
}

struct AddLowRank {
    factors: RightFactors,
    start: usize,
    scale: f32,
    tier: Tier,
}

impl AddLowRank {
    /// Adds the branches to the places of a contiguous `[m, width]`.
    fn add(&self, y: &mut [f32], width: usize, left: Rows<'_>) {
        let y = &mut y[self.start * width..(self.start + left.count) * width];
        let task = |first: usize, y: &mut [f32]| self.tier.run(Add { op: self, left, first, y, width });
        let products: usize = self.factors.parts.iter().map(|part| part.width * part.rank).sum();
        if left.count * products < PARALLEL_PRODUCTS || rayon::current_num_threads() == 1 {
            return task(0, y);
        }
        let rows = left.count.div_ceil(rayon::current_num_threads() * 4).next_multiple_of(TILE_ROWS);
        y.par_chunks_mut(rows * width).enumerate().for_each(|(i, y)| task(i * rows, y));
    }
}

impl InplaceOp2 for AddLowRank {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        y: &mut CpuStorage,
        y_layout: &Layout,
        left: &CpuStorage,
        left_layout: &Layout,
    ) -> Result<()> {
        let (CpuStorage::F32(y), Some((start, end))) = (y, y_layout.contiguous_offsets()) else {
            bail!("{OP}: expected contiguous f32 rows")
        };
        self.add(&mut y[start..end], y_layout.dims()[1], Rows::new(OP, left, left_layout)?);
        Ok(())
    }
}

impl CustomOp2 for AddLowRank {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        y: &CpuStorage,
        y_layout: &Layout,
        left: &CpuStorage,
        left_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (CpuStorage::F32(y), Some((start, end))) = (y, y_layout.contiguous_offsets()) else {
            bail!("{OP}: expected contiguous f32 rows")
        };
        let mut sum = y[start..end].to_vec();
        self.add(&mut sum, y_layout.dims()[1], Rows::new(OP, left, left_layout)?);
        Ok((CpuStorage::F32(sum), y_layout.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        left: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let to_left = self.factors.gradient(grad, self.start, left.dims()[0], self.scale)?;
        Ok((Some(grad.clone()), Some(to_left)))
    }
}

struct Add<'a, 'y> {
    op: &'a AddLowRank,
    left: Rows<'a>,
    first: usize,
    y: &'y mut [f32],
    width: usize,
}

impl Vectorized for Add<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn vectorized<S: Simd>(mut self, s: S) {
        let mut rank = 0;
        for part in self.op.factors.parts.iter() {
            for at in (0..part.width).step_by(TILE_VECTORS * LANES) {
                for row in (0..self.y.len() / self.width).step_by(TILE_ROWS) {
                    self.tile(s, part, rank, at, row);
                }
            }
            rank += part.rank;
        }
    }
}

impl Add<'_, '_> {
    /// Up to six rows from `row` on, at the part's columns from `at` on; `rank` is the part's first left column.
    #[inline(always)]
    fn tile<S: Simd>(&mut self, s: S, part: &RightFactor, rank: usize, at: usize, row: usize) {
        match self.y.len() / self.width - row {
            1 => self.sized_tile::<S, 1>(s, part, rank, at, row),
            2 => self.sized_tile::<S, 2>(s, part, rank, at, row),
            3 => self.sized_tile::<S, 3>(s, part, rank, at, row),
            4 => self.sized_tile::<S, 4>(s, part, rank, at, row),
            5 => self.sized_tile::<S, 5>(s, part, rank, at, row),
            _ => self.sized_tile::<S, TILE_ROWS>(s, part, rank, at, row),
        }
    }

    #[inline(always)]
    fn sized_tile<S: Simd, const R: usize>(
        &mut self,
        s: S,
        part: &RightFactor,
        rank: usize,
        at: usize,
        row: usize,
    ) {
        let left = &self.left.data()[(self.first + row) * self.left.stride + rank..];
        assert!(left.len() >= (R - 1) * self.left.stride + part.rank);
        let right = &part.rows[at..];
        assert!(right.len() >= part.rank.saturating_sub(1) * part.padded + TILE_VECTORS * LANES);
        let mut acc = [[s.splat(0.0); TILE_VECTORS]; R];
        // SAFETY: both extents are checked just above; `padded` is a multiple of the tile's columns.
        unsafe {
            accumulate_f32(
                s,
                part.rank,
                (left.as_ptr(), self.left.stride, 1),
                (right.as_ptr(), part.padded, LANES),
                0,
                &mut acc,
            );
        }
        // PEFT multiplies the finished product by the factor, too.
        let scale = s.splat((part.scaling * f64::from(self.op.scale)) as f32);
        for (i, sums) in acc.iter().enumerate() {
            let start = (row + i) * self.width + part.column;
            let y = &mut self.y[start..start + part.width];
            for (w, sum) in sums.iter().enumerate() {
                let at = at + w * LANES;
                if at < part.width {
                    s.put_at(s.mul_add(scale, *sum, s.load_at(y, at)), y, at);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::oracle::*;
    use super::*;

    /// Two factors side by side in the left half, and apart in the columns.
    fn factors(n: usize, ranks: [usize; 2]) -> (RightFactors, [Tensor; 2]) {
        let b = [noise(n, ranks[0], 3), noise(n, ranks[1], 4)];
        let parts = [(&b[0], 0), (&b[1], n + 5)].map(|(b, column)| RightFactor::new(b, column, 1.5).unwrap());
        (RightFactors::new(parts.into()), b)
    }

    fn composed(y: &Tensor, left: &Tensor, b: &[Tensor; 2], start: usize, scale: f64) -> Tensor {
        let (m, rows, n) = (y.dims()[0], left.dims()[0], b[0].dims()[0]);
        let rank = b[0].dims()[1];
        let branch = |first: usize, b: &Tensor| {
            let left = left.narrow(1, first, b.dims()[1]).unwrap().contiguous().unwrap();
            (left.matmul(&b.t().unwrap()).unwrap() * (1.5 * scale)).unwrap()
        };
        let gap = Tensor::zeros((rows, 5), DType::F32, y.device()).unwrap();
        let rest = Tensor::zeros((rows, y.dims()[1] - 2 * n - 5), DType::F32, y.device()).unwrap();
        let branches = Tensor::cat(&[branch(0, &b[0]), gap, branch(rank, &b[1]), rest], 1).unwrap();
        let middle = (y.narrow(0, start, rows).unwrap() + branches).unwrap();
        let tail = y.narrow(0, start + rows, m - start - rows).unwrap();
        Tensor::cat(&[y.narrow(0, 0, start).unwrap(), middle, tail], 0).unwrap()
    }

    #[test]
    fn equals_the_composed_form_and_leaves_the_rest() {
        for (m, n, ranks, start, rows) in
            [(5, 33, [3, 1], 1, 2), (300, 64, [8, 8], 0, 300), (40, 100, [17, 2], 13, 27)]
        {
            let (y, left) = (noise(m, 2 * n + 9, 1), noise(rows, ranks[0] + ranks[1], 2));
            let (factors, b) = factors(n, ranks);
            let expected = composed(&y, &left, &b, start, 2.0).to_vec2::<f32>().unwrap();
            let before = y.to_vec2::<f32>().unwrap();
            for threads in [1, 2] {
                let fresh = y.copy().unwrap();
                let found = with_threads(threads, || factors.add_to(fresh, &left, start, 2.0).unwrap());
                for (i, row) in found.to_vec2::<f32>().unwrap().iter().enumerate() {
                    for (j, found) in row.iter().enumerate() {
                        let of_branch = (start..start + rows).contains(&i)
                            && (j < n || (n + 5..2 * n + 5).contains(&j));
                        let tolerance = if of_branch { 1e-4 } else { 0.0 };
                        let expected = if of_branch { expected[i][j] } else { before[i][j] };
                        assert!((found - expected).abs() <= tolerance, "{i} {j}: {found} {expected}");
                    }
                }
            }
        }
        let (factors, _) = factors(4, [2, 2]);
        assert!(factors.add_to(noise(3, 13, 1), &noise(2, 4, 1), 2, 1.0).is_err(), "rows");
        assert!(factors.add_to(noise(3, 12, 1), &noise(2, 4, 1), 0, 1.0).is_err(), "columns");
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours() {
        let (factors, _) = factors(40, [8, 3]);
        let (y, left) = (noise(20, 90, 1), noise(20, 11, 2));
        let whole = bits(&factors.add_to(y.copy().unwrap(), &left, 0, 1.0).unwrap());
        for row in [0, 7, 19] {
            let alone = y.narrow(0, row, 1).unwrap().copy().unwrap();
            let alone = factors.add_to(alone, &left.narrow(0, row, 1).unwrap(), 0, 1.0).unwrap();
            assert_eq!(bits(&alone), whole[row * 90..(row + 1) * 90]);
        }
    }

    #[test]
    fn gradients_equal_the_composed_form() {
        let (factors, b) = factors(9, [4, 2]);
        let args = [noise(6, 25, 1), noise(3, 6, 2)];
        let found = gradients(&args, |x| factors.add_to(x[0].clone(), &x[1], 2, 0.5).unwrap());
        let expected = gradients(&args, |x| composed(&x[0], &x[1], &b, 2, 0.5));
        for (found, expected) in found.iter().zip(&expected) {
            assert_close(found, expected, 1e-5, "gradient");
        }
    }
}
