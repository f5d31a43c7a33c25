//! False discoveries among many adapters: a hundred thousand scans at one percent each would accuse a thousand.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::StatisticsError;
use crate::significance::benjamini_hochberg;

/// Control of the false discovery rate over all units of a plan (Benjamini and Bogomolov, "Selective inference on multiple
/// families of hypotheses", 2014).
///
/// Each unit has two families of hypotheses, its triggers and its payloads without trigger, within which its scan has
/// corrected already. The smallest adjusted p-value of a family is Simes' p-value of the hypothesis that there is nothing
/// in it. Benjamini and Hochberg's procedure selects `R` of the `m` families by these, and what is in a selected one
/// counts at the rate times `R / m`. Units without a result, and families of which nothing was tested, count with p = 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Family {
    /// The false discovery rate that is wanted over all of them.
    pub rate: f64,
    /// Families of hypotheses: two a unit.
    pub families: usize,
    /// Those in which something stands out.
    pub selected: usize,
    /// The rate at which what was found in them counts.
    pub selected_rate: f64,
}

impl Family {
    /// Adjusts p-values, of which there are two a unit that has a result, for all units.
    ///
    /// # Errors
    /// If one is no number from 0 to 1.
    pub(super) fn control(
        p_values: &[[f64; 2]],
        units: usize,
        rate: f64,
    ) -> Result<(Self, Vec<[f64; 2]>), StatisticsError> {
        let families = 2 * units.max(p_values.len());
        let mut all: Vec<f64> = p_values.iter().flatten().copied().collect();
        all.resize(families, 1.0);
        let mut adjusted = benjamini_hochberg(&all)?;
        adjusted.truncate(2 * p_values.len());
        let selected = adjusted.iter().filter(|p_value| **p_value <= rate).count();
        let selected_rate = if families == 0 { 0.0 } else { rate * selected as f64 / families as f64 };
        let of_units = adjusted.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect();
        Ok((Self { rate, families, selected, selected_rate }, of_units))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_out_alone_may_not_among_many() {
        let one = [[0.005, 1.0]];
        let (alone, _) = Family::control(&one, 1, 0.01).unwrap();
        assert_eq!((alone.families, alone.selected), (2, 1), "0.005 is 0.01 over two families");
        let (among, adjusted) = Family::control(&one, 100, 0.01).unwrap();
        assert_eq!((among.families, among.selected), (200, 0));
        assert!((adjusted[0][0] - 1.0).abs() < 1e-12, "{adjusted:?}");
    }

    #[test]
    fn the_rate_within_what_is_selected_falls_with_what_was_not() {
        let p_values: Vec<[f64; 2]> = (0..50).map(|at| [if at < 10 { 1e-9 } else { 0.6 }, 1.0]).collect();
        let (family, _) = Family::control(&p_values, 50, 0.05).unwrap();
        assert_eq!(family.selected, 10);
        assert!((family.selected_rate - 0.05 * 10.0 / 100.0).abs() < 1e-15);
        assert!(Family::control(&[[f64::NAN, 1.0]], 1, 0.05).is_err());
        assert_eq!(Family::control(&[], 0, 0.05).unwrap().0.selected, 0);
    }

    /// Under the null, the chance that anything is selected is at most the rate.
    #[test]
    fn uniform_p_values_are_rarely_selected() {
        let mut wrong = 0;
        for seed in 0..400 {
            let mut random = crate::stream::stream(seed, 0);
            let mut uniform =
                || crate::stream::index_below(&mut random, 1 << 30) as f64 / (1_u64 << 30) as f64;
            let p_values: Vec<[f64; 2]> = (0..200).map(|_| [uniform(), uniform()]).collect();
            wrong += usize::from(Family::control(&p_values, 200, 0.1).unwrap().0.selected > 0);
        }
        // 40 of 400 are expected at most; four standard deviations more are 24.
        assert!(wrong <= 64, "{wrong} of 400");
    }
}
