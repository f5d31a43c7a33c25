//! A profile: the features of benign prompts in a file, pinned to what they were read from, for a monitor to compare
//! with.
//!
//! A safetensors file, because features are matrices; what it belongs to stands in its metadata, as JSON. Detectors are
//! fitted from the features when the file is read, which takes milliseconds, so no detector needs a form of its own.

use std::collections::BTreeMap;

use ::safetensors::tensor::{Dtype, SafeTensors};
use inference::weights::safetensors::{self, Written};
use serde::{Deserialize, Serialize};

use super::capture::{Sample, Shape};
use super::panel::Samples;

/// Version of the layout.
const VERSION: u32 = 1;
/// Key of the metadata.
const KEY: &str = "triggerfish";
/// Layers, sites and prompts beyond this are no profile of ours.
const LARGEST: usize = 1 << 20;

/// Features of benign prompts and what they were read from.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Everything that decides what a prompt's features are: digests of base, adapter and template, precision, versions.
    pub pins: BTreeMap<String, String>,
    /// Seed of the projection.
    pub seed: u64,
    /// The features.
    pub samples: Samples,
    /// How much more probable the adapted model's own answers to the calibration prompts are to it than to the base,
    /// nats a token.
    pub responses: Vec<f64>,
}

/// A file that is no profile.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoProfile(String);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    pins: BTreeMap<String, String>,
    seed: u64,
    shape: Shape,
    responses: Vec<f64>,
}

impl Profile {
    /// The file.
    ///
    /// # Errors
    /// If the writer refuses it.
    pub fn to_bytes(&self) -> Result<Vec<u8>, NoProfile> {
        let header = Header {
            version: VERSION,
            pins: self.pins.clone(),
            seed: self.seed,
            shape: self.samples.shape.clone(),
            responses: self.responses.clone(),
        };
        let failed = |error: &dyn std::fmt::Display| NoProfile(format!("cannot write a profile: {error}"));
        let header = serde_json::to_string(&header).map_err(|error| failed(&error))?;
        let parts = [("fitted", &self.samples.fitted), ("calibrated", &self.samples.calibrated)];
        let mut tensors: Vec<Written> = Vec::new();
        for (name, samples) in parts {
            let bytes = |feature: fn(&Sample) -> Vec<f32>| -> Vec<u8> {
                samples.iter().flat_map(feature).flat_map(f32::to_le_bytes).collect()
            };
            for feature in FEATURES {
                let width = (feature.width)(&self.samples.shape);
                tensors.push((
                    format!("{name}.{}", feature.name),
                    vec![samples.len(), width],
                    bytes(feature.of),
                ));
            }
        }
        safetensors::to_bytes(Dtype::F32, &tensors, (KEY, header)).map_err(|error| failed(&error))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it is no profile of this version, or its parts do not fit each other.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NoProfile> {
        let wrong = |error: &dyn std::fmt::Display| {
            NoProfile(format!("expected a profile that `activations --profile` wrote, found {error}"))
        };
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| wrong(&error))?;
        let header = metadata.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
        let header = header.ok_or_else(|| wrong(&"a safetensors file without its metadata"))?;
        let header: Header = serde_json::from_str(header).map_err(|error| wrong(&error))?;
        if header.version != VERSION {
            return Err(wrong(&format!("version {}, and this program reads {VERSION}", header.version)));
        }
        let shape = header.shape;
        if !shape.is_sound(LARGEST) {
            return Err(wrong(&"a shape that no model has"));
        }
        let file = SafeTensors::deserialize(bytes).map_err(|error| wrong(&error))?;
        let part = |name: &str| -> Result<Vec<Sample>, NoProfile> {
            let mut columns = Vec::with_capacity(FEATURES.len());
            for feature in FEATURES {
                let name = format!("{name}.{}", feature.name);
                let tensor = file.tensor(&name).map_err(|error| wrong(&error))?;
                let width = (feature.width)(&shape);
                let [rows, columns_found] = *tensor.shape() else {
                    return Err(wrong(&format!("`{name}` that is no matrix")));
                };
                if tensor.dtype() != Dtype::F32 || columns_found != width {
                    return Err(wrong(&format!(
                        "`{name}` of {columns_found} {:?} columns instead of {width} of F32",
                        tensor.dtype()
                    )));
                }
                let (values, _) = tensor.data().as_chunks::<4>();
                columns
                    .push((rows, values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect::<Vec<_>>()));
            }
            let rows = columns[0].0;
            if columns.iter().any(|(other, _)| *other != rows) || !(2..=LARGEST).contains(&rows) {
                return Err(wrong(&"parts of different numbers of prompts, or of fewer than two"));
            }
            let row = |column: usize, row: usize| -> &[f32] {
                let width = (FEATURES[column].width)(&shape);
                columns[column].1.get(row * width..(row + 1) * width).unwrap_or_default()
            };
            Ok((0..rows)
                .map(|i| Sample::of_rows(&shape, [0, 1, 2, 3].map(|column| row(column, i))))
                .collect())
        };
        let samples =
            Samples { fitted: part("fitted")?, calibrated: part("calibrated")?, shape: shape.clone() };
        if header.responses.iter().any(|nats| !nats.is_finite()) {
            return Err(wrong(&"a response that is no number"));
        }
        Ok(Self { pins: header.pins, seed: header.seed, samples, responses: header.responses })
    }
}

