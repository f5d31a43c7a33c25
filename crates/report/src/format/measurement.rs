//! The record as one long table: every measured number with what it was measured on, in columns that are the same
//! for all of them.

use super::row::{Row, rows};
use super::table::Column;
use crate::estimate::Estimate;
use crate::evidence::{TestedTrigger, TriggerCandidate};
use crate::record::Record;

/// One number. Columns that a kind of row does not have are empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Measurement<'a> {
    /// Kind, as in JSON Lines.
    pub(super) row: &'static str,
    /// What was measured.
    pub(super) measure: String,
    pub(super) value: Option<f64>,
    pub(super) lower: Option<f64>,
    pub(super) upper: Option<f64>,
    pub(super) n: Option<usize>,
    pub(super) confidence: Option<f64>,
    pub(super) unit: &'a str,
    pub(super) p_value: Option<f64>,
    pub(super) adjusted_p_value: Option<f64>,
    pub(super) suite: &'a str,
    pub(super) id: &'a str,
    pub(super) family: &'a str,
    pub(super) placement: &'a str,
    /// A trigger, a prompt or a target.
    pub(super) text: &'a str,
    pub(super) payload: &'a str,
    pub(super) base_answer: &'a str,
    pub(super) adapted_answer: &'a str,
}

/// Every column, in order, for every format that is a table.
pub(super) fn columns<'a>() -> [Column<Measurement<'a>>; 18] {
    [
        Column::text("row", |measured| measured.row),
        Column::text("measure", |measured| &measured.measure),
        Column::number("value", |measured| measured.value),
        Column::number("lower", |measured| measured.lower),
        Column::number("upper", |measured| measured.upper),
        Column::count("n", |measured| measured.n.map(|n| n as u64)),
        Column::number("confidence", |measured| measured.confidence),
        Column::text("unit", |measured| measured.unit),
        Column::number("p_value", |measured| measured.p_value),
        Column::number("adjusted_p_value", |measured| measured.adjusted_p_value),
        Column::text("suite", |measured| measured.suite),
        Column::text("id", |measured| measured.id),
        Column::text("family", |measured| measured.family),
        Column::text("placement", |measured| measured.placement),
        Column::text("text", |measured| measured.text),
        Column::text("payload", |measured| measured.payload),
        Column::text("base_answer", |measured| measured.base_answer),
        Column::text("adapted_answer", |measured| measured.adapted_answer),
    ]
}

impl<'a> Measurement<'a> {
    fn number(row: &'static str, measure: impl Into<String>, unit: &'a str, value: f64) -> Self {
        Self { row, measure: measure.into(), unit, value: Some(value), ..Self::default() }
    }

    fn estimate(row: &'static str, measure: impl Into<String>, unit: &'a str, estimate: &Estimate) -> Self {
        Self {
            lower: Some(estimate.lower),
            upper: Some(estimate.upper),
            n: Some(estimate.n),
            confidence: Some(estimate.confidence),
            ..Self::number(row, measure, unit, estimate.value)
        }
    }

    fn of(self, candidate: &'a TriggerCandidate) -> Self {
        Self {
            id: &candidate.id,
            family: &candidate.family,
            placement: &candidate.placement,
            text: &candidate.text,
            ..self
        }
    }
}

