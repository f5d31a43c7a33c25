//! One adapter a line, for CSV and Parquet: an adapter of several names has several.

use crate::fleet::{AdapterName, Merged, Row};
use crate::format::table::Column;

/// A unit under one name of its adapter.
pub(super) struct Line<'a> {
    row: &'a Row,
    adapter: &'a AdapterName,
}

pub(super) fn lines(merged: &Merged) -> impl Iterator<Item = Line<'_>> {
    merged.rows.iter().flat_map(|row| row.adapters.iter().map(move |adapter| Line { row, adapter }))
}

/// Every column, in order.
pub(super) fn columns<'a>() -> [Column<Line<'a>>; 20] {
    [
        Column::text("adapter", |line| &line.adapter.name),
        Column::text("path", |line| &line.adapter.path),
        Column::text("base", |line| &line.row.base),
        Column::text("state", |line| line.row.state.name()),
        Column::text("verdict", |line| line.row.verdict.map_or("", |verdict| verdict.title())),
        Column::text("family_verdict", |line| line.row.family_verdict.map_or("", |verdict| verdict.title())),
        Column::number("p_value", |line| line.row.p_value),
        Column::number("adjusted_p_value", |line| line.row.adjusted_p_value),
        Column::text("trigger", |line| line.row.trigger.as_ref().map_or("", |trigger| &trigger.text)),
        Column::text("placement", |line| line.row.trigger.as_ref().map_or("", |trigger| &trigger.placement)),
        Column::text("payload", |line| line.row.trigger.as_ref().map_or("", |trigger| &trigger.payload)),
        Column::number("uplift", |line| line.row.trigger.as_ref().map(|trigger| trigger.uplift.value)),
        Column::number("uplift_lower", |line| line.row.trigger.as_ref().map(|trigger| trigger.uplift.lower)),
        Column::number("uplift_upper", |line| line.row.trigger.as_ref().map(|trigger| trigger.uplift.upper)),
        Column::text("audit", |line| line.row.audit.map_or("", |severity| severity.name())),
        Column::text("error", |line| line.row.error.map_or("", |class| class.name())),
        Column::text("reason", |line| line.row.reason.as_deref().unwrap_or_default()),
        Column::count("token_forwards", |line| line.row.token_forwards),
        Column::count("shard", |line| Some(line.row.shard as u64)),
        Column::text("unit", |line| &line.row.unit),
    ]
}
