//! An in-toto Statement (version 1) over the audited files, one line a repository: what signing tools take, so that a
//! result can be bound to the bytes it is about.

use serde_json::{Value, json};

use super::AuditFormat;
use crate::audit::{AuditReport, RepositoryAudit, Rule, Severity};

/// The type of the predicate: what stands in `predicate` below.
const PREDICATE: &str = "urn:triggerfish:audit:1";

/// Unsigned statements; `cosign attest-blob` or another tool signs them.
pub(super) struct Statement;

impl AuditFormat for Statement {
    fn name(&self) -> &'static str {
        "in-toto"
    }

    fn render(&self, report: &AuditReport, _: &[&Rule]) -> String {
        report
            .repositories
            .iter()
            .map(|repository| statement(report, repository).to_string() + "\n")
            .collect()
    }
}

fn statement(report: &AuditReport, repository: &RepositoryAudit) -> Value {
    let subjects: Vec<Value> = repository
        .files
        .iter()
        .map(|file| json!({"name": file.name, "digest": {"sha256": file.sha256}}))
        .collect();
    let findings: Vec<Value> = repository
        .findings
        .iter()
        .map(|finding| {
            json!({
                "rule": finding.rule,
                "severity": finding.severity.name(),
                "file": finding.file,
                "suppressed": finding.suppressed.is_some(),
            })
        })
        .collect();
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects,
        "predicateType": PREDICATE,
        "predicate": {
            "tool": {"name": report.tool.name, "version": report.tool.version},
            "schemaVersion": report.schema_version,
            "worst": repository.worst().map(Severity::name),
            "complete": repository.complete(),
            "exitCode": report.exit_code,
            "findings": findings,
        },
    })
}
