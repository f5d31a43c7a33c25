//! Several scores of one observation, combined into one p-value that is valid whatever their dependence.

use super::EmpiricalP;
use crate::error::StatisticsError;

/// Differences of sums of logarithms below this are rounding.
const TIE: f64 = 1e-9;

/// A null sample of observations with one score a column, for which large values speak against the null hypothesis.
#[derive(Clone, Debug)]
pub struct RankCombination {
    /// By column, in the order of the observations.
    columns: Vec<Vec<f64>>,
    /// By column: for each observation, how many of the sample are at least as large, itself included.
    at_least: Vec<Vec<usize>>,
}

/// An observation's place within the null sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Combined {
    /// Fisher's sum `-sum(ln p)` over the columns' p-values.
    pub statistic: f64,
    /// Its p-value, by rank.
    pub p: EmpiricalP,
}

impl RankCombination {
    /// From the scores of a null sample, column by column; `None` without a column or without an observation.
    ///
    /// # Errors
    /// If the columns differ in length or a value is NaN.
    pub fn new(columns: Vec<Vec<f64>>) -> Result<Option<Self>, StatisticsError> {
        let Some(first) = columns.first() else { return Ok(None) };
        for column in &columns {
            crate::error::same_length(first.len(), column.len())?;
            if let Some(index) = column.iter().position(|value| value.is_nan()) {
                return Err(StatisticsError::NotFinite { what: "the null sample", index, value: f64::NAN });
            }
        }
        if first.is_empty() {
            return Ok(None);
        }
        let ranks = |column: &Vec<f64>| {
            let mut sorted = column.clone();
            sorted.sort_unstable_by(f64::total_cmp);
            let at_least = |value: &f64| sorted.len() - sorted.partition_point(|other| other < value);
            column.iter().map(at_least).collect()
        };
        let at_least = columns.iter().map(ranks).collect();
        Ok(Some(Self { columns, at_least }))
    }

    /// Combines the scores of an observation, one a column.
    ///
    /// The p-values of a column are ranks within null sample and observation together, and so is that of their sum
    /// (Fisher, *Statistical Methods for Research Workers*, 1932, for the sum). The observation is treated like every
    /// other, so the result is valid if it is exchangeable with the null sample, whether columns depend on each other
    /// or not; the chi-squared distribution of the sum, which needs independence, is not used.
    ///
    /// # Errors
    /// If there are more or fewer scores than columns, or one is NaN.
    pub fn combine(&self, scores: &[f64]) -> Result<Combined, StatisticsError> {
        crate::error::same_length(self.columns.len(), scores.len())?;
        if let Some(index) = scores.iter().position(|score| score.is_nan()) {
            return Err(StatisticsError::NotFinite { what: "the observation", index, value: f64::NAN });
        }
        let n = self.columns[0].len();
        let total = (n + 1) as f64;
        let (mut statistic, mut null) = (0.0, vec![0.0; n]);
        for ((column, at_least), score) in self.columns.iter().zip(&self.at_least).zip(scores) {
            let above = column.iter().filter(|value| *value >= score).count();
            statistic -= ((above + 1) as f64 / total).ln();
            for ((sum, value), count) in null.iter_mut().zip(column).zip(at_least) {
                *sum -= ((count + usize::from(score >= value)) as f64 / total).ln();
            }
        }
        let at_least = null.iter().filter(|&&other| other >= statistic - TIE).count();
        let p = EmpiricalP { p_value: (at_least + 1) as f64 / total, bound: 1.0 / total, n_null: n };
        Ok(Combined { statistic, p })
    }
}

#[cfg(test)]
mod tests {
    use super::super::empirical_p;
    use super::*;

    fn columns(n: usize) -> Vec<Vec<f64>> {
        let column = |step: usize| (0..n).map(|i| ((i * step + 3) % n) as f64).collect();
        vec![column(7), column(11), column(7)]
    }

    #[test]
    fn one_column_is_its_own_rank() {
        let null: Vec<f64> = (0..20).map(f64::from).collect();
        let combination = RankCombination::new(vec![null.clone()]).unwrap().unwrap();
        for observed in [-1.0, 3.0, 7.5, 19.0, 50.0] {
            let alone = empirical_p(observed, &null).unwrap().unwrap();
            assert_eq!(combination.combine(&[observed]).unwrap().p, alone);
        }
    }

    #[test]
    fn an_exchangeable_observation_is_rejected_no_more_often_than_the_level() {
        // Each observation in turn against the others, with dependent columns (two of them are the same).
        let all = columns(40);
        let rejected = (0..40).filter(|&i| {
            let others = all.iter().map(|column| {
                column.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, value)| *value).collect()
            });
            let combination = RankCombination::new(others.collect()).unwrap().unwrap();
            let scores: Vec<f64> = all.iter().map(|column| column[i]).collect();
            combination.combine(&scores).unwrap().p.p_value <= 0.1 + 1e-12
        });
        assert!(rejected.count() <= 4);
    }

    #[test]
    fn an_outlier_in_any_column_counts_and_more_columns_count_more() {
        let combination = RankCombination::new(columns(40)).unwrap().unwrap();
        let one = combination.combine(&[90.0, 20.0, 20.0]).unwrap();
        let all = combination.combine(&[90.0, 90.0, 90.0]).unwrap();
        assert!(one.statistic < all.statistic && all.p.p_value <= one.p.p_value);
        assert!((all.p.p_value - 1.0 / 41.0).abs() < 1e-12 && all.p.n_null == 40);
    }

    #[test]
    fn refuses_what_does_not_fit() {
        assert!(RankCombination::new(Vec::new()).unwrap().is_none());
        assert!(RankCombination::new(vec![Vec::new()]).unwrap().is_none());
        assert!(RankCombination::new(vec![vec![1.0], vec![1.0, 2.0]]).is_err());
        let combination = RankCombination::new(vec![vec![1.0], vec![1.0]]).unwrap().unwrap();
        assert!(combination.combine(&[1.0]).is_err() && combination.combine(&[1.0, f64::NAN]).is_err());
    }
}
