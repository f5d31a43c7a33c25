//! Intervals of a proportion, such as an attack success rate or a rate of false positives.

use super::Estimate;
use crate::error::{StatisticsError, confidence_level};
use statrs::distribution::{ContinuousCDF, Normal};
use statrs::function::beta::checked_beta_reg;

/// The exact interval of Clopper and Pearson ("The use of confidence or fiducial limits illustrated in the
/// case of the binomial", 1934).
///
/// It never covers less than `confidence`, which is why claims about false positives use it. The upper end at
/// level 0.90 is the one-sided 95 % bound: 0 of 60 gives 0.049, and 0.060 at level 0.95. `None` without
/// trials.
///
/// # Errors
/// If there are more successes than trials, or the level is not strictly between 0 and 1.
pub fn clopper_pearson(
    successes: usize,
    trials: usize,
    confidence: f64,
) -> Result<Option<Estimate>, StatisticsError> {
    check(successes, trials, confidence)?;
    if trials == 0 {
        return Ok(None);
    }
    let tail = 0.5 * (1.0 - confidence);
    let (hits, misses) = (successes as f64, (trials - successes) as f64);
    let lower = if successes == 0 { 0.0 } else { beta_quantile(hits, misses + 1.0, tail) };
    // The upper end is one less the lower end of the failures; small tails keep their precision this way.
    let upper = if successes == trials { 1.0 } else { 1.0 - beta_quantile(misses, hits + 1.0, tail) };
    Ok(Some(Estimate { value: hits / trials as f64, lower, upper, n: trials, confidence }))
}

/// The score interval of Wilson ("Probable inference, the law of succession, and statistical inference",
/// 1927).
///
/// Shorter than [`clopper_pearson`] and right on average over proportions, but not for each; for displays,
/// not for claims. `None` without trials.
///
/// # Errors
/// If there are more successes than trials, or the level is not strictly between 0 and 1.
pub fn wilson(successes: usize, trials: usize, confidence: f64) -> Result<Option<Estimate>, StatisticsError> {
    check(successes, trials, confidence)?;
    if trials == 0 {
        return Ok(None);
    }
    let n = trials as f64;
    let value = successes as f64 / n;
    let z = Normal::standard().inverse_cdf(0.5 * (1.0 + confidence));
    let shrink = 1.0 / (1.0 + z * z / n);
    let centre = (value + z * z / (2.0 * n)) * shrink;
    let half_width = z * (value * (1.0 - value) / n + z * z / (4.0 * n * n)).sqrt() * shrink;
    // The score interval touches 0 and 1 exactly; the square root only nearly.
    let lower = if successes == 0 { 0.0 } else { (centre - half_width).max(0.0) };
    let upper = if successes == trials { 1.0 } else { (centre + half_width).min(1.0) };
    Ok(Some(Estimate { value, lower, upper, n: trials, confidence }))
}

fn check(successes: usize, trials: usize, confidence: f64) -> Result<(), StatisticsError> {
    confidence_level(confidence)?;
    if successes > trials {
        let value = successes as f64;
        return Err(StatisticsError::OutOfRange { what: "successes", range: "0..=trials", value });
    }
    Ok(())
}

/// The quantile of the beta distribution, by bisection of its distribution function to the last bit.
///
/// Newton's method as in statrs stops short of full precision for small shapes and can cycle; a bisection
/// costs some hundred evaluations and does neither.
fn beta_quantile(a: f64, b: f64, probability: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return middle;
        }
        // The callers pass positive shapes and `middle` is within (0, 1), so the distribution function is
        // defined.
        if checked_beta_reg(a, b, middle).is_ok_and(|below| below < probability) {
            low = middle;
        } else {
            high = middle;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goldens::{assert_close, golden, number};
    use proptest::prelude::*;

    #[test]
    fn agrees_with_scipy() {
        let cases = golden("proportion");
        assert!(cases.as_array().unwrap().len() > 20);
        for case in cases.as_array().unwrap() {
            let count = |name: &str| case[name].as_u64().unwrap() as usize;
            let (successes, trials) = (count("successes"), count("trials"));
            let confidence = number(&case["confidence"]);
            let exact = clopper_pearson(successes, trials, confidence).unwrap().unwrap();
            let score = wilson(successes, trials, confidence).unwrap().unwrap();
            assert_close(exact.lower, number(&case["exact"][0]), 1e-10);
            assert_close(exact.upper, number(&case["exact"][1]), 1e-10);
            assert_close(score.lower, number(&case["wilson"][0]), 1e-10);
            assert_close(score.upper, number(&case["wilson"][1]), 1e-10);
        }
    }

    #[test]
    fn no_trial_is_no_estimate() {
        assert_eq!(clopper_pearson(0, 0, 0.95).unwrap(), None);
        assert_eq!(wilson(0, 0, 0.95).unwrap(), None);
    }

    #[test]
    fn impossible_arguments_are_refused() {
        for interval in [clopper_pearson, wilson] {
            assert!(interval(3, 2, 0.95).is_err());
            assert!(interval(1, 2, 1.0).is_err());
            assert!(interval(1, 2, f64::NAN).is_err());
        }
    }

    #[test]
    fn published_upper_bounds_without_a_false_positive() {
        for (trials, two_sided, one_sided) in [(5, 0.52, 0.45), (13, 0.25, 0.21), (60, 0.060, 0.049)] {
            let upper = |level| clopper_pearson(0, trials, level).unwrap().unwrap().upper;
            assert_close(upper(0.95), two_sided, 0.005);
            assert_close(upper(0.90), one_sided, 0.005);
        }
    }

    proptest! {
        #[test]
        fn intervals_hold_the_proportion_and_mirror(
            trials in 1_usize..200,
            part in 0.0_f64..1.0,
            level in 0.5_f64..0.999,
        ) {
            let successes = (part * (trials + 1) as f64) as usize;
            for interval in [clopper_pearson, wilson] {
                let found = interval(successes, trials, level).unwrap().unwrap();
                prop_assert!(0.0 <= found.lower && found.lower <= found.value);
                prop_assert!(found.value <= found.upper && found.upper <= 1.0);
                let mirrored = interval(trials - successes, trials, level).unwrap().unwrap();
                prop_assert!((found.lower - (1.0 - mirrored.upper)).abs() < 1e-9);
            }
        }

        #[test]
        fn more_confidence_is_wider(trials in 1_usize..100, part in 0.0_f64..1.0) {
            let successes = (part * (trials + 1) as f64) as usize;
            for interval in [clopper_pearson, wilson] {
                let narrow = interval(successes, trials, 0.8).unwrap().unwrap();
                let wide = interval(successes, trials, 0.99).unwrap().unwrap();
                prop_assert!(wide.lower <= narrow.lower && narrow.upper <= wide.upper);
            }
        }
    }
}
