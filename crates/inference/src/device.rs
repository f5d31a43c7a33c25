//! Where the numbers live: device and precision. The only place that names CUDA.

use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Device};

use crate::error::{Error, Result};
use crate::kernels;

/// A device as the user names it: `cpu`, `cuda` or `cuda:N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU by index; needs the cargo feature `cuda`.
    Cuda(usize),
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = || format!("expected cpu, cuda or cuda:N, found `{text}`");
        match text {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => match text.strip_prefix("cuda:") {
                Some(index) => index.parse().map(Self::Cuda).map_err(|_| found()),
                None => Err(found()),
            },
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// The precision of the frozen matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floating point throughout; the reference.
    F32,
    /// Operands rounded to bfloat16, sums in f32.
    Bf16,
    /// Operands rounded to IEEE half precision; sums in f32 on the CPU.
    F16,
}

impl Precision {
    /// The matching tensor type.
    #[must_use]
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "f16" => Ok(Self::F16),
            _ => Err(format!("expected f32, bf16 or f16, found `{text}`")),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        })
    }
}

/// Which form of the decoder's steps runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Our fused operations where they exist (on the CPU), candle's elsewhere.
    Fused,
    /// candle's differentiable operations everywhere: what a GPU runs, and the oracle of tests.
    Composed,
}

/// An opened device, and how the frozen products run on it.
#[derive(Clone, Debug)]
pub struct Compute {
    /// The opened device.
    pub device: Device,
    /// Operand precision of the frozen products.
    pub precision: Precision,
    /// Form of the decoder's steps.
    pub form: Form,
}

impl Compute {
    /// The reference: f32 on the CPU.
    #[must_use]
    pub fn cpu() -> Self {
        Self { device: Device::Cpu, precision: Precision::F32, form: Form::Fused }
    }

    /// Opens a device.
    ///
    /// # Errors
    /// When the build has no CUDA, or the GPU cannot be opened.
    pub fn open(name: DeviceName, precision: Precision) -> Result<Self> {
        let device = match name {
            DeviceName::Cpu => Device::Cpu,
            DeviceName::Cuda(index) if cfg!(feature = "cuda") => {
                Device::new_cuda(index).map_err(|error| {
                    let cause = without_backtrace(&error);
                    Error::Request(format!("cannot open {name}: {cause}; `--device cpu` needs no GPU"))
                })?
            }
            DeviceName::Cuda(_) => {
                return Err(Error::Request(
                    "this build has no CUDA; build it with `cargo build --release --features cuda`, or use `--device cpu`"
                        .into(),
                ));
            }
        };
        Ok(Self { device, precision, form: Form::Fused })
    }

    /// The precision of our fused operations, where they run: on the CPU, except for f16.
    #[must_use]
    pub(crate) fn fused(&self) -> Option<kernels::Precision> {
        if !self.device.is_cpu() || self.form == Form::Composed {
            return None;
        }
        match self.precision {
            Precision::F32 => Some(kernels::Precision::F32),
            Precision::Bf16 => Some(kernels::Precision::Bf16),
            Precision::F16 => None,
        }
    }

    /// The type that activations have between operations: f32 on the CPU, where narrow types
    /// only pay inside the products; the chosen precision on a GPU.
    #[must_use]
    pub(crate) fn activation_dtype(&self) -> DType {
        if self.device.is_cpu() { DType::F32 } else { self.precision.dtype() }
    }
}

/// The error itself: candle appends a backtrace where the environment asks for one, and a missing
/// GPU is no fault to trace.
fn without_backtrace(error: &candle_core::Error) -> &candle_core::Error {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => without_backtrace(inner),
        other => other,
    }
}
