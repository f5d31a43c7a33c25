//! The end of every run: judge, write the record, give the exit code.

use std::time::Instant;

use inference::adapter::Adapter;
use report::audit::RepositoryAudit;
use report::evidence::{Coverage, Evidence};
use report::hunt::HuntRecord;
use report::record::{Cost, Record, SCHEMA_VERSION, Settings, Subject};
use report::verdict::{Thresholds, judge};

use crate::args::{GateArguments, ReportArguments};
use crate::exit;
use crate::{Outcome, output, subject};

/// What a run was about and what it found.
pub(crate) struct Run {
    pub(crate) subject: Subject,
    pub(crate) settings: Settings,
    pub(crate) evidence: Evidence,
    pub(crate) coverage: Coverage,
    pub(crate) cost: Cost,
    pub(crate) hunt: Option<HuntRecord>,
    /// What the adapter's files say; `None` if the user wanted no audit.
    pub(crate) audit: Option<RepositoryAudit>,
}

/// Reports a record where the user asked for it, and gives its exit code.
pub(crate) fn report(arguments: &ReportArguments, record: &Record, start: Instant) -> Outcome {
    output::forms(&arguments.forms, record)?;
    if !arguments.quiet {
        let seconds = start.elapsed().as_secs_f64();
        output::talk(&format!("finished in {seconds:.1} s, exit code {}", record.exit_code));
    }
    Ok(record.exit_code)
}

/// Judges a run, of which `adapter` is `None` if it was not loaded.
pub(crate) fn record(
    arguments: &ReportArguments,
    gate: &GateArguments,
    thresholds: Thresholds,
    adapter: Option<&Adapter>,
    mut run: Run,
) -> Record {
    let mut judgement = judge(&run.evidence, &run.coverage, thresholds);
    let mut notes = adapter.map(|adapter| adapter.notes.clone()).unwrap_or_default();
    if adapter.is_none() {
        judgement.reasons = vec![
            "the files of the adapter have critical findings, so nothing of it was loaded (`--no-audit` would)".into(),
        ];
    }
    if run.audit.is_none() {
        run.coverage.not_tested.push("the files of the adapter (`--no-audit`)".into());
    }
    if adapter.is_some_and(Adapter::is_zero) {
        judgement.reasons =
            vec!["the adapter changes nothing (B·A is zero everywhere), so nothing was tested".into()];
        notes.push("a zero adapter is often a failed or an unfinished training run".into());
    }
    let mut record = Record {
        schema_version: SCHEMA_VERSION.to_owned(),
        tool: subject::tool(),
        judgement,
        exit_code: exit::PASS,
        subject: run.subject,
        settings: run.settings,
        coverage: run.coverage,
        evidence: run.evidence,
        hunt: run.hunt,
        audit: run.audit,
        comparison: None,
        calibration: None,
        cost: run.cost,
        notes,
    };
    record.exit_code = exit_code(arguments, gate, &record);
    record
}

/// The exit code of a record: findings in the files first.
pub(crate) fn exit_code(arguments: &ReportArguments, gate: &GateArguments, record: &Record) -> u8 {
    if exit::of_audits(record.audit.as_slice(), gate.audit_fail_on, true) == exit::FOUND {
        return exit::FOUND;
    }
    let verdict = record.judgement.verdict;
    exit::of_verdict(verdict, record.coverage.complete, arguments.fail_on, arguments.incomplete_ok)
}
