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
    fn refuses_what_it_cannot_pair() {
        let bootstrap = Bootstrap::new(10, 0.95, 7).unwrap();
        assert!(bootstrap.auc(&[1.0], &[1.0, 2.0]).is_err());
        assert!(bootstrap.auc(&[1.0, f64::NAN], &[1.0, 2.0]).is_err());
        assert_eq!(bootstrap.auc(&[1.0], &[2.0]).unwrap(), None);
    }
}
