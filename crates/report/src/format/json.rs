//! The record as JSON; its schema is that of [`Record`].

use super::{Format, FormatError, Rendered};
use crate::record::Record;

/// Indented JSON with a final newline.
pub(super) struct Json;

impl Format for Json {
    fn name(&self) -> &'static str {
        "json"
    }

    fn about(&self) -> &'static str {
        "the whole record; `triggerfish schema record`"
    }

    fn render(&self, record: &Record) -> Result<Rendered, FormatError> {
        let text =
            serde_json::to_string_pretty(record).map_err(|error| FormatError::new(self.name(), error))?;
        Ok((text + "\n").into())
    }
}
