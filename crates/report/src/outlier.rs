//! The anomaly index of Neural Cleanse (Wang et al., "Neural Cleanse: identifying and mitigating backdoor
//! attacks in neural networks", 2019): how many robust standard deviations a value lies from the median of
//! its sample.
//!
//! The median absolute deviation (MAD) serves as the scale because the outliers sought would inflate a
//! standard deviation and hide themselves (Iglewicz and Hoaglin, *How to Detect and Handle Outliers*, 1993).
//!
//! The index is no p-value. Neural Cleanse flags indices above 2, but so does chance: of samples of 10
//! independent normal values 52 % hold such an index, of 100 values 98 % (simulated, 40,000 samples each).
//! Use it to rank, and a null sample to judge ([`empirical_p`](crate::significance::empirical_p)).

use crate::error::{StatisticsError, all_finite};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Standard deviations of a normal distribution per MAD: `1 / quantile(3/4)`, because half of a normal
/// population lies within `quantile(3/4)` standard deviations of its median.
pub const MAD_TO_STANDARD_DEVIATION: f64 = 1.482_602_218_505_602;

/// Standard deviations of a normal distribution per mean absolute deviation: `sqrt(pi / 2)`.
pub const MEAN_DEVIATION_TO_STANDARD_DEVIATION: f64 = 1.253_314_137_315_500_3;

/// The smallest sample with a scale: with five values the MAD still withstands two arbitrary ones.
pub const MINIMUM_SAMPLE: usize = 5;

/// Robust location and scale of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RobustScale {
    /// Median of the sample.
    pub median: f64,
    /// Median absolute deviation from the median; zero if more than half of the sample is equal.
    pub mad: f64,
    /// What a normal sample's standard deviation would be; positive.
    pub standard_deviation: f64,
    /// Size of the sample.
    pub n: usize,
}

impl RobustScale {
    /// Measures a sample.
    ///
    /// If the MAD is zero, the mean absolute deviation takes its place, as Iglewicz and Hoaglin advise.
    /// `None` for fewer than [`MINIMUM_SAMPLE`] values, and if all are equal: then there is no scale to
    /// measure an anomaly with.
    ///
    /// # Errors
    /// If a value is not finite.
    pub fn of(values: &[f64]) -> Result<Option<Self>, StatisticsError> {
        all_finite("the sample", values)?;
        let n = values.len();
        if n < MINIMUM_SAMPLE {
            return Ok(None);
        }
        let median = median(values.to_vec());
        let deviations: Vec<f64> = values.iter().map(|value| (value - median).abs()).collect();
        let mean_deviation = deviations.iter().sum::<f64>() / n as f64;
        let mad = self::median(deviations);
        let standard_deviation = if mad > 0.0 {
            MAD_TO_STANDARD_DEVIATION * mad
        } else {
            MEAN_DEVIATION_TO_STANDARD_DEVIATION * mean_deviation
        };
        Ok((standard_deviation > 0.0).then_some(Self { median, mad, standard_deviation, n }))
    }

    /// How many robust standard deviations `value` lies above the median; negative below it.
    pub fn modified_z_score(&self, value: f64) -> f64 {
        (value - self.median) / self.standard_deviation
    }

    /// The anomaly index: the modified z-score without its sign.
    pub fn anomaly_index(&self, value: f64) -> f64 {
        self.modified_z_score(value).abs()
    }
}

/// The anomaly index of each value within its own sample, or `None` where the sample has no scale (see
/// [`RobustScale::of`]).
///
/// # Errors
/// If a value is not finite.
pub fn anomaly_indices(values: &[f64]) -> Result<Option<Vec<f64>>, StatisticsError> {
    let scale = RobustScale::of(values)?;
    Ok(scale.map(|scale| values.iter().map(|&value| scale.anomaly_index(value)).collect()))
}

