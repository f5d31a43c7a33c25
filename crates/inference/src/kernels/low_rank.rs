//! The right half of a low-rank branch, added to some rows of a product in place.

use super::rows::{Rows, readable};
use super::simd::{LANES, Simd};
use super::tier::{Tier, Vectorized};
use candle_core::{CpuStorage, CustomOp2, DType, InplaceOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::sync::Arc;

const OP: &str = "low-rank branch";

/// Below this many multiply-adds, starting a second thread costs more than it saves.
const PARALLEL_PRODUCTS: usize = 1 << 17;

/// A frozen right factor `Bᵀ` `[rank, n]`.
#[derive(Clone, Debug)]
pub struct RightFactor {
    rows: Arc<[f32]>,
    rank: usize,
    width: usize,
    /// `[n, rank]`, which the gradient multiplies with.
    transposed: Tensor,
}

impl RightFactor {
    /// From B, a CPU tensor `[n, rank]` of `f32`.
    ///
    /// # Errors
    /// If the tensor is not such a matrix.
    pub fn new(b: &Tensor) -> Result<Self> {
        let (width, rank) = b.dims2()?;
        let rows = b.t()?.contiguous()?.flatten_all()?.to_vec1::<f32>()?;
        Ok(Self { rows: rows.into(), rank, width, transposed: b.to_dtype(DType::F32)?.contiguous()? })
    }

    /// Rank of the branch.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// `y` with `scale * left Bᵀ` added to its rows from `start` on, for `y: [m, n]` and `left: [rows, rank]`.
    ///
    /// Where no gradient is recorded `y` itself is changed, so it must not be shared. Rows outside the range keep
    /// every bit. Gradients flow to `y` and `left`.
    ///
    /// # Errors
    /// If shapes do not fit together, or a tensor is not `f32` on the CPU.
    pub fn add_to(&self, y: Tensor, left: &Tensor, start: usize, scale: f32) -> Result<Tensor> {
        let ((m, n), (rows, rank)) = (y.dims2()?, left.dims2()?);
        if n != self.width || rank != self.rank || start + rows > m {
            bail!(
                "{OP}: expected rows within [{m}, {}] and rank {}, found [{rows}, {n}] from {start} and rank {rank}",
                self.width,
                self.rank
            );
        }
        let op = AddLowRank { factor: self.clone(), start, scale, tier: Tier::detect() };
        let left = readable(OP, left)?;
        if y.track_op() || left.track_op() || !y.is_contiguous() {
            return y.contiguous()?.apply_op2(&left, op);
        }
        y.inplace_op2(&left, &op)?;
        Ok(y)
    }
}

struct AddLowRank {
    factor: RightFactor,
    start: usize,
    scale: f32,
    tier: Tier,
}

impl AddLowRank {
    /// Adds the branch to the places of a contiguous `[m, n]`.
    fn add(&self, y: &mut [f32], left: Rows<'_>) {
        let RightFactor { width, rank, .. } = self.factor;
        let y = &mut y[self.start * width..(self.start + left.count) * width];
        let task = |first: usize, y: &mut [f32]| self.tier.run(Add { op: self, left, first, y });
        if left.count * width * rank < PARALLEL_PRODUCTS || rayon::current_num_threads() == 1 {
            return task(0, y);
        }
        let rows = left.count.div_ceil(rayon::current_num_threads() * 4).max(1);
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
        self.add(&mut y[start..end], Rows::new(OP, left, left_layout)?);
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
        self.add(&mut sum, Rows::new(OP, left, left_layout)?);
        Ok((CpuStorage::F32(sum), y_layout.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        left: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let rows = grad.narrow(0, self.start, left.dims()[0])?.contiguous()?;
        let to_left = (rows.matmul(&self.factor.transposed)? * f64::from(self.scale))?;
        Ok((Some(grad.clone()), Some(to_left)))
    }
}

struct Add<'a, 'y> {
    op: &'a AddLowRank,
    left: Rows<'a>,
    first: usize,
    y: &'y mut [f32],
}

impl Vectorized for Add<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn vectorized<S: Simd>(self, s: S) {
        let RightFactor { rows, width, .. } = &self.op.factor;
        for (i, y) in self.y.chunks_exact_mut(*width).enumerate() {
            let left = self.left.row(self.first + i);
            for at in (0..*width).step_by(LANES) {
                let mut sum = s.load_at(y, at);
                for (k, &factor) in left.iter().enumerate() {
                    let row = &rows[k * width..(k + 1) * width];
                    sum = s.mul_add(s.splat(factor * self.op.scale), s.load_at(row, at), sum);
                }
                s.put_at(sum, y, at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::oracle::*;
    use super::*;

    fn composed(y: &Tensor, left: &Tensor, b: &Tensor, start: usize, scale: f64) -> Tensor {
        let m = y.dims()[0];
        let rows = left.dims()[0];
        let branch = (left.matmul(&b.t().unwrap()).unwrap() * scale).unwrap();
        let middle = (y.narrow(0, start, rows).unwrap() + branch).unwrap();
        let head = y.narrow(0, 0, start).unwrap();
        let tail = y.narrow(0, start + rows, m - start - rows).unwrap();
        Tensor::cat(&[head, middle, tail], 0).unwrap()
    }

    #[test]
    fn equals_the_composed_form_and_leaves_other_rows() {
        for (m, n, rank, start, rows) in [(5, 33, 3, 1, 2), (300, 64, 8, 0, 300), (40, 100, 17, 13, 27)] {
            let (y, left, b) = (noise(m, n, 1), noise(rows, rank, 2), noise(n, rank, 3));
            let factor = RightFactor::new(&b).unwrap();
            let expected = composed(&y, &left, &b, start, 2.0).to_vec2::<f32>().unwrap();
            let before = y.to_vec2::<f32>().unwrap();
            for threads in [1, 2] {
                let fresh = y.copy().unwrap();
                let found = with_threads(threads, || factor.add_to(fresh, &left, start, 2.0).unwrap());
                let found = found.to_vec2::<f32>().unwrap();
                for (i, row) in found.iter().enumerate() {
                    if i < start || i >= start + rows {
                        assert_eq!(row, &before[i], "row {i} is not of the branch");
                    }
                    let off = row.iter().zip(&expected[i]).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
                    assert!(off < 1e-5, "row {i} is off by {off}");
                }
            }
        }
        let factor = RightFactor::new(&noise(4, 2, 1)).unwrap();
        assert!(factor.add_to(noise(3, 4, 1), &noise(2, 2, 1), 2, 1.0).is_err());
    }

    #[test]
    fn gradients_equal_the_composed_form() {
        let b = noise(9, 4, 3);
        let factor = RightFactor::new(&b).unwrap();
        let args = [noise(6, 9, 1), noise(3, 4, 2)];
        let found = gradients(&args, |x| factor.add_to(x[0].clone(), &x[1], 2, 0.5).unwrap());
        let expected = gradients(&args, |x| composed(&x[0], &x[1], &b, 2, 0.5));
        for (found, expected) in found.iter().zip(&expected) {
            let off =
                (found - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(off < 1e-5, "gradient is off by {off}");
        }
    }
}
