//! The index of all adapters as one page that works offline.

use super::MergedFormat;
use crate::fleet::{Merged, Row, State};
use crate::format::html::index::{Index, Tile};
use crate::format::html::table::{Cell, Table};
use crate::format::{FormatError, Rendered};
use crate::verdict::Verdict;

/// Rows of the table: browsers sort as many without a pause. The worst come first, and what is left out is said.
const ROWS: usize = 5_000;
/// Files that are not believed, in the page.
const PROBLEMS: usize = 500;

/// A self-contained page.
pub(super) struct Html;

impl MergedFormat for Html {
    fn name(&self) -> &'static str {
        "html"
    }

    fn file(&self) -> &'static str {
        "index.html"
    }

    fn render(&self, merged: &Merged) -> Result<Rendered, FormatError> {
        let counts = &merged.counts;
        let mut statements = vec![format!(
            "{} of {} units done, {} errored, {} missing, {} conflicting.",
            counts.done, counts.units, counts.errored, counts.missing, counts.conflicting
        )];
        let family = &merged.family;
        statements.push(format!(
            "The false discovery rate is controlled at {} over all {} families of hypotheses of the plan (two a unit): in \
             {} something stands out, and what was found there counts at {:.2e}.",
            family.rate, family.families, family.selected, family.selected_rate
        ));
        if merged.rows.len() > ROWS {
            statements.push(format!(
                "The table has the {ROWS} worst of {} units; units.jsonl and adapters.csv have all.",
                merged.rows.len()
            ));
        }
        if merged.problems.len() > PROBLEMS {
            statements.push(format!(
                "Of {} files that are not believed, {PROBLEMS} are listed; summary.json has all.",
                merged.problems.len()
            ));
        }
        let tiles = merged
            .family_verdicts
            .iter()
            .map(|(verdict, count)| Tile { name: verdict.clone(), count: *count })
            .collect();
        let mut tables = vec![units(merged)];
        if !merged.problems.is_empty() {
            tables.push(problems(merged));
        }
        let worst = merged.worst();
        let tone = match worst {
            Some(Verdict::Backdoored) => "bad",
            _ if !merged.complete() => "doubtful",
            Some(Verdict::Suspicious | Verdict::Inconclusive) => "doubtful",
            _ => "quiet",
        };
        Index::new(format!("{} adapters", names(merged)), tone, statements, tiles, tables, worst)
            .page()
            .map(Rendered::Text)
            .map_err(|error| FormatError::new(self.name(), error))
    }
}

fn names(merged: &Merged) -> usize {
    merged.rows.iter().map(|row| row.adapters.len()).sum()
}

fn units(merged: &Merged) -> Table {
    let mut table = Table::new(
        "units",
        "Adapters",
        &[
            "adapter",
            "base",
            "state",
            "over all units",
            "own scan",
            "trigger",
            "payload",
            "#uplift",
            "#adjusted p",
            "files",
            "why",
            "unit",
        ],
    );
    table.rows = merged.worst_first().into_iter().take(ROWS).map(cells).collect();
    table
}

fn cells(row: &Row) -> Vec<Cell> {
    let names: Vec<&str> = row.adapters.iter().map(|adapter| adapter.name.as_str()).collect();
    let verdict = |verdict: Option<Verdict>| Cell::words(verdict.map_or("", Verdict::title));
    let trigger = row.trigger.as_ref();
    vec![
        Cell::raw(&names.join(", ")),
        Cell::raw(&row.base),
        Cell::words(row.state.name()),
        verdict(row.family_verdict),
        verdict(row.verdict),
        Cell::raw(trigger.map_or("", |trigger| &trigger.text)),
        Cell::words(trigger.map_or("", |trigger| &trigger.payload)),
        trigger.map_or_else(|| Cell::number(None, 2), |trigger| Cell::estimate(&trigger.uplift, 2)),
        Cell::p_value(row.adjusted_p_value),
        Cell::words(row.audit.map_or("", |severity| severity.name())),
        Cell::raw(match row.state {
            State::Missing => "no result that is believed",
            _ => row.reason.as_deref().unwrap_or_default(),
        }),
        Cell::raw(&row.unit[..row.unit.len().min(16)]),
    ]
}

fn problems(merged: &Merged) -> Table {
    let mut table =
        Table::new("problems", "Files in the store that are not believed", &["kind", "file", "why"]);
    table.rows = merged
        .problems
        .iter()
        .take(PROBLEMS)
        .map(|problem| {
            vec![Cell::words(problem.kind.name()), Cell::raw(&problem.file), Cell::raw(&problem.reason)]
        })
        .collect();
    table
}
