//! One adapter a line: an adapter of several names has several.

use super::MergedFormat;
use crate::fleet::{AdapterName, Merged, Row};
use crate::format::FormatError;
use crate::format::csv::{quoted, shown};

/// RFC 4180 with a header line.
pub(super) struct Csv;

impl MergedFormat for Csv {
    fn name(&self) -> &'static str {
        "csv"
    }

    fn file(&self) -> &'static str {
        "adapters.csv"
    }

    fn render(&self, merged: &Merged) -> Result<String, FormatError> {
        let mut table = COLUMNS.map(|(name, _)| name).join(",");
        table.push_str("\r\n");
        for row in &merged.rows {
            for adapter in &row.adapters {
                table += &COLUMNS.map(|(_, cell)| quoted(cell(row, adapter))).join(",");
                table.push_str("\r\n");
            }
        }
        Ok(table)
    }
}

type CellOf = fn(&Row, &AdapterName) -> String;

const COLUMNS: [(&str, CellOf); 20] = [
    ("adapter", |_, adapter| shown(&adapter.name)),
    ("path", |_, adapter| shown(&adapter.path)),
    ("base", |row, _| shown(&row.base)),
    ("state", |row, _| row.state.name().to_owned()),
    ("verdict", |row, _| row.verdict.map_or("", |verdict| verdict.title()).to_owned()),
    ("family_verdict", |row, _| row.family_verdict.map_or("", |verdict| verdict.title()).to_owned()),
    ("p_value", |row, _| number(row.p_value)),
    ("adjusted_p_value", |row, _| number(row.adjusted_p_value)),
    ("trigger", |row, _| shown(row.trigger.as_ref().map_or("", |trigger| &trigger.text))),
    ("placement", |row, _| shown(row.trigger.as_ref().map_or("", |trigger| &trigger.placement))),
    ("payload", |row, _| shown(row.trigger.as_ref().map_or("", |trigger| &trigger.payload))),
    ("uplift", |row, _| number(row.trigger.as_ref().map(|trigger| trigger.uplift.value))),
    ("uplift_lower", |row, _| number(row.trigger.as_ref().map(|trigger| trigger.uplift.lower))),
    ("uplift_upper", |row, _| number(row.trigger.as_ref().map(|trigger| trigger.uplift.upper))),
    ("audit", |row, _| row.audit.map_or("", |severity| severity.name()).to_owned()),
    ("error", |row, _| row.error.map_or("", |class| class.name()).to_owned()),
    ("reason", |row, _| shown(row.reason.as_deref().unwrap_or_default())),
    ("token_forwards", |row, _| row.token_forwards.map_or(String::new(), |tokens| tokens.to_string())),
    ("shard", |row, _| row.shard.to_string()),
    ("unit", |row, _| row.unit.clone()),
];

/// The shortest decimal that gives back the same number.
fn number(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}
