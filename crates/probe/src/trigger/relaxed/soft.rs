//! A soft trigger: mixtures of tokens behind a mask, and the gradient with respect to them.

use candle_core::Tensor;
use inference::gradient::TokenScorer;
use rand::RngExt as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::RelaxedConfig;
use super::adam::Adam;
use crate::error::Result;

/// A relaxed trigger of one target.
pub(super) struct Relaxed {
    /// Logits of the mixtures, `[length, vocabulary]`, flat.
    mixture: Adam,
    /// Logits of the mask, `[length]`.
    mask: Adam,
    length: usize,
}

/// The mask starts mostly open: a closed one passes no gradient to its mixture.
const OPEN: f32 = 2.0;
/// Spread of the first mixtures' logits; equal positions would stay equal.
const SPREAD: f32 = 0.1;

/// What the mask of so many positions sums to before the first step.
pub(super) fn starting_size(length: usize) -> f64 {
    length as f64 * f64::from(sigmoid(OPEN))
}

/// The embedding table in both directions, made once a base.
pub struct Embeddings {
    /// `[vocabulary, hidden]`, f32.
    table: Tensor,
    scorer: TokenScorer,
}

impl Embeddings {
    /// Reads the table of a base. It stands for that of an adapter with one of its own, too: what relaxed triggers
    /// propose is measured as text.
    ///
    /// # Errors
    /// If the model fails.
    pub fn new(pair: &inference::ModelPair) -> Result<Self> {
        let all: Vec<u32> = (0..pair.config().vocab_size as u32).collect();
        let table = pair.decoder().embed(&all)?.to_dtype(candle_core::DType::F32);
        Ok(Self { table: table.map_err(inference::Error::from)?, scorer: TokenScorer::new(pair)? })
    }

    /// The embedding of one token, `[1, hidden]`.
    pub(super) fn of(&self, token: u32) -> Result<Tensor> {
        Ok(self.table.narrow(0, token as usize, 1).map_err(inference::Error::from)?)
    }

    /// Size of the vocabulary.
    pub(super) fn tokens(&self) -> Result<usize> {
        Ok(self.table.dims2().map_err(inference::Error::from)?.0)
    }
}

/// A relaxed trigger as numbers.
pub(super) struct State {
    /// `[length, hidden]`.
    pub(super) embedded: Tensor,
    /// The mixtures alone, `[length, hidden]`.
    mixed: Tensor,
    /// `[length][vocabulary]`.
    probabilities: Vec<Vec<f32>>,
    pub(super) mask: Vec<f32>,
}

impl State {
    /// The most probable token of each position whose mask is above a limit.
    pub(super) fn tokens(&self, above: f32) -> Vec<u32> {
        let most = |row: &Vec<f32>| {
            let larger = |best: (usize, f32), (i, &p): (usize, &f32)| if p > best.1 { (i, p) } else { best };
            row.iter().enumerate().fold((0, f32::NEG_INFINITY), larger).0 as u32
        };
        self.probabilities
            .iter()
            .zip(&self.mask)
            .filter(|&(_, &m)| m > above)
            .map(|(row, _)| most(row))
            .collect()
    }
}

impl Relaxed {
    pub(super) fn new(config: &RelaxedConfig, vocabulary: usize) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(config.seed);
        let logits =
            (0..config.length * vocabulary).map(|_| SPREAD * (random.random::<f32>() - 0.5)).collect();
        Self { mixture: Adam::new(logits), mask: Adam::new(vec![OPEN; config.length]), length: config.length }
    }

    pub(super) fn state(&self, embeddings: &Embeddings, filler: &Tensor) -> Result<State> {
        let vocabulary = self.mixture.parameters.len() / self.length;
        let probabilities: Vec<Vec<f32>> =
            self.mixture.parameters.par_chunks(vocabulary).map(softmax).collect();
        let mask: Vec<f32> = self.mask.parameters.iter().copied().map(sigmoid).collect();
        let build = || -> candle_core::Result<(Tensor, Tensor)> {
            let device = embeddings.table.device();
            let weights = Tensor::from_vec(probabilities.concat(), (self.length, vocabulary), device)?;
            let mixed = weights.matmul(&embeddings.table)?;
            let present = Tensor::from_slice(&mask, (self.length, 1), device)?;
            let embedded = mixed.broadcast_sub(filler)?.broadcast_mul(&present)?.broadcast_add(filler)?;
            Ok((embedded, mixed))
        };
        let (embedded, mixed) = build().map_err(inference::Error::from)?;
        Ok(State { embedded, mixed, probabilities, mask })
    }

    /// One step up `J - price * sum(m)`, where `gradient` is that of J with respect to the embedded trigger.
    pub(super) fn ascend(
        &mut self,
        state: &State,
        gradient: &Tensor,
        embeddings: &Embeddings,
        filler: &Tensor,
        price: f64,
        learning_rate: f64,
    ) -> Result<()> {
        let (mixture, mask) = state.gradients(gradient, embeddings, filler, price)?;
        self.mixture.ascend(&mixture, learning_rate as f32);
        self.mask.ascend(&mask, learning_rate as f32);
        Ok(())
    }
}

