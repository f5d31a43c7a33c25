//! One long table as CSV: see [`Measurement`].

use super::measurement::{columns, measurements};
use super::table::{Cells, Column};
use super::{Format, FormatError, Rendered};
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

    fn render(&self, record: &Record) -> Result<Rendered, FormatError> {
        Ok(table(&columns(), measurements(record)).into())
    }
}

/// A table of any rows.
pub(crate) fn table<R>(columns: &[Column<R>], rows: impl IntoIterator<Item = R>) -> String {
    let mut table = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = String>| {
        for (at, cell) in cells.enumerate() {
            table.push_str(if at > 0 { "," } else { "" });
            table += &cell;
        }
        table.push_str("\r\n");
    };
    line(&mut columns.iter().map(|column| column.name.to_owned()));
    for row in rows {
        line(&mut columns.iter().map(|column| quoted(text(column, &row))));
    }
    table
}

fn text<R>(column: &Column<R>, row: &R) -> String {
    match column.cells {
        Cells::Text(of) => shown(of(row)),
        // The shortest decimal that gives back the same number.
        Cells::Number(of) => of(row).map_or(String::new(), |number| number.to_string()),
        Cells::Count(of) => of(row).map_or(String::new(), |count| count.to_string()),
    }
}

/// A cell in quotes where it needs them.
pub(crate) fn quoted(cell: String) -> String {
    if cell.contains([',', '"', '\r', '\n']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
}

/// A text that no spreadsheet takes for a formula: what begins like one gets an apostrophe, which spreadsheets read
/// as "this is text".
pub(crate) fn shown(text: &str) -> String {
    let safe = escape(text);
    let formula = safe.trim_start().starts_with(['=', '+', '-', '@', '|', '%']);
    if formula { format!("'{safe}") } else { safe }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_a_formula() {
        assert_eq!(shown("=HYPERLINK(\"x\")"), "'=HYPERLINK(\"x\")");
        assert_eq!(shown(" @SUM(1)"), "' @SUM(1)");
        assert_eq!(shown("-7"), "'-7");
        assert_eq!(shown("ALPHA-7"), "ALPHA-7");
        assert_eq!(shown("a\r\n=1"), "a\\r\\n=1", "one line a cell");
    }
}
