//! Findings that an earlier report has already: only new ones count.

use std::collections::BTreeSet;
use std::path::Path;

use report::audit::{AuditReport, RepositoryAudit, SCHEMA_VERSION, Suppressed};

use crate::exit::Failure;

/// Marks findings of the same rule, file, content and place as in the report at `path`.
pub(super) fn apply(path: &Path, audits: &mut [RepositoryAudit]) -> Result<(), Failure> {
    let wrong = |reason: String| Failure::Input(format!("baseline `{}`: {reason}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let baseline: AuditReport = serde_json::from_str(&text)
        .map_err(|error| wrong(format!("expected a report of `audit --format json`: {error}")))?;
    let major = |version: &str| version.split('.').next().map(str::to_owned);
    if major(&baseline.schema_version) != major(SCHEMA_VERSION) {
        return Err(wrong(format!(
            "expected schema version {SCHEMA_VERSION} or another of its major, found {}",
            baseline.schema_version
        )));
    }
    let known: BTreeSet<_> = baseline
        .repositories
        .iter()
        .flat_map(RepositoryAudit::active)
        .map(report::audit::Finding::identity)
        .collect();
    for finding in audits.iter_mut().flat_map(|audit| &mut audit.findings) {
        if finding.suppressed.is_none() && known.contains(&finding.identity()) {
            finding.suppressed =
                Some(Suppressed { reason: "in the baseline".into(), approved_by: None, expires: None });
        }
    }
    Ok(())
}
