//! The activations of feed-forward blocks.

use candle_core::Tensor;

use crate::error::Result;
use crate::kernels;

/// A function of one feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// GELU in its tanh approximation.
    GeluTanh,
    /// GELU by the error function.
    Gelu,
    /// `max(x, 0)`.
    Relu,
}

/// Names of transformers' table of activations.
const NAMES: &[(&str, Activation)] = &[
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu", Activation::Gelu),
    ("relu", Activation::Relu),
];

impl Activation {
    /// The activation of a name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, activation)| *activation)
    }

    /// The known names, for error messages.
    #[must_use]
    pub fn known() -> String {
        NAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    /// Element by element; differentiable.
    pub(crate) fn forward(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Silu => candle_nn::ops::silu(x)?,
            Self::GeluTanh => x.gelu()?,
            Self::Gelu => x.gelu_erf()?,
            Self::Relu => x.relu()?,
        })
    }

    /// `activation(gate) * up`; differentiable. In our `fused` form where there is one.
    pub(crate) fn gated(self, gate: &Tensor, up: &Tensor, fused: bool) -> Result<Tensor> {
        let kernel = match self {
            Self::Silu => Some(kernels::Activation::Silu),
            Self::GeluTanh => Some(kernels::Activation::GeluTanh),
            Self::Gelu | Self::Relu => None,
        };
        match kernel.filter(|_| fused) {
            Some(kernel) => Ok(kernels::gated(kernel, gate, up)?),
            None => Ok((self.forward(gate)? * up)?),
        }
    }
}
