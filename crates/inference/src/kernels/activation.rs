//! Gated activations of a feed-forward layer.

use super::rows::{Rows, build, readable, with_rows};
use super::simd::{LANES, Simd};
use super::tier::{Tier, Vectorized};
use candle_core::{CpuStorage, CustomOp2, D, Device, Layout, Result, Shape, Tensor, bail};
use std::mem::MaybeUninit;

const OP: &str = "gated activation";

/// A function of the form `x * sigmoid(z(x))`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `z(x) = x`: SiLU, also called swish.
    Silu,
    /// `z(x) = 2 sqrt(2 / pi) (x + 0.044715 x^3)`: GELU in its tanh approximation.
    GeluTanh,
}

/// `activation(gate) * up`, element by element (Shazeer 2020, <https://arxiv.org/abs/2002.05202>), for
/// `gate` and `up` of the same shape `[.., f]`. Gradients flow to both.
///
/// # Errors
/// If the shapes differ, or a tensor is not `f32` on the CPU.
pub fn gated(activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gated_on(Tier::detect(), activation, gate, up)
}

/// [`gated`] with SiLU.
///
/// # Errors
/// As [`gated`].
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gated(Activation::Silu, gate, up)
}

/// The gradients of `gate` and `up` side by side, `[.., 2 * f]`, from the gradient of [`gated`].
///
/// # Errors
/// If the shapes differ, or a tensor is not `f32` on the CPU.
pub fn gated_gradient(activation: Activation, gate: &Tensor, up: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let op = Gated { activation, tier: Tier::detect() };
    op.gradients(&readable(OP, gate)?, &readable(OP, up)?, &readable(OP, grad)?)
}

fn gated_on(tier: Tier, activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.dims() != up.dims() {
        bail!("{OP}: expected an up projection of {:?}, found {:?}", gate.dims(), up.dims());
    }
    readable(OP, gate)?.apply_op2(&readable(OP, up)?, Gated { activation, tier })
}

impl Activation {
    /// `sigmoid(z(x))`.
    #[inline(always)]
    fn sigmoid<S: Simd>(self, s: S, x: S::V) -> S::V {
        match self {
            Self::Silu => s.sigmoid(x),
            Self::GeluTanh => {
                let inner = s.mul_add(s.mul(x, x), s.splat(GELU_LINEAR * GELU_CUBIC), s.splat(GELU_LINEAR));
                s.sigmoid(s.mul(x, inner))
            }
        }
    }

    /// `z'(x)`.
    #[inline(always)]
    fn slope<S: Simd>(self, s: S, x: S::V) -> S::V {
        match self {
            Self::Silu => s.splat(1.0),
            Self::GeluTanh => {
                s.mul_add(s.mul(x, x), s.splat(3.0 * GELU_LINEAR * GELU_CUBIC), s.splat(GELU_LINEAR))
            }
        }
    }
}

/// `2 sqrt(2 / pi)`.
const GELU_LINEAR: f32 = 1.595_769_2;
const GELU_CUBIC: f32 = 0.044_715;

struct Gated {
    activation: Activation,
    tier: Tier,
}

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (Rows::new(OP, gate, gate_layout)?, Rows::new(OP, up, up_layout)?);
        let activation = self.activation;
        // SAFETY: `Forward` writes every place of every row.
        let y = unsafe {
            build(gate.count, gate.width, |first, out| {
                self.tier.run(Forward { activation, gate, up, first, out })
            })
        };
        Ok((CpuStorage::F32(y), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let both = self.gradients(gate, up, &readable(OP, grad)?)?;
        let width = gate.dim(D::Minus1)?;
        let part = |start| both.narrow(D::Minus1, start, width).map(Some);
        Ok((part(0)?, part(width)?))
    }
}

impl Gated {
    /// The gradients of both, side by side.
    fn gradients(&self, gate: &Tensor, up: &Tensor, grad: &Tensor) -> Result<Tensor> {
        let mut dims = gate.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last *= 2;
        }
        let data = with_rows(OP, gate, |gate| {
            with_rows(OP, up, |up| with_rows(OP, grad, |grad| self.gradient_rows(gate, up, grad)))
        })?;
        Tensor::from_vec(data, dims, &Device::Cpu)
    }

    fn gradient_rows(&self, gate: Rows<'_>, up: Rows<'_>, grad: Rows<'_>) -> Result<Vec<f32>> {
        for other in [&up, &grad] {
            if (other.count, other.width) != (gate.count, gate.width) {
                bail!(
                    "{OP}: expected {} rows of {}, found {} of {}",
                    gate.count,
                    gate.width,
                    other.count,
                    other.width
                );
            }
        }
        let Self { activation, tier } = *self;
        // SAFETY: `Backward` writes every place of every row.
        Ok(unsafe {
            build(gate.count, 2 * gate.width, |first, out| {
                tier.run(Backward { activation, gate, up, grad, first, out });
            })
        })
    }
}

