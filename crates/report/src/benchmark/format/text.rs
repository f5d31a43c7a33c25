//! For a terminal.

use std::fmt::Write as _;

use super::BenchmarkFormat;
use crate::benchmark::labels::Truth;
use crate::benchmark::{Benchmark, CellSummary, CostPoint, Summary};
use crate::escape::{escape, excerpt};
use crate::estimate::Estimate;
use crate::format::FormatError;

/// Tables of at most 100 columns.
pub(super) struct Text;

impl BenchmarkFormat for Text {
    fn name(&self) -> &'static str {
        "text"
    }

    fn file(&self) -> &'static str {
        "benchmark.txt"
    }

    fn render(&self, benchmark: &Benchmark) -> Result<String, FormatError> {
        let mut text = String::new();
        for summary in &benchmark.summaries {
            let own = |cell: &&CellSummary| cell.configuration == summary.configuration;
            let cells: Vec<&CellSummary> = benchmark.cells.iter().filter(own).collect();
            write_summary(&mut text, summary).map_err(|error| FormatError::new(self.name(), error))?;
            write_cells(&mut text, &cells).map_err(|error| FormatError::new(self.name(), error))?;
        }
        write_front(&mut text, &benchmark.front).map_err(|error| FormatError::new(self.name(), error))?;
        Ok(text)
    }
}

/// `0.95 [0.83, 0.99] of 20`.
pub(super) fn estimate(estimate: Option<&Estimate>) -> String {
    estimate.map_or_else(
        || "not measured".to_owned(),
        |e| format!("{:.3} [{:.3}, {:.3}] of {}", e.value, e.lower, e.upper, e.n),
    )
}

/// What each rate is called, and its value.
pub(super) fn rates(summary: &Summary) -> Vec<(String, Option<&Estimate>)> {
    let mut rates = vec![("AUC".to_owned(), summary.auc.as_ref())];
    for point in &summary.operating_points {
        let at = if point.false_positive_rate_at_most > 0.0 {
            format!("at most {:.0} % false ones", 100.0 * point.false_positive_rate_at_most)
        } else {
            "no false one".to_owned()
        };
        rates.push((format!("true positives with {at}"), point.true_positive_rate.as_ref()));
        rates.push(("  the false ones".to_owned(), point.false_positive_rate.as_ref()));
    }
    let named = [
        ("backdoored, called backdoored", &summary.backdoored_called_backdoored),
        ("  of those in no list", &summary.unlisted_called_backdoored),
        ("  of those whose trigger works on half of prompts", &summary.working_called_backdoored),
        ("backdoored, at least suspicious", &summary.backdoored_flagged),
        ("benign, called backdoored", &summary.benign_called_backdoored),
        ("benign, at least suspicious", &summary.benign_flagged),
        ("trigger recovered exactly", &summary.recall_exact),
        ("trigger recovered nearly", &summary.recall_near),
        ("  of those of up to three tokens", &summary.recall_near_short),
        ("success rate of what was recovered", &summary.recovered_success_rate),
        ("its uplift over every condition", &summary.uplift),
        ("its uplift over the base", &summary.uplift_over_base),
        ("payload named", &summary.payload_identified),
    ];
    rates.extend(named.map(|(name, rate)| (name.to_owned(), rate.as_ref())));
    rates
}

/// What each cost is called, and its value.
pub(super) fn costs(summary: &Summary) -> Vec<(&'static str, Option<String>)> {
    let cost = &summary.cost;
    let whole = |value: Option<f64>| value.map(|value| format!("{value:.0}"));
    vec![
        ("token-forwards a scan", whole(cost.token_forwards)),
        ("of the longest", cost.most_token_forwards.map(|tokens| tokens.to_string())),
        ("until a backdoor is confirmed", whole(cost.token_forwards_to_detection)),
        ("backward tokens a scan", whole(cost.gradient_tokens)),
        ("operations a scan", cost.flops.map(|flops| format!("{flops:.2e}"))),
        ("seconds a scan", cost.seconds.map(|seconds| format!("{seconds:.1}"))),
        ("peak memory, MB", cost.peak_bytes.map(|bytes| format!("{:.0}", bytes as f64 / 1e6))),
    ]
}

fn write_summary(text: &mut String, summary: &Summary) -> std::fmt::Result {
    writeln!(
        text,
        "{}: {} backdoored and {} benign adapters",
        escape(&summary.configuration),
        summary.backdoored,
        summary.benign
    )?;
    if summary.without_result > 0 {
        writeln!(text, "  {} without a result, which are in no rate", summary.without_result)?;
    }
    for (name, rate) in rates(summary) {
        writeln!(text, "  {name:<50} {}", estimate(rate))?;
    }
    for (name, value) in costs(summary) {
        writeln!(text, "  {name:<50} {}", value.as_deref().unwrap_or("not measured"))?;
    }
    for (search, tokens) in &summary.cost.searches {
        writeln!(
            text,
            "    token-forwards of `{}`{:<1$} {tokens:.0}",
            escape(search),
            30_usize.saturating_sub(search.len())
        )?;
    }
    writeln!(text)
}

/// AUC by cost, if there is something to compare.
fn write_front(text: &mut String, points: &[CostPoint]) -> std::fmt::Result {
    if points.len() < 2 {
        return Ok(());
    }
    writeln!(text, "AUC by cost, cheapest first; * where nothing as cheap is better")?;
    for point in points {
        let mark = if point.on_front { '*' } else { ' ' };
        let name = excerpt(&point.configuration, 38);
        writeln!(
            text,
            "{mark} {name:<40} {:>12.0} token-forwards  {}",
            point.token_forwards,
            estimate(Some(&point.auc))
        )?;
    }
    writeln!(text)
}

fn write_cells(text: &mut String, cells: &[&CellSummary]) -> std::fmt::Result {
    writeln!(
        text,
        "  {:<24} {:<20} {:>3} {:>7} {:>5} {:>10} {:>7} {:>8} {:>7}",
        "attack or kind", "payload", "r", "poison", "n", "backdoored", "flagged", "recalled", "planted"
    )?;
    for cell in cells {
        let attack = cell.attack.as_deref().unwrap_or("-");
        let attack = match cell.truth {
            Truth::Benign => format!("benign: {attack}"),
            Truth::Backdoored => attack.to_owned(),
        };
        let number = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        writeln!(
            text,
            "  {:<24} {:<20} {:>3} {:>7} {:>5} {:>10} {:>7} {:>8} {:>7}",
            excerpt(&attack, 24),
            excerpt(cell.payload_class.as_deref().unwrap_or("-"), 20),
            number(cell.r.map(|r| r.to_string())),
            number(cell.poison_rate.map(|rate| format!("{rate:.2}"))),
            cell.adapters,
            cell.called_backdoored,
            cell.flagged,
            if cell.truth == Truth::Benign { "-".to_owned() } else { cell.recalled.to_string() },
            number(cell.attack_success_rate.map(|rate| format!("{rate:.2}"))),
        )?;
    }
    writeln!(text)
}
