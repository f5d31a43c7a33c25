//! Permutation tests of a difference in means (Fisher, *The Design of Experiments*, 1935; Pitman, 1937).
//!
//! Few observations are enumerated, and the p-value is exact; many are sampled, and the p-value is `(b + 1) /
//! (m + 1)` with the observed arrangement counted, so that it is never zero (Phipson and Smyth, 2010).

use super::Alternative;
use crate::error::{StatisticsError, all_finite, same_length};
use crate::stream::{index_below, stream};
use rand_chacha::rand_core::Rng;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Up to this many arrangements are enumerated: all signs of 16 pairs.
const MAX_ENUMERATED: usize = 1 << 16;

/// Sums this close, relative to the sum of magnitudes, are ties: the same numbers added in another order.
const TIE_TOLERANCE: f64 = 1e-12;

/// How to sample arrangements when there are too many to enumerate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MonteCarlo {
    /// Arrangements drawn; the p-value cannot fall below `1 / (resamples + 1)`.
    pub resamples: usize,
    /// Seed of the draws.
    pub seed: u64,
}

/// The outcome of a permutation test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PermutationTest {
    /// Difference of means, second less first.
    pub difference: f64,
    /// The p-value for the alternative asked for.
    pub p_value: f64,
    /// Arrangements compared, the observed one included.
    pub arrangements: usize,
    /// Whether these were all there are.
    pub exact: bool,
}

/// Tests whether the differences `second - first` of paired observations have mean zero, by flipping their
/// signs.
///
/// All `2^n` signs are enumerated for up to 16 pairs. `None` without pairs.
///
/// # Errors
/// If the slices differ in length, a value is not finite, or no resample is asked for.
pub fn paired_permutation(
    first: &[f64],
    second: &[f64],
    alternative: Alternative,
    monte_carlo: MonteCarlo,
) -> Result<Option<PermutationTest>, StatisticsError> {
    same_length(first.len(), second.len())?;
    check(first, second, monte_carlo)?;
    if first.is_empty() {
        return Ok(None);
    }
    let differences: Vec<f64> = second.iter().zip(first).map(|(second, first)| second - first).collect();
    let observed: f64 = differences.iter().sum();
    let tally = Tally::new(observed, &differences);
    let n = differences.len();
    let exact = n < usize::BITS as usize && 1 << n <= MAX_ENUMERATED;
    let counts = if exact {
        (0..1_u64 << n).into_par_iter().map(|signs| tally.compare(flipped_sum(&differences, signs))).sum()
    } else {
        let sampled = |index| {
            let mut random = stream(monte_carlo.seed, index as u64);
            let sum = differences.chunks(64).map(|chunk| flipped_sum(chunk, random.next_u64())).sum();
            tally.compare(sum)
        };
        (0..monte_carlo.resamples).into_par_iter().map(sampled).sum::<Counts>().with_observed()
    };
    Ok(Some(counts.test(observed / n as f64, alternative, exact)))
}

/// Tests whether two independent samples have the same distribution, by the difference of their means under
/// relabelling.
///
/// All relabellings are enumerated if they are at most 65,536. `None` if a sample is empty.
///
/// # Errors
/// If a value is not finite or no resample is asked for.
pub fn two_sample_permutation(
    first: &[f64],
    second: &[f64],
    alternative: Alternative,
    monte_carlo: MonteCarlo,
) -> Result<Option<PermutationTest>, StatisticsError> {
    check(first, second, monte_carlo)?;
    if first.is_empty() || second.is_empty() {
        return Ok(None);
    }
    let difference = mean(second) - mean(first);
    // With the total fixed, the sum of the second group orders relabellings as the difference of means does.
    let pooled: Vec<f64> = second.iter().chain(first).copied().collect();
    let size = second.len();
    let tally = Tally::new(second.iter().sum(), &pooled);
    let exact = binomial_coefficient(pooled.len(), size).is_some_and(|count| count <= MAX_ENUMERATED);
    let counts = if exact {
        let mut counts = Counts::default();
        let mut chosen: Vec<usize> = (0..size).collect();
        loop {
            counts = counts + tally.compare(chosen.iter().map(|&index| pooled[index]).sum());
            if !next_combination(&mut chosen, pooled.len()) {
                break counts;
            }
        }
    } else {
        let sampled = |buffer: &mut Vec<f64>, index| {
            let mut random = stream(monte_carlo.seed, index as u64);
            buffer.clone_from(&pooled);
            for place in 0..size {
                buffer.swap(place, place + index_below(&mut random, pooled.len() - place));
            }
            tally.compare(buffer[..size].iter().sum())
        };
        let counts: Counts = (0..monte_carlo.resamples).into_par_iter().map_init(Vec::new, sampled).sum();
        counts.with_observed()
    };
    Ok(Some(counts.test(difference, alternative, exact)))
}

