//! Rotary position embedding, half-split layout.
//!
//! Layers may turn by different tables. Where the frequencies depend on how long a sequence is (dynamic, longrope),
//! a sequence longer than the table was made for gets angles of its own; as in transformers, keys that a cache holds
//! keep the angles that they were computed with.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::config::{DecoderConfig, Rope, RopeScaling};
use super::rows::Span;
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::kernels::{self, RotaryTable};

/// Tables of a decoder: cosine and sine of position times frequency.
pub(crate) struct RotaryTables {
    tables: Vec<Table>,
    positions: usize,
    device: Device,
    fused: bool,
}

/// The table of some layers.
struct Table {
    rope: Rope,
    /// Frequencies of sequences up to the length that the table was made for.
    inverse: Vec<f32>,
    angles: Pairs,
}

enum Pairs {
    Fused(RotaryTable),
    /// Each `[positions, width / 2]`, f32.
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
    /// Each `[rows, width / 2]`, f32.
    Composed {
        cos: Tensor,
        sin: Tensor,
    },
}

/// Tables grow with the context; prompts of suites are far shorter than what models allow.
const MAX_TABLE_POSITIONS: usize = 16_384;

impl RotaryTables {
    pub(crate) fn new(config: &DecoderConfig, compute: &Compute) -> Result<Self> {
        let positions = config.max_positions.min(MAX_TABLE_POSITIONS);
        let mut all = Self {
            tables: Vec::with_capacity(config.ropes.len()),
            positions,
            device: compute.device.clone(),
            fused: compute.fused().is_some(),
        };
        for rope in &config.ropes {
            let inverse = rope.inverse_frequencies(None);
            let half = inverse.len();
            let steps = Tensor::arange(0u32, positions as u32, &Device::Cpu)?.to_dtype(DType::F32)?;
            // f32 products as in transformers, so that the angles agree bit for bit.
            let row = Tensor::from_slice(&inverse, (1, half), &Device::Cpu)?;
            let angles = all.pairs(&steps.reshape((positions, 1))?.matmul(&row)?, rope.attention_factor())?;
            all.tables.push(Table { rope: rope.clone(), inverse, angles });
        }
        Ok(all)
    }

    /// The longest context that can be run.
    pub(crate) fn positions(&self) -> usize {
        self.positions
    }

    /// The angles of rows, one entry a table.
    pub(crate) fn angles(&self, spans: &[Span]) -> Result<Vec<Angles>> {
        let positions = spans.iter().flat_map(|span| span.past as u32..(span.past + span.len) as u32);
        let positions: Arc<[u32]> = positions.collect();
        self.tables
            .iter()
            .map(|table| {
                let stretched = table.rope.stretched_from();
                if spans.iter().any(|span| stretched.is_some_and(|from| span.past + span.len > from)) {
                    return self.own_angles(table, spans);
                }
                match &table.angles {
                    Pairs::Fused(table) => {
                        Ok(Angles::Fused { table: table.clone(), positions: positions.clone() })
                    }
                    Pairs::Composed { cos, sin } => {
                        let index = Tensor::from_slice(&positions, positions.len(), &self.device)?;
                        Ok(Angles::Composed {
                            cos: cos.index_select(&index, 0)?,
                            sin: sin.index_select(&index, 0)?,
                        })
                    }
                }
            })
            .collect()
    }

    /// A table for these rows alone, some of whose sequences are longer than the common one was made for.
    fn own_angles(&self, table: &Table, spans: &[Span]) -> Result<Angles> {
        let (mut angles, mut rows) = (Vec::new(), 0);
        for span in spans {
            let total = span.past + span.len;
            let own = table.rope.stretched_from().filter(|&from| total > from);
            let own = own.map(|_| table.rope.inverse_frequencies(Some(total)));
            let inverse = own.as_ref().unwrap_or(&table.inverse);
            for position in span.past..total {
                angles.extend(inverse.iter().map(|inverse| position as f32 * inverse));
            }
            rows += span.len;
        }
        let angles = Tensor::from_vec(angles, (rows, table.inverse.len()), &Device::Cpu)?;
        Ok(match self.pairs(&angles, table.rope.attention_factor())? {
            Pairs::Fused(table) => Angles::Fused { table, positions: (0..rows as u32).collect() },
            Pairs::Composed { cos, sin } => Angles::Composed { cos, sin },
        })
    }