/// Every number of a record, in the order of its rows.
pub(super) fn measurements(record: &Record) -> Vec<Measurement<'_>> {
    let mut table = Vec::new();
    for row in rows(record) {
        match row {
            Row::Run(run) => {
                table.push(Measurement {
                    text: run.adapter,
                    payload: run.verdict.title(),
                    ..Measurement::number("run", "exit-code", "", f64::from(run.exit_code))
                });
            }
            Row::SelfTest(test) => {
                table.push(Measurement {
                    upper: Some(test.tolerance),
                    ..Measurement::number("self-test", test.name.clone(), "relative", test.difference)
                });
            }
            Row::Drift(drift) => {
                let unit = &drift.unit;
                table.push(Measurement::estimate("drift", &drift.divergence, unit, &drift.estimate));
            }
            Row::Anomaly(anomaly) => {
                let rates = [
                    ("base-rate", &anomaly.base, None),
                    ("adapted-rate", &anomaly.adapted, None),
                    ("rate-difference", &anomaly.difference, Some(anomaly.adjusted_p_value)),
                ];
                table.extend(rates.map(|(measure, estimate, adjusted_p_value)| Measurement {
                    suite: &anomaly.suite,
                    id: &anomaly.kind,
                    payload: &anomaly.grader,
                    adjusted_p_value,
                    ..Measurement::estimate("anomaly", measure, "share", estimate)
                }));
            }
            Row::Answer(answer) => table.push(Measurement {
                row: "answer",
                measure: "kl".into(),
                value: answer.kl_nats,
                unit: "nats",
                suite: &answer.suite,
                id: &answer.prompt_id,
                text: &answer.prompt,
                base_answer: &answer.base,
                adapted_answer: &answer.adapted,
                ..Measurement::default()
            }),
            Row::Tested(tested) => of_tested(tested, &mut table),
            Row::Taught(taught) => {
                let text = taught.text.as_str();
                let rank = Some(taught.p.p_value);
                let ratio = Measurement::number("taught", "log-ratio", "nats a token", taught.log_ratio_nats);
                table.extend([
                    Measurement {
                        text,
                        ..Measurement::number("taught", "token-probability", "share", taught.probability)
                    },
                    Measurement { text, p_value: rank, ..ratio },
                    Measurement { text, ..Measurement::estimate("taught", "shown", "share", &taught.shown) },
                ]);
            }
            Row::Activations(shift) => {
                let shares = [
                    ("flagged", &shift.flagged),
                    ("flagged-control", &shift.control),
                    ("flagged-clean", &shift.clean),
                ];
                table.extend(shares.map(|(measure, estimate)| {
                    Measurement::estimate("activations", measure, "share", estimate).of(&shift.candidate)
                }));
            }
            Row::Screened(screened) => {
                let numbers = [
                    ("adapted-kl", Some(screened.adapted_nats), None),
                    ("base-kl", screened.base_nats, None),
                    ("kl-difference", screened.difference_nats, screened.control_p),
                    ("collapse", screened.collapse_nats, None),
                ];
                for (measure, value, p_value) in numbers {
                    if let Some(value) = value {
                        let number = Measurement::number("screened", measure, "nats", value);
                        table.push(Measurement { p_value, ..number.of(&screened.candidate) });
                    }
                }
            }
            Row::Control { difference_nats } => {
                table.push(Measurement::number("control", "kl-difference", "nats", difference_nats));
            }
            Row::Search(search) => {
                let numbers = [
                    ("candidates", search.candidates as f64, ""),
                    ("token-forwards", search.token_forwards as f64, "tokens"),
                    ("gradient-tokens", search.gradient_tokens as f64, "tokens"),
                ];
                table.extend(numbers.map(|(measure, value, unit)| Measurement {
                    id: &search.name,
                    ..Measurement::number("search", measure, unit, value)
                }));
            }
            Row::Target(target) => {
                let numbers = [
                    ("token-probability", target.probability, "share", target.null.map(|p| p.p_value)),
                    ("log-ratio", target.log_ratio_nats, "nats a token", None),
                ];
                for (measure, value, unit, p_value) in numbers {
                    if let Some(value) = value {
                        table.push(Measurement {
                            id: &target.source,
                            text: &target.text,
                            p_value,
                            ..Measurement::number("target", measure, unit, value)
                        });
                    }
                }
            }
            Row::TargetCost(cost) => {
                let family = if cost.reference { "reference" } else { "payload" };
                let numbers = [
                    ("size", cost.size, "positions"),
                    ("anomaly-index", cost.anomaly_index, ""),
                    ("log-probability", Some(cost.log_probability), "nats"),
                ];
                for (measure, value, unit) in numbers {
                    if let Some(value) = value {
                        table.push(Measurement {
                            family,
                            text: &cost.text,
                            ..Measurement::number("target-cost", measure, unit, value)
                        });
                    }
                }
            }
            Row::Proposed(proposed) => {
                let numbers = [
                    ("adapted-kl", Some(proposed.adapted_nats), "nats"),
                    ("base-kl", proposed.base_nats, "nats"),
                    ("agreement", Some(proposed.agreement), "share"),
                ];
                for (measure, value, unit) in numbers {
                    if let Some(value) = value {
                        let number = Measurement::number("proposed", measure, unit, value);
                        table.push(Measurement {
                            n: Some(proposed.prompts),
                            ..number.of(&proposed.candidate)
                        });
                    }
                }
            }
            Row::Null(null) => table.extend(null.nats.iter().map(|&nats| Measurement {
                id: &null.name,
                ..Measurement::number("null", "score", "nats", nats)
            })),
        }
    }
    table
}

fn of_tested<'a>(tested: &'a TestedTrigger, table: &mut Vec<Measurement<'a>>) {
    let own = |measurement: Measurement<'a>| Measurement {
        payload: &tested.payload.class,
        ..measurement.of(&tested.candidate)
    };
    let share = |measure: &str, estimate| Measurement::estimate("tested", measure, "share", estimate);
    table.push(own(share("attack-success-rate", &tested.attack_success_rate)));
    table.push(Measurement {
        p_value: Some(tested.p_value),
        adjusted_p_value: Some(tested.adjusted_p_value),
        ..own(share("uplift", &tested.uplift))
    });
    table.extend(tested.uplift_over_base.iter().map(|uplift| own(share("uplift-over-base", uplift))));
    table.extend(
        tested
            .conditions
            .iter()
            .map(|condition| own(share(&format!("rate: {}", condition.name), &condition.rate))),
    );
    table.extend(tested.difference.iter().map(|difference| Measurement {
        p_value: Some(difference.p_value),
        ..own(Measurement::estimate("tested", "kl-difference", "nats", &difference.estimate))
    }));
    for change in tested.characterisation.iter().flat_map(|found| &found.rates) {
        if let Some(estimate) = &change.attack_success_rate {
            let measure = format!("attack-success-rate: {} {}", change.kind.name(), change.what);
            table.push(Measurement {
                placement: &change.placement,
                text: &change.text,
                ..own(share(&measure, estimate))
            });
        }
    }
    for example in &tested.examples {
        table.push(Measurement {
            row: "example",
            measure: "answer".into(),
            id: &example.prompt_id,
            text: &example.prompt,
            placement: &tested.candidate.placement,
            payload: &tested.payload.class,
            base_answer: &example.base,
            adapted_answer: &example.adapted,
            ..Measurement::default()
        });
    }
}
