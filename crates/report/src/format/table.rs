//! Columns of a table for programs: CSV and Parquet are written from them, whatever a row is.

/// A column of rows `R`.
pub(crate) struct Column<R> {
    /// Its header.
    pub(crate) name: &'static str,
    /// What stands in it.
    pub(crate) cells: Cells<R>,
}

/// What stands in a column of a row; nothing (and no text) where that row has none.
pub(crate) enum Cells<R> {
    /// As the model, the adapter or the plan wrote it.
    Text(fn(&R) -> &str),
    Number(fn(&R) -> Option<f64>),
    Count(fn(&R) -> Option<u64>),
}

impl<R> Column<R> {
    pub(crate) const fn text(name: &'static str, of: fn(&R) -> &str) -> Self {
        Self { name, cells: Cells::Text(of) }
    }

    pub(crate) const fn number(name: &'static str, of: fn(&R) -> Option<f64>) -> Self {
        Self { name, cells: Cells::Number(of) }
    }

    pub(crate) const fn count(name: &'static str, of: fn(&R) -> Option<u64>) -> Self {
        Self { name, cells: Cells::Count(of) }
    }
}
