//! What is read off a row of logits: log-probabilities and the largest entry.

use super::rows::{Rows, build, readable, with_rows};
use super::simd::{LANES, Simd};
use super::tier::{Tier, Vectorized};
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::sync::Arc;

const OP: &str = "logits";
/// Vectors of exponentials that are summed in `f32` before the sum is carried on in `f64`.
const SUM_BLOCK: usize = 64 * LANES;

/// `log softmax(x)` along the last dimension of `x: [.., n]`, in nats. Gradients flow to `x`.
///
/// # Errors
/// If `x` is not `f32` on the CPU.
pub fn log_softmax(x: &Tensor) -> Result<Tensor> {
    readable(OP, x)?.apply_op1(LogSoftmax { tier: Tier::detect() })
}

/// The log-probability, in nats, of one token for each row of `logits: [m, n]`, as `[m]`, without a matrix of all
/// log-probabilities. Gradients flow to `logits`.
///
/// # Errors
/// If there is not one token for each row, a token is not below `n`, or `logits` is not `f32` on the CPU.
pub fn token_log_probs(logits: &Tensor, tokens: &Arc<[u32]>) -> Result<Tensor> {
    let (rows, n) = logits.dims2()?;
    if tokens.len() != rows {
        bail!("{OP}: expected {rows} tokens, found {}", tokens.len());
    }
    if let Some(token) = tokens.iter().find(|&&token| token as usize >= n) {
        bail!("{OP}: expected a token below {n}, found {token}");
    }
    readable(OP, logits)?.apply_op1(TokenLogProbs { tokens: tokens.clone(), tier: Tier::detect() })
}

/// The index of the largest entry of each row of `x: [.., n]`, the first if there are several; `None` for a row with
/// an entry that is not a number.
///
/// # Errors
/// If `x` is not `f32` on the CPU, or its rows are empty.
pub fn argmax(x: &Tensor) -> Result<Vec<Option<u32>>> {
    with_rows(OP, &readable(OP, x)?, |rows| {
        if rows.width == 0 || u32::try_from(rows.width).is_err() {
            bail!("{OP}: expected rows of 1 to 2^32 entries, found {}", rows.width);
        }
        Ok((0..rows.count).into_par_iter().map(|i| argmax_of_row(rows.row(i))).collect())
    })
}

fn argmax_of_row(row: &[f32]) -> Option<u32> {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, &x) in row.iter().enumerate() {
        if x.is_nan() {
            return None;
        }
        if x > best.1 {
            best = (i as u32, x);
        }
    }
    Some(best.0)
}

/// `log(sum(e^x))` of a row.
#[inline(always)]
fn log_sum_exp<S: Simd>(s: S, row: &[f32]) -> f32 {
    let mut largest = s.splat(f32::NEG_INFINITY);
    let (whole, rest) = row.as_chunks::<LANES>();
    for x in whole {
        largest = s.max(largest, s.load(x));
    }
    let largest = rest.iter().fold(s.largest(largest), |largest, &x| largest.max(x));
    let shift = s.splat(largest);
    let mut total = 0.0;
    for block in row.chunks(SUM_BLOCK) {
        let (whole, rest) = block.as_chunks::<LANES>();
        let mut sum = s.splat(0.0);
        for x in whole {
            sum = s.add(sum, s.exp(s.sub(s.load(x), shift)));
        }
        total += f64::from(s.sum(sum));
        if !rest.is_empty() {
            let mut last = [f32::NEG_INFINITY; LANES];
            last[..rest.len()].copy_from_slice(rest);
            total += f64::from(s.sum(s.exp(s.sub(s.load(&last), shift))));
        }
    }
    (f64::from(largest) + total.ln()) as f32
}

struct LogSoftmax {
    tier: Tier,
}

impl CustomOp1 for LogSoftmax {
    fn name(&self) -> &'static str {
        "log softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = Rows::new(OP, storage, layout)?;
        // SAFETY: `AllLogProbs` writes every place of every row.
        let y = unsafe { build(x.count, x.width, |first, out| self.tier.run(AllLogProbs { x, first, out })) };
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let of_rows = |y: Rows<'_>, grad: Rows<'_>| {
            // SAFETY: `LogSoftmaxGradient` writes every place of every row.
            let x_grad = unsafe {
                build(y.count, y.width, |first, out| {
                    self.tier.run(LogSoftmaxGradient { y, grad, first, out })
                })
            };
            Tensor::from_vec(x_grad, grad_shape(y, grad)?, &Device::Cpu)
        };
        let grad = readable(OP, grad)?;
        let x_grad = with_rows(OP, y, |y| with_rows(OP, &grad, |grad| of_rows(y, grad)))?;
        Ok(Some(x_grad.reshape(y.shape())?))
    }
}

