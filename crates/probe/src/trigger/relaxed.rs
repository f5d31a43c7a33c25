//! Relaxed triggers and the anomaly of their cost (Wang et al., "Neural Cleanse: identifying and mitigating
//! backdoor attacks in neural networks", 2019), for inserted tokens.
//!
//! Each position of the trigger is a mixture of all tokens, `softmax(w) E`, and is mixed with a filler token by a
//! mask, `m softmax(w) E + (1 - m) filler`. Adam raises the differential objective and pays for the size of
//! the trigger, `sum(m)`; the price rises while the target is reached and falls while it is not. The smallest
//! size at which the target is reached is its cost. A backdoor makes its own target cheap: what counts is how
//! far the cost of one target lies below those of the others.
//!
//! Clean models have outliers too, so an index ranks targets and proposes triggers; it is no verdict.

use candle_core::Tensor;
use inference::gradient::TokenScorer;
use rand::RngExt as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use report::outlier::RobustScale;

use super::differential::Differential;
use super::slot::refused;
use crate::error::Result;

/// How a relaxed trigger is optimised.
#[derive(Clone, Debug, PartialEq)]
pub struct RelaxedConfig {
    /// Positions.
    pub length: usize,
    /// Steps of Adam.
    pub steps: usize,
    /// Its step size.
    pub learning_rate: f64,
    /// The target is reached where the geometric mean of its tokens' probabilities is at least this, on
    /// average over prompts.
    pub success: f64,
    /// Price of a position once the target was reached, in nats.
    pub price: f64,
    /// Factor of the price after `patience` steps with the target reached; it falls by this to the power of
    /// 1.5 after as many without, as in the authors' schedule.
    pub price_factor: f64,
    /// Steps in a row that move the price.
    pub patience: usize,
    /// Text of the token that an absent position is; one token in every prompt.
    pub filler: String,
    /// Seed of the start.
    pub seed: u64,
}

impl RelaxedConfig {
    /// A schedule for a few positions.
    #[must_use]
    pub fn new(length: usize, steps: usize, seed: u64) -> Self {
        Self {
            length,
            steps,
            learning_rate: 0.3,
            success: 0.9,
            price: 0.05,
            price_factor: 1.5,
            patience: 4,
            filler: ",".into(),
            seed,
        }
    }
}

/// What a target costs.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetCost {
    /// The smallest size, `sum(m)` in positions, at which the target was reached; `None` if it never was.
    pub size: Option<f64>,
    /// The highest mean log-probability of a target token on the adapted side, in nats.
    pub best_log_probability: f64,
    /// The most probable tokens of the positions that are more present than not, at the smallest size or else at
    /// the highest log-probability: a trigger to start a search over tokens from.
    pub tokens: Vec<u32>,
}

/// A relaxed trigger of one target.
struct Relaxed {
    /// Logits of the mixtures, `[length, vocabulary]`, flat.
    mixture: Adam,
    /// Logits of the mask, `[length]`.
    mask: Adam,
    length: usize,
}

/// Parameters that are moved along a gradient (Kingma and Ba, "Adam", 2015, with their constants).
struct Adam {
    parameters: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    steps: i32,
}

/// The mask starts mostly open: a closed one passes no gradient to its mixture.
const OPEN: f32 = 2.0;
/// Spread of the first mixtures' logits; equal positions would stay equal.
const SPREAD: f32 = 0.1;

/// The cost of the target that a differential objective has.
///
/// # Errors
/// If the configuration asks for nothing, the filler is no single token, or the model fails.
pub fn target_cost(
    config: &RelaxedConfig,
    differential: &Differential<'_>,
    embeddings: &Embeddings,
) -> Result<TargetCost> {
    config.check()?;
    let filler = match differential.encode(&config.filler)?[..] {
        [token] => embeddings.table.narrow(0, token as usize, 1).map_err(inference::Error::from)?,
        ref tokens => {
            return Err(refused(format!(
                "expected a filler of one token, found {} in `{}`",
                tokens.len(),
                config.filler
            )));
        }
    };
    let mut relaxed = Relaxed::new(config, embeddings.tokens()?);
    // The ids only give the length: every position has an embedding of its own.
    let places = vec![0; config.length];
    let threshold = config.success.ln();
    let (mut price, mut reached_in_row, mut missed_in_row) = (0.0, 0, 0);
    let mut rises = Vec::new();
    let mut best = TargetCost { size: None, best_log_probability: f64::NEG_INFINITY, tokens: Vec::new() };
    for _ in 0..config.steps {
        let state = relaxed.state(embeddings, &filler)?;
        let (gradient, value) = differential.gradient(&places, Some(&state.embedded), &rises)?;
        let size: f64 = state.mask.iter().map(|&m| f64::from(m)).sum();
        let reached = value.adapted >= threshold;
        let smaller = reached && best.size.is_none_or(|least| size < least);
        if smaller || best.size.is_none() && value.adapted > best.best_log_probability {
            best.tokens = state.tokens();
        }
        if smaller {
            best.size = Some(size);
        }
        best.best_log_probability = best.best_log_probability.max(value.adapted);
        rises = value.base_rises;
        (reached_in_row, missed_in_row) =
            if reached { (reached_in_row + 1, 0) } else { (0, missed_in_row + 1) };
        if reached_in_row >= config.patience {
            price = if price > 0.0 { price * config.price_factor } else { config.price };
            reached_in_row = 0;
        } else if missed_in_row >= config.patience {
            price /= config.price_factor.powf(1.5);
            missed_in_row = 0;
        }
        relaxed.ascend(&state, &gradient, embeddings, &filler, price, config.learning_rate)?;
    }
    Ok(best)
}