/// The observed sum and how close another must be to tie with it.
struct Tally {
    observed: f64,
    tolerance: f64,
}

impl Tally {
    fn new(observed: f64, values: &[f64]) -> Self {
        Self { observed, tolerance: TIE_TOLERANCE * values.iter().map(|value| value.abs()).sum::<f64>() }
    }

    fn compare(&self, sum: f64) -> Counts {
        Counts {
            arrangements: 1,
            at_least: usize::from(sum >= self.observed - self.tolerance),
            at_most: usize::from(sum <= self.observed + self.tolerance),
        }
    }
}

/// How many arrangements reach the observed sum from either side. Counts, unlike sums of floats, do not
/// depend on the order of threads.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    arrangements: usize,
    at_least: usize,
    at_most: usize,
}

impl Counts {
    fn with_observed(self) -> Self {
        self + Self { arrangements: 1, at_least: 1, at_most: 1 }
    }

    fn test(self, difference: f64, alternative: Alternative, exact: bool) -> PermutationTest {
        let share = |count: usize| count as f64 / self.arrangements as f64;
        PermutationTest {
            difference,
            p_value: alternative.of(share(self.at_least), share(self.at_most)),
            arrangements: self.arrangements,
            exact,
        }
    }
}

impl std::ops::Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            arrangements: self.arrangements + other.arrangements,
            at_least: self.at_least + other.at_least,
            at_most: self.at_most + other.at_most,
        }
    }
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |total, counts| total + counts)
    }
}

