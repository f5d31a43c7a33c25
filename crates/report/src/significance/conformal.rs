//! The rank of an observation within a null sample.

use crate::error::StatisticsError;
use crate::estimate::clopper_pearson;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A p-value from ranks, with the least value that its null sample allows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EmpiricalP {
    /// Share of the null sample, the observation included, that is at least as large as the observation.
    pub p_value: f64,
    /// `1 / (n_null + 1)`: no observation, however large, can have a smaller p-value.
    pub bound: f64,
    /// Size of the null sample.
    pub n_null: usize,
}

/// The p-value `(1 + #{null >= observed}) / (n_null + 1)` of an observation for which large values speak
/// against the null hypothesis.
///
/// It is valid whenever the observation and the null sample are exchangeable (Vovk, Gammerman and Shafer,
/// *Algorithmic Learning in a Random World*, 2005, section 2.2; Phipson and Smyth, "Permutation p-values
/// should never be zero", 2010). With five benign adapters it cannot fall below 1/6, whatever is measured:
/// `bound` says so. `None` without a null sample. Infinite values are ranked like others.
///
/// # Errors
/// If a value is NaN.
pub fn empirical_p(observed: f64, null: &[f64]) -> Result<Option<EmpiricalP>, StatisticsError> {
    if observed.is_nan() {
        return Err(StatisticsError::NotFinite { what: "the observation", index: 0, value: observed });
    }
    if let Some(index) = null.iter().position(|value| value.is_nan()) {
        return Err(StatisticsError::NotFinite { what: "the null sample", index, value: null[index] });
    }
    if null.is_empty() {
        return Ok(None);
    }
    let at_least = null.iter().filter(|&&value| value >= observed).count();
    let total = (null.len() + 1) as f64;
    Ok(Some(EmpiricalP { p_value: (at_least + 1) as f64 / total, bound: 1.0 / total, n_null: null.len() }))
}

/// The largest `p` such that flagging what has a p-value of at most `p` against a null sample of `n_null` flags, with
/// this `confidence` over null samples, no more than a share `level` of what is like it. `None` if the sample is too
/// small for any.
///
/// A p-value keeps its promise on average over null samples: of one of them, the share with `p <= k / (n + 1)` is
/// spread as Beta(k, n + 1 - k) (Vovk, "Conditional validity of inductive conformal predictors", 2012), and may lie well
/// above `k / (n + 1)`. That distribution's quantile is the upper Clopper-Pearson bound of `k - 1` in `n`.
///
/// # Errors
/// If `confidence` is not between 0 and 1.
pub fn kept_p(n_null: usize, level: f64, confidence: f64) -> Result<Option<f64>, StatisticsError> {
    let mut kept = None;
    for k in 1..=n_null {
        // One side of an interval that leaves out twice as much.
        let bound = clopper_pearson(k - 1, n_null, 2.0 * confidence - 1.0)?;
        if bound.is_none_or(|bound| bound.upper > level) {
            break;
        }
        kept = Some(k as f64 / (n_null + 1) as f64);
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goldens::assert_close;
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn a_promise_is_kept_by_nearly_every_null_sample() {
        // (1 - 0.01)^298 = 0.0500, ^299 = 0.0495: the smallest sample whose largest value is far enough out.
        assert_eq!(kept_p(298, 0.01, 0.95).unwrap(), None);
        assert_close(kept_p(299, 0.01, 0.95).unwrap().unwrap(), 1.0 / 300.0, 1e-12);
        assert_close(kept_p(500, 0.01, 0.95).unwrap().unwrap(), 2.0 / 501.0, 1e-12);
        assert_eq!(kept_p(0, 0.5, 0.95).unwrap(), None);
        // Uniform null samples of 60 at a level of 0.1: how often is the share beyond the limit larger?
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let kept = kept_p(60, 0.1, 0.95).unwrap().unwrap();
        let k = (kept * 61.0).round() as usize;
        let broken = (0..4_000).filter(|_| {
            let mut null: Vec<f64> = (0..60).map(|_| random.random()).collect();
            null.sort_by(f64::total_cmp);
            // What lies above the k-th largest has at most k - 1 of the sample at or above it.
            1.0 - null[60 - k] > 0.1
        });
        let share = broken.count() as f64 / 4_000.0;
        assert!((0.01..=0.06).contains(&share), "{share} of samples break the promise, k = {k}");
    }

    #[test]
    fn counts_ties_against_the_observation() {
        let found = empirical_p(3.0, &[1.0, 2.0, 3.0, 4.0]).unwrap().unwrap();
        assert_close(found.p_value, 3.0 / 5.0, 1e-15);
        assert_close(found.bound, 1.0 / 5.0, 1e-15);
        assert_eq!(found.n_null, 4);
    }

    #[test]
    fn five_controls_cannot_show_five_percent() {
        let found = empirical_p(f64::INFINITY, &[0.0; 5]).unwrap().unwrap();
        assert_close(found.p_value, 1.0 / 6.0, 1e-15);
        assert_close(found.p_value, found.bound, 0.0);
    }

    #[test]
    fn no_null_is_no_p_value() {
        assert_eq!(empirical_p(1.0, &[]).unwrap(), None);
        assert!(empirical_p(f64::NAN, &[1.0]).is_err());
        assert!(empirical_p(1.0, &[0.0, f64::NAN]).is_err());
    }

    #[test]
    fn exchangeable_observations_reject_no_more_often_than_the_level() {
        // Each value in turn against the others: exactly the fraction alpha is at or below alpha.
        let values: Vec<f64> = (0..20).map(|i| f64::from(i * 7 % 20)).collect();
        let rejected = (0..20).filter(|&i| {
            let others: Vec<f64> = (0..20).filter(|&j| j != i).map(|j| values[j]).collect();
            empirical_p(values[i], &others).unwrap().unwrap().p_value <= 0.1 + 1e-12
        });
        assert_eq!(rejected.count(), 2);
    }

    proptest! {
        #[test]
        fn within_bounds_and_monotone(
            null in proptest::collection::vec(-5.0_f64..5.0, 1..30),
            x in -6.0_f64..6.0,
            step in 0.0_f64..3.0,
        ) {
            let low = empirical_p(x, &null).unwrap().unwrap();
            let high = empirical_p(x + step, &null).unwrap().unwrap();
            prop_assert!(low.bound <= low.p_value && low.p_value <= 1.0);
            prop_assert!(high.p_value <= low.p_value);
        }
    }
}
