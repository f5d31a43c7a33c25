//! Forms of a merged report. A new one is one file and one line in [`FORMATS`].

mod csv;
pub(crate) mod html;
mod json;
mod jsonl;
#[cfg(feature = "parquet")]
mod parquet;
mod sarif;
mod table;
mod text;

use super::Merged;
use crate::format::{FormatError, Rendered};

/// A form of a merged report.
pub trait MergedFormat: Sync {
    /// Name on the command line.
    fn name(&self) -> &'static str;
    /// The file that it is written to.
    fn file(&self) -> &'static str;
    /// The whole report.
    ///
    /// # Errors
    /// If a writer refuses it, which none of them does with what a merge can give.
    fn render(&self, merged: &Merged) -> Result<Rendered, FormatError>;
}

impl std::fmt::Debug for dyn MergedFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Every format.
pub const FORMATS: &[&dyn MergedFormat] = &[
    &text::Text,
    &json::Json,
    &jsonl::JsonLines,
    &csv::Csv,
    &sarif::Sarif,
    &html::Html,
    #[cfg(feature = "parquet")]
    &parquet::Parquet,
];

/// The format of a name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static dyn MergedFormat> {
    FORMATS.iter().copied().find(|format| format.name() == name)
}
