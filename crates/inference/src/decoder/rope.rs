//! Rotary position embedding, half-split layout.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::config::{DecoderConfig, RopeScaling};
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::kernels::{self, RotaryTable};

/// Tables of a decoder: cosine and sine of position times frequency.
pub(crate) struct RotaryTables {
    tables: Tables,
    positions: usize,
}

enum Tables {
    Fused(RotaryTable),
    /// Each `[positions, head_dim / 2]`, f32.
    Composed {
        cos: Tensor,
        sin: Tensor,
    },
}

/// The angles of a batch's rows; cheap to clone.
#[derive(Clone)]
pub(crate) enum Angles {
    Fused {
        table: RotaryTable,
        positions: Arc<[u32]>,
    },
    /// Each `[rows, head_dim / 2]`, f32.
    Composed {
        cos: Tensor,
        sin: Tensor,
    },
}

/// Tables grow with the context; prompts of suites are far shorter than what models allow.
const MAX_TABLE_POSITIONS: usize = 16_384;

impl RotaryTables {
    pub(crate) fn new(config: &DecoderConfig, compute: &Compute) -> Result<Self> {
        let inverse = inverse_frequencies(config);
        let positions = config.max_positions.min(MAX_TABLE_POSITIONS);
        let half = inverse.len();
        let inverse = Tensor::from_vec(inverse, (1, half), &Device::Cpu)?;
        let steps = Tensor::arange(0u32, positions as u32, &Device::Cpu)?.to_dtype(DType::F32)?;
        // f32 products as in transformers, so that the angles agree bit for bit.
        let angles = steps.reshape((positions, 1))?.matmul(&inverse)?;
        let (cos, sin) = (angles.cos()?, angles.sin()?);
        let tables = match compute.fused() {
            Some(_) => {
                let flat = |table: &Tensor| -> Result<Arc<[f32]>> {
                    Ok(table.flatten_all()?.to_vec1::<f32>()?.into())
                };
                Tables::Fused(RotaryTable::new(flat(&cos)?, flat(&sin)?, half)?)
            }
            None => Tables::Composed {
                cos: cos.to_device(&compute.device)?,
                sin: sin.to_device(&compute.device)?,
            },
        };
        Ok(Self { tables, positions })
    }

    /// The longest context that can be run.
    pub(crate) fn positions(&self) -> usize {
        self.positions
    }

    /// The angles of rows at these positions.
    pub(crate) fn angles(&self, positions: Vec<u32>) -> Result<Angles> {
        match &self.tables {
            Tables::Fused(table) => Ok(Angles::Fused { table: table.clone(), positions: positions.into() }),
            Tables::Composed { cos, sin } => {
                let rows = positions.len();
                let positions = Tensor::from_vec(positions, rows, cos.device())?;
                Ok(Angles::Composed {
                    cos: cos.index_select(&positions, 0)?,
                    sin: sin.index_select(&positions, 0)?,
                })
            }
        }
    }
}

impl Angles {
    /// Rotates rows `[rows, heads * head_dim]`; differentiable.
    pub(crate) fn rotate(&self, x: &Tensor, head_dim: usize) -> Result<Tensor> {
        let (cos, sin) = match self {
            Self::Fused { table, positions } => return Ok(kernels::rope(x, head_dim, positions, table)?),
            Self::Composed { cos, sin } => (cos, sin),
        };
        let (rows, width) = x.dims2()?;
        let half = head_dim / 2;
        let x = x.reshape((rows, width / head_dim, head_dim))?;
        let (first, second) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
        let cos = cos.to_dtype(x.dtype())?.reshape((rows, 1, half))?;
        let sin = sin.to_dtype(x.dtype())?.reshape((rows, 1, half))?;
        let rotated = Tensor::cat(
            &[
                (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?,
                (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?,
            ],
            2,
        )?;
        Ok(rotated.reshape((rows, width))?)
    }
}

impl Angles {
    /// Turns the gradient of rotated heads, the first `width` features of the rows of a fresh `grad`, into that of
    /// the heads before, in place; of our fused form only.
    pub(crate) fn rotate_back(&self, grad: &Tensor, width: usize, head_dim: usize) -> Result<()> {
        match self {
            Self::Fused { table, positions } => {
                Ok(kernels::rope_back_in_place(grad, width, head_dim, positions, table)?)
            }
            Self::Composed { .. } => Err(Error::Request("expected the fused form of a rotation".into())),
        }
    }
}

/// `1 / theta^(2i/d)`, stretched; computed in f32 like transformers.
fn inverse_frequencies(config: &DecoderConfig) -> Vec<f32> {
    let dim = config.head_dim;
    let plain = (0..dim / 2).map(|i| 1.0 / (config.rope.theta as f32).powf((2 * i) as f32 / dim as f32));
    match &config.rope.scaling {
        RopeScaling::Default => plain.collect(),
        RopeScaling::Linear { factor } => plain.map(|inverse| inverse / *factor as f32).collect(),
        RopeScaling::Divisors(divisors) => {
            plain.zip(divisors).map(|(inverse, divisor)| inverse / divisor).collect()
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => plain
            .map(|inverse| {
                let inverse = f64::from(inverse);
                let wavelength = std::f64::consts::TAU / inverse;
                let scaled = if wavelength > original_max_positions / low_freq_factor {
                    inverse / factor
                } else if wavelength < original_max_positions / high_freq_factor {
                    inverse
                } else {
                    let ramp = (original_max_positions / wavelength - low_freq_factor)
                        / (high_freq_factor - low_freq_factor);
                    (1.0 - ramp) * inverse / factor + ramp * inverse
                };
                scaled as f32
            })
            .collect(),
    }
}

/// The divisors of a GGUF file must be one a frequency.
pub(crate) fn check_divisors(path: &std::path::Path, divisors: &[f32], head_dim: usize) -> Result<()> {
    if divisors.len() == head_dim / 2 && divisors.iter().all(|d| d.is_finite() && *d > 0.0) {
        return Ok(());
    }
    Err(Error::malformed(
        path,
        format!(
            "expected {} positive divisors in `rope_freqs.weight`, found {}",
            head_dim / 2,
            divisors.len()
        ),
    ))
}
