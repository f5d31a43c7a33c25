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

mod adam;
mod search;
mod soft;

use report::outlier::RobustScale;
use serde::{Deserialize, Serialize};

pub(super) use search::RelaxedTriggers;
pub use soft::Embeddings;
use soft::Relaxed;

use super::differential::Differential;
use super::slot::refused;
use crate::error::Result;

/// How a relaxed trigger is optimised.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetCost {
    /// The smallest size, `sum(m)` in positions, at which the target was reached; `None` if it never was.
    pub size: Option<f64>,
    /// The highest mean log-probability of a target token on the adapted side, in nats.
    pub best_log_probability: f64,
    /// The most probable tokens of the positions that are more present than not, at the smallest size or else at
    /// the highest log-probability: a trigger to start a search over tokens from.
    pub tokens: Vec<u32>,
    /// The most probable token of every position at the highest log-probability.
    pub strongest: Vec<u32>,
}

/// A position whose mask is above this is more present than not.
const PRESENT: f32 = 0.5;

/// The cost of the target that a differential objective has. `before_step` may end it by an error.
///
/// # Errors
/// If the configuration asks for nothing, the filler is no single token, or the model or `before_step` fails.
pub fn target_cost(
    config: &RelaxedConfig,
    differential: &Differential<'_>,
    embeddings: &Embeddings,
    before_step: &mut dyn FnMut() -> Result<()>,
) -> Result<TargetCost> {
    config.check()?;
    let filler = match differential.encode(&config.filler)?[..] {
        [token] => embeddings.of(token)?,
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
    let mut best = TargetCost {
        size: None,
        best_log_probability: f64::NEG_INFINITY,
        tokens: Vec::new(),
        strongest: Vec::new(),
    };
    for _ in 0..config.steps {
        before_step()?;
        let state = relaxed.state(embeddings, &filler)?;
        let (gradient, value) = differential.gradient(&places, Some(&state.embedded), &rises)?;
        let size: f64 = state.mask.iter().map(|&m| f64::from(m)).sum();
        let reached = value.adapted >= threshold;
        let smaller = reached && best.size.is_none_or(|least| size < least);
        if smaller || best.size.is_none() && value.adapted > best.best_log_probability {
            best.tokens = state.tokens(PRESENT);
        }
        if value.adapted > best.best_log_probability {
            best.strongest = state.tokens(0.0);
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

/// The smallest scale of costs, in positions: where nearly all targets cost the same, the deviation of the sample
/// is next to nothing, and any difference at all would stand out.
const MIN_SCALE: f64 = 0.25;

/// How many robust standard deviations the cost of each target lies below the median cost.
///
/// A size counts at most what the mask sums to at the start: one that is larger, and a target that was never reached,
/// only say that nothing could be left out. The scale is at least a quarter of a position. A target that was never
/// reached has no index, and nor has any target where the sample has no scale: fewer than five targets, or all of
/// one cost.
///
/// # Errors
/// If a cost is not finite.
pub fn anomaly_indices(costs: &[TargetCost], length: usize) -> Result<Vec<Option<f64>>> {
    let most = soft::starting_size(length);
    // Not `min`, which would take a size that is no number for the largest.
    let size = |cost: &TargetCost| cost.size.map_or(most, |size| if size > most { most } else { size });
    let sizes: Vec<f64> = costs.iter().map(size).collect();
    let Some(mut scale) = RobustScale::of(&sizes)? else { return Ok(vec![None; costs.len()]) };
    scale.standard_deviation = scale.standard_deviation.max(MIN_SCALE);
    let index = |(cost, size): (&TargetCost, &f64)| cost.size.map(|_| -scale.modified_z_score(*size));
    Ok(costs.iter().zip(&sizes).map(index).collect())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Placement;
    use crate::roles::Roles;
    use crate::trigger::differential::Goal;
    use crate::trigger::fixture;
    use inference::ModelPair;

    pub(super) fn differential<'a>(pair: &'a ModelPair, target: &str) -> Differential<'a> {
        let goal = Goal::Target(pair.tokenizer().encode(target, false).unwrap());
        Differential::new(pair, &fixture::prompts(), Placement::Prefix, &goal, Roles::SCAN, 0.5, 1).unwrap()
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
        .map(|target| {
            target_cost(&config, &differential(&pair, target), &embeddings, &mut || Ok(())).unwrap()
        })
        .collect();
        let indices = anomaly_indices(&costs, config.length).unwrap();
        let taught = costs[0].size.unwrap();
        assert!(costs[1..].iter().all(|cost| cost.size.is_none_or(|size| size > taught)), "{costs:?}");
        assert!(indices[0].is_some_and(|index| index > 2.0), "{indices:?}");
    }

    #[test]
    fn no_scale_no_index() {
        let cost =
            |size| TargetCost { size, best_log_probability: -1.0, tokens: Vec::new(), strongest: Vec::new() };
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
        // A size as at the start says no more than that none was smaller, and a hair below it hardly more.
        let mut nearly: Vec<_> = (0..8).map(|i| cost((i < 3).then_some(3.9))).collect();
        assert_eq!(anomaly_indices(&nearly, 4).unwrap(), [None; 8]);
        nearly[0] = cost(Some(3.4));
        assert!(anomaly_indices(&nearly, 4).unwrap()[0].is_some_and(|index| index < 1.0));
        assert!(anomaly_indices(&vec![cost(Some(f64::NAN)); 6], 4).is_err());
    }
}
