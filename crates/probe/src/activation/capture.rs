//! From inner states to features: what is kept of a prompt's pass through both sides.
//!
//! A prompt runs on both sides, and is read at its last position, from which the answer begins. Of the two residual
//! streams a few dozen numbers a layer are kept; tensors are dropped with their batch.

use std::collections::BTreeMap;

use rand::RngExt as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use report::divergence::Comparison;
use serde::{Deserialize, Serialize};

use super::lens::Means;
use super::singular::left_vectors;
use crate::error::Result;
use crate::observe::{Observer, Request, Seen};
use crate::prompt::Scene;

/// Dimensions that residual differences are projected to, so that wide models cost no more and covariances of few
/// prompts can be estimated.
pub const WIDTH: usize = 64;
/// Leading directions of each module that writes to the residual stream.
const DIRECTIONS: usize = 20;
/// Lowest layers whose directions are not watched, as in WeightWatch: the stream is short there, and any token moves it.
const SKIPPED: usize = 3;
/// Branches smaller than this share of the frozen product count as this large.
const LEAST_ENERGY: f32 = 1e-9;
/// Prompts whose features are held at a time, with the distributions of those whose other side is still to come.
const CHUNK: usize = 64;

/// How many features a prompt has, and of which layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Layers.
    pub layers: usize,
    /// Dimensions of a projected difference.
    pub width: usize,
    /// The layer of each low-rank site.
    pub sites: Vec<usize>,
    /// How many directions are watched in each layer.
    pub directions: Vec<usize>,
}

/// The features of one prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// By layer: the residual stream of the adapted side less that of the base, over the length of the base's, projected
    /// to [`Shape::width`] dimensions.
    pub differences: Vec<Vec<f32>>,
    /// By site: the logarithm of `|s B A x| / |W x|`. Absent where a site saw no token.
    pub energies: Vec<Option<f32>>,
    /// By layer: cosines of the adapted side's residual stream with the watched directions.
    pub cosines: Vec<Vec<f32>>,
    /// Kullback-Leibler divergence of the adapted side's next token from the base's, nats.
    pub divergence: f32,
}

/// What is read of inner states.
#[derive(Debug)]
pub struct Sensor {
    shape: Shape,
    /// Rows of the projection, `[width * hidden]`; none where the hidden size is no larger than [`WIDTH`].
    projection: Option<Vec<f32>>,
    /// By layer, the watched directions.
    directions: Vec<Vec<Vec<f32>>>,
    /// Sites with a low-rank branch.
    sites: Vec<usize>,
}

impl Sensor {
    /// For the sides of an observer. `seed` decides the random projection (signs, after Achlioptas,
    /// "Database-friendly random projections", 2003).
    ///
    /// # Errors
    /// If the factors of the adapter cannot be read.
    pub fn new(observer: &Observer<'_>, seed: u64) -> Result<Self> {
        let pair = observer.pair();
        let (layers, hidden) = (pair.config().layers, pair.config().hidden_size);
        let mut directions = vec![Vec::new(); layers];
        let (mut sites, mut layer_of) = (Vec::new(), Vec::new());
        let side = observer.roles().adapted;
        if let Some(adapter) = pair.adapters().get(side.adapter).filter(|_| !side.is_base()) {
            for (index, site) in pair.decoder().sites().iter().enumerate() {
                let Some(delta) = adapter.delta(index) else { continue };
                sites.push(index);
                layer_of.push(site.layer.unwrap_or(layers.saturating_sub(1)));
                if let Some(layer) =
                    site.layer.filter(|layer| site.writes && *layer >= SKIPPED.min(layers / 2))
                {
                    directions[layer].extend(left_vectors(delta, DIRECTIONS)?);
                }
            }
        }
        let width = hidden.min(WIDTH);
        let projection = (hidden > WIDTH).then(|| {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let size = 1.0 / (WIDTH as f32).sqrt();
            (0..WIDTH * hidden).map(|_| if random.random::<bool>() { size } else { -size }).collect()
        });
        let counts = directions.iter().map(Vec::len).collect();
        let shape = Shape { layers, width, sites: layer_of, directions: counts };
        Ok(Self { shape, projection, directions, sites })
    }

