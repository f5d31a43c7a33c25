//! The exact test of McNemar for paired yes/no outcomes ("Note on the sampling error of the difference
//! between correlated proportions or percentages", 1947), such as "the payload came without / with the
//! trigger" on the same prompts.

use super::Alternative;
use crate::error::{StatisticsError, same_length};
use statrs::function::beta::checked_beta_reg;

/// The p-value for paired outcomes; [`Alternative::Greater`] means that the second is `true` more often.
/// `None` without pairs.
///
/// # Errors
/// If the slices differ in length.
pub fn mcnemar(
    first: &[bool],
    second: &[bool],
    alternative: Alternative,
) -> Result<Option<f64>, StatisticsError> {
    same_length(first.len(), second.len())?;
    if first.is_empty() {
        return Ok(None);
    }
    let count = |a, b| first.iter().zip(second).filter(|&(&x, &y)| x == a && y == b).count();
    Ok(Some(mcnemar_counts(count(true, false), count(false, true), alternative)))
}

/// The p-value from the numbers of pairs in which only the first, and only the second, outcome is `true`.
///
/// Given the number of discordant pairs, each count is binomial with probability 1/2 under the null
/// hypothesis. Without a discordant pair the p-value is 1: the outcomes agree on every pair.
pub fn mcnemar_counts(only_first: usize, only_second: usize, alternative: Alternative) -> f64 {
    alternative.of(at_least(only_second, only_first), at_least(only_first, only_second))
}

/// `P(X >= hits)` for `X` binomial with `hits + misses` trials and probability 1/2, which is the regularised
/// incomplete beta function `I_{1/2}(hits, misses + 1)`.
fn at_least(hits: usize, misses: usize) -> f64 {
    if hits == 0 {
        return 1.0;
    }
    // Both shapes are at least one, so the function is defined; 1 would be the p-value that claims nothing.
    checked_beta_reg(hits as f64, misses as f64 + 1.0, 0.5).unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goldens::{assert_close, golden, number};

    #[test]
    fn agrees_with_scipy() {
        for case in golden("mcnemar").as_array().unwrap() {
            let count = |name: &str| case[name].as_u64().unwrap() as usize;
            let p = |alternative| mcnemar_counts(count("only_first"), count("only_second"), alternative);
            assert_close(p(Alternative::Greater), number(&case["greater"]), 1e-10);
            assert_close(p(Alternative::Less), number(&case["less"]), 1e-10);
            assert_close(p(Alternative::TwoSided), number(&case["two_sided"]), 1e-10);
        }
    }

    #[test]
    fn pairs_are_counted_in_the_right_direction() {
        let without = [false; 8];
        let with = [true, true, true, true, true, true, false, false];
        let p = |alternative| mcnemar(&without, &with, alternative).unwrap().unwrap();
        assert_close(p(Alternative::Greater), 1.0 / 64.0, 1e-12);
        assert_close(p(Alternative::TwoSided), 2.0 / 64.0, 1e-12);
        assert_close(p(Alternative::Less), 1.0, 1e-12);
    }

    #[test]
    fn degenerate_pairs() {
        assert_eq!(mcnemar(&[], &[], Alternative::Greater).unwrap(), None);
        assert!(mcnemar(&[true], &[], Alternative::Greater).is_err());
        for alternative in [Alternative::Greater, Alternative::Less, Alternative::TwoSided] {
            assert_close(mcnemar(&[true, false], &[true, false], alternative).unwrap().unwrap(), 1.0, 0.0);
        }
    }
}
