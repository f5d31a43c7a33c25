//! What detection costs: every configuration by its cost and its AUC, and which of them no other beats in both.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::summary::Summary;
use crate::estimate::Estimate;

/// Token-forwards that a token which also goes backwards costs on top of its own.
const BACKWARD: f64 = 2.0;

/// A configuration on the plane of cost and AUC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CostPoint {
    /// Name of the configuration.
    pub configuration: String,
    /// Mean token-forwards of a scan, a backward token counted as two more.
    pub token_forwards: f64,
    /// Area under the ROC curve.
    pub auc: Estimate,
    /// Whether no configuration that costs as little has a higher AUC (Pareto).
    pub on_front: bool,
}

/// The configurations with a cost and an AUC, cheapest first.
#[must_use]
pub fn front(summaries: &[Summary]) -> Vec<CostPoint> {
    let mut points: Vec<CostPoint> = summaries
        .iter()
        .filter_map(|summary| {
            let cost = &summary.cost;
            Some(CostPoint {
                configuration: summary.configuration.clone(),
                token_forwards: cost.token_forwards? + BACKWARD * cost.gradient_tokens.unwrap_or(0.0),
                auc: summary.auc?,
                on_front: false,
            })
        })
        .collect();
    // Of equal costs the better comes first.
    points.sort_by(|a, b| {
        a.token_forwards.total_cmp(&b.token_forwards).then(b.auc.value.total_cmp(&a.auc.value))
    });
    let mut best = f64::NEG_INFINITY;
    for point in &mut points {
        point.on_front = point.auc.value > best;
        best = best.max(point.auc.value);
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::benchmark::summary::CostSummary;

    fn summary(name: &str, tokens: f64, gradients: f64, auc: f64) -> Summary {
        Summary {
            auc: Some(Estimate { value: auc, lower: auc, upper: auc, n: 40, confidence: 0.95 }),
            cost: CostSummary {
                token_forwards: Some(tokens),
                gradient_tokens: Some(gradients),
                ..CostSummary::default()
            },
            ..super::super::summary::summarise(name, &[], None).unwrap()
        }
    }

    #[test]
    fn the_front_has_what_nothing_beats_at_its_cost() {
        let points = front(&[
            summary("deep", 900.0, 0.0, 0.9),
            summary("gradient", 500.0, 250.0, 0.8),
            summary("quick", 100.0, 0.0, 0.6),
            summary("as-dear", 100.0, 0.0, 0.5),
            summary("middle", 400.0, 0.0, 0.85),
        ]);
        let seen: Vec<(&str, bool)> =
            points.iter().map(|point| (point.configuration.as_str(), point.on_front)).collect();
        let expected =
            [("quick", true), ("as-dear", false), ("middle", true), ("deep", true), ("gradient", false)];
        assert_eq!(seen, expected);
        assert!((points[4].token_forwards - 1000.0).abs() < 1e-9);
        assert!(front(&[super::super::summary::summarise("none", &[], None).unwrap()]).is_empty());
    }
}
