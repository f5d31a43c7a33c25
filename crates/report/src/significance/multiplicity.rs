//! Corrections for many tests: a sweep over thousands of triggers finds small p-values by chance alone.
//!
//! All functions return adjusted p-values in the order of the input: a test is rejected at level alpha if its
//! adjusted p-value is at most alpha.

use crate::error::StatisticsError;

/// Controls the false discovery rate of independent or positively dependent tests (Benjamini and Hochberg,
/// "Controlling the false discovery rate", 1995).
///
/// # Errors
/// If a value is not a number from 0 to 1.
pub fn benjamini_hochberg(p_values: &[f64]) -> Result<Vec<f64>, StatisticsError> {
    step_up(p_values, 1.0)
}

/// Controls the false discovery rate under any dependence (Benjamini and Yekutieli, "The control of the false
/// discovery rate in multiple testing under dependency", 2001), at the price of a factor of about `ln n`.
///
/// # Errors
/// If a value is not a number from 0 to 1.
pub fn benjamini_yekutieli(p_values: &[f64]) -> Result<Vec<f64>, StatisticsError> {
    let harmonic: f64 = (1..=p_values.len()).map(|rank| 1.0 / rank as f64).sum();
    step_up(p_values, harmonic)
}

/// Controls the chance of any false rejection under any dependence (Holm, "A simple sequentially rejective
/// multiple test procedure", 1979).
///
/// # Errors
/// If a value is not a number from 0 to 1.
pub fn holm(p_values: &[f64]) -> Result<Vec<f64>, StatisticsError> {
    let order = ascending(p_values)?;
    let n = p_values.len();
    let mut adjusted = vec![0.0; n];
    let mut largest: f64 = 0.0;
    for (rank, &index) in order.iter().enumerate() {
        largest = largest.max((n - rank) as f64 * p_values[index]);
        adjusted[index] = largest.min(1.0);
    }
    Ok(adjusted)
}

/// `min` over ranks `k >= rank` of `factor n p_(k) / k`, capped at one.
fn step_up(p_values: &[f64], factor: f64) -> Result<Vec<f64>, StatisticsError> {
    let order = ascending(p_values)?;
    let n = p_values.len();
    let mut adjusted = vec![0.0; n];
    let mut smallest: f64 = 1.0;
    for (rank, &index) in order.iter().enumerate().rev() {
        smallest = smallest.min(factor * n as f64 * p_values[index] / (rank + 1) as f64);
        adjusted[index] = smallest;
    }
    Ok(adjusted)
}

/// The indices in order of their p-values.
fn ascending(p_values: &[f64]) -> Result<Vec<usize>, StatisticsError> {
    if let Some(&value) = p_values.iter().find(|p| !(0.0..=1.0).contains(*p)) {
        return Err(StatisticsError::OutOfRange { what: "p-value", range: "[0, 1]", value });
    }
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goldens::{assert_close, golden, numbers};
    use proptest::prelude::*;

    #[test]
    fn agrees_with_scipy() {
        for case in golden("multiplicity").as_array().unwrap() {
            let p_values = numbers(&case["p_values"]);
            for (found, name) in [
                (benjamini_hochberg(&p_values).unwrap(), "bh"),
                (benjamini_yekutieli(&p_values).unwrap(), "by"),
                (holm(&p_values).unwrap(), "holm"),
            ] {
                let expected = numbers(&case[name]);
                assert_eq!(found.len(), expected.len());
                for (found, expected) in found.iter().zip(expected) {
                    assert_close(*found, expected, 1e-12);
                }
            }
        }
    }

    #[test]
    fn edges() {
        for adjust in [benjamini_hochberg, benjamini_yekutieli, holm] {
            assert!(adjust(&[]).unwrap().is_empty());
            assert_close(adjust(&[0.03]).unwrap()[0], 0.03, 1e-15);
            for bad in [f64::NAN, -0.1, 1.1] {
                assert!(adjust(&[0.5, bad]).is_err(), "{bad}");
            }
        }
    }

    proptest! {
        #[test]
        fn order_and_bounds(p_values in proptest::collection::vec(0.0_f64..=1.0, 1..30)) {
            let bh = benjamini_hochberg(&p_values).unwrap();
            let by = benjamini_yekutieli(&p_values).unwrap();
            let holm = holm(&p_values).unwrap();
            for i in 0..p_values.len() {
                prop_assert!(p_values[i] <= bh[i] + 1e-12 && bh[i] <= 1.0);
                prop_assert!(bh[i] <= by[i] && by[i] <= 1.0);
                prop_assert!(bh[i] <= holm[i] + 1e-12 && holm[i] <= 1.0);
                for j in 0..p_values.len() {
                    if p_values[i] <= p_values[j] {
                        prop_assert!(bh[i] <= bh[j] && by[i] <= by[j] && holm[i] <= holm[j]);
                    }
                }
            }
        }
    }
}
