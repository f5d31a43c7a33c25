//! Rotary embeddings of a config.

use serde_json::{Map, Value};

use super::Fields;
use crate::decoder::architectures::{Nope, Positions};
use crate::error::{Error, Result};

/// Rotary embedding: base, width, and how its frequencies are stretched.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Features of a head that turn, from the first on; even.
    pub width: usize,
    /// Stretching.
    pub scaling: RopeScaling,
}

/// The kinds of rotary scaling that are computed.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// All frequencies divided by a factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// The base grows with the length of a sequence beyond that of pre-training.
    Dynamic {
        /// How fast.
        factor: f64,
        /// Positions of pre-training.
        original_max_positions: f64,
    },
    /// YaRN: low frequencies divided, high kept, a ramp between (Peng et al. 2023,
    /// <https://arxiv.org/abs/2309.00071>).
    Yarn {
        /// The divisor.
        factor: f64,
        /// The frequency from which on the ramp begins.
        low: f64,
        /// The frequency at which it ends.
        high: f64,
        /// Factor of cosines and sines.
        attention_factor: f64,
    },
    /// LongRoPE: one divisor a frequency, others for sequences longer than those of pre-training (Ding et al. 2024,
    /// <https://arxiv.org/abs/2402.13753>).
    LongRope {
        /// Divisors of sequences up to the length of pre-training.
        short: Vec<f32>,
        /// Divisors of longer ones.
        long: Vec<f32>,
        /// Positions of pre-training.
        original_max_positions: f64,
        /// Factor of cosines and sines.
        attention_factor: f64,
    },
    /// Llama 3: long wavelengths divided, short kept, a ramp between.
    Llama3 {
        /// The divisor.
        factor: f64,
        /// Wavelengths above `original / low` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high` are kept.
        high_freq_factor: f64,
        /// Positions of pre-training.
        original_max_positions: f64,
    },
    /// One divisor a frequency, as GGUF files carry them.
    Divisors(Vec<f32>),
}

/// What else a rotary embedding depends on.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub(super) head_dim: usize,
    pub(super) max_positions: usize,
}

