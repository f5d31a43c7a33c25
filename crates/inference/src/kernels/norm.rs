//! Root-mean-square normalisation of rows.

use super::rows::{Rows, build, readable};
use super::simd::{LANES, Simd};
use super::tier::{Tier, Vectorized};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use std::mem::MaybeUninit;
use std::sync::Arc;

const OP: &str = "rms norm";

/// `y = x / sqrt(mean(x^2) + eps) * weight` along the last dimension of `x: [.., h]`, with `weight: [h]`
/// (Zhang and Sennrich 2019, <https://arxiv.org/abs/1910.07467>). Gradients flow to `x` alone.
///
/// Models that scale by `1 + weight` pass the sum.
///
/// # Errors
/// If the last dimension is not the weight's length, or `x` is not `f32` on the CPU.
pub fn rms_norm(x: &Tensor, weight: &Arc<[f32]>, eps: f32) -> Result<Tensor> {
    rms_norm_on(Tier::detect(), x, weight, eps)
}

/// `residual` plus the gradient of `x`, from the gradient of [`rms_norm`]'s result. A norm sits beside a residual
/// stream, whose gradient is added in the same pass.
///
/// # Errors
/// If shapes differ, or a tensor is not `f32` on the CPU.
pub fn rms_norm_gradient(
    x: &Tensor,
    weight: &Arc<[f32]>,
    eps: f32,
    grad: &Tensor,
    residual: &Tensor,
) -> Result<Tensor> {
    let parameters = Parameters { weight: weight.clone(), eps, tier: Tier::detect() };
    let (x, grad, residual) = (readable(OP, x)?, readable(OP, grad)?, readable(OP, residual)?);
    x.apply_op3_no_bwd(&grad, &residual, &RmsNormGradient(parameters))
}

fn rms_norm_on(tier: Tier, x: &Tensor, weight: &Arc<[f32]>, eps: f32) -> Result<Tensor> {
    readable(OP, x)?.apply_op1(RmsNorm(Parameters { weight: weight.clone(), eps, tier }))
}

#[derive(Clone)]
struct Parameters {
    weight: Arc<[f32]>,
    eps: f32,
    tier: Tier,
}

impl Parameters {
    fn rows<'a>(&self, storage: &'a CpuStorage, layout: &Layout) -> Result<Rows<'a>> {
        let rows = Rows::new(OP, storage, layout)?;
        if rows.width != self.weight.len() {
            bail!("{OP}: expected rows of {}, found {}", self.weight.len(), rows.width);
        }
        Ok(rows)
    }
}

struct RmsNorm(Parameters);

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Parameters { weight, eps, tier } = &self.0;
        let x = self.0.rows(storage, layout)?;
        // SAFETY: `Forward` writes every place of every row.
        let y = unsafe {
            build(x.count, x.width, |first, out| tier.run(Forward { x, first, weight, eps: *eps, out }))
        };
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(x.apply_op2_no_bwd(&readable(OP, grad)?, &RmsNormGradient(self.0.clone()))?))
    }
}

/// From `x` and the gradient of `y`, the gradient of `x`.
struct RmsNormGradient(Parameters);

impl RmsNormGradient {
    fn run(&self, x: Rows<'_>, grad: Rows<'_>, residual: Option<Rows<'_>>) -> Result<CpuStorage> {
        let Parameters { weight, eps, tier } = &self.0;
        for other in [Some(grad), residual].into_iter().flatten() {
            if (other.count, other.width) != (x.count, x.width) {
                bail!(
                    "{OP}: expected {} rows of {}, found {} of {}",
                    x.count,
                    x.width,
                    other.count,
                    other.width
                );
            }
        }
        // SAFETY: `Backward` writes every place of every row.
        let grad_x = unsafe {
            build(x.count, x.width, |first, out| {
                tier.run(Backward { x, grad, residual, first, weight, eps: *eps, out })
            })
        };
        Ok(CpuStorage::F32(grad_x))
    }
}

impl CustomOp2 for RmsNormGradient {
    fn name(&self) -> &'static str {
        "rms norm gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, grad) = (self.0.rows(x, x_layout)?, self.0.rows(grad, grad_layout)?);
        Ok((self.run(x, grad, None)?, x_layout.shape().clone()))
    }
}

impl CustomOp3 for RmsNormGradient {
    fn name(&self) -> &'static str {
        "rms norm gradient with residual"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, grad) = (self.0.rows(x, x_layout)?, self.0.rows(grad, grad_layout)?);
        let residual = self.0.rows(residual, residual_layout)?;
        Ok((self.run(x, grad, Some(residual))?, x_layout.shape().clone()))
    }
}

/// `1 / sqrt(mean(x^2) + eps)`.
#[inline(always)]
fn inverse_rms<S: Simd>(s: S, x: &[f32], eps: f32) -> f32 {
    1.0 / (s.dot(x, x) / x.len() as f32 + eps).sqrt()
}

struct Forward<'a, 'o> {
    x: Rows<'a>,
    first: usize,
    weight: &'a [f32],
    eps: f32,
    out: &'o mut [MaybeUninit<f32>],
}

