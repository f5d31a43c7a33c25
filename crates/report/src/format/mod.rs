//! Forms of a record for people and programs. A new one is one file and one line in [`FORMATS`].

mod comparison;
pub(crate) mod csv;
pub(crate) mod finding;
pub(crate) mod html;
mod json;
mod jsonl;
mod junit;
mod markdown;
mod measurement;
#[cfg(feature = "parquet")]
pub(crate) mod parquet;
mod row;
pub(crate) mod sarif;
pub(crate) mod table;
#[cfg(test)]
pub(crate) mod tests;
mod text;

pub use row::Row;

use crate::record::Record;

/// A form of a record.
pub trait Format: Sync {
    /// Name on the command line.
    fn name(&self) -> &'static str;
    /// What it is for, in one line of help.
    fn about(&self) -> &'static str;
    /// Whether it gives [`Rendered::Bytes`].
    fn is_binary(&self) -> bool {
        false
    }
    /// The whole report.
    ///
    /// # Errors
    /// If a writer refuses the record, which none of them does with what a run can give.
    fn render(&self, record: &Record) -> Result<Rendered, FormatError>;
}

/// A whole report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rendered {
    /// For people or programs; ANSI colours may be in it, for the printer to keep or strip.
    Text(String),
    /// A binary file, which no terminal should see.
    Bytes(Vec<u8>),
}

impl From<String> for Rendered {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl std::fmt::Debug for dyn Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A record that could not be written in a format.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the record as {format}: {reason}")]
pub struct FormatError {
    format: &'static str,
    reason: String,
}

impl FormatError {
    pub(crate) fn new(format: &'static str, reason: impl std::fmt::Display) -> Self {
        Self { format, reason: reason.to_string() }
    }
}

/// Every format.
pub const FORMATS: &[&dyn Format] = &[
    &text::Text,
    &json::Json,
    &jsonl::JsonLines,
    &csv::Csv,
    &markdown::Markdown,
    &html::Html,
    &sarif::Sarif,
    &junit::Junit,
    #[cfg(feature = "parquet")]
    &parquet::Parquet,
];

/// The format of a name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static dyn Format> {
    FORMATS.iter().copied().find(|format| format.name() == name)
}