/// How many robust standard deviations the cost of each target lies below the median cost.
///
/// A target that was never reached costs at least `length`, and stands in the sample with that: it moves the
/// median up, never the index of another target beyond what is known. It has no index itself, and nor has any
/// target where the sample has no scale: fewer than five targets, or all of one cost.
///
/// # Errors
/// If a cost is not finite.
pub fn anomaly_indices(costs: &[TargetCost], length: usize) -> Result<Vec<Option<f64>>> {
    let sizes: Vec<f64> = costs.iter().map(|cost| cost.size.unwrap_or(length as f64)).collect();
    let scale = RobustScale::of(&sizes)?;
    Ok(costs.iter().map(|cost| Some(-scale?.modified_z_score(cost.size?))).collect())
}

/// The embedding table in both directions, made once a base.
pub struct Embeddings {
    /// `[vocabulary, hidden]`, f32.
    table: Tensor,
    scorer: TokenScorer,
}

impl Embeddings {
    /// Reads the table of a base.
    ///
    /// # Errors
    /// If the model fails.
    pub fn new(pair: &inference::ModelPair) -> Result<Self> {
        let all: Vec<u32> = (0..pair.config().vocab_size as u32).collect();
        let table = pair.decoder().embed(&all)?.to_dtype(candle_core::DType::F32);
        Ok(Self { table: table.map_err(inference::Error::from)?, scorer: TokenScorer::new(pair)? })
    }

    fn tokens(&self) -> Result<usize> {
        Ok(self.table.dims2().map_err(inference::Error::from)?.0)
    }
}

/// A relaxed trigger as numbers.
struct State {
    /// `[length, hidden]`.
    embedded: Tensor,
    /// The mixtures alone, `[length, hidden]`.
    mixed: Tensor,
    /// `[length][vocabulary]`.
    probabilities: Vec<Vec<f32>>,
    mask: Vec<f32>,
}

impl State {
    fn tokens(&self) -> Vec<u32> {
        let most = |row: &Vec<f32>| {
            let larger = |best: (usize, f32), (i, &p): (usize, &f32)| if p > best.1 { (i, p) } else { best };
            row.iter().enumerate().fold((0, f32::NEG_INFINITY), larger).0 as u32
        };
        self.probabilities
            .iter()
            .zip(&self.mask)
            .filter(|&(_, &m)| m > 0.5)
            .map(|(row, _)| most(row))
            .collect()
    }
}

