//! The file is read again by the reader of the crate that wrote it, and says what CSV says.

use ::parquet::file::reader::{FileReader as _, SerializedFileReader};
use ::parquet::record::Field;

use super::{records, render};
use crate::escape::escape;
use crate::format::{Rendered, by_name};
use crate::record::Record;

fn bytes(record: &Record) -> Vec<u8> {
    match by_name("parquet").unwrap().render(record).unwrap() {
        Rendered::Bytes(bytes) => bytes,
        Rendered::Text(_) => panic!("it is binary"),
    }
}

#[test]
fn it_holds_the_table_of_csv() {
    for (name, record) in records() {
        let file = bytes(&record);
        assert_eq!(file, bytes(&record), "{name}: the same bytes each time");
        assert!(same_as_csv(&file, &render("csv", &record)) > 0, "{name}");
    }
}

/// Compares the cells of two files, and says how many lines they have.
pub(crate) fn same_as_csv(file: &[u8], table: &str) -> usize {
    assert_eq!(file[..4], *b"PAR1");
    let reader = SerializedFileReader::new(bytes::Bytes::copy_from_slice(file)).unwrap();
    let mut csv = csv::Reader::from_reader(table.as_bytes());
    let columns: Vec<String> = csv.headers().unwrap().iter().map(str::to_owned).collect();
    let lines: Vec<csv::StringRecord> = csv.records().map(Result::unwrap).collect();
    let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows.len(), lines.len());
    let mut numbers = 0;
    for (row, line) in rows.iter().zip(&lines) {
        assert_eq!(row.len(), columns.len());
        for (((column, field), cell), known) in row.get_column_iter().zip(line).zip(&columns) {
            assert_eq!(column, known);
            match field {
                Field::Null => assert_eq!(cell, "", "{column}"),
                Field::Str(text) => {
                    let shown = escape(text);
                    assert!(cell == shown || cell == format!("'{shown}"), "{column}: {cell:?}");
                }
                Field::Double(number) => {
                    numbers += 1;
                    assert_eq!(cell.parse(), Ok(*number), "{column}");
                }
                Field::Long(count) => {
                    numbers += 1;
                    assert_eq!(cell.parse(), Ok(*count), "{column}");
                }
                other => panic!("{column} is {other:?}"),
            }
        }
    }
    assert!(numbers > rows.len() / 2, "{numbers} numbers");
    lines.len()
}
