//! Counts, the family and what is wrong with the store, as one JSON object.

use super::MergedFormat;
use crate::fleet::Merged;
use crate::format::{FormatError, Rendered};

pub(super) struct Json;

impl MergedFormat for Json {
    fn name(&self) -> &'static str {
        "json"
    }

    fn file(&self) -> &'static str {
        "summary.json"
    }

    fn render(&self, merged: &Merged) -> Result<Rendered, FormatError> {
        let text = serde_json::to_string_pretty(merged);
        text.map(|text| (text + "\n").into()).map_err(|error| FormatError::new(self.name(), error))
    }
}
