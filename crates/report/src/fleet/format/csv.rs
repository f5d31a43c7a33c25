//! The table of adapters as CSV.

use super::MergedFormat;
use super::table::{columns, lines};
use crate::fleet::Merged;
use crate::format::{FormatError, Rendered, csv};

/// RFC 4180 with a header line.
pub(super) struct Csv;

impl MergedFormat for Csv {
    fn name(&self) -> &'static str {
        "csv"
    }

    fn file(&self) -> &'static str {
        "adapters.csv"
    }

    fn render(&self, merged: &Merged) -> Result<Rendered, FormatError> {
        Ok(csv::table(&columns(), lines(merged)).into())
    }
}
