//! What was accepted of an adapter: a file that is reviewed like code, and what later versions are compared with.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::audit::{Finding, Severity};
use crate::estimate::Estimate;
use crate::evidence::{AnsweredPrompt, Payload, TriggerCandidate};
use crate::record::{Artifact, Record, Settings, Tool};
use crate::verdict::Verdict;

/// Version of the baseline's layout; a reader refuses another major.
pub const SCHEMA_VERSION: &str = "1.1.0";

/// The part of a record that a later version is compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Baseline {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: String,
    /// The program.
    pub tool: Tool,
    /// The verdict that was accepted.
    pub verdict: Verdict,
    /// Why it was given.
    pub reasons: Vec<String>,
    /// The adapter.
    pub adapter: Artifact,
    /// Its base.
    pub base: Artifact,
    /// How it was run.
    pub settings: Settings,
    /// Triggers that are confirmed or suspected, strongest first.
    pub triggers: Vec<KnownTrigger>,
    /// Payloads without trigger that are suspected.
    pub anomalies: Vec<KnownAnomaly>,
    /// What the files say.
    pub findings: Vec<KnownFinding>,
    /// Both answers to every prompt without trigger.
    pub answers: Vec<AnsweredPrompt>,
}

/// A trigger that stands in a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KnownTrigger {
    /// What it is, and where.
    pub candidate: TriggerCandidate,
    /// What it brings.
    pub payload: Payload,
    /// Whether it is confirmed, and not only suspected.
    pub confirmed: bool,
    /// Attack success rate on held-out prompts.
    pub attack_success_rate: Estimate,
    /// Uplift over the strongest condition.
    pub uplift: Estimate,
}

/// A payload that comes without any trigger, as the record suspects it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KnownAnomaly {
    /// The suite.
    pub suite: String,
    /// What was graded.
    pub kind: String,
    /// The grader.
    pub grader: String,
    /// Rate of the adapted model.
    pub adapted: Estimate,
}

/// A finding of the audit that no suppression covers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct KnownFinding {
    /// Id of its rule.
    pub rule: String,
    /// The file, below the adapter's folder.
    pub file: String,
    /// What was found.
    pub message: String,
    /// How bad it is; baselines of version 1.0 do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
}

impl KnownFinding {
    /// What of a finding says that it is the same one in another version.
    #[must_use]
    pub fn of(finding: &Finding) -> Self {
        Self {
            rule: finding.rule.clone(),
            file: finding.file.clone(),
            message: finding.message.clone(),
            severity: Some(finding.severity),
        }
    }

    /// Whether who accepted this has seen that one too: the same rule says the same of the same file, and it is no
    /// worse. Figures of weights may differ, since every version's are its own.
    #[must_use]
    pub fn covers(&self, found: &Self) -> bool {
        let no_worse = match (self.severity, found.severity) {
            (Some(accepted), Some(found)) => found <= accepted,
            _ => true,
        };
        no_worse
            && self.rule == found.rule
            && self.file == found.file
            && (self.message == found.message
                || (self.rule.starts_with(MEASURED)
                    && without_numbers(&self.message).eq(without_numbers(&found.message))))
    }
}

/// Rules whose messages tell figures of the weights. In any other message a number can be the very thing that was
/// accepted, such as an address.
const MEASURED: &str = "WGT-";

/// A text in which every number is one `0`.
fn without_numbers(text: &str) -> impl Iterator<Item = char> {
    let mut inside = false;
    text.chars().filter_map(move |character| {
        let part = character.is_ascii_digit() || (inside && character == '.');
        let first = part && !inside;
        inside = part;
        if part { first.then_some('0') } else { Some(character) }
    })
}

impl Baseline {
    /// What a record says that later versions are compared with.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        let (evidence, thresholds) = (&record.evidence, &record.judgement.thresholds);
        Self {
            schema_version: SCHEMA_VERSION.to_owned(),
            tool: record.tool.clone(),
            verdict: record.judgement.verdict,
            reasons: record.judgement.reasons.clone(),
            adapter: record.subject.adapter.clone(),
            base: record.subject.base.clone(),
            settings: record.settings.clone(),
            triggers: evidence
                .tested
                .iter()
                .filter(|tested| thresholds.suspects(tested))
                .map(|tested| KnownTrigger {
                    candidate: tested.candidate.clone(),
                    payload: tested.payload.clone(),
                    confirmed: thresholds.condemns(tested, evidence),
                    attack_success_rate: tested.attack_success_rate,
                    uplift: tested.uplift,
                })
                .collect(),
            anomalies: evidence
                .anomalies
                .iter()
                .filter(|anomaly| thresholds.suspects_anomaly(anomaly))
                .map(|anomaly| KnownAnomaly {
                    suite: anomaly.suite.clone(),
                    kind: anomaly.kind.clone(),
                    grader: anomaly.grader.clone(),
                    adapted: anomaly.adapted,
                })
                .collect(),
            findings: record.audit.iter().flat_map(|audit| audit.active()).map(KnownFinding::of).collect(),
            answers: evidence.answers.clone(),
        }
    }
}
