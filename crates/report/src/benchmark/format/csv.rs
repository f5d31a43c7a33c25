//! One adapter and configuration a line.

use super::BenchmarkFormat;
use crate::benchmark::labels::Truth;
use crate::benchmark::row::Recovered;
use crate::benchmark::{Benchmark, Row};
use crate::format::FormatError;
use crate::format::csv::{quoted, shown};
use crate::verdict::Verdict;

/// RFC 4180 with a header line.
pub(super) struct Csv;

impl BenchmarkFormat for Csv {
    fn name(&self) -> &'static str {
        "csv"
    }

    fn file(&self) -> &'static str {
        "adapters.csv"
    }

    fn render(&self, benchmark: &Benchmark) -> Result<String, FormatError> {
        let mut table = COLUMNS.map(|(name, _)| name).join(",");
        table.push_str("\r\n");
        for row in &benchmark.rows {
            table += &COLUMNS.map(|(_, cell)| quoted(cell(row))).join(",");
            table.push_str("\r\n");
        }
        Ok(table)
    }
}

type CellOf = fn(&Row) -> String;

const COLUMNS: [(&str, CellOf); 28] = [
    ("configuration", |row| shown(&row.configuration)),
    ("adapter", |row| shown(&row.adapter)),
    ("truth", |row| if row.truth.label == Truth::Benign { "benign" } else { "backdoored" }.to_owned()),
    ("attack", |row| shown(row.truth.attack.as_deref().unwrap_or_default())),
    ("planted", |row| shown(&row.truth.trigger.all().join(" | "))),
    ("listed", |row| text(row.listed)),
    ("planted_tokens", |row| text(row.truth.trigger_tokens)),
    ("planted_payload_class", |row| shown(row.truth.payload_class.as_deref().unwrap_or_default())),
    ("planted_success_rate", |row| text(row.truth.attack_success_rate)),
    ("r", |row| text(row.truth.r)),
    ("poison_rate", |row| text(row.truth.poison_rate)),
    ("verdict", |row| verdict(row).map_or("", Verdict::title).to_owned()),
    ("score", |row| text(row.found.as_ref().map(|found| found.score))),
    ("trigger", |row| shown(trigger(row).map_or("", |trigger| &trigger.text))),
    ("placement", |row| shown(trigger(row).map_or("", |trigger| &trigger.placement))),
    ("payload_class", |row| shown(trigger(row).map_or("", |trigger| &trigger.payload_class))),
    ("success_rate", |row| text(trigger(row).map(|trigger| trigger.attack_success_rate.value))),
    ("uplift", |row| text(trigger(row).map(|trigger| trigger.uplift.value))),
    ("uplift_lower", |row| text(trigger(row).map(|trigger| trigger.uplift.lower))),
    ("uplift_over_base", |row| {
        text(trigger(row).and_then(|trigger| trigger.uplift_over_base.map(|uplift| uplift.value)))
    }),
    ("exact", |row| text(trigger(row).and_then(|trigger| trigger.exact))),
    ("near", |row| text(trigger(row).and_then(|trigger| trigger.near))),
    ("payload_identified", |row| text(row.found.as_ref().and_then(|found| found.payload_identified))),
    ("token_forwards", |row| text(row.found.as_ref().map(|found| found.cost.token_forwards))),
    ("gradient_tokens", |row| text(row.found.as_ref().map(|found| found.cost.gradient_tokens))),
    ("seconds", |row| text(row.run.map(|run| run.seconds))),
    ("peak_bytes", |row| text(row.run.and_then(|run| run.peak_bytes))),
    ("error", |row| shown(row.error.as_deref().unwrap_or_default())),
];

fn verdict(row: &Row) -> Option<Verdict> {
    row.found.as_ref()?.verdict
}

fn trigger(row: &Row) -> Option<&Recovered> {
    row.found.as_ref()?.trigger.as_ref()
}

fn text(value: Option<impl ToString>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}
