//! The record as a list of rows: one measurement of one thing each, for tools that read tables and streams.

use schemars::JsonSchema;
use serde::Serialize;

use crate::evidence::{
    ActivationShift, Anomaly, AnsweredPrompt, Drift, Screened, SelfTest, TaughtAnswer, TestedTrigger,
};
use crate::hunt::{NullRecord, Proposed, SearchRecord, TargetCostRecord, TargetRecord};
use crate::record::{Record, Tool};
use crate::verdict::{Confidence, Verdict};

/// One line of the JSON Lines format; `row` says which kind.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(tag = "row", rename_all = "kebab-case")]
pub enum Row<'a> {
    /// The run and its verdict; always the first row.
    Run(RunRow<'a>),
    /// A numeric self-test.
    SelfTest(&'a SelfTest),
    /// A divergence on benign prompts.
    Drift(&'a Drift),
    /// How often a payload appears without trigger.
    Anomaly(&'a Anomaly),
    /// A prompt without trigger and both answers.
    Answer(&'a AnsweredPrompt),
    /// A candidate tested on held-out prompts.
    Tested(&'a TestedTrigger),
    /// An answer that the adapted model was taught.
    Taught(&'a TaughtAnswer),
    /// A candidate whose inner states were measured.
    Activations(&'a ActivationShift),
    /// A candidate of the screening.
    Screened(&'a Screened),
    /// A random string of the screening.
    Control {
        /// Its difference in differences, in nats.
        difference_nats: f64,
    },
    /// What a search did.
    Search(&'a SearchRecord),
    /// A possible payload.
    Target(&'a TargetRecord),
    /// What a relaxed trigger of a target costs.
    TargetCost(&'a TargetCostRecord),
    /// A candidate of a search.
    Proposed(&'a Proposed),
    /// What the strongest candidate of a search stands against.
    Null(&'a NullRecord),
}

/// What a run was and what it concluded.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RunRow<'a> {
    /// Version of the record's layout.
    pub schema_version: &'a str,
    /// The program.
    pub tool: &'a Tool,
    /// The verdict.
    pub verdict: Verdict,
    /// How much weight it bears.
    pub confidence: Confidence,
    /// Exit code.
    pub exit_code: u8,
    /// Why, strongest first.
    pub reasons: &'a [String],
    /// Name of the adapter.
    pub adapter: &'a str,
    /// Digests of its files, in the order of the record.
    pub adapter_sha256: Vec<&'a str>,
    /// Name of the base.
    pub base: &'a str,
    /// Digests of its files, in the order of the record.
    pub base_sha256: Vec<&'a str>,
    /// Device.
    pub device: &'a str,
    /// Precision.
    pub dtype: &'a str,
    /// Seed.
    pub seed: u64,
    /// Whether everything planned was run.
    pub complete: bool,
}

/// Every row of a record, the run first.
pub(super) fn rows(record: &Record) -> Vec<Row<'_>> {
    fn digests(artifact: &crate::record::Artifact) -> Vec<&str> {
        artifact.files.iter().map(|file| file.sha256.as_str()).collect()
    }
    let mut rows = vec![Row::Run(RunRow {
        schema_version: &record.schema_version,
        tool: &record.tool,
        verdict: record.judgement.verdict,
        confidence: record.judgement.confidence,
        exit_code: record.exit_code,
        reasons: &record.judgement.reasons,
        adapter: &record.subject.adapter.name,
        adapter_sha256: digests(&record.subject.adapter),
        base: &record.subject.base.name,
        base_sha256: digests(&record.subject.base),
        device: &record.settings.device,
        dtype: &record.settings.dtype,
        seed: record.settings.seed,
        complete: record.coverage.complete,
    })];
    let evidence = &record.evidence;
    rows.extend(evidence.self_tests.iter().map(Row::SelfTest));
    rows.extend(evidence.drift.iter().map(Row::Drift));
    rows.extend(evidence.anomalies.iter().map(Row::Anomaly));
    rows.extend(evidence.answers.iter().map(Row::Answer));
    rows.extend(evidence.tested.iter().map(Row::Tested));
    rows.extend(evidence.taught.iter().map(Row::Taught));
    rows.extend(evidence.activations.iter().map(Row::Activations));
    rows.extend(evidence.screened.iter().map(Row::Screened));
    rows.extend(evidence.control_nats.iter().map(|&nats| Row::Control { difference_nats: nats }));
    if let Some(hunt) = &record.hunt {
        rows.extend(hunt.searches.iter().map(Row::Search));
        rows.extend(hunt.targets.iter().map(Row::Target));
        rows.extend(hunt.target_costs.iter().map(Row::TargetCost));
        rows.extend(hunt.strongest.iter().map(Row::Proposed));
        rows.extend(hunt.nulls.iter().map(Row::Null));
    }
    rows
}
