//! Tables as Parquet; of a record its long one, see [`Measurement`](super::measurement::Measurement). Texts are as the model wrote them:
//! the file is for programs, and a string column cannot act.

use std::sync::Arc;

use ::parquet::basic::{LogicalType, Repetition, Type as Physical};
use ::parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use ::parquet::schema::types::{Type, TypePtr};

use super::measurement::{columns, measurements};
use super::table::{Cells, Column};
use super::{Format, FormatError, Rendered};
use crate::record::Record;

/// Uncompressed: a record has some thousand rows.
pub(super) struct Parquet;

impl Format for Parquet {
    fn name(&self) -> &'static str {
        "parquet"
    }

    fn about(&self) -> &'static str {
        "the table of csv, typed, for data frames and query engines"
    }

    fn is_binary(&self) -> bool {
        true
    }

    fn render(&self, record: &Record) -> Result<Rendered, FormatError> {
        let written = table("measurement", &columns(), &measurements(record));
        written.map(Rendered::Bytes).map_err(|error| FormatError::new(self.name(), error))
    }
}

/// Rows of a row group: what a reader must hold of a column at a time.
const GROUP: usize = 16_384;

/// A table of any rows, with `name` for the name of its schema.
pub(crate) fn table<R>(name: &str, columns: &[Column<R>], rows: &[R]) -> Result<Vec<u8>, ParquetError> {
    let fields = columns.iter().map(field).collect::<Result<_, _>>()?;
    let schema = Type::group_type_builder(name).with_fields(fields).build()?;
    let mut bytes = Vec::new();
    // The writer's own name and version stand in the file; the time does not.
    let mut writer =
        SerializedFileWriter::new(&mut bytes, Arc::new(schema), Arc::new(WriterProperties::default()))?;
    for rows in rows.chunks(GROUP) {
        let mut group = writer.next_row_group()?;
        for column in columns {
            let missing = || ParquetError::General(format!("no column `{}` in the schema", column.name));
            let writer = group.next_column()?.ok_or_else(missing)?;
            match column.cells {
                Cells::Text(of) => put::<ByteArrayType>(writer, rows.iter().map(|row| text(of(row)))),
                Cells::Number(of) => put::<DoubleType>(writer, rows.iter().map(of)),
                Cells::Count(of) => put::<Int64Type>(writer, rows.iter().map(|row| count(of(row)))),
            }?;
        }
        group.close()?;
    }
    writer.close()?;
    Ok(bytes)
}

/// Every column may be absent: a kind of row has some of them.
fn field<R>(column: &Column<R>) -> Result<TypePtr, ParquetError> {
    let (physical, logical) = match column.cells {
        Cells::Text(_) => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        Cells::Number(_) => (Physical::DOUBLE, None),
        Cells::Count(_) => (Physical::INT64, None),
    };
    let builder = Type::primitive_type_builder(column.name, physical)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(logical);
    builder.build().map(Arc::new)
}

fn put<T: DataType>(
    mut writer: SerializedColumnWriter<'_>,
    cells: impl Iterator<Item = Option<T::T>>,
) -> Result<(), ParquetError> {
    let mut values = Vec::new();
    let mut levels = Vec::new();
    for cell in cells {
        levels.push(i16::from(cell.is_some()));
        values.extend(cell);
    }
    writer.typed::<T>().write_batch(&values, Some(&levels), None)?;
    writer.close()
}

fn text(cell: &str) -> Option<ByteArray> {
    (!cell.is_empty()).then(|| ByteArray::from(cell))
}

/// A count that no signed column holds is left out: none that can be reached is.
fn count(cell: Option<u64>) -> Option<i64> {
    cell.and_then(|count| i64::try_from(count).ok())
}