fn check(first: &[f64], second: &[f64], monte_carlo: MonteCarlo) -> Result<(), StatisticsError> {
    all_finite("the first sample", first)?;
    all_finite("the second sample", second)?;
    if monte_carlo.resamples == 0 {
        return Err(StatisticsError::OutOfRange { what: "resamples", range: "1..", value: 0.0 });
    }
    Ok(())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The sum of at most 64 values, those with a set bit in `signs` negated.
fn flipped_sum(values: &[f64], signs: u64) -> f64 {
    values.iter().enumerate().map(|(bit, value)| if signs >> bit & 1 == 1 { -value } else { *value }).sum()
}

/// `n` over `k`, or `None` if it overflows on the way.
fn binomial_coefficient(n: usize, k: usize) -> Option<usize> {
    (1..=k.min(n - k)).try_fold(1_usize, |product, i| Some(product.checked_mul(n - i + 1)? / i))
}

/// The next subset of `0..n` of this size in lexicographic order; `false` after the last.
fn next_combination(chosen: &mut [usize], n: usize) -> bool {
    let size = chosen.len();
    let Some(place) = (0..size).rev().find(|&place| chosen[place] < n - size + place) else {
        return false;
    };
    let first = chosen[place] + 1;
    for (offset, index) in chosen[place..].iter_mut().enumerate() {
        *index = first + offset;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goldens::{assert_close, golden, number, numbers};
    use proptest::prelude::*;

    const MONTE_CARLO: MonteCarlo = MonteCarlo { resamples: 4999, seed: 5 };
    const ALTERNATIVES: [(Alternative, &str); 3] = [
        (Alternative::Greater, "greater"),
        (Alternative::Less, "less"),
        (Alternative::TwoSided, "two_sided"),
    ];

    type Test =
        fn(&[f64], &[f64], Alternative, MonteCarlo) -> Result<Option<PermutationTest>, StatisticsError>;

    fn agrees_with_scipy(section: &str, test: Test) {
        for case in golden(section).as_array().unwrap() {
            let (first, second) = (numbers(&case["first"]), numbers(&case["second"]));
            for (alternative, name) in ALTERNATIVES {
                let found = test(&first, &second, alternative, MONTE_CARLO).unwrap().unwrap();
                assert_close(found.difference, number(&case["difference"]), 1e-12);
                let expected = number(&case[name]);
                if case["exact"].as_bool().unwrap() {
                    assert!(found.exact);
                    assert_close(found.p_value, expected, 1e-12);
                } else {
                    assert!(!found.exact);
                    // Five standard errors of the difference of two runs of 4,999 draws, doubled for two
                    // sides.
                    let error = 20.0 * (expected * (1.0 - expected).max(0.01) / 4999.0 / 2.0).sqrt();
                    assert_close(found.p_value, expected, error);
                }
            }
        }
    }

    #[test]
    fn paired_agrees_with_scipy() {
        agrees_with_scipy("paired_permutation", paired_permutation);
    }

    #[test]
    fn two_sample_agrees_with_scipy() {
        agrees_with_scipy("two_sample_permutation", two_sample_permutation);
    }

    #[test]
    fn eight_prompts_that_all_rise() {
        let base = [0.1, 0.2, 0.1, 0.3, 0.2, 0.1, 0.0, 0.2];
        let adapted: Vec<f64> = base.iter().map(|x| x + 0.5).collect();
        let found = paired_permutation(&base, &adapted, Alternative::Greater, MONTE_CARLO).unwrap().unwrap();
        assert_close(found.p_value, 1.0 / 256.0, 1e-15);
        assert_eq!((found.arrangements, found.exact), (256, true));
    }

    #[test]
    fn no_difference_is_no_evidence() {
        for alternative in ALTERNATIVES {
            let found =
                paired_permutation(&[0.3; 20], &[0.3; 20], alternative.0, MONTE_CARLO).unwrap().unwrap();
            assert_close(found.p_value, 1.0, 0.0);
            assert_eq!((found.arrangements, found.exact), (5000, false));
        }
    }

    #[test]
    fn no_data_is_no_test() {
        let paired = |a: &[f64], b: &[f64]| paired_permutation(a, b, Alternative::Greater, MONTE_CARLO);
        let unpaired = |a: &[f64], b: &[f64]| two_sample_permutation(a, b, Alternative::Greater, MONTE_CARLO);
        assert_eq!(paired(&[], &[]).unwrap(), None);
        assert_eq!(unpaired(&[], &[1.0]).unwrap(), None);
        assert_eq!(unpaired(&[1.0], &[]).unwrap(), None);
        assert!(paired(&[1.0], &[]).is_err());
        assert!(paired(&[1.0], &[f64::NAN]).is_err());
        assert!(unpaired(&[f64::INFINITY], &[1.0]).is_err());
        let none = MonteCarlo { resamples: 0, seed: 0 };
        assert!(paired_permutation(&[1.0], &[2.0], Alternative::Greater, none).is_err());
    }

    #[test]
    fn sampling_is_seeded_and_threads_do_not_matter() {
        let first: Vec<f64> = (0..70).map(|i| f64::from(i).sin()).collect();
        let second: Vec<f64> = (0..70).map(|i| f64::from(i).cos() + 0.1).collect();
        let run = |threads, seed| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let settings = MonteCarlo { resamples: 999, seed };
            pool.install(|| {
                (
                    paired_permutation(&first, &second, Alternative::Greater, settings).unwrap(),
                    two_sample_permutation(&first, &second, Alternative::Greater, settings).unwrap(),
                )
            })
        };
        assert_eq!(run(1, 3), run(4, 3));
        assert_ne!(run(1, 3), run(1, 4));
    }

    #[test]
    fn combinations_are_all_there() {
        let mut chosen = vec![0, 1, 2];
        let mut count = 1;
        while next_combination(&mut chosen, 7) {
            count += 1;
        }
        assert_eq!(Some(count), binomial_coefficient(7, 3));
        assert_eq!(chosen, [4, 5, 6]);
        assert_eq!(binomial_coefficient(500, 250), None);
    }

    proptest! {
        #[test]
        fn exact_p_values_are_shares_of_all_arrangements(
            values in proptest::collection::vec((-3_i8..4, -3_i8..4), 1..9),
        ) {
            let first: Vec<f64> = values.iter().map(|pair| f64::from(pair.0)).collect();
            let second: Vec<f64> = values.iter().map(|pair| f64::from(pair.1)).collect();
            let p = |a: &[f64], b: &[f64], side| {
                paired_permutation(a, b, side, MONTE_CARLO).unwrap().unwrap().p_value
            };
            let greater = p(&first, &second, Alternative::Greater);
            let less = p(&first, &second, Alternative::Less);
            // The observed arrangement counts on both sides, so the sides overlap.
            prop_assert!(greater + less >= 1.0 - 1e-12);
            prop_assert!(greater >= 0.5_f64.powi(values.len() as i32) - 1e-12);
            prop_assert!((greater - p(&second, &first, Alternative::Less)).abs() < 1e-12);
        }
    }
}
