//! The table of adapters as Parquet, for query engines over many merges.

use super::MergedFormat;
use super::table::{columns, lines};
use crate::fleet::Merged;
use crate::format::{FormatError, Rendered, parquet};

pub(super) struct Parquet;

impl MergedFormat for Parquet {
    fn name(&self) -> &'static str {
        "parquet"
    }

    fn file(&self) -> &'static str {
        "adapters.parquet"
    }

    fn render(&self, merged: &Merged) -> Result<Rendered, FormatError> {
        let lines: Vec<_> = lines(merged).collect();
        let written = parquet::table("adapter", &columns(), &lines);
        written.map(Rendered::Bytes).map_err(|error| FormatError::new(self.name(), error))
    }
}
