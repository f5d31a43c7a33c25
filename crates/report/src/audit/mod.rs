//! What the files of a repository say, without a model: rules, findings, and the report of an audit.

mod finding;
pub mod format;
mod rule;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use finding::{Finding, Suppressed};
pub use rule::{Family, Rule, Severity};

use crate::record::{FileDigest, Tool};

/// Version of the report's layout; a reader refuses another major.
pub const SCHEMA_VERSION: &str = "1.0.0";

/// An audit of one or more repositories.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditReport {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: String,
    /// The program.
    pub tool: Tool,
    /// Exit code under the run's `--fail-on`.
    pub exit_code: u8,
    /// Every limit that the audit worked under, by name; what exceeds one is a finding.
    pub limits: BTreeMap<String, u64>,
    /// In the order in which the user named them.
    pub repositories: Vec<RepositoryAudit>,
}

/// What was found in one repository directory or single file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RepositoryAudit {
    /// As the user named it.
    pub name: String,
    /// Every file that was read, by path, with the digest of the bytes that were parsed.
    pub files: Vec<FileDigest>,
    /// Most severe first.
    pub findings: Vec<Finding>,
}

impl RepositoryAudit {
    /// The most severe finding that no suppression covers.
    #[must_use]
    pub fn worst(&self) -> Option<Severity> {
        self.active().map(|finding| finding.severity).max()
    }

    /// Findings that no suppression covers.
    pub fn active(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.suppressed.is_none())
    }

    /// Whether every file could be read and understood. An audit of no file is not complete.
    #[must_use]
    pub fn complete(&self) -> bool {
        !self.files.is_empty() && !self.active().any(|finding| finding.gap)
    }

    /// Brings the findings into the order of the report: by severity, then rule, file and place.
    pub fn sort(&mut self) {
        self.findings.sort_by(|a, b| {
            (b.severity, &a.rule, &a.file, a.line, &a.location, &a.message, &a.evidence).cmp(&(
                a.severity,
                &b.rule,
                &b.file,
                b.line,
                &b.location,
                &b.message,
                &b.evidence,
            ))
        });
        self.findings.dedup();
        self.files.sort_by(|a, b| a.name.cmp(&b.name));
    }
}