impl Fields<'_> {
    /// All rotary embeddings, and which one each layer turns by.
    ///
    /// Spellings: `rope_parameters` (transformers 5), flat or by layer type; `rope_theta` with `rope_scaling`
    /// (transformers 4), and the older key `type` inside the latter; `rope_local_base_freq` of Gemma 3.
    pub(super) fn ropes(&self, heads: Heads, windows: &[bool]) -> Result<(Vec<Rope>, Vec<Option<usize>>)> {
        let layers = windows.len();
        if matches!(self.architecture.positions, Positions::Learned(_)) {
            return Ok((Vec::new(), vec![None; layers]));
        }
        let empty = Map::new();
        let mut flat = &empty;
        let (mut full, mut sliding) = (None, None);
        match self.present("rope_parameters").or_else(|| self.present("rope_scaling")) {
            None => {}
            Some(Value::Object(map)) => {
                let nested = |kind: &str| map.get(kind).and_then(Value::as_object);
                (full, sliding) = (nested("full_attention"), nested("sliding_attention"));
                if full.is_none() && sliding.is_none() {
                    flat = map;
                }
            }
            Some(_) => return Err(self.wrong("rope_parameters", "an object")),
        }
        let default = self.architecture.default_theta;
        let mut ropes = vec![self.rope(full.unwrap_or(flat), "rope_theta", default, heads)?];
        let local = match (sliding, self.architecture.local_theta) {
            (None, None) => None,
            (map, theta) => {
                let theta = theta.unwrap_or(default);
                Some(self.rope(map.unwrap_or(&empty), "rope_local_base_freq", theta, heads)?)
            }
        };
        let second = local.filter(|local| *local != ropes[0]);
        let of_window = usize::from(second.is_some());
        ropes.extend(second);
        let mut of_layers = Vec::with_capacity(layers);
        for (layer, &windowed) in windows.iter().enumerate() {
            let turns = match self.architecture.nope {
                Nope::Never => true,
                Nope::FullAttention => windowed,
                Nope::Listed => self.listed_rope(layer)?,
            };
            of_layers.push(turns.then_some(if windowed { of_window } else { 0 }));
        }
        Ok((ropes, of_layers))
    }

    /// Whether `no_rope_layers` leaves a layer its rotation: there, 1 means that it turns.
    pub(super) fn listed_rope(&self, layer: usize) -> Result<bool> {
        match self.present("no_rope_layers") {
            Some(Value::Array(list)) => match list.get(layer).map(|flag| (flag.as_u64(), flag.as_bool())) {
                Some((Some(flag), _)) => Ok(flag != 0),
                Some((None, Some(flag))) => Ok(flag),
                _ => Err(self.wrong("no_rope_layers", "one number a layer")),
            },
            Some(_) => Err(self.wrong("no_rope_layers", "a list")),
            None => {
                let interval = self.size_or("no_rope_layer_interval", 4)?;
                Ok(!(layer + 1).is_multiple_of(interval))
            }
        }
    }

    fn rope(
        &self,
        parameters: &Map<String, Value>,
        theta_key: &str,
        default_theta: f64,
        heads: Heads,
    ) -> Result<Rope> {
        let inner = Fields { object: parameters, inner: true, ..*self };
        let theta = match inner.number("rope_theta")? {
            Some(theta) => theta,
            None => self.number(theta_key)?.unwrap_or(default_theta),
        };
        let partial = match inner.number("partial_rotary_factor")? {
            Some(partial) => partial,
            None => self.number("partial_rotary_factor")?.unwrap_or(self.architecture.default_partial),
        };
        let width = (heads.head_dim as f64 * partial) as usize;
        if partial > 1.0 || width == 0 || !width.is_multiple_of(2) {
            return Err(Error::unsupported(
                self.path,
                format!("a rotation of {partial} of heads of width {}", heads.head_dim),
            ));
        }
        let scaling = self.scaling(&inner, theta, width, heads.max_positions)?;
        Ok(Rope { theta, width, scaling })
    }

    fn scaling(
        &self,
        inner: &Fields<'_>,
        theta: f64,
        width: usize,
        max_positions: usize,
    ) -> Result<RopeScaling> {
        let required = |key: &str| inner.number(key)?.ok_or_else(|| inner.wrong(key, "a positive number"));
        // A value beside the rotary keys wins in transformers, since Phi 3 has it there.
        let original = || -> Result<f64> {
            let key = "original_max_position_embeddings";
            let outer = match self.number(key)? {
                Some(number) => Some(number),
                None => self.architecture.default_original_positions.map(|positions| positions as f64),
            };
            Ok(match outer {
                Some(number) => number,
                None => inner.number(key)?.unwrap_or(max_positions as f64),
            })
        };
        let kind = inner.present("rope_type").or_else(|| inner.present("type"));
        Ok(match kind.map(|kind| kind.as_str().unwrap_or_default()) {
            None | Some("default") => RopeScaling::Default,
            Some("linear") => RopeScaling::Linear { factor: required("factor")? },
            Some("dynamic") if width > 2 => RopeScaling::Dynamic {
                factor: required("factor")?,
                original_max_positions: max_positions as f64,
            },
            // Older Phi 3 configs say `su` or `yarn` and mean LongRoPE.
            Some("longrope" | "su") => self.longrope(inner, width, original()?, max_positions)?,
            Some("yarn") if inner.present("long_factor").is_some() => {
                self.longrope(inner, width, original()?, max_positions)?
            }
            Some("yarn") => yarn(inner, theta, width, original()?)?,
            Some("llama3") => RopeScaling::Llama3 {
                factor: required("factor")?,
                low_freq_factor: required("low_freq_factor")?,
                high_freq_factor: required("high_freq_factor")?,
                original_max_positions: original()?,
            },
            Some(other) => {
                return Err(Error::unsupported(
                    self.path,
                    format!("rope type `{other}`; known: default, linear, dynamic, yarn, longrope, llama3"),
                ));
            }
        })
    }

    fn longrope(
        &self,
        inner: &Fields<'_>,
        width: usize,
        original: f64,
        max_positions: usize,
    ) -> Result<RopeScaling> {
        let list = |key: &str| -> Result<Vec<f32>> {
            let numbers = match inner.present(key) {
                Some(Value::Array(values)) => values.iter().map(Value::as_f64).collect::<Option<Vec<_>>>(),
                _ => None,
            };
            numbers
                .map(|numbers| numbers.into_iter().map(|number| number as f32).collect::<Vec<_>>())
                .filter(|list| list.len() == width / 2 && list.iter().all(|n| n.is_finite() && *n > 0.0))
                .ok_or_else(|| inner.wrong(key, &format!("{} positive numbers", width / 2)))
        };
        let factor = inner.number("factor")?.unwrap_or(max_positions as f64 / original);
        let attention_factor = match inner.number("attention_factor")? {
            Some(factor) => factor,
            None => long_attention_factor(factor, original),
        };
        Ok(RopeScaling::LongRope {
            short: list("short_factor")?,
            long: list("long_factor")?,
            original_max_positions: original,
            attention_factor,
        })
    }
}

/// Factor of cosines and sines that LongRoPE recommends for contexts `factor` times as long.
pub(crate) fn long_attention_factor(factor: f64, original: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() }
}

fn yarn(inner: &Fields<'_>, theta: f64, width: usize, original: f64) -> Result<RopeScaling> {
    let factor = inner.number("factor")?.ok_or_else(|| inner.wrong("factor", "a positive number"))?;
    let scale = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    let attention_factor = match inner.number("attention_factor")? {
        Some(factor) => factor,
        None => match (inner.number("mscale")?, inner.number("mscale_all_dim")?) {
            (Some(mscale), Some(all)) => scale(mscale) / scale(all),
            _ => scale(1.0),
        },
    };
    let dim = width as f64;
    let turning =
        |rotations: f64| dim * (original / (rotations * std::f64::consts::TAU)).ln() / (2.0 * theta.ln());
    let (mut low, mut high) = (
        turning(inner.number("beta_fast")?.unwrap_or(32.0)),
        turning(inner.number("beta_slow")?.unwrap_or(1.0)),
    );
    if inner.boolean("truncate")?.unwrap_or(true) {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dim - 1.0));
    if (high - low).abs() == 0.0 {
        high += 0.001;
    }
    Ok(RopeScaling::Yarn { factor, low, high, attention_factor })
}