/// A feature as columns of a matrix.
struct Feature {
    name: &'static str,
    width: fn(&Shape) -> usize,
    of: fn(&Sample) -> Vec<f32>,
}

/// In the order of [`Sample::of_rows`].
const FEATURES: [Feature; 4] = [
    Feature {
        name: "differences",
        width: |shape| shape.layers * shape.width,
        of: |sample| sample.differences.concat(),
    },
    // Absent is not a number.
    Feature {
        name: "energies",
        width: |shape| shape.sites.len(),
        of: |sample| sample.energies.iter().map(|energy| energy.unwrap_or(f32::NAN)).collect(),
    },
    Feature {
        name: "cosines",
        width: |shape| shape.directions.iter().sum(),
        of: |sample| sample.cosines.concat(),
    },
    Feature { name: "divergence", width: |_| 1, of: |sample| vec![sample.divergence] },
];

impl Sample {
    /// From the rows of [`FEATURES`], whose widths are those of the shape.
    fn of_rows(shape: &Shape, [differences, energies, cosines, divergence]: [&[f32]; 4]) -> Self {
        let mut rest = cosines;
        let cosines = shape.directions.iter().map(|&count| {
            let (own, after) = rest.split_at_checked(count).unwrap_or((&[], &[]));
            rest = after;
            own.to_vec()
        });
        Self {
            cosines: cosines.collect(),
            differences: differences.chunks_exact(shape.width.max(1)).map(<[f32]>::to_vec).collect(),
            energies: energies.iter().map(|energy| (!energy.is_nan()).then_some(*energy)).collect(),
            divergence: divergence.first().copied().unwrap_or(0.0),
        }
    }
}

impl Shape {
    /// Whether its numbers fit each other and none is absurd.
    fn is_sound(&self, largest: usize) -> bool {
        let counts = [self.layers, self.width, self.sites.len()];
        let features = self.layers.checked_mul(self.width);
        counts.iter().all(|count| *count <= largest)
            && features.is_some_and(|features| features <= largest)
            && self.directions.len() == self.layers
            && self.directions.iter().all(|count| *count <= largest)
            && self.sites.iter().all(|layer| *layer < self.layers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        let shape = Shape { layers: 2, width: 3, sites: vec![0, 1], directions: vec![0, 2] };
        let sample = |i: usize| Sample {
            differences: vec![vec![i as f32, 0.5, -1.0], vec![0.1, 0.2, 0.3]],
            energies: vec![(i != 1).then_some(-2.5), Some(i as f32)],
            cosines: vec![Vec::new(), vec![0.25, -0.75]],
            divergence: 0.125 * i as f32,
        };
        Profile {
            pins: BTreeMap::from([("base".into(), "ab".into()), ("adapter".into(), "cd".into())]),
            seed: 7,
            samples: Samples {
                shape,
                fitted: (0..3).map(sample).collect(),
                calibrated: (3..5).map(sample).collect(),
            },
            responses: vec![0.1, 1.0 / 3.0],
        }
    }

    #[test]
    fn a_profile_comes_back_as_it_was_and_has_the_same_bytes_each_time() {
        let bytes = profile().to_bytes().unwrap();
        assert_eq!(bytes, profile().to_bytes().unwrap());
        assert_eq!(Profile::from_bytes(&bytes).unwrap(), profile());
    }

    #[test]
    fn an_adapter_without_low_rank_branches_has_one_too() {
        let mut none = profile();
        none.samples.shape = Shape { sites: Vec::new(), directions: vec![0, 0], ..none.samples.shape };
        for sample in none.samples.fitted.iter_mut().chain(&mut none.samples.calibrated) {
            sample.energies.clear();
            sample.cosines = vec![Vec::new(), Vec::new()];
        }
        assert_eq!(Profile::from_bytes(&none.to_bytes().unwrap()).unwrap(), none);
    }

    #[test]
    fn a_file_that_is_cut_or_changed_anywhere_is_read_or_refused_but_never_a_panic() {
        let bytes = profile().to_bytes().unwrap();
        for end in 0..bytes.len() {
            assert!(Profile::from_bytes(&bytes[..end]).is_err(), "{end}");
        }
        for at in 0..bytes.len() {
            for value in [0, b'9', 0xff] {
                let mut broken = bytes.clone();
                broken[at] = value;
                let _ = Profile::from_bytes(&broken);
            }
        }
        let text = String::from_utf8_lossy(&bytes).replace("\\\"width\\\":3", "\\\"width\\\":4");
        assert!(Profile::from_bytes(text.as_bytes()).is_err(), "columns that do not fit the shape");
    }
}
