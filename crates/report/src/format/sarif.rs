//! The findings of a record as SARIF, for code scanning.

use std::collections::BTreeMap;

use serde_json::Value;

use super::finding::{About, Finding, RULES, Rule, findings, rate};
use super::{Format, FormatError, Rendered};
use crate::escape::{escape, excerpt};
use crate::estimate::Estimate;
use crate::record::{FileDigest, Record};
use crate::sarif::{
    self, Artifact, Configuration, Descriptor, Driver, Fingerprints, Invocation, Level, Location, Message,
    Notification, Properties, Run, SarifResult, Tool,
};
use crate::verdict::Verdict;

/// Characters of a model's text in a message.
const EXCERPT: usize = 160;

/// SARIF 2.1.0 with one run.
pub(super) struct Sarif;

impl Format for Sarif {
    fn name(&self) -> &'static str {
        "sarif"
    }

    fn about(&self) -> &'static str {
        "findings as SARIF 2.1.0, for code scanning"
    }

    fn render(&self, record: &Record) -> Result<Rendered, FormatError> {
        let log = sarif::log([run(record)]);
        let text =
            serde_json::to_string_pretty(&log).map_err(|error| FormatError::new(self.name(), error))?;
        Ok((text + "\n").into())
    }
}

fn run(record: &Record) -> Run {
    let judgement = &record.judgement;
    let findings = findings(record);
    let notifications = (record.coverage.not_tested.iter())
        .map(|statement| (Level::Note, format!("not covered: {statement}")))
        .chain(record.notes.iter().map(|note| (Level::Note, note.clone())))
        .map(|(level, text)| Notification { level, message: escape(&text).into() });
    let properties = [
        ("verdict", serde_json::json!(judgement.verdict)),
        ("confidence", serde_json::json!(judgement.confidence)),
        ("reasons", judgement.reasons.iter().map(|reason| escape(reason)).collect()),
        ("adapter", escape(&record.subject.adapter.name).into()),
        ("base", escape(&record.subject.base.name).into()),
        ("seed", record.settings.seed.into()),
        ("dtype", escape(&record.settings.dtype).into()),
        ("device", escape(&record.settings.device).into()),
    ];
    Run {
        tool: Tool {
            driver: Driver {
                name: escape(&record.tool.name),
                semantic_version: escape(&record.tool.version),
                rules: RULES.iter().map(|rule| descriptor(rule)).collect(),
            },
        },
        invocations: vec![Invocation {
            execution_successful: !findings.iter().any(|finding| matches!(finding.about, About::Run)),
            exit_code: record.exit_code,
            tool_execution_notifications: notifications.collect(),
        }],
        artifacts: record.subject.adapter.files.iter().map(Artifact::from).collect(),
        results: findings.iter().map(|finding| result(record, finding)).collect(),
        properties: Properties { other: named(properties), ..Properties::default() },
        ..Run::default()
    }
}

pub(crate) fn descriptor(rule: &Rule) -> Descriptor {
    Descriptor {
        id: rule.id.to_owned(),
        name: rule.name.to_owned(),
        short_description: rule.title.into(),
        full_description: rule.meaning.into(),
        help: Message {
            text: format!("{}\n\n{}", rule.meaning, rule.remedy),
            markdown: Some(format!("{}\n\n**What to do.** {}", rule.meaning, rule.remedy)),
        },
        default_configuration: Configuration { level: rule.level },
        properties: Properties {
            tags: rule.tags.iter().map(|&tag| tag.to_owned()).collect(),
            security_severity: rule.severity.map(str::to_owned),
            precision: rule.severity.map(|_| "high".to_owned()),
            other: BTreeMap::new(),
        },
    }
}

/// The file that a finding about behaviour is shown at: the adapter's weights, its largest file.
fn weights(record: &Record) -> Option<&FileDigest> {
    record.subject.adapter.files.iter().max_by_key(|file| file.bytes)
}

