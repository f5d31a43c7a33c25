//! What the layers come to: how far the adapted model's next token is from the base's.

use super::capture::{Sample, Shape};
use super::{Detector, Fit, Fitted, Score};

/// Divergences below this are rounding of 16-bit products; a ratio of two such says nothing.
const LEAST_NATS: f64 = 1e-3;

/// The divergence of the first token of the answer.
pub(super) struct Divergence;

impl Detector for Divergence {
    fn name(&self) -> &'static str {
        "divergence"
    }

    fn about(&self) -> &'static str {
        "logarithm of the divergence KL(adapted || base) of the answer's first token"
    }

    fn fit(&self, _: &Shape) -> Option<Box<dyn Fit>> {
        Some(Box::new(Level { differs: false }))
    }
}

/// Nothing is fitted: benign prompts only tell whether the sides differ at all.
struct Level {
    differs: bool,
}

impl Fit for Level {
    fn add(&mut self, sample: &Sample) {
        self.differs |= f64::from(sample.divergence) > LEAST_NATS;
    }

    fn fitted(self: Box<Self>) -> Option<Box<dyn Fitted>> {
        if self.differs { Some(self) } else { None }
    }
}

impl Fitted for Level {
    fn score(&self, sample: &Sample) -> Score {
        Score { total: (f64::from(sample.divergence) + LEAST_NATS).ln(), layers: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(divergence: f32) -> Sample {
        Sample { divergence, ..Sample::default() }
    }

    #[test]
    fn more_divergence_scores_higher_and_none_anywhere_is_nothing_to_measure() {
        let shape = Shape { layers: 1, width: 2, sites: Vec::new(), directions: vec![0] };
        let fitted = |benign: &[f32]| {
            let mut fit = Divergence.fit(&shape).unwrap();
            benign.iter().for_each(|&divergence| fit.add(&sample(divergence)));
            fit.fitted()
        };
        assert!(fitted(&[0.0, 1e-7]).is_none());
        let fitted = fitted(&[0.0, 0.2]).unwrap();
        let [low, high] = [0.1, 2.0].map(|divergence| fitted.score(&sample(divergence)).total);
        assert!((high - 2.001f64.ln()).abs() < 1e-6 && low < high);
    }
}