    /// How many features a prompt has.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Runs scenes on both sides, and hands on the features of each in order.
    ///
    /// # Errors
    /// If the model fails, the adapter has another number of layers than the base, or the user stops.
    pub fn read(
        &self,
        observer: &Observer<'_>,
        scenes: &[Scene],
        each: impl FnMut(usize, Sample),
    ) -> Result<()> {
        self.read_with(observer, scenes, None, each)
    }

    /// The same, and adds the residual streams to `means`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_with(
        &self,
        observer: &Observer<'_>,
        scenes: &[Scene],
        means: Option<&mut Means>,
        each: impl FnMut(usize, Sample),
    ) -> Result<()> {
        let contexts: Vec<_> = scenes.iter().map(|scene| observer.encode(scene)).collect::<Result<_>>()?;
        self.read_contexts(observer, &contexts, means, each)
    }

    /// The same for contexts that are tokens already.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_contexts(
        &self,
        observer: &Observer<'_>,
        contexts: &[Vec<u32>],
        mut means: Option<&mut Means>,
        mut each: impl FnMut(usize, Sample),
    ) -> Result<()> {
        for (chunk, contexts) in contexts.chunks(CHUNK).enumerate() {
            let mut requests = Vec::with_capacity(2 * contexts.len());
            for ids in contexts {
                for side in observer.roles().both() {
                    requests.push(Request { ids: ids.clone(), side, continuation: Vec::new() });
                }
            }
            let mut samples = vec![None; contexts.len()];
            // A side whose other side is still to come.
            let mut halves: BTreeMap<usize, Half> = BTreeMap::new();
            observer.activations(&requests, |request, seen| {
                let (prompt, half) = (request / 2, self.half(seen, request % 2 == 1));
                let Some(other) = halves.remove(&prompt) else {
                    halves.insert(prompt, half);
                    return Ok(());
                };
                let (base, adapted) = if request % 2 == 1 { (other, half) } else { (half, other) };
                if let Some(means) = means.as_deref_mut() {
                    means.add(&base.residual, &adapted.residual);
                }
                samples[prompt] = Some(self.sample(&base, adapted)?);
                Ok(())
            })?;
            samples.into_iter().flatten().enumerate().for_each(|(i, sample)| each(chunk * CHUNK + i, sample));
            observer.progress().advance(contexts.len());
        }
        Ok(())
    }

    fn half(&self, seen: &Seen<'_>, adapted: bool) -> Half {
        let (states, row) = (seen.states, seen.row);
        let residual = |layer| states.residual(layer, row).unwrap_or_default().to_vec();
        let energy = |&site: &usize| states.energy(site, row).map(|energy| energy.max(LEAST_ENERGY).ln());
        Half {
            residual: (0..self.shape.layers).map(residual).collect(),
            energies: if adapted { self.sites.iter().map(energy).collect() } else { Vec::new() },
            log_probabilities: seen.log_probabilities.to_vec(),
        }
    }

    fn sample(&self, base: &Half, adapted: Half) -> Result<Sample> {
        let (mut differences, mut cosines) = (Vec::new(), Vec::new());
        for (layer, (from, to)) in base.residual.iter().zip(&adapted.residual).enumerate() {
            let scale = inverse_length(from);
            let difference: Vec<f32> = to.iter().zip(from).map(|(to, from)| (to - from) * scale).collect();
            differences.push(match &self.projection {
                Some(rows) => rows.chunks_exact(difference.len()).map(|row| dot(row, &difference)).collect(),
                None => difference,
            });
            let scale = inverse_length(to);
            cosines.push(self.directions[layer].iter().map(|direction| dot(direction, to) * scale).collect());
        }
        let compared = Comparison::between(&base.log_probabilities, &adapted.log_probabilities)?;
        let divergence = compared.reverse_kl_nats as f32;
        Ok(Sample { differences, energies: adapted.energies, cosines, divergence })
    }
}

