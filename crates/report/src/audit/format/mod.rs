//! Forms of an audit for people and programs. A new one is one file and one line in [`FORMATS`].

mod json;
mod sarif;
mod statement;
mod text;

use super::{AuditReport, Rule};

pub(crate) use text::repository_text;

/// A form of an audit.
pub trait AuditFormat: Sync {
    /// Name on the command line.
    fn name(&self) -> &'static str;
    /// The whole text; `rules` are all that exist. ANSI colours may be in it, for the printer to keep or strip.
    fn render(&self, report: &AuditReport, rules: &[&Rule]) -> String;
}

/// Every format.
pub const FORMATS: &[&dyn AuditFormat] = &[&text::Text, &json::Json, &sarif::Sarif, &statement::Statement];

/// The format of a name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static dyn AuditFormat> {
    FORMATS.iter().copied().find(|format| format.name() == name)
}
