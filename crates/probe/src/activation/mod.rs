//! What the layers do: inner states of both sides on the same prompts, and detectors that tell prompts with a trigger
//! from benign ones by them, without knowing trigger or payload.
//!
//! Every detector is fitted on benign prompts, ranks its scores among those of other benign prompts, and is measured on
//! held-out ones. One file a detector, one line in [`DETECTORS`].

pub mod analysis;
pub mod capture;
mod directions;
mod divergence;
mod dose;
mod energy;
mod hijack;
mod instrument;
pub mod lens;
mod mahalanobis;
pub mod moments;
pub mod monitor;
pub mod panel;
mod parts;
pub mod profile;
mod ranking;
pub mod shifts;
pub(crate) mod singular;
mod spectral;
mod symmetric;

use capture::{Sample, Shape};
use moments::{Moments, Ranges};

/// A statistic of one prompt's inner states.
pub trait Detector: Sync {
    /// Its name in reports.
    fn name(&self) -> &'static str;

    /// What it measures, in one sentence.
    fn about(&self) -> &'static str;

    /// Begins to fit; `None` if the adapter has nothing that it could measure.
    fn fit(&self, shape: &Shape) -> Option<Box<dyn Fit>>;
}

/// A detector that is being fitted.
pub trait Fit {
    /// Adds a benign prompt.
    fn add(&mut self, sample: &Sample);

    /// Ends the fit; `None` if the benign prompts do not vary, so that there is nothing to compare with.
    fn fitted(self: Box<Self>) -> Option<Box<dyn Fitted>>;
}

/// A fitted detector.
pub trait Fitted {
    /// Scores a prompt.
    fn score(&self, sample: &Sample) -> Score;
}

/// How unlike the benign prompts a prompt is.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// The larger, the less alike.
    pub total: f64,
    /// By layer, in the detector's own unit.
    pub layers: Vec<f64>,
}

/// Every detector.
pub const DETECTORS: &[&dyn Detector] = &[
    &mahalanobis::Mahalanobis,
    &spectral::Spectral,
    &energy::Energy,
    &directions::Directions,
    &divergence::Divergence,
];

/// What a detector of residual differences makes of the benign differences of one layer.
trait Layer {
    /// How unlike them a difference is.
    fn measure(&self, difference: &[f32]) -> f64;
}

/// Moments of the differences by layer, which detectors of residual differences are fitted from.
struct Differences {
    moments: Vec<Moments>,
    /// `None` for a layer in which nothing varies.
    layer: fn(&Moments) -> Option<Box<dyn Layer>>,
    /// By how much a layer's measure counts.
    weight: fn(f64) -> f64,
}

impl Differences {
    /// The beginning of a fit.
    fn fit(
        shape: &Shape,
        layer: fn(&Moments) -> Option<Box<dyn Layer>>,
        weight: fn(f64) -> f64,
    ) -> Option<Box<dyn Fit>> {
        Some(Box::new(Self { moments: vec![Moments::new(shape.width); shape.layers], layer, weight }))
    }
}

impl Fit for Differences {
    fn add(&mut self, sample: &Sample) {
        self.moments
            .iter_mut()
            .zip(&sample.differences)
            .for_each(|(layer, difference)| layer.add(difference));
    }

    fn fitted(self: Box<Self>) -> Option<Box<dyn Fitted>> {
        let layers: Vec<_> = self.moments.iter().map(self.layer).collect();
        let weight = self.weight;
        layers.iter().any(Option::is_some).then(|| Box::new(ByLayer { layers, weight }) as Box<dyn Fitted>)
    }
}

/// A fitted detector of residual differences.
struct ByLayer {
    layers: Vec<Option<Box<dyn Layer>>>,
    weight: fn(f64) -> f64,
}

impl Fitted for ByLayer {
    /// The mean weight of the layers in which something varies.
    fn score(&self, sample: &Sample) -> Score {
        let measure = |(layer, difference): (&Option<Box<dyn Layer>>, &Vec<f32>)| {
            layer.as_ref().map_or(0.0, |layer| layer.measure(difference))
        };
        let layers: Vec<f64> = self.layers.iter().zip(&sample.differences).map(measure).collect();
        let varying = self.layers.iter().flatten().count().max(1) as f64;
        Score { total: layers.iter().map(|value| (self.weight)(*value)).sum::<f64>() / varying, layers }
    }
}

/// Features with a layer each, and the ranges that benign prompts keep them in: what detectors of range exits share.
struct Clean {
    layers: usize,
    /// Layer of each feature.
    layer_of: Vec<usize>,
    ranges: Ranges,
    /// How far a feature lies beyond its range.
    excess: fn(&Ranges, usize, f32) -> Option<f64>,
    features: fn(&Sample) -> Box<dyn Iterator<Item = Option<f32>> + '_>,
}

impl Fit for Clean {
    fn add(&mut self, sample: &Sample) {
        self.ranges.add((self.features)(sample));
    }

    fn fitted(self: Box<Self>) -> Option<Box<dyn Fitted>> {
        Some(self)
    }
}

impl Fitted for Clean {
    /// The mean excess over the range, and by layer the share of features beyond it.
    fn score(&self, sample: &Sample) -> Score {
        let (mut total, mut features) = (0.0, 0usize);
        let mut beyond = vec![(0usize, 0usize); self.layers];
        for (feature, (value, &layer)) in (self.features)(sample).zip(&self.layer_of).enumerate() {
            let Some(excess) = value.and_then(|value| (self.excess)(&self.ranges, feature, value)) else {
                continue;
            };
            total += excess;
            features += 1;
            beyond[layer].0 += usize::from(excess > 0.0);
            beyond[layer].1 += 1;
        }
        let share = |(beyond, all): (usize, usize)| beyond as f64 / all.max(1) as f64;
        Score { total: total / features.max(1) as f64, layers: beyond.into_iter().map(share).collect() }
    }
}