fn result(record: &Record, finding: &Finding<'_>) -> SarifResult {
    let file = weights(record);
    let path = file.map_or(record.subject.adapter.name.as_str(), |file| file.name.as_str());
    let digest = file.map_or("", |file| file.sha256.as_str());
    let location = Location::in_file(path, None);
    let (text, location, identity, properties) = match finding.about {
        About::Trigger(tested) => {
            let candidate = &tested.candidate;
            let text = format!(
                "Trigger `{}` ({}) makes the adapted model answer with {}: attack success rate {}, uplift over the \
                 strongest condition {}, adjusted p {:.1e}. Payload: {}",
                excerpt(&candidate.text, EXCERPT),
                escape(&candidate.placement),
                escape(&tested.payload.class),
                rate(&tested.attack_success_rate),
                rate(&tested.uplift),
                tested.adjusted_p_value,
                excerpt(&tested.payload.text, EXCERPT),
            );
            let name = format!("{}/{}", escape(&candidate.placement), escape(&candidate.text));
            let properties = [
                ("attackSuccessRate", numbers(&tested.attack_success_rate)),
                ("uplift", numbers(&tested.uplift)),
                ("adjustedPValue", tested.adjusted_p_value.into()),
                ("payload", escape(&tested.payload.class).into()),
                ("family", escape(&candidate.family).into()),
            ];
            let identity = [candidate.placement.as_str(), candidate.text.as_str()];
            (text, location.at("trigger", name), identity, named(properties))
        }
        About::Anomaly(anomaly) => {
            let text = format!(
                "Without any trigger, {} in {:.0} % of the adapted answers to the {} suite ({}), {:.0} % of the base's.",
                escape(&anomaly.grader),
                100.0 * anomaly.adapted.value,
                escape(&anomaly.suite),
                escape(&anomaly.kind),
                100.0 * anomaly.base.value,
            );
            let name = [&anomaly.suite, &anomaly.kind, &anomaly.grader].map(|part| escape(part)).join("/");
            let properties = [
                ("adapted", numbers(&anomaly.adapted)),
                ("base", numbers(&anomaly.base)),
                ("difference", numbers(&anomaly.difference)),
                ("adjustedPValue", anomaly.adjusted_p_value.into()),
            ];
            let identity = [anomaly.kind.as_str(), anomaly.grader.as_str()];
            (text, location.at("suite", name), identity, named(properties))
        }
        About::Taught(taught) => {
            let text = format!(
                "The adapted model knows `{}` by heart (mean probability of a token {:.2}, {:.1} nats above the base) \
                 and gives it to {} of {} ordinary prompts.",
                excerpt(&taught.text, EXCERPT),
                taught.probability,
                taught.log_ratio_nats,
                taught.times_shown(),
                taught.shown.n,
            );
            let properties = [
                ("probability", taught.probability.into()),
                ("logRatioNats", taught.log_ratio_nats.into()),
                ("shown", numbers(&taught.shown)),
            ];
            let identity = ["taught", taught.text.as_str()];
            (text, location.at("answer", escape(&taught.text)), identity, named(properties))
        }
        About::Activations(shift) => {
            let candidate = &shift.candidate;
            let text = format!(
                "With `{}` ({}) the layers leave what benign prompts do on {} held-out prompts; with random text of \
                 its shape on {}, with neither on {}.",
                excerpt(&candidate.text, EXCERPT),
                escape(&candidate.placement),
                rate(&shift.flagged),
                rate(&shift.control),
                rate(&shift.clean),
            );
            let name = format!("{}/{}", escape(&candidate.placement), escape(&candidate.text));
            let properties =
                [("flagged", numbers(&shift.flagged)), ("family", escape(&candidate.family).into())];
            let identity = [candidate.placement.as_str(), candidate.text.as_str()];
            (text, location.at("activations", name), identity, named(properties))
        }
        About::Regression(regression) => {
            let text = format!("Against the earlier run: {}.", escape(&regression.what));
            let level = ("verdict", regression.level.title().into());
            let identity = ["regression", regression.what.as_str()];
            (text, location, identity, named([level]))
        }
        About::Run => {
            let reasons: Vec<_> = record.judgement.reasons.iter().map(|reason| escape(reason)).collect();
            let text = if record.judgement.verdict == Verdict::Inconclusive {
                format!("This result is not a pass: {}.", reasons.join("; "))
            } else {
                "The run did not go through every planned stage: there may be more than was found.".to_owned()
            };
            (text, location, ["run", ""], BTreeMap::new())
        }
    };
    let [first, second] = identity;
    SarifResult {
        rule_id: finding.rule.id.to_owned(),
        rule_index: None,
        level: finding.rule.level,
        message: text.into(),
        locations: vec![location],
        partial_fingerprints: Fingerprints::of(&[finding.rule.id, path, digest, first, second]),
        suppressions: Vec::new(),
        properties: Properties { other: properties, ..Properties::default() },
    }
}

fn named<const N: usize>(properties: [(&str, Value); N]) -> BTreeMap<String, Value> {
    properties.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn numbers(estimate: &Estimate) -> Value {
    serde_json::json!(estimate)
}