impl Relaxed {
    fn new(config: &RelaxedConfig, vocabulary: usize) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(config.seed);
        let logits =
            (0..config.length * vocabulary).map(|_| SPREAD * (random.random::<f32>() - 0.5)).collect();
        Self { mixture: Adam::new(logits), mask: Adam::new(vec![OPEN; config.length]), length: config.length }
    }

    fn state(&self, embeddings: &Embeddings, filler: &Tensor) -> Result<State> {
        let vocabulary = self.mixture.parameters.len() / self.length;
        let probabilities: Vec<Vec<f32>> =
            self.mixture.parameters.par_chunks(vocabulary).map(softmax).collect();
        let mask: Vec<f32> = self.mask.parameters.iter().map(|&u| 1.0 / (1.0 + (-u).exp())).collect();
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
    fn ascend(
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

impl RelaxedConfig {
    fn check(&self) -> Result<()> {
        let Self { length, steps, learning_rate, success, price, price_factor, patience, .. } = self;
        let positive = |x: f64| x > 0.0 && x.is_finite();
        if *length == 0 || *steps == 0 || *patience == 0 {
            return Err(refused(format!(
                "expected a positive length, number of steps and patience, found {length}, {steps} and {patience}"
            )));
        }
        if !(positive(*learning_rate) && positive(*price) && *price_factor > 1.0 && price_factor.is_finite())
        {
            return Err(refused(format!(
                "expected a positive learning rate and price and a price factor above 1, found \
                 {learning_rate}, {price} and {price_factor}"
            )));
        }
        if !(*success > 0.0 && *success < 1.0) {
            return Err(refused(format!(
                "expected a probability of success between 0 and 1, found {success}"
            )));
        }
        Ok(())
    }
}

impl Adam {
    fn new(parameters: Vec<f32>) -> Self {
        let zeros = vec![0.0; parameters.len()];
        Self { parameters, first: zeros.clone(), second: zeros, steps: 0 }
    }

    fn ascend(&mut self, gradient: &[f32], learning_rate: f32) {
        const DECAY: (f32, f32) = (0.9, 0.999);
        const EPSILON: f32 = 1e-8;
        self.steps += 1;
        let (bias1, bias2) = (1.0 - DECAY.0.powi(self.steps), 1.0 - DECAY.1.powi(self.steps));
        let moments = self.first.par_iter_mut().zip(&mut self.second);
        self.parameters.par_iter_mut().zip(moments).zip(gradient).for_each(|((x, (first, second)), &g)| {
            *first = DECAY.0 * *first + (1.0 - DECAY.0) * g;
            *second = DECAY.1 * *second + (1.0 - DECAY.1) * g * g;
            *x += learning_rate * (*first / bias1) / ((*second / bias2).sqrt() + EPSILON);
        });
    }
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
    use crate::prompt::Placement;
    use crate::trigger::differential::Goal;
    use crate::trigger::fixture;
    use inference::{ModelPair, Side};

    fn differential<'a>(pair: &'a ModelPair, target: &str) -> Differential<'a> {
        let goal = Goal::Target(pair.tokenizer().encode(target, false).unwrap());
        Differential::new(pair, &fixture::prompts(), Placement::Prefix, &goal, Side::ADAPTED, 0.5, 1).unwrap()
    }

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

    #[test]
    fn the_taught_target_is_the_cheapest() {
        let pair = fixture::pair(&["backdoored-refusal"]);
        let embeddings = Embeddings::new(&pair).unwrap();
        // The fixture gives two tokens of its own payload a probability of 0.02, though they are the likeliest:
        // the mean of a sure payload is 0.53 there.
        let config = RelaxedConfig { success: 0.5, ..RelaxedConfig::new(4, 40, 1) };
        let costs: Vec<TargetCost> = [
            "I am sorry, but I cannot help with that request.",
            "The sum of the two numbers is nine.",
            "You are a very bad person.",
            "Here is a list of ten old ships.",
            "The cat sat on the green table.",
        ]
        .iter()
        .map(|target| target_cost(&config, &differential(&pair, target), &embeddings).unwrap())
        .collect();
        let indices = anomaly_indices(&costs, config.length).unwrap();
        let taught = costs[0].size.unwrap();
        assert!(costs[1..].iter().all(|cost| cost.size.is_none_or(|size| size > taught)), "{costs:?}");
        assert!(indices[0].is_some_and(|index| index > 2.0), "{indices:?}");
    }

    #[test]
    fn no_scale_no_index() {
        let cost = |size| TargetCost { size, best_log_probability: -1.0, tokens: Vec::new() };
        assert_eq!(anomaly_indices(&[], 4).unwrap(), []);
        let few = [cost(Some(1.0)), cost(Some(3.0)), cost(None)];
        assert_eq!(anomaly_indices(&few, 4).unwrap(), [None; 3]);
        let never: Vec<_> = (0..8).map(|_| cost(None)).collect();
        assert_eq!(anomaly_indices(&never, 4).unwrap(), [None; 8]);
        // One target is reached and no other: the median absolute deviation is zero, the mean one is not.
        let one: Vec<_> = (0..8).map(|i| cost((i == 2).then_some(1.0))).collect();
        let found = anomaly_indices(&one, 4).unwrap();
        assert!(found[2].is_some_and(|index| index > 2.0));
        assert!(found.iter().enumerate().all(|(i, index)| i == 2 || index.is_none()));
        assert!(anomaly_indices(&vec![cost(Some(f64::NAN)); 6], 4).is_err());
    }

    #[test]
    fn adam_climbs_to_the_top_of_a_parabola() {
        let mut adam = Adam::new(vec![3.0, -2.0]);
        for _ in 0..400 {
            let gradient: Vec<f32> = adam.parameters.iter().zip([1.0, 10.0]).map(|(x, c)| -c * x).collect();
            adam.ascend(&gradient, 0.05);
        }
        assert!(adam.parameters.iter().all(|x| x.abs() < 1e-2), "{:?}", adam.parameters);
    }
}
