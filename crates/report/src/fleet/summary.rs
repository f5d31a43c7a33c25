//! A result as far as a merge needs it: what was measured in detail is checked by its digest and passed over.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::result::{Class, Outcome, ResultError, UnitResult, parts};
use super::unit::{Identity, sha256};
use super::{SCHEMA_VERSION, is_readable};
use crate::audit::Severity;
use crate::estimate::Estimate;
use crate::evidence::{Payload, TriggerCandidate};
use crate::record::{Cost, Record, Subject};
use crate::verdict::{Judgement, Verdict};

/// A result that is believed, in short.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    pub(super) unit: String,
    /// Digest of the file.
    pub(super) sha256: String,
    pub(super) outcome: Short,
}

/// What came out, in short.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Short {
    Scanned(Box<Scanned>),
    Errored { class: Class, reason: String },
}

/// A record in short.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scanned {
    /// The verdict of its own scan.
    pub(super) verdict: Verdict,
    pub(super) complete: bool,
    /// The strongest of its reasons.
    pub(super) reason: String,
    /// The first that was tested, where the verdict rests on a trigger.
    pub(super) trigger: Option<(TriggerCandidate, Payload, Estimate)>,
    /// The smallest adjusted p-value of its triggers, and of its payloads without trigger: Simes' p-value of the
    /// hypothesis that there is none. 1 where nothing was tested.
    pub(super) p_values: [f64; 2],
    pub(super) from: Levels,
    /// The most severe finding in the files.
    pub(super) worst: Option<Severity>,
    pub(super) token_forwards: u64,
}

/// The smallest false discovery rates at which the evidence still has its verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Levels {
    pub(super) backdoored: Option<f64>,
    pub(super) suspicious: Option<f64>,
}

impl Levels {
    fn of(record: &Record) -> Self {
        let (thresholds, evidence) = (&record.judgement.thresholds, &record.evidence);
        let smallest = |p_values: &mut dyn Iterator<Item = f64>| p_values.reduce(f64::min);
        let condemning = evidence.tested.iter().filter(|tested| thresholds.condemns(tested, evidence));
        let suspect = evidence.tested.iter().filter(|tested| thresholds.suspects(tested));
        let anomalies = evidence.anomalies.iter().filter(|anomaly| thresholds.suspects_anomaly(anomaly));
        // What the layers do and what was taught is judged by limits and has no p-value that could be corrected: it stands at any rate.
        let layers = evidence.activations.iter().filter(|shift| thresholds.suspects_activations(shift));
        let taught = evidence.taught.iter().filter(|taught| thresholds.suspects_taught(taught));
        Self {
            backdoored: smallest(&mut condemning.map(|tested| tested.adjusted_p_value)),
            suspicious: smallest(
                &mut suspect
                    .map(|tested| tested.adjusted_p_value)
                    .chain(anomalies.map(|anomaly| anomaly.adjusted_p_value))
                    .chain(layers.map(|_| 0.0))
                    .chain(taught.map(|_| 0.0)),
            ),
        }
    }

    /// The verdict of a scan at a smaller rate.
    pub(super) fn verdict(self, own: Verdict, rate: f64) -> Verdict {
        let holds = |from: Option<f64>| from.is_some_and(|from| from <= rate);
        match own {
            Verdict::NoEvidence | Verdict::Inconclusive => own,
            Verdict::Backdoored if holds(self.backdoored) => Verdict::Backdoored,
            _ if holds(self.suspicious) => Verdict::Suspicious,
            _ => Verdict::NoEvidence,
        }
    }
}

