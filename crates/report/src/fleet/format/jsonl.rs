//! One unit a line, in the plan's order.

use super::MergedFormat;
use crate::fleet::Merged;
use crate::format::{FormatError, Rendered};

pub(super) struct JsonLines;

impl MergedFormat for JsonLines {
    fn name(&self) -> &'static str {
        "jsonl"
    }

    fn file(&self) -> &'static str {
        "units.jsonl"
    }

    fn render(&self, merged: &Merged) -> Result<Rendered, FormatError> {
        let mut text = String::new();
        for row in &merged.rows {
            let line = serde_json::to_string(row).map_err(|error| FormatError::new(self.name(), error))?;
            text.push_str(&line);
            text.push('\n');
        }
        Ok(text.into())
    }
}
