//! One JSON object a line: see [`Row`](super::Row).

use super::row::rows;
use super::{Format, FormatError, Rendered};
use crate::record::Record;

/// JSON Lines.
pub(super) struct JsonLines;

impl Format for JsonLines {
    fn name(&self) -> &'static str {
        "jsonl"
    }

    fn about(&self) -> &'static str {
        "one row a line, every prompt and candidate; `triggerfish schema row`"
    }

    fn render(&self, record: &Record) -> Result<Rendered, FormatError> {
        let mut text = String::new();
        for row in rows(record) {
            text += &serde_json::to_string(&row).map_err(|error| FormatError::new(self.name(), error))?;
            text.push('\n');
        }
        Ok(text.into())
    }
}
