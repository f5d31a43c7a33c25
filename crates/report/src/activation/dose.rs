//! Dose and place: how an answer's probability rises with the adapter's scale, and which layers it needs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a payload depends on the adapter's scale and on its layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Dose {
    /// The payload: the text that was given, or the adapted model's own answer to the first prompt with the candidate.
    pub payload: String,
    /// Whether the payload was given; else each prompt has its own, the adapted model's answer to it with the candidate.
    pub given: bool,
    /// Held-out prompts.
    pub prompts: usize,
    /// Tokens of a payload, at most.
    pub tokens: usize,
    /// By scale, ascending.
    pub points: Vec<DosePoint>,
    /// Where the probability rises with the candidate; `None` if it does not.
    pub triggered: Option<Rise>,
    /// The same without the candidate.
    pub clean: Option<Rise>,
    /// By layer, then by windows of neighbouring layers; none if the adapter's layers cannot be told apart.
    pub layers: Vec<LayerEffect>,
}

/// The payload at one scale of the adapter: 0 is the base, 1 the adapter as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DosePoint {
    /// The scale.
    pub scale: f64,
    /// Mean over prompts of the payload's log-probability with the candidate, nats a token.
    pub triggered_nats: f64,
    /// The same without the candidate.
    pub clean_nats: f64,
    /// Mean over prompts of the whole payload's probability with the candidate.
    pub triggered: f64,
    /// The same without the candidate.
    pub clean: f64,
}

/// Where a curve rises: the sharper a threshold, the smaller the width.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rise {
    /// The value at scale zero.
    pub from: f64,
    /// The largest value.
    pub to: f64,
    /// The scale at which half of the rise is reached.
    pub threshold: f64,
    /// The width of the interval of scales around it in which the curve goes from a tenth to nine tenths of the rise.
    pub width: f64,
}

/// What some layers do for the payload with the candidate, at scale 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LayerEffect {
    /// First layer, counted from 0.
    pub first: usize,
    /// Last layer.
    pub last: usize,
    /// Mean log-probability without the adapter's changes in these layers, nats a token.
    pub without_nats: f64,
    /// With the adapter's changes in these layers alone.
    pub only_nats: f64,
    /// Share of what the adapter adds that is lost without them; `None` if the adapter adds nothing.
    pub lost: Option<f64>,
    /// Share of what the adapter adds that they bring alone.
    pub brought: Option<f64>,
}

impl LayerEffect {
    /// `7`, or `6-8`.
    #[must_use]
    pub fn name(&self) -> String {
        if self.first == self.last { self.first.to_string() } else { format!("{}-{}", self.first, self.last) }
    }
}

/// A curve that does not reach so many times its first value has no threshold.
const LEAST_FACTOR: f64 = 1.25;

impl Rise {
    /// Of a curve `(scale, value)` with ascending scales, linear between its points. `None` if it does not
    /// reach 1.25 times its first value.
    #[must_use]
    pub fn of(curve: &[(f64, f64)]) -> Option<Self> {
        let (_, from) = *curve.first()?;
        let top = (0..curve.len()).reduce(|best, i| if curve[i].1 > curve[best].1 { i } else { best })?;
        let to = curve[top].1;
        let rise = to - from;
        if rise.is_nan() || rise <= 0.0 || to < LEAST_FACTOR * from {
            return None;
        }
        let up = &curve[..=top];
        let level = |share: f64| from + share * rise;
        let crossed = |i: usize, level: f64| -> f64 {
            let ((x0, y0), (x1, y1)) = (up[i - 1], up[i]);
            if y1 > y0 { x0 + (x1 - x0) * ((level - y0) / (y1 - y0)).clamp(0.0, 1.0) } else { x1 }
        };
        let half = (1..up.len()).find(|&i| up[i].1 >= level(0.5))?;
        // The last time below a tenth before the half, the first time at nine tenths from there on.
        let low = (1..=half).rev().find(|&i| up[i - 1].1 <= level(0.1)).unwrap_or(1);
        let high = (half..up.len()).find(|&i| up[i].1 >= level(0.9))?;
        Some(Self {
            from,
            to,
            threshold: crossed(half, level(0.5)),
            width: crossed(high, level(0.9)) - crossed(low, level(0.1)),
        })
    }
}

/// How much the position from which an answer begins attends to a candidate, and to random texts in its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Attention {
    /// Held-out prompts.
    pub prompts: usize,
    /// By layer, mean over heads and prompts: the share of attention on the candidate's tokens.
    pub layers: Vec<AttentionLayer>,
    /// Logarithm of adapted over base share, mean over layers, heads and prompts.
    pub score: f64,
    /// The same of each random text of its shape.
    pub controls: Vec<f64>,
    /// Rank of the score among those of the random texts.
    pub p_value: f64,
}

/// Shares of attention in a layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AttentionLayer {
    /// On the candidate, by the base.
    pub base: f64,
    /// On the candidate, by the adapted model.
    pub adapted: f64,
    /// On random texts, by the base.
    pub control_base: f64,
    /// On random texts, by the adapted model.
    pub control_adapted: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(value: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
        (0..=20).map(|i| f64::from(i) / 10.0).map(|scale| (scale, value(scale))).collect()
    }

    #[test]
    fn a_step_is_narrow_and_a_line_is_wide() {
        let sigmoid = |at: f64, slope: f64| move |x: f64| 1.0 / (1.0 + (-(x - at) * slope).exp());
        let step = Rise::of(&curve(sigmoid(0.8, 30.0))).unwrap();
        assert!((step.threshold - 0.8).abs() < 0.05 && step.width < 0.25, "{step:?}");
        let line = Rise::of(&curve(|x| 0.1 + 0.2 * x)).unwrap();
        assert!((line.threshold - 1.0).abs() < 1e-9 && (line.width - 1.6).abs() < 1e-9, "{line:?}");
        // 10 % to 90 % of a sigmoid is ln(81) / slope.
        let slow = Rise::of(&curve(sigmoid(1.0, 8.0))).unwrap();
        assert!((slow.width - 81_f64.ln() / 8.0).abs() < 0.03, "{slow:?}");
    }

    #[test]
    fn what_falls_again_is_measured_up_to_its_top() {
        let rise = Rise::of(&curve(|x| if x < 0.95 { 0.0 } else { 1.0 - 0.5 * (x - 1.0) })).unwrap();
        assert!((rise.to - 1.0).abs() < 1e-9 && (rise.width - 0.08).abs() < 1e-9, "{rise:?}");
    }

    #[test]
    fn what_does_not_rise_has_no_threshold() {
        for flat in [
            curve(|_| 0.5),
            curve(|_| 0.0),
            curve(|x| 0.5 + 0.05 * x),
            curve(|x| 0.5 - 0.1 * x),
            curve(|_| f64::NAN),
            Vec::new(),
        ] {
            assert_eq!(Rise::of(&flat), None);
        }
    }
}