fn grad_shape(y: Rows<'_>, grad: Rows<'_>) -> Result<(usize, usize)> {
    if (y.count, y.width) != (grad.count, grad.width) {
        bail!(
            "{OP}: expected {} gradient rows of {}, found {} of {}",
            y.count,
            y.width,
            grad.count,
            grad.width
        );
    }
    Ok((y.count, y.width))
}

struct AllLogProbs<'a, 'o> {
    x: Rows<'a>,
    first: usize,
    out: &'o mut [MaybeUninit<f32>],
}

impl Vectorized for AllLogProbs<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn vectorized<S: Simd>(self, s: S) {
        for (i, out) in self.out.chunks_exact_mut(self.x.width).enumerate() {
            let x = self.x.row(self.first + i);
            let shift = s.splat(log_sum_exp(s, x));
            for at in (0..x.len()).step_by(LANES) {
                s.store_at(s.sub(s.load_at(x, at), shift), out, at);
            }
        }
    }
}

/// `dx = grad - e^y sum(grad)`.
struct LogSoftmaxGradient<'a, 'o> {
    y: Rows<'a>,
    grad: Rows<'a>,
    first: usize,
    out: &'o mut [MaybeUninit<f32>],
}

impl Vectorized for LogSoftmaxGradient<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn vectorized<S: Simd>(self, s: S) {
        for (i, out) in self.out.chunks_exact_mut(self.y.width).enumerate() {
            let (y, grad) = (self.y.row(self.first + i), self.grad.row(self.first + i));
            let mut sum = 0.0;
            for block in grad.chunks(SUM_BLOCK) {
                let mut block_sum = s.splat(0.0);
                for at in (0..block.len()).step_by(LANES) {
                    block_sum = s.add(block_sum, s.load_at(block, at));
                }
                sum += f64::from(s.sum(block_sum));
            }
            let minus_sum = s.splat(-sum as f32);
            for at in (0..y.len()).step_by(LANES) {
                let probability = s.exp(s.load_at(y, at));
                s.store_at(s.mul_add(probability, minus_sum, s.load_at(grad, at)), out, at);
            }
        }
    }
}

struct TokenLogProbs {
    tokens: Arc<[u32]>,
    tier: Tier,
}

impl CustomOp1 for TokenLogProbs {
    fn name(&self) -> &'static str {
        "token log-probabilities"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = Rows::new(OP, storage, layout)?;
        let of_row = |i: usize| {
            let row = x.row(i);
            row[self.tokens[i] as usize] - self.tier.run(LogSumExp(row))
        };
        let log_probs: Vec<f32> = (0..x.count).into_par_iter().map(of_row).collect();
        Ok((CpuStorage::F32(log_probs), Shape::from(x.count)))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.to_vec1::<f32>()?;
        let of_rows = |x: Rows<'_>| {
            let Self { tokens, tier } = self;
            if grad.len() != x.count || tokens.len() != x.count {
                bail!("{OP}: expected {} gradients, found {}", x.count, grad.len());
            }
            // SAFETY: `TokenGradient` writes every place of every row.
            let x_grad = unsafe {
                build(x.count, x.width, |first, out| {
                    tier.run(TokenGradient { x, tokens, grad: &grad, first, out });
                })
            };
            Tensor::from_vec(x_grad, (x.count, x.width), &Device::Cpu)
        };
        Ok(Some(with_rows(OP, x, of_rows)?))
    }
}

struct LogSumExp<'a>(&'a [f32]);

impl Vectorized for LogSumExp<'_> {
    type Output = f32;

    #[inline(always)]
    fn vectorized<S: Simd>(self, s: S) -> f32 {
        log_sum_exp(s, self.0)
    }
}

/// `dx = grad (one_hot(token) - softmax(x))`.
struct TokenGradient<'a, 'o> {
    x: Rows<'a>,
    tokens: &'a [u32],
    grad: &'a [f32],
    first: usize,
    out: &'o mut [MaybeUninit<f32>],
}

