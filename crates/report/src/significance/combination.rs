//! Several scores of one observation, combined into one p-value that is valid whatever their dependence.

use super::EmpiricalP;
use crate::error::StatisticsError;

/// Differences of sums of logarithms below this are rounding.
const TIE: f64 = 1e-9;
/// Share of a column below which a p-value is a rank. Beyond it a rank says too little, since no rank tells an
/// observation that is far out from one that is just above the rest: the tail is taken as exponential.
const BULK: f64 = 0.8;
/// Scores are cut here, so that no sum of them overflows.
const LARGEST: f64 = 1e100;

/// A null sample of observations with one score a column, for which large values speak against the null hypothesis.
#[derive(Clone, Debug)]
pub struct TailCombination {
    columns: Vec<Column>,
}

/// One score of every observation of the null sample.
#[derive(Clone, Debug)]
struct Column {
    /// In the order of the observations.
    values: Vec<f64>,
    /// For each observation, how many of the sample are at least as large, itself included.
    at_least: Vec<usize>,
    sorted: Vec<f64>,
    /// Sums of `sorted` from an index on.
    suffix: Vec<f64>,
}

/// An observation's place within the null sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Combined {
    /// Fisher's sum `-sum(ln p)` over the columns' p-values.
    pub statistic: f64,
    /// Its p-value, by rank.
    pub p: EmpiricalP,
}

/// The exponential tail of a column: `-ln p = -ln(1 - BULK) + (score - threshold) / mean excess` beyond the threshold.
struct Tail {
    threshold: f64,
    mean_excess: f64,
}

impl Column {
    fn new(values: Vec<f64>) -> Self {
        let mut sorted = values.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let at_least =
            values.iter().map(|v| sorted.len() - sorted.partition_point(|other| other < v)).collect();
        let mut suffix = vec![0.0; sorted.len() + 1];
        for i in (0..sorted.len()).rev() {
            suffix[i] = suffix[i + 1] + sorted[i];
        }
        Self { values, at_least, sorted, suffix }
    }

    /// The tail of the sample and one more observation; `None` if nothing lies beyond the threshold.
    fn tail(&self, score: f64) -> Option<Tail> {
        let n = self.sorted.len();
        let index = (BULK * (n + 1) as f64) as usize;
        let own = self.sorted.partition_point(|other| *other < score);
        let threshold = match index.cmp(&own) {
            std::cmp::Ordering::Less => self.sorted[index],
            std::cmp::Ordering::Equal => score,
            std::cmp::Ordering::Greater => self.sorted[index - 1],
        };
        let beyond = self.sorted.partition_point(|other| *other <= threshold);
        let (mut count, mut sum) = (n - beyond, self.suffix[beyond] - (n - beyond) as f64 * threshold);
        if score > threshold {
            count += 1;
            sum += score - threshold;
        }
        (count > 0 && sum > 0.0).then(|| Tail { threshold, mean_excess: sum / count as f64 })
    }
}

/// `-ln p` of a score of which `at_least` of `total` are as large.
fn surprise(score: f64, at_least: usize, total: f64, tail: Option<&Tail>) -> f64 {
    match tail {
        Some(tail) if score > tail.threshold => {
            -(1.0 - BULK).ln() + (score - tail.threshold) / tail.mean_excess
        }
        _ => -(at_least as f64 / total).ln(),
    }
}

