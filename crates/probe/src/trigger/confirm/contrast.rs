//! The trigger's outcomes on held-out prompts against those of every condition without it.

use report::estimate::{Bootstrap, Estimate, clopper_pearson};
use report::significance::{Alternative, mcnemar};

use crate::behaviour::{CONFIDENCE, RESAMPLES};
use crate::error::Result;

/// The prompts on which a payload can be told under every condition, and whether it is there.
pub(super) struct Told {
    /// Their indices.
    indices: Vec<usize>,
    /// Outcomes with the trigger, one a prompt.
    pub(super) hits: Vec<bool>,
    /// The same of each other condition.
    pub(super) outcomes: Vec<Vec<bool>>,
}

impl Told {
    /// Of outcomes of all prompts, with the trigger and under each other condition.
    pub(super) fn of(hits: &[Option<bool>], conditions: &[Vec<Option<bool>>]) -> Self {
        let indices: Vec<usize> = (0..hits.len())
            .filter(|&i| hits[i].is_some() && conditions.iter().all(|outcomes| outcomes[i].is_some()))
            .collect();
        let pick = |outcomes: &[Option<bool>]| -> Vec<bool> {
            indices.iter().map(|&i| outcomes[i] == Some(true)).collect()
        };
        let (hits, outcomes) = (pick(hits), conditions.iter().map(|outcomes| pick(outcomes)).collect());
        Self { indices, hits, outcomes }
    }

    /// The indices of prompts with the payload.
    pub(super) fn with_payload(&self) -> impl Iterator<Item = usize> {
        self.indices.iter().zip(&self.hits).filter(|(_, hit)| **hit).map(|(&index, _)| index)
    }
}

/// The trigger's outcomes against those of every other condition.
pub(super) struct Contrast {
    /// Share of prompts with the payload.
    pub(super) rate: Estimate,
    /// The same of each condition.
    pub(super) condition_rates: Vec<Estimate>,
    /// Rate minus that of the strongest condition.
    pub(super) uplift: Estimate,
    /// Rate minus that of each condition.
    pub(super) uplifts: Vec<Estimate>,
    /// The largest of all conditions.
    pub(super) p_value: f64,
}

impl Contrast {
    /// `None` with fewer than two prompts or without conditions.
    pub(super) fn measure(hits: &[bool], conditions: &[Vec<bool>], seed: u64) -> Result<Option<Self>> {
        let count = |outcomes: &[bool]| outcomes.iter().filter(|&&yes| yes).count();
        let number = |outcomes: &[bool]| -> Vec<f64> {
            outcomes.iter().map(|&yes| f64::from(u8::from(yes))).collect()
        };
        let Some(rate) = clopper_pearson(count(hits), hits.len(), CONFIDENCE)? else {
            return Ok(None);
        };
        let bootstrap = Bootstrap::new(RESAMPLES, CONFIDENCE, seed)?;
        let (mut condition_rates, mut uplifts) = (Vec::new(), Vec::new());
        let mut p_value = f64::NEG_INFINITY;
        for outcomes in conditions {
            let (Some(condition), Some(p), Some(mut uplift)) = (
                clopper_pearson(count(outcomes), outcomes.len(), CONFIDENCE)?,
                mcnemar(outcomes, hits, Alternative::Greater)?,
                bootstrap.paired_difference(&number(outcomes), &number(hits))?,
            ) else {
                return Ok(None);
            };
            // Where every prompt agrees the bootstrap has no width; the exact interval of the rate has.
            uplift.lower = uplift.lower.min(rate.lower - condition.value);
            condition_rates.push(condition);
            uplifts.push(uplift);
            p_value = p_value.max(p);
        }
        let strongest = (0..conditions.len())
            .max_by(|&a, &b| condition_rates[a].value.total_cmp(&condition_rates[b].value).then(b.cmp(&a)));
        Ok(strongest.map(|strongest| Self {
            rate,
            condition_rates,
            uplift: uplifts[strongest],
            uplifts,
            p_value,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_claim_must_hold_against_every_condition() {
        let hits = [true; 24];
        let never = vec![false; 24];
        let often: Vec<bool> = (0..24).map(|i| i % 4 != 0).collect();
        let alone = Contrast::measure(&hits, std::slice::from_ref(&never), 1).unwrap().unwrap();
        assert!(alone.uplift.lower > 0.8 && alone.p_value < 1e-6);
        let against_both = Contrast::measure(&hits, &[never, often], 1).unwrap().unwrap();
        assert!((against_both.uplift.value - 0.25).abs() < 1e-12 && against_both.p_value > 1e-3);
        let of_each: Vec<f64> = against_both.uplifts.iter().map(|uplift| uplift.value).collect();
        assert_eq!(of_each, [1.0, 0.25], "each condition has its own uplift");
        assert!(Contrast::measure(&[], &[vec![]], 1).unwrap().is_none());
        assert!(Contrast::measure(&hits, &[], 1).unwrap().is_none());
    }

    #[test]
    fn a_prompt_counts_if_the_payload_can_be_told_under_every_condition() {
        let hits = [Some(true), None, Some(true), Some(false)];
        let others = [vec![Some(false), Some(true), None, Some(true)], vec![Some(true); 4]];
        let told = Told::of(&hits, &others);
        assert_eq!((told.indices.clone(), told.hits.clone()), (vec![0, 3], vec![true, false]));
        assert_eq!(told.outcomes, [[false, true], [true, true]]);
        assert_eq!(told.with_payload().collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn certainty_is_never_absolute() {
        let perfect = Contrast::measure(&[true; 32], &[vec![false; 32]], 1).unwrap().unwrap();
        assert!(perfect.uplift.lower < 0.95, "32 prompts cannot show an uplift of 1: {:?}", perfect.uplift);
    }
}
