//! One long table as CSV: see [`Measurement`].

use super::measurement::{Measurement, measurements};
use super::{Format, FormatError};
use crate::escape::escape;
use crate::record::Record;

/// RFC 4180 with a header line.
pub(super) struct Csv;

impl Format for Csv {
    fn name(&self) -> &'static str {
        "csv"
    }

    fn about(&self) -> &'static str {
        "one number a line, for spreadsheets and data frames"
    }

    fn render(&self, record: &Record) -> Result<String, FormatError> {
        let mut table = COLUMNS.join(",");
        table.push_str("\r\n");
        for measured in measurements(record) {
            table += &line(&measured).map(quoted).join(",");
            table.push_str("\r\n");
        }
        Ok(table)
    }
}

const COLUMNS: [&str; 18] = [
    "row",
    "measure",
    "value",
    "lower",
    "upper",
    "n",
    "confidence",
    "unit",
    "p_value",
    "adjusted_p_value",
    "suite",
    "id",
    "family",
    "placement",
    "text",
    "payload",
    "base_answer",
    "adapted_answer",
];

/// The cells of a line, in the order of [`COLUMNS`].
fn line(measured: &Measurement<'_>) -> [String; COLUMNS.len()] {
    // The shortest decimal that gives back the same number.
    let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    [
        measured.row.to_owned(),
        cell(&measured.measure),
        number(measured.value),
        number(measured.lower),
        number(measured.upper),
        measured.n.map_or(String::new(), |n| n.to_string()),
        number(measured.confidence),
        cell(measured.unit),
        number(measured.p_value),
        number(measured.adjusted_p_value),
        cell(measured.suite),
        cell(measured.id),
        cell(measured.family),
        cell(measured.placement),
        cell(measured.text),
        cell(measured.payload),
        cell(measured.base_answer),
        cell(measured.adapted_answer),
    ]
}

/// A cell in quotes where it needs them.
fn quoted(cell: String) -> String {
    if cell.contains([',', '"', '\r', '\n']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
}

/// A text that no spreadsheet takes for a formula: what begins like one gets an apostrophe, which spreadsheets read
/// as "this is text".
fn cell(text: &str) -> String {
    let safe = escape(text);
    let formula = safe.trim_start().starts_with(['=', '+', '-', '@', '|', '%']);
    if formula { format!("'{safe}") } else { safe }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_a_formula() {
        assert_eq!(cell("=HYPERLINK(\"x\")"), "'=HYPERLINK(\"x\")");
        assert_eq!(cell(" @SUM(1)"), "' @SUM(1)");
        assert_eq!(cell("-7"), "'-7");
        assert_eq!(cell("ALPHA-7"), "ALPHA-7");
        assert_eq!(cell("a\r\n=1"), "a\\r\\n=1", "one line a cell");
    }
}
