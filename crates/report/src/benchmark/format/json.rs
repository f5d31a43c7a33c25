//! The whole benchmark as JSON.

use super::BenchmarkFormat;
use crate::benchmark::Benchmark;
use crate::format::FormatError;

/// Pretty-printed JSON.
pub(super) struct Json;

impl BenchmarkFormat for Json {
    fn name(&self) -> &'static str {
        "json"
    }

    fn file(&self) -> &'static str {
        "benchmark.json"
    }

    fn render(&self, benchmark: &Benchmark) -> Result<String, FormatError> {
        let text =
            serde_json::to_string_pretty(benchmark).map_err(|error| FormatError::new(self.name(), error))?;
        Ok(text + "\n")
    }
}
