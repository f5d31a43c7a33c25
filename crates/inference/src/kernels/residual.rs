//! The sum of two streams of rows.

use super::rows::{Rows, build, readable};
use super::simd::{LANES, Simd};
use super::tier::{Tier, Vectorized};
use candle_core::{CpuStorage, CustomOp2, InplaceOp2, Layout, Result, Shape, Tensor, bail};
use std::mem::MaybeUninit;

const OP: &str = "residual sum";

/// `x + y` for tensors of the same shape. Gradients flow to both.
///
/// candle's own sum runs large operands on a second, spinning pool of threads; this one stays in rayon's.
///
/// # Errors
/// If the shapes differ, or a tensor is not `f32` on the CPU.
pub fn residual_sum(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if x.dims() != y.dims() {
        bail!("{OP}: expected {:?}, found {:?}", x.dims(), y.dims());
    }
    readable(OP, x)?.apply_op2(&readable(OP, y)?, ResidualSum { tier: Tier::detect() })
}

/// Adds `y: [rows, h]` in place to the rows of `x: [m, h]` from `start` on. `x` must not be shared.
///
/// # Errors
/// If the shapes do not fit, or a tensor is not `f32` on the CPU.
pub(super) fn add_to_rows(x: &Tensor, start: usize, y: &Tensor) -> Result<()> {
    let ((m, h), (rows, width)) = (x.dims2()?, y.dims2()?);
    if width != h || start + rows > m {
        bail!("{OP}: expected rows within [{m}, {h}], found [{rows}, {width}] from {start}");
    }
    x.inplace_op2(&readable(OP, y)?, &AddToRows { start })
}

struct AddToRows {
    start: usize,
}

impl InplaceOp2 for AddToRows {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        y: &CpuStorage,
        y_layout: &Layout,
    ) -> Result<()> {
        let y = Rows::new(OP, y, y_layout)?;
        let (CpuStorage::F32(x), Some((from, _))) = (x, x_layout.contiguous_offsets()) else {
            bail!("{OP}: expected contiguous f32 rows")
        };
        let first = from + self.start * y.width;
        for (i, x) in x[first..first + y.count * y.width].chunks_exact_mut(y.width).enumerate() {
            for (x, y) in x.iter_mut().zip(y.row(i)) {
                *x += y;
            }
        }
        Ok(())
    }
}

struct ResidualSum {
    tier: Tier,
}

impl CustomOp2 for ResidualSum {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        y: &CpuStorage,
        y_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, y) = (Rows::new(OP, x, x_layout)?, Rows::new(OP, y, y_layout)?);
        // SAFETY: `Add` writes every place of every row.
        let sum = unsafe { build(x.count, x.width, |first, out| self.tier.run(Add { x, y, first, out })) };
        Ok((CpuStorage::F32(sum), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(grad.clone()), Some(grad.clone())))
    }
}

struct Add<'a, 'o> {
    x: Rows<'a>,
    y: Rows<'a>,
    first: usize,
    out: &'o mut [MaybeUninit<f32>],
}

impl Vectorized for Add<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn vectorized<S: Simd>(self, s: S) {
        for (i, out) in self.out.chunks_exact_mut(self.x.width).enumerate() {
            let (x, y) = (self.x.row(self.first + i), self.y.row(self.first + i));
            for at in (0..x.len()).step_by(LANES) {
                s.store_at(s.add(s.load_at(x, at), s.load_at(y, at)), out, at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::oracle::*;
    use super::*;

    #[test]
    fn equals_candle_bit_for_bit() {
        for (m, h) in [(1, 1), (3, 17), (300, 200)] {
            let (x, y) = (noise(m, h, 1), noise(m, h, 2));
            let expected = bits(&(&x + &y).unwrap());
            for threads in [1, 2] {
                assert_eq!(with_threads(threads, || bits(&residual_sum(&x, &y).unwrap())), expected);
            }
        }
        assert!(residual_sum(&noise(2, 3, 1), &noise(3, 2, 1)).is_err());
    }

    #[test]
    fn rows_are_added_in_place() {
        let (x, y) = (noise(5, 17, 1), noise(2, 17, 2));
        let before = x.to_vec2::<f32>().unwrap();
        let added = y.to_vec2::<f32>().unwrap();
        add_to_rows(&x, 2, &y).unwrap();
        for (i, row) in x.to_vec2::<f32>().unwrap().iter().enumerate() {
            for (j, &found) in row.iter().enumerate() {
                let expected = before[i][j] + if (2..4).contains(&i) { added[i - 2][j] } else { 0.0 };
                assert!((found - expected).abs() < 1e-6);
            }
        }
        assert!(add_to_rows(&x, 4, &y).is_err());
    }

    #[test]
    fn gradient_reaches_both() {
        let args = [noise(3, 5, 1), noise(3, 5, 2)];
        let found = gradients(&args, |x| residual_sum(&x[0], &x[1]).unwrap());
        let expected = gradients(&args, |x| (&x[0] + &x[1]).unwrap());
        assert_eq!((bits(&found[0]), bits(&found[1])), (bits(&expected[0]), bits(&expected[1])));
    }
}