struct Forward<'a, 'o> {
    activation: Activation,
    gate: Rows<'a>,
    up: Rows<'a>,
    first: usize,
    out: &'o mut [MaybeUninit<f32>],
}

impl Vectorized for Forward<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn vectorized<S: Simd>(self, s: S) {
        for (i, out) in self.out.chunks_exact_mut(self.gate.width).enumerate() {
            let (gate, up) = (self.gate.row(self.first + i), self.up.row(self.first + i));
            for at in (0..gate.len()).step_by(LANES) {
                let x = s.load_at(gate, at);
                let active = s.mul(x, self.activation.sigmoid(s, x));
                s.store_at(s.mul(active, s.load_at(up, at)), out, at);
            }
        }
    }
}

struct Backward<'a, 'o> {
    activation: Activation,
    gate: Rows<'a>,
    up: Rows<'a>,
    grad: Rows<'a>,
    first: usize,
    /// Rows of the gate's gradient, then that of the up projection.
    out: &'o mut [MaybeUninit<f32>],
}

impl Vectorized for Backward<'_, '_> {
    type Output = ();

    /// With `p = sigmoid(z(x))`: `d(x p) / dx = p + x p (1 - p) z'(x)`.
    #[inline(always)]
    fn vectorized<S: Simd>(self, s: S) {
        let width = self.gate.width;
        for (i, out) in self.out.chunks_exact_mut(2 * width).enumerate() {
            let (gate_out, up_out) = out.split_at_mut(width);
            let row = self.first + i;
            let (gate, up, grad) = (self.gate.row(row), self.up.row(row), self.grad.row(row));
            for at in (0..width).step_by(LANES) {
                let (x, up, grad) = (s.load_at(gate, at), s.load_at(up, at), s.load_at(grad, at));
                let p = self.activation.sigmoid(s, x);
                let active = s.mul(x, p);
                let rise = s.mul(s.mul(active, s.sub(s.splat(1.0), p)), self.activation.slope(s, x));
                s.store_at(s.mul(s.mul(grad, up), s.add(p, rise)), gate_out, at);
                s.store_at(s.mul(grad, active), up_out, at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::oracle::*;
    use super::*;

    const BOTH: [Activation; 2] = [Activation::Silu, Activation::GeluTanh];

    fn slow(activation: Activation, args: &[Tensor]) -> Tensor {
        let active = match activation {
            Activation::Silu => candle_nn::ops::silu(&args[0]).unwrap(),
            Activation::GeluTanh => args[0].gelu().unwrap(),
        };
        (active * &args[1]).unwrap()
    }

    fn operands(m: usize, f: usize) -> [Tensor; 2] {
        [(noise(m, f, 1) * 6.0).unwrap(), noise(m, f, 2)]
    }

    #[test]
    fn agrees_with_the_composed_form_forwards_and_backwards() {
        for tier in Tier::available() {
            for activation in BOTH {
                for (m, f) in [(1, 1), (3, 15), (2, 16), (5, 100), (20, 1536)] {
                    let args = operands(m, f);
                    let case = format!("{} {activation:?} {m}x{f}", tier.name());
                    let fused = |x: &[Tensor]| gated_on(tier, activation, &x[0], &x[1]).unwrap();
                    assert_close(&fused(&args), &slow(activation, &args), 1e-5, &case);
                    let found = gradients(&args, fused);
                    let expected = gradients(&args, |x| slow(activation, x));
                    assert_close(&found[0], &expected[0], 1e-5, &case);
                    assert_close(&found[1], &expected[1], 1e-5, &case);
                }
            }
        }
    }

    #[test]
    fn gradients_agree_with_differences() {
        for activation in BOTH {
            let f = |x: &[Tensor]| gated(activation, &x[0], &x[1]).unwrap();
            assert_gradients_match_differences(&operands(4, 33), 1e-3, f);
        }
    }

    #[test]
    fn threads_and_strides_change_no_bit() {
        let both = noise(200, 400, 3);
        let (gate, up) = (both.narrow(1, 0, 200).unwrap(), both.narrow(1, 200, 200).unwrap());
        let expected = bits(&swiglu(&gate.contiguous().unwrap(), &up.contiguous().unwrap()).unwrap());
        for threads in [1, 2] {
            assert_eq!(with_threads(threads, || bits(&swiglu(&gate, &up).unwrap())), expected);
        }
    }

    #[test]
    fn refuses_different_shapes() {
        assert!(swiglu(&noise(2, 8, 1), &noise(2, 9, 1)).is_err());
    }
}
