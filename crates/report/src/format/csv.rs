//! One long table as CSV: see [`Measurement`].

use serde::Serialize;

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
        let failed = |error: &dyn std::fmt::Display| FormatError::new(self.name(), error);
        let mut writer = csv::Writer::from_writer(Vec::new());
        for measurement in measurements(record) {
            writer.serialize(Line::of(&measurement)).map_err(|error| failed(&error))?;
        }
        let bytes = writer.into_inner().map_err(|error| failed(&error))?;
        String::from_utf8(bytes).map_err(|error| failed(&error))
    }
}

/// The columns as written.
#[derive(Serialize)]
struct Line<'a> {
    row: &'static str,
    measure: String,
    value: Option<f64>,
    lower: Option<f64>,
    upper: Option<f64>,
    n: Option<usize>,
    confidence: Option<f64>,
    unit: &'a str,
    p_value: Option<f64>,
    adjusted_p_value: Option<f64>,
    suite: String,
    id: String,
    family: String,
    placement: String,
    text: String,
    payload: String,
    base_answer: String,
    adapted_answer: String,
}

impl<'a> Line<'a> {
    fn of(measured: &Measurement<'a>) -> Self {
        Self {
            row: measured.row,
            measure: cell(&measured.measure),
            value: measured.value,
            lower: measured.lower,
            upper: measured.upper,
            n: measured.n,
            confidence: measured.confidence,
            unit: measured.unit,
            p_value: measured.p_value,
            adjusted_p_value: measured.adjusted_p_value,
            suite: cell(measured.suite),
            id: cell(measured.id),
            family: cell(measured.family),
            placement: cell(measured.placement),
            text: cell(measured.text),
            payload: cell(measured.payload),
            base_answer: cell(measured.base_answer),
            adapted_answer: cell(measured.adapted_answer),
        }
    }
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
