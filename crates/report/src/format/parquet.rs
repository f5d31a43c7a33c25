//! One long table as Parquet: see [`Measurement`](super::measurement::Measurement). Texts are as the model wrote them:
//! the file is for programs, and a string column cannot act.

use std::sync::Arc;

use ::parquet::basic::{LogicalType, Repetition, Type as Physical};
use ::parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use ::parquet::schema::types::{Type, TypePtr};

use super::measurement::{COLUMNS, Cell, Column, Measurement, measurements};
use super::{Format, FormatError, Rendered};
use crate::record::Record;

/// One row group, uncompressed: a record has some thousand rows.
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
        let table = measurements(record);
        write(&table).map(Rendered::Bytes).map_err(|error| FormatError::new(self.name(), error))
    }
}

fn write(table: &[Measurement<'_>]) -> Result<Vec<u8>, ParquetError> {
    let fields = COLUMNS.iter().map(field).collect::<Result<_, _>>()?;
    let schema = Type::group_type_builder("measurement").with_fields(fields).build()?;
    let mut bytes = Vec::new();
    // The writer's own name and version stand in the file; the time does not.
    let mut writer =
        SerializedFileWriter::new(&mut bytes, Arc::new(schema), Arc::new(WriterProperties::default()))?;
    let mut group = writer.next_row_group()?;
    for column in &COLUMNS {
        let missing = || ParquetError::General(format!("no column `{}` in the schema", column.name));
        let writer = group.next_column()?.ok_or_else(missing)?;
        let cells = table.iter().map(|measured| (column.cell)(measured));
        match (column.cell)(&Measurement::default()) {
            Cell::Text(_) => put::<ByteArrayType>(writer, cells.map(text)),
            Cell::Number(_) => put::<DoubleType>(writer, cells.map(number)),
            Cell::Count(_) => put::<Int64Type>(writer, cells.map(count)),
        }?;
    }
    group.close()?;
    writer.close()?;
    Ok(bytes)
}

/// Every column may be absent: a kind of row has some of them.
fn field(column: &Column) -> Result<TypePtr, ParquetError> {
    let (physical, logical) = match (column.cell)(&Measurement::default()) {
        Cell::Text(_) => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        Cell::Number(_) => (Physical::DOUBLE, None),
        Cell::Count(_) => (Physical::INT64, None),
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

fn text(cell: Cell<'_>) -> Option<ByteArray> {
    match cell {
        Cell::Text(text) if !text.is_empty() => Some(ByteArray::from(text)),
        _ => None,
    }
}

fn number(cell: Cell<'_>) -> Option<f64> {
    if let Cell::Number(number) = cell { number } else { None }
}

fn count(cell: Cell<'_>) -> Option<i64> {
    if let Cell::Count(count) = cell { count.and_then(|count| i64::try_from(count).ok()) } else { None }
}
