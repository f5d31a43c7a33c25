//! The report itself, for programs.

use super::AuditFormat;
use crate::audit::{AuditReport, Rule};

/// JSON, indented.
pub(super) struct Json;

impl AuditFormat for Json {
    fn name(&self) -> &'static str {
        "json"
    }

    fn render(&self, report: &AuditReport, _: &[&Rule]) -> String {
        // The report holds strings and integers only, which always serialize.
        serde_json::to_string_pretty(report).map_or_else(|error| error.to_string(), |text| text + "\n")
    }
}