impl Vectorized for TokenGradient<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn vectorized<S: Simd>(self, s: S) {
        for (i, out) in self.out.chunks_exact_mut(self.x.width).enumerate() {
            let row = self.first + i;
            let (x, grad, token) = (self.x.row(row), self.grad[row], self.tokens[row] as usize);
            let log_sum = log_sum_exp(s, x);
            let (shift, minus_grad) = (s.splat(log_sum), s.splat(-grad));
            for at in (0..x.len()).step_by(LANES) {
                s.store_at(s.mul(minus_grad, s.exp(s.sub(s.load_at(x, at), shift))), out, at);
            }
            // In `f64`, since a likely token leaves a small difference from one.
            out[token].write((f64::from(grad) * -f64::from(x[token] - log_sum).exp_m1()) as f32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::oracle::*;
    use super::*;
    use candle_core::{D, DType};

    fn logits(m: usize, n: usize) -> Tensor {
        (noise(m, n, 1) * 12.0).unwrap()
    }

    /// In `f64`, since candle sums a row naively.
    fn composed(x: &Tensor) -> Tensor {
        let x = x.to_dtype(DType::F64).unwrap();
        candle_nn::ops::log_softmax(&x, D::Minus1).unwrap().to_dtype(DType::F32).unwrap()
    }

    #[test]
    fn log_softmax_agrees_with_the_composed_form_forwards_and_backwards() {
        for (m, n) in [(1, 1), (3, 15), (2, 16), (4, 1000), (2, 5003)] {
            let x = [logits(m, n)];
            let fused = |x: &[Tensor]| log_softmax(&x[0]).unwrap();
            let slow = |x: &[Tensor]| composed(&x[0]);
            assert_close(&fused(&x), &slow(&x), 1e-6, &format!("{m}x{n}"));
            assert_close(
                &gradients(&x, fused)[0],
                &gradients(&x, slow)[0],
                1e-5,
                &format!("{m}x{n} gradient"),
            );
        }
    }

    #[test]
    fn token_log_probs_agree_with_log_softmax() {
        for (m, n) in [(1, 1), (5, 17), (4, 1000)] {
            let tokens: Arc<[u32]> = (0..m as u32).map(|i| i * 7 % n as u32).collect();
            let indices = Tensor::new(&*tokens, &Device::Cpu).unwrap().unsqueeze(1).unwrap();
            let x = [logits(m, n)];
            let fused = |x: &[Tensor]| token_log_probs(&x[0], &tokens).unwrap();
            let gathered = |x: &[Tensor]| composed(&x[0]).gather(&indices, 1).unwrap().squeeze(1).unwrap();
            assert_close(&fused(&x), &gathered(&x), 1e-6, &format!("{m}x{n}"));
            assert_close(
                &gradients(&x, fused)[0],
                &gradients(&x, gathered)[0],
                1e-5,
                &format!("{m}x{n} gradient"),
            );
        }
        assert!(token_log_probs(&logits(2, 8), &[0].into()).is_err());
        assert!(token_log_probs(&logits(2, 8), &[0, 8].into()).is_err());
    }

    #[test]
    fn gradients_agree_with_differences() {
        let x = [noise(3, 37, 2)];
        assert_gradients_match_differences(&x, 1e-3, |x| log_softmax(&x[0]).unwrap());
        assert_gradients_match_differences(&x, 1e-3, |x| token_log_probs(&x[0], &[3, 36, 0].into()).unwrap());
    }

    #[test]
    fn log_sum_exp_keeps_its_digits_over_a_vocabulary() {
        for tier in Tier::available() {
            let x = elements(&logits(1, 49_152));
            let exact = x.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
            let found = f64::from(tier.run(LogSumExp(&x)));
            assert!((found - exact).abs() < 1e-6 * exact.abs(), "{}: {found}, expected {exact}", tier.name());
        }
    }

    #[test]
    fn a_sure_token_and_an_impossible_one() {
        let x = Tensor::new(&[[200f32, -200.0], [200.0, -200.0]], &Device::Cpu).unwrap();
        assert_eq!(elements(&token_log_probs(&x, &[0, 1].into()).unwrap()), [0.0, -400.0]);
    }

    #[test]
    fn argmax_takes_the_first_and_refuses_what_is_no_number() {
        let x = [[1f32, 3.0, 3.0], [f32::NEG_INFINITY; 3], [0.0, f32::NAN, 9.0], [-1.0, -2.0, f32::INFINITY]];
        assert_eq!(
            argmax(&Tensor::new(&x, &Device::Cpu).unwrap()).unwrap(),
            [Some(1), Some(0), None, Some(2)]
        );
        assert!(argmax(&noise(2, 0, 1)).is_err());
    }
}
