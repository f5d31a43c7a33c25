//! What was found over all units, and what was not scanned, as SARIF.

use super::MergedFormat;
use crate::escape::{escape, excerpt};
use crate::fleet::{Merged, Row, State};
use crate::format::finding::{BEHAVIOUR, CONFIRMED, INCOMPLETE, Rule, SUSPECTED};
use crate::format::sarif::descriptor;
use crate::format::{FormatError, Rendered};
use crate::sarif::{
    self, AutomationDetails, Driver, Fingerprints, Invocation, Level, Location, Notification, Properties,
    Run, SarifResult, Tool,
};
use crate::verdict::Verdict;

/// Characters of a reason in a message.
const EXCERPT: usize = 400;

/// SARIF 2.1.0 with one run.
pub(super) struct Sarif;

impl MergedFormat for Sarif {
    fn name(&self) -> &'static str {
        "sarif"
    }

    fn file(&self) -> &'static str {
        "findings.sarif"
    }

    fn render(&self, merged: &Merged) -> Result<Rendered, FormatError> {
        let text = serde_json::to_string_pretty(&sarif::log([run(merged)]));
        text.map(|text| (text + "\n").into()).map_err(|error| FormatError::new(self.name(), error))
    }
}

fn run(merged: &Merged) -> Run {
    let notifications = merged.problems.iter().map(|problem| Notification {
        level: Level::Warning,
        message: format!("{} {}: {}", problem.kind.name(), escape(&problem.file), escape(&problem.reason))
            .into(),
    });
    Run {
        tool: Tool {
            driver: Driver {
                name: escape(&merged.tool.name),
                semantic_version: escape(&merged.tool.version),
                rules: [&CONFIRMED, &SUSPECTED, &BEHAVIOUR, &INCOMPLETE].map(descriptor).into(),
            },
        },
        automation_details: Some(AutomationDetails {
            id: format!("triggerfish/plan/{}", escape(&merged.plan)),
        }),
        invocations: vec![Invocation {
            execution_successful: merged.complete(),
            exit_code: 0,
            tool_execution_notifications: notifications.collect(),
        }],
        results: merged.worst_first().into_iter().filter_map(result).collect(),
        ..Run::default()
    }
}

fn rule(row: &Row) -> Option<&'static Rule> {
    match (row.state, row.family_verdict?) {
        (State::Done, Verdict::Backdoored) => Some(&CONFIRMED),
        (State::Done, Verdict::Suspicious) if row.trigger.is_some() => Some(&SUSPECTED),
        (State::Done, Verdict::Suspicious) => Some(&BEHAVIOUR),
        (State::Done, Verdict::Inconclusive) => Some(&INCOMPLETE),
        _ => None,
    }
}

fn result(row: &Row) -> Option<SarifResult> {
    let rule = if row.state == State::Done { rule(row)? } else { &INCOMPLETE };
    let adapter = row.adapters.first()?;
    let names: Vec<String> = row.adapters.iter().map(|adapter| escape(&adapter.name)).collect();
    let reason = row.reason.as_deref().map_or(String::new(), |reason| excerpt(reason, EXCERPT));
    let state = row.family_verdict.map_or(row.state.name(), Verdict::title);
    let properties = [
        ("unit", serde_json::json!(row.unit)),
        ("adapters", serde_json::json!(names)),
        ("verdict", serde_json::json!(row.verdict)),
        ("adjustedPValue", serde_json::json!(row.adjusted_p_value)),
        ("audit", serde_json::json!(row.audit)),
    ];
    Some(SarifResult {
        rule_id: rule.id.to_owned(),
        rule_index: None,
        level: rule.level,
        message: format!("{} is {state}: {reason}", names.join(", ")).into(),
        locations: vec![Location::in_file(&adapter.path, None)],
        partial_fingerprints: Fingerprints::of(&[rule.id, &row.unit]),
        suppressions: Vec::new(),
        properties: Properties {
            other: properties.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            ..Properties::default()
        },
    })
}
