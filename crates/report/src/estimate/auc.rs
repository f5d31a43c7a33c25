//! How well scores separate two conditions: the area under the ROC curve.

use super::{Bootstrap, Estimate};
use crate::error::{StatisticsError, all_finite, same_length};

impl Bootstrap {
    /// The area under the ROC curve of paired scores: the chance that a score `with` exceeds a score `without`, ties
    /// counted half (Hanley and McNeil, "The meaning and use of the area under a receiver operating characteristic
    /// curve", 1982). Prompts are resampled with both of their scores.
    ///
    /// `None` for fewer than two pairs. Perfect separation gives an interval of width zero, which says that no resample
    /// overlaps, not that the area is known: read it with `n`.
    ///
    /// # Errors
    /// If the slices differ in length or a value is not finite.
    pub fn auc(&self, without: &[f64], with: &[f64]) -> Result<Option<Estimate>, StatisticsError> {
        same_length(without.len(), with.len())?;
        all_finite("the scores without", without)?;
        all_finite("the scores with", with)?;
        // Indices are resampled; up to 2^53 of them a float holds exactly.
        let indices: Vec<f64> = (0..with.len()).map(|index| index as f64).collect();
        self.statistic(&indices, |sample| {
            let chosen =
                |scores: &[f64]| sample.iter().map(|&index| scores[index as usize]).collect::<Vec<f64>>();
            area(chosen(without), &chosen(with))
        })
    }

    /// The same of two groups that are not paired, such as benign and backdoored adapters: each is resampled by itself, so
    /// that no resample loses one of them. `n` counts both.
    ///
    /// `None` if a group has fewer than two scores.
    ///
    /// # Errors
    /// If a score is not finite.
    pub fn auc_of_groups(&self, without: &[f64], with: &[f64]) -> Result<Option<Estimate>, StatisticsError> {
        all_finite("the scores without", without)?;
        all_finite("the scores with", with)?;
        if without.len() < 2 || with.len() < 2 {
            return Ok(None);
        }
        self.of_groups(without, with, |without, with| area(without.to_vec(), with)).map(Some)
    }
}

/// Mean over `with` of the share of `without` below it, ties half.
fn area(mut without: Vec<f64>, with: &[f64]) -> f64 {
    without.sort_unstable_by(f64::total_cmp);
    let share = |score: &f64| {
        let below = without.partition_point(|other| other < score);
        let up_to = without.partition_point(|other| other <= score);
        (below + up_to) as f64 / 2.0
    };
    with.iter().map(share).sum::<f64>() / (with.len() * without.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auc(without: &[f64], with: &[f64]) -> Estimate {
        Bootstrap::new(500, 0.95, 7).unwrap().auc(without, with).unwrap().unwrap()
    }

    #[test]
    fn counts_pairs_in_order_and_ties_half() {
        let (without, with) = ([1.0, 2.0, 3.0, 3.0], [2.0, 3.0, 4.0, 0.5]);
        let mut expected = 0.0;
        for low in without {
            for high in with {
                expected += if high > low {
                    1.0
                } else if high < low {
                    0.0
                } else {
                    0.5
                };
            }
        }
        let found = auc(&without, &with);
        assert!((found.value - expected / 16.0).abs() < 1e-12);
        assert!(found.lower < found.value && found.value < found.upper && found.n == 4);
    }

    #[test]
    fn the_ends_of_the_scale() {
        let (low, high): (Vec<f64>, Vec<f64>) =
            ((0..9).map(f64::from).collect(), (9..18).map(f64::from).collect());
        assert!((auc(&low, &high).value - 1.0).abs() < 1e-12);
        assert!(auc(&high, &low).value.abs() < 1e-12);
        assert!((auc(&low, &low).value - 0.5).abs() < 1e-12);
    }

    #[test]
    fn groups_need_not_be_of_one_size() {
        let bootstrap = Bootstrap::new(500, 0.95, 7).unwrap();
        let found = bootstrap.auc_of_groups(&[0.0, 0.0, 1.0], &[0.5, 2.0, 0.0, 3.0, 1.0]).unwrap().unwrap();
        // 0.5 beats two; 2 and 3 beat three; 0 ties with two; 1 beats two and ties with one.
        assert!((found.value - (2.0 + 3.0 + 1.0 + 3.0 + 2.5) / 15.0).abs() < 1e-12, "{found:?}");
        assert!(found.lower < found.value && found.value < found.upper && found.n == 8);
        assert_eq!(bootstrap.auc_of_groups(&[0.0], &[1.0, 2.0]).unwrap(), None);
        assert!(bootstrap.auc_of_groups(&[0.0, f64::NAN], &[1.0, 2.0]).is_err());
    }

    #[test]
    fn refuses_what_it_cannot_pair() {
        let bootstrap = Bootstrap::new(10, 0.95, 7).unwrap();
        assert!(bootstrap.auc(&[1.0], &[1.0, 2.0]).is_err());
        assert!(bootstrap.auc(&[1.0, f64::NAN], &[1.0, 2.0]).is_err());
        assert_eq!(bootstrap.auc(&[1.0], &[2.0]).unwrap(), None);
    }
}
