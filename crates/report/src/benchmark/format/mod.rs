//! Forms of a benchmark. A new one is one file and one line in [`FORMATS`].

mod csv;
mod html;
mod json;
mod text;

use super::Benchmark;
use crate::format::FormatError;

/// A form of a benchmark.
pub trait BenchmarkFormat: Sync {
    /// Name on the command line.
    fn name(&self) -> &'static str;
    /// The file that it is written to.
    fn file(&self) -> &'static str;
    /// The whole report.
    ///
    /// # Errors
    /// If a writer refuses it, which none of them does with what a benchmark can give.
    fn render(&self, benchmark: &Benchmark) -> Result<String, FormatError>;
}

impl std::fmt::Debug for dyn BenchmarkFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Every format.
pub const FORMATS: &[&dyn BenchmarkFormat] = &[&text::Text, &json::Json, &csv::Csv, &html::Html];
