//! The record as JSON; its schema is that of [`Record`].

use super::Format;
use crate::record::Record;

/// Indented JSON with a final newline.
pub(super) struct Json;

impl Format for Json {
    fn name(&self) -> &'static str {
        "json"
    }

    fn render(&self, record: &Record) -> String {
        // A record holds only strings, finite-or-null numbers and lists: serialising cannot fail,
        // and if it ever does, the reader gets JSON that says so instead of a cut-off file.
        let text = serde_json::to_string_pretty(record)
            .unwrap_or_else(|error| serde_json::json!({ "error": error.to_string() }).to_string());
        text + "\n"
    }
}