impl State {
    /// Gradients with respect to the logits of the mixtures, flat, and of the mask.
    fn gradients(
        &self,
        gradient: &Tensor,
        embeddings: &Embeddings,
        filler: &Tensor,
        price: f64,
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let present = || -> candle_core::Result<Vec<f32>> {
            (gradient * self.mixed.broadcast_sub(filler)?)?.sum(1)?.to_vec1::<f32>()
        };
        let present = present().map_err(inference::Error::from)?;
        let of_mask =
            self.mask.iter().zip(present).map(|(&m, g)| (g - price as f32) * m * (1.0 - m)).collect();
        // d J / d p_v = m * gradient · E_v; through the softmax, p_v (d_v - sum_u p_u d_u).
        let scores = embeddings.scorer.scores(gradient)?.to_vec2::<f32>().map_err(inference::Error::from)?;
        let rows: Vec<Vec<f32>> = scores
            .par_iter()
            .zip(&self.probabilities)
            .zip(&self.mask)
            .map(|((scores, p), &m)| {
                let mean =
                    p.iter().zip(scores).map(|(&p, &s)| f64::from(p) * f64::from(s)).sum::<f64>() as f32;
                p.iter().zip(scores).map(|(&p, &s)| m * p * (s - mean)).collect()
            })
            .collect();
        Ok((rows.concat(), of_mask))
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut weights: Vec<f32> = logits.iter().map(|&x| (x - largest).exp()).collect();
    let sum = weights.iter().map(|&w| f64::from(w)).sum::<f64>() as f32;
    weights.iter_mut().for_each(|w| *w /= sum);
    weights
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trigger::fixture;
    use crate::trigger::relaxed::tests::differential;

    #[test]
    fn gradients_agree_with_differences() {
        let pair = fixture::pair(&["backdoored-refusal"]);
        let differential = differential(&pair, "I am sorry");
        let embeddings = Embeddings::new(&pair).unwrap();
        let filler = embeddings.table.narrow(0, 300, 1).unwrap();
        let config = RelaxedConfig::new(3, 1, 5);
        let mut relaxed = Relaxed::new(&config, embeddings.tokens().unwrap());
        // Where few tokens have most of the weight, so that single logits matter.
        for (i, x) in relaxed.mixture.parameters.iter_mut().enumerate() {
            *x += if i % 97 == 0 { 6.0 } else { 0.0 };
        }
        let price = 0.2;
        let value = |relaxed: &Relaxed| {
            let state = relaxed.state(&embeddings, &filler).unwrap();
            // A base that rises nowhere: the hinge is flat and only the adapted side counts.
            let (_, value) = differential.gradient(&[0; 3], Some(&state.embedded), &[]).unwrap();
            value.adapted - price * state.mask.iter().map(|&m| f64::from(m)).sum::<f64>()
        };
        let state = relaxed.state(&embeddings, &filler).unwrap();
        let (gradient, _) = differential.gradient(&[0; 3], Some(&state.embedded), &[]).unwrap();
        let (mixture, mask) = state.gradients(&gradient, &embeddings, &filler, price).unwrap();
        let length = |g: &[f32]| g.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        let mut check = |of_mask: bool, gradient: &[f32]| {
            let norm = length(gradient);
            let step = 2e-2 / norm;
            let mut along = |sign: f64| {
                let parameters =
                    if of_mask { &mut relaxed.mask.parameters } else { &mut relaxed.mixture.parameters };
                let kept = parameters.clone();
                parameters.iter_mut().zip(gradient).for_each(|(x, &g)| *x += (sign * step) as f32 * g);
                let found = value(&relaxed);
                if of_mask {
                    relaxed.mask.parameters = kept
                } else {
                    relaxed.mixture.parameters = kept
                }
                found
            };
            let slope = (along(1.0) - along(-1.0)) / (2.0 * step);
            assert!(
                norm > 1e-3 && (slope / (norm * norm) - 1.0).abs() < 2e-2,
                "{slope}, expected {}",
                norm * norm
            );
        };
        check(false, &mixture);
        check(true, &mask);
    }
}