    /// Cosines and sines of angles `[positions, width / 2]`, times a factor.
    fn pairs(&self, angles: &Tensor, factor: f64) -> Result<Pairs> {
        let scaled = |table: Tensor| -> Result<Tensor> {
            Ok(if factor.to_bits() == 1f64.to_bits() { table } else { (table * factor)? })
        };
        let (cos, sin) = (scaled(angles.cos()?)?, scaled(angles.sin()?)?);
        if self.fused {
            let flat =
                |table: &Tensor| -> Result<Arc<[f32]>> { Ok(table.flatten_all()?.to_vec1::<f32>()?.into()) };
            return Ok(Pairs::Fused(RotaryTable::new(flat(&cos)?, flat(&sin)?, angles.dims()[1])?));
        }
        Ok(Pairs::Composed { cos: cos.to_device(&self.device)?, sin: sin.to_device(&self.device)? })
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
        let half = cos.dims()[1];
        let x = x.reshape((rows, width / head_dim, head_dim))?;
        let (first, second) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
        let cos = cos.to_dtype(x.dtype())?.reshape((rows, 1, half))?;
        let sin = sin.to_dtype(x.dtype())?.reshape((rows, 1, half))?;
        let mut pieces = vec![
            (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?,
            (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?,
        ];
        if head_dim > 2 * half {
            pieces.push(x.narrow(2, 2 * half, head_dim - 2 * half)?);
        }
        let rotated = Tensor::cat(&pieces, 2)?;
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

impl Rope {
    /// The length from which on frequencies depend on how long a sequence is.
    fn stretched_from(&self) -> Option<usize> {
        match self.scaling {
            RopeScaling::Dynamic { original_max_positions, .. } => Some(original_max_positions as usize),
            RopeScaling::LongRope { original_max_positions, .. } => Some(original_max_positions as usize),
            _ => None,
        }
    }

    /// What cosines and sines are multiplied with.
    fn attention_factor(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. } => {
                attention_factor
            }
            _ => 1.0,
        }
    }

    /// `1 / theta^(2i/d)`, stretched; computed in f32 like transformers. `total` is the length of a sequence beyond
    /// [`Self::stretched_from`].
    fn inverse_frequencies(&self, total: Option<usize>) -> Vec<f32> {
        let dim = self.width;
        let powers = |theta: f64| {
            let theta = theta as f32;
            (0..dim / 2).map(move |i| theta.powf((2 * i) as f32 / dim as f32))
        };
        let plain = powers(self.theta).map(|power| 1.0 / power);
        match &self.scaling {
            RopeScaling::Default => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|inverse| inverse / *factor as f32).collect(),
            RopeScaling::Divisors(divisors) => {
                plain.zip(divisors).map(|(inverse, divisor)| inverse / divisor).collect()
            }
            RopeScaling::Dynamic { factor, original_max_positions } => {
                let Some(total) = total else { return plain.collect() };
                let stretch = factor * total as f64 / original_max_positions - (factor - 1.0);
                let theta = self.theta * stretch.powf(dim as f64 / (dim as f64 - 2.0));
                powers(theta).map(|power| 1.0 / power).collect()
            }
            RopeScaling::LongRope { short, long, .. } => {
                let divisors = if total.is_some() { long } else { short };
                powers(self.theta).zip(divisors).map(|(power, divisor)| 1.0 / (divisor * power)).collect()
            }
            RopeScaling::Yarn { factor, low, high, .. } => {
                let (low, high) = (*low as f32, *high as f32);
                let blended = |(i, power): (usize, f32)| {
                    let ramp = ((i as f32 - low) / (high - low)).clamp(0.0, 1.0);
                    let kept = 1.0 - ramp;
                    1.0 / (*factor as f32 * power) * (1.0 - kept) + 1.0 / power * kept
                };
                powers(self.theta).enumerate().map(blended).collect()
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
                plain
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
                    .collect()
            }
        }
    }
}

/// The divisors of a GGUF file must be one a frequency.
pub(crate) fn check_divisors(path: &std::path::Path, divisors: &[f32], width: usize) -> Result<()> {
    if divisors.len() == width / 2 && divisors.iter().all(|d| d.is_finite() && *d > 0.0) {
        return Ok(());
    }
    Err(Error::malformed(
        path,
        format!("expected {} positive divisors of rotary frequencies, found {}", width / 2, divisors.len()),
    ))
}