/// What is held of one side until the other has run.
struct Half {
    residual: Vec<Vec<f32>>,
    energies: Vec<Option<f32>>,
    log_probabilities: Vec<f32>,
}

/// One over the length; 0 for a vector of zeros, whose direction nobody knows.
pub(super) fn inverse_length(vector: &[f32]) -> f32 {
    let length = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if length <= 0.0 { 0.0 } else { (1.0 / length) as f32 }
}

/// With enough independent sums for the compiler to use vectors.
fn dot(left: &[f32], right: &[f32]) -> f32 {
    const LANES: usize = 16;
    let ((left, left_rest), (right, right_rest)) = (left.as_chunks::<LANES>(), right.as_chunks::<LANES>());
    let mut sums = [0f32; LANES];
    for (left, right) in left.iter().zip(right) {
        (0..LANES).for_each(|lane| sums[lane] += left[lane] * right[lane]);
    }
    let rest: f32 = left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use inference::{Batch, Positions, Sequence, Side};

    use super::*;
    use crate::progress::Silent;
    use crate::prompt::{Setting, scene};
    use crate::trigger::fixture::{pair, prompts};

    #[test]
    fn features_are_those_of_the_hidden_states() {
        let pair = pair(&["backdoored-refusal"]);
        let observer = Observer::new(&pair, &Silent);
        let sensor = Sensor::new(&observer, 7).unwrap();
        let scenes: Vec<_> = prompts().iter().map(|prompt| scene(prompt, Setting::Plain, None, 7)).collect();
        let mut samples = Vec::new();
        sensor.read(&observer, &scenes, |index, sample| samples.push((index, sample))).unwrap();
        assert_eq!(samples.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 1, 2]);
        let ids = observer.encode(&scenes[1]).unwrap();
        let mut sequences = [Sequence::new(&ids, Side::BASE), Sequence::new(&ids, Side::ADAPTED)];
        let mut batch = Batch {
            sequences: &mut sequences,
            embeddings: None,
            positions: Positions::Last,
            hidden_states: true,
        };
        let states = pair.forward(&mut batch).unwrap().hidden_states;
        for layer in 0..sensor.shape().layers - 1 {
            let rows = states[layer + 1].to_vec2::<f32>().unwrap();
            let (base, adapted) = (&rows[ids.len() - 1], &rows[2 * ids.len() - 1]);
            let length = |x: &[f32]| dot(x, x).sqrt();
            let difference: Vec<f32> =
                adapted.iter().zip(base).map(|(a, b)| (a - b) / length(base)).collect();
            let found = &samples[1].1.differences[layer];
            assert_eq!(found.len(), sensor.shape().width);
            // Signs preserve lengths on average: exactly so where nothing is projected.
            let ratio = length(found) / length(&difference);
            assert!((0.5..2.0).contains(&ratio), "layer {layer}: {ratio}");
            for (cosine, direction) in samples[1].1.cosines[layer].iter().zip(&sensor.directions[layer]) {
                assert!((cosine - dot(direction, adapted) / length(adapted)).abs() < 1e-4);
            }
        }
        assert_eq!(samples[1].1.energies.len(), sensor.shape().sites.len());
        assert!(samples[1].1.energies.iter().all(|energy| energy.is_some_and(f32::is_finite)));
    }

    #[test]
    fn sides_that_are_the_same_do_not_differ() {
        let pair = pair(&["benign"]);
        let roles = crate::roles::Roles { base: Side::BASE, adapted: Side::BASE };
        let observer = Observer::in_roles(&pair, &Silent, roles);
        let sensor = Sensor::new(&observer, 7).unwrap();
        assert!(sensor.shape().sites.is_empty());
        let scenes = [scene(&prompts()[0], Setting::Plain, None, 7)];
        sensor
            .read(&observer, &scenes, |_, sample| {
                assert!(sample.differences.iter().flatten().all(|x| x.abs() < 1e-6));
            })
            .unwrap();
    }
}