/// The median of a non-empty sample.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { 0.5 * (values[middle - 1] + values[middle]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goldens::{assert_close, golden, number, numbers};
    use proptest::prelude::*;
    use statrs::distribution::{ContinuousCDF, Normal};

    #[test]
    fn agrees_with_scipy() {
        for case in golden("median_absolute_deviation").as_array().unwrap() {
            let values = numbers(&case["values"]);
            let found = RobustScale::of(&values).unwrap().unwrap();
            assert_close(found.median, number(&case["median"]), 1e-12);
            assert_close(found.mad, number(&case["mad"]), 1e-12);
            assert_close(found.standard_deviation, number(&case["normal_mad"]), 1e-12);
        }
    }

    #[test]
    fn constants_are_those_of_the_normal_distribution() {
        let quartile = Normal::standard().inverse_cdf(0.75);
        assert_close(MAD_TO_STANDARD_DEVIATION, 1.0 / quartile, 1e-9);
        assert_close(MEAN_DEVIATION_TO_STANDARD_DEVIATION, (std::f64::consts::PI / 2.0).sqrt(), 1e-15);
    }

    #[test]
    fn one_target_with_a_short_trigger() {
        // Nine norms around 100 and one of 20: median 100, MAD 2.
        let norms = [98.0, 102.0, 100.0, 99.0, 101.0, 97.0, 103.0, 100.0, 104.0, 20.0];
        let found = RobustScale::of(&norms).unwrap().unwrap();
        assert_close(found.median, 100.0, 0.0);
        assert_close(found.mad, 2.0, 0.0);
        assert_close(found.modified_z_score(20.0), -80.0 / (2.0 * MAD_TO_STANDARD_DEVIATION), 1e-12);
        let indices = anomaly_indices(&norms).unwrap().unwrap();
        assert_eq!(indices.iter().filter(|&&index| index > 2.0).count(), 1);
        assert!(indices[9] > 20.0);
    }

    #[test]
    fn a_zero_mad_falls_back_on_the_mean_deviation() {
        let found = RobustScale::of(&[1.0, 1.0, 1.0, 1.0, 1.0, 7.0]).unwrap().unwrap();
        assert_close(found.mad, 0.0, 0.0);
        assert_close(found.standard_deviation, MEAN_DEVIATION_TO_STANDARD_DEVIATION, 1e-15);
        assert_close(found.anomaly_index(7.0), 6.0 / MEAN_DEVIATION_TO_STANDARD_DEVIATION, 1e-12);
        assert_close(found.anomaly_index(1.0), 0.0, 0.0);
    }

    #[test]
    fn no_scale_no_index() {
        assert_eq!(anomaly_indices(&[]).unwrap(), None);
        assert_eq!(anomaly_indices(&[1.0, 2.0, 3.0, 400.0]).unwrap(), None);
        assert_eq!(anomaly_indices(&[2.0; 9]).unwrap(), None);
        assert!(anomaly_indices(&[1.0, 2.0, 3.0, 4.0, f64::NAN]).is_err());
        assert!(anomaly_indices(&[f64::INFINITY; 5]).is_err());
    }

    proptest! {
        #[test]
        fn shift_and_scale_do_not_matter(
            values in proptest::collection::vec(-100.0_f64..100.0, 5..30),
            shift in -50.0_f64..50.0,
            scale in 0.5_f64..20.0,
        ) {
            let moved: Vec<f64> = values.iter().map(|value| scale * value + shift).collect();
            let indices = (anomaly_indices(&values).unwrap(), anomaly_indices(&moved).unwrap());
            if let (Some(before), Some(after)) = indices {
                for (before, after) in before.iter().zip(after) {
                    prop_assert!((before - after).abs() <= 1e-6 * (1.0 + before));
                }
            }
        }

        #[test]
        fn two_of_five_cannot_hide(outlier in 1e3_f64..1e9) {
            let indices = anomaly_indices(&[1.0, 2.0, 3.0, outlier, outlier]).unwrap().unwrap();
            prop_assert!(indices[3] > 100.0 && indices[4] > 100.0);
        }
    }
}