impl Vectorized for Forward<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn vectorized<S: Simd>(self, s: S) {
        for (i, out) in self.out.chunks_exact_mut(self.x.width).enumerate() {
            let x = self.x.row(self.first + i);
            let scale = s.splat(inverse_rms(s, x, self.eps));
            for at in (0..x.len()).step_by(LANES) {
                let normed = s.mul(s.load_at(x, at), scale);
                s.store_at(s.mul(normed, s.load_at(self.weight, at)), out, at);
            }
        }
    }
}

struct Backward<'a, 'o> {
    x: Rows<'a>,
    grad: Rows<'a>,
    residual: Option<Rows<'a>>,
    first: usize,
    weight: &'a [f32],
    eps: f32,
    out: &'o mut [MaybeUninit<f32>],
}

impl Vectorized for Backward<'_, '_> {
    type Output = ();

    /// With `r = 1 / rms` and `u = grad * weight`: `dx = r u - x r^3 mean(u x)`.
    #[inline(always)]
    fn vectorized<S: Simd>(self, s: S) {
        for (i, out) in self.out.chunks_exact_mut(self.x.width).enumerate() {
            let (x, grad) = (self.x.row(self.first + i), self.grad.row(self.first + i));
            let residual = self.residual.map(|residual| residual.row(self.first + i));
            let mut sum = s.splat(0.0);
            for at in (0..x.len()).step_by(LANES) {
                let u = s.mul(s.load_at(grad, at), s.load_at(self.weight, at));
                sum = s.mul_add(u, s.load_at(x, at), sum);
            }
            let r = inverse_rms(s, x, self.eps);
            let along = s.splat(-r * r * r * (s.sum(sum) / x.len() as f32));
            let r = s.splat(r);
            for at in (0..x.len()).step_by(LANES) {
                let u = s.mul(s.load_at(grad, at), s.load_at(self.weight, at));
                let mut sum = s.mul_add(s.load_at(x, at), along, s.mul(u, r));
                if let Some(residual) = residual {
                    sum = s.add(s.load_at(residual, at), sum);
                }
                s.store_at(sum, out, at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::oracle::*;
    use super::*;
    use candle_nn::ops::rms_norm_slow;

    const EPS: f32 = 1e-5;

    fn weight(h: usize) -> (Arc<[f32]>, Tensor) {
        let weight = noise(1, h, 5).flatten_all().unwrap();
        (elements(&weight).into(), weight)
    }

    #[test]
    fn agrees_with_the_composed_form_forwards_and_backwards() {
        for tier in Tier::available() {
            for (m, h) in [(1, 3), (3, 7), (5, 16), (4, 100), (20, 576)] {
                let (w, w_tensor) = weight(h);
                let x = noise(m, h, 6);
                let case = format!("{} {m}x{h}", tier.name());
                let fused = |x: &[Tensor]| rms_norm_on(tier, &x[0], &w, EPS).unwrap();
                let slow = |x: &[Tensor]| rms_norm_slow(&x[0], &w_tensor, EPS).unwrap();
                let x = [x];
                assert_close(&fused(&x), &slow(&x), 1e-5, &case);
                assert_close(&gradients(&x, fused)[0], &gradients(&x, slow)[0], 1e-5, &case);
            }
        }
    }

    #[test]
    fn gradient_adds_the_residual() {
        let (w, _) = weight(33);
        let (x, residual, grad) = (noise(4, 33, 7), noise(4, 33, 8), noise(4, 33, 9));
        let found = rms_norm_gradient(&x, &w, EPS, &grad, &residual).unwrap();
        let weighted = |x: &[Tensor]| (rms_norm(&x[0], &w, EPS).unwrap() * &grad).unwrap();
        let var = candle_core::Var::from_tensor(&x).unwrap();
        let loss = weighted(&[var.as_tensor().clone()]).sum_all().unwrap();
        let alone = loss.backward().unwrap().get(&var).unwrap().clone();
        assert_close(&found, &(alone + residual).unwrap(), 1e-5, "with residual");
    }

    #[test]
    fn gradient_agrees_with_differences() {
        let (w, _) = weight(33);
        assert_gradients_match_differences(&[noise(4, 33, 7)], 1e-3, |x| rms_norm(&x[0], &w, EPS).unwrap());
    }

    #[test]
    fn a_row_does_not_depend_on_its_batch() {
        let (w, _) = weight(200);
        let x = noise(400, 200, 8);
        let whole = bits(&with_threads(1, || rms_norm(&x, &w, EPS).unwrap()));
        assert_eq!(whole, bits(&with_threads(2, || rms_norm(&x, &w, EPS).unwrap())));
        for row in [0, 17, 399] {
            let alone = rms_norm(&x.narrow(0, row, 1).unwrap(), &w, EPS).unwrap();
            assert_eq!(bits(&alone), whole[row * 200..(row + 1) * 200]);
        }
    }

    #[test]
    fn a_row_of_zeros_stays_zero() {
        let (w, _) = weight(8);
        let y = rms_norm(&noise(1, 8, 1).zeros_like().unwrap(), &w, EPS).unwrap();
        assert_eq!(elements(&y), [0.0; 8]);
    }

    #[test]
    fn refuses_another_width() {
        assert!(rms_norm(&noise(2, 9, 1), &weight(8).0, EPS).is_err());
    }
}