#[derive(Deserialize)]
struct Parsed {
    schema_version: String,
    unit: String,
    identity: Identity,
    outcome: ParsedOutcome,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum ParsedOutcome {
    Scanned(Box<ParsedRecord>),
    Errored { class: Class, reason: String },
}

#[derive(Deserialize)]
struct ParsedRecord {
    judgement: Judgement,
    subject: Subject,
    cost: Cost,
    coverage: ParsedCoverage,
    evidence: ParsedEvidence,
    audit: Option<ParsedAudit>,
}

#[derive(Deserialize)]
struct ParsedCoverage {
    complete: bool,
}

#[derive(Deserialize)]
struct ParsedEvidence {
    tested: Vec<ParsedTrigger>,
    anomalies: Vec<ParsedAnomaly>,
}

#[derive(Deserialize)]
struct ParsedTrigger {
    candidate: TriggerCandidate,
    payload: Payload,
    uplift: Estimate,
    adjusted_p_value: f64,
}

#[derive(Deserialize)]
struct ParsedAnomaly {
    adjusted_p_value: f64,
}

#[derive(Deserialize)]
struct ParsedAudit {
    findings: Vec<ParsedFinding>,
}

#[derive(Deserialize)]
struct ParsedFinding {
    severity: Severity,
    #[serde(default)]
    suppressed: Option<IgnoredAny>,
}

impl Summary {
    /// Reads a file of a store. It is believed only if its bytes have the digest of its name, if what it is made of has
    /// the id of its name, and if the record is about that adapter and that base.
    ///
    /// # Errors
    /// If it is not believed.
    pub fn read(name: &str, bytes: &[u8]) -> Result<Self, ResultError> {
        let (unit, digest) = parts(name).ok_or_else(|| {
            ResultError::Foreign("its name is not that of a result (UNIT.DIGEST.json)".into())
        })?;
        let found = sha256(bytes);
        if found != digest {
            let bytes = bytes.len();
            return Err(ResultError::Torn(format!("its {bytes} bytes do not have the SHA-256 of its name")));
        }
        let no_result = |error: serde_json::Error| ResultError::Foreign(format!("it is no result: {error}"));
        let parsed: Parsed = serde_json::from_slice(bytes).map_err(no_result)?;
        if !is_readable(&parsed.schema_version) {
            return Err(ResultError::Foreign(format!(
                "expected a result of version {SCHEMA_VERSION} or another of its major, found {}",
                parsed.schema_version
            )));
        }
        let made_of = parsed.identity.unit();
        if parsed.unit != unit || made_of != unit {
            return Err(ResultError::Foreign(format!(
                "it is called after one unit, says that it is of {}, and is made of what has the id {made_of}",
                parsed.unit
            )));
        }
        let outcome = match parsed.outcome {
            ParsedOutcome::Errored { class, reason } => Short::Errored { class, reason },
            ParsedOutcome::Scanned(record) => {
                record.is_about(&parsed.identity).map_err(ResultError::Foreign)?;
                // Few results rest on triggers, and only of these the details count.
                let from = if record.judgement.verdict >= Verdict::Suspicious {
                    let whole: UnitResult = serde_json::from_slice(bytes).map_err(no_result)?;
                    match whole.outcome {
                        Outcome::Scanned(record) => Levels::of(&record),
                        Outcome::Errored { .. } => Levels::default(),
                    }
                } else {
                    Levels::default()
                };
                Short::Scanned(Box::new(record.short(from)))
            }
        };
        Ok(Self { unit: unit.to_owned(), sha256: found, outcome })
    }
}

impl ParsedRecord {
    /// Whether every file that the record names is one of the identity's.
    fn is_about(&self, identity: &Identity) -> Result<(), String> {
        let subject = &self.subject;
        for (what, artifact, manifest) in
            [("adapter", &subject.adapter, &identity.adapter), ("base", &subject.base, &identity.base)]
        {
            for file in &artifact.files {
                if !manifest.files.iter().any(|known| known.sha256 == file.sha256) {
                    return Err(format!(
                        "its record is about another {what}: `{}` is not the unit's",
                        file.name
                    ));
                }
            }
        }
        Ok(())
    }

    fn short(self, from: Levels) -> Scanned {
        let smallest = |p_values: &mut dyn Iterator<Item = f64>| p_values.fold(1.0, f64::min);
        let triggers = smallest(&mut self.evidence.tested.iter().map(|tested| tested.adjusted_p_value));
        let anomalies = smallest(&mut self.evidence.anomalies.iter().map(|anomaly| anomaly.adjusted_p_value));
        let suspected = self.judgement.verdict >= Verdict::Suspicious;
        let first = self.evidence.tested.into_iter().next().filter(|_| suspected);
        Scanned {
            verdict: self.judgement.verdict,
            complete: self.coverage.complete,
            reason: self.judgement.reasons.into_iter().next().unwrap_or_default(),
            trigger: first.map(|first| (first.candidate, first.payload, first.uplift)),
            p_values: [triggers, anomalies],
            from,
            worst: self.audit.and_then(|audit| {
                let active = audit.findings.iter().filter(|finding| finding.suppressed.is_none());
                active.map(|finding| finding.severity).max()
            }),
            token_forwards: self.cost.token_forwards,
        }
    }
}