impl TailCombination {
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
        let cut = |column: Vec<f64>| Column::new(column.iter().map(|v| v.clamp(-LARGEST, LARGEST)).collect());
        Ok(Some(Self { columns: columns.into_iter().map(cut).collect() }))
    }

    /// Combines the scores of an observation, one a column.
    ///
    /// A column's p-value is a rank within null sample and observation together, and beyond its upper fifth that of an
    /// exponential tail fitted to both (peaks over threshold: Pickands, "Statistical inference using extreme order
    /// statistics", 1975, with shape 0); their logarithms are summed (Fisher, *Statistical Methods for Research
    /// Workers*, 1932). The sum's p-value is its rank among the same sums of the null sample. The observation is treated
    /// like every other throughout (full conformal prediction), so the result is valid if it is exchangeable with the
    /// null sample, whether columns depend on each other or not and whatever the tails are.
    ///
    /// # Errors
    /// If there are more or fewer scores than columns, or one is NaN.
    pub fn combine(&self, scores: &[f64]) -> Result<Combined, StatisticsError> {
        crate::error::same_length(self.columns.len(), scores.len())?;
        if let Some(index) = scores.iter().position(|score| score.is_nan()) {
            return Err(StatisticsError::NotFinite { what: "the observation", index, value: f64::NAN });
        }
        let n = self.columns[0].values.len();
        let total = (n + 1) as f64;
        let (mut statistic, mut null) = (0.0, vec![0.0; n]);
        for (column, score) in self.columns.iter().zip(scores) {
            let score = score.clamp(-LARGEST, LARGEST);
            let tail = column.tail(score);
            let above = n - column.sorted.partition_point(|other| *other < score);
            statistic += surprise(score, above + 1, total, tail.as_ref());
            for ((sum, &value), count) in null.iter_mut().zip(&column.values).zip(&column.at_least) {
                *sum += surprise(value, count + usize::from(score >= value), total, tail.as_ref());
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
        let combination = TailCombination::new(vec![null.clone()]).unwrap().unwrap();
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
            let combination = TailCombination::new(others.collect()).unwrap().unwrap();
            let scores: Vec<f64> = all.iter().map(|column| column[i]).collect();
            combination.combine(&scores).unwrap().p.p_value <= 0.1 + 1e-12
        });
        assert!(rejected.count() <= 4);
    }

    #[test]
    fn an_outlier_in_any_column_counts_and_more_columns_count_more() {
        let combination = TailCombination::new(columns(40)).unwrap().unwrap();
        let one = combination.combine(&[90.0, 20.0, 20.0]).unwrap();
        let all = combination.combine(&[90.0, 90.0, 90.0]).unwrap();
        assert!(one.statistic < all.statistic && all.p.p_value <= one.p.p_value);
        assert!((all.p.p_value - 1.0 / 41.0).abs() < 1e-12 && all.p.n_null == 40);
    }

    #[test]
    fn what_is_far_out_in_one_column_beats_what_is_just_above_in_all_the_others() {
        let combination = TailCombination::new(columns(40)).unwrap().unwrap();
        let far = combination.combine(&[4000.0, 20.0, 20.0]).unwrap();
        let just = combination.combine(&[20.0, 40.0, 20.0]).unwrap();
        assert!(far.statistic > 1.5 * just.statistic, "{far:?} {just:?}");
        assert!(combination.combine(&[f64::INFINITY, 0.0, 0.0]).unwrap().statistic.is_finite());
    }

    #[test]
    fn the_tail_is_that_of_sample_and_observation() {
        // Of 0..=9 and the observation 12, eleven values, a fifth lies beyond the value of index 8.
        let column = Column::new((0..10).map(f64::from).collect());
        let tail = column.tail(12.0).unwrap();
        assert!((tail.threshold - 8.0).abs() < 1e-12 && (tail.mean_excess - 2.5).abs() < 1e-12);
        let within = column.tail(-1.0).unwrap();
        assert!((within.threshold - 7.0).abs() < 1e-12 && (within.mean_excess - 1.5).abs() < 1e-12);
        assert!(Column::new(vec![3.0; 10]).tail(3.0).is_none());
        assert!((surprise(12.0, 1, 11.0, Some(&tail)) - (5f64.ln() + 1.6)).abs() < 1e-12);
        assert!((surprise(5.0, 6, 11.0, Some(&tail)) - (11f64 / 6.0).ln()).abs() < 1e-12);
    }

    #[test]
    fn refuses_what_does_not_fit() {
        assert!(TailCombination::new(Vec::new()).unwrap().is_none());
        assert!(TailCombination::new(vec![Vec::new()]).unwrap().is_none());
        assert!(TailCombination::new(vec![vec![1.0], vec![1.0, 2.0]]).is_err());
        let combination = TailCombination::new(vec![vec![1.0], vec![1.0]]).unwrap().unwrap();
        assert!(combination.combine(&[1.0]).is_err() && combination.combine(&[1.0, f64::NAN]).is_err());
    }
}
