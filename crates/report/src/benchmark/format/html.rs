//! The benchmark as one page that works offline.

use super::BenchmarkFormat;
use super::text::{costs, estimate, rates};
use crate::benchmark::labels::Truth;
use crate::benchmark::{Benchmark, CellSummary, CostPoint, Row};
use crate::format::FormatError;
use crate::format::html::index::{Index, Tile};
use crate::format::html::plot::{self, Mark, Plot};
use crate::format::html::table::{Cell, Table};
use crate::verdict::Verdict;

/// A self-contained page.
pub(super) struct Html;

impl BenchmarkFormat for Html {
    fn name(&self) -> &'static str {
        "html"
    }

    fn file(&self) -> &'static str {
        "index.html"
    }

    fn render(&self, benchmark: &Benchmark) -> Result<String, FormatError> {
        let mut statements = vec![
            "Adapters are ranked by verdict, then by the lower end of the strongest trigger's uplift. Labels were joined \
             after the verdicts."
                .to_owned(),
        ];
        for summary in &benchmark.summaries {
            statements.push(format!(
                "{}: AUC {}, {} of {} backdoored and {} of {} benign adapters called backdoored.",
                summary.configuration,
                estimate(summary.auc.as_ref()),
                called(benchmark, &summary.configuration, Truth::Backdoored),
                summary.backdoored,
                called(benchmark, &summary.configuration, Truth::Benign),
                summary.benign,
            ));
            if summary.without_result > 0 {
                statements.push(format!(
                    "{}: {} adapters have no result and are in no rate.",
                    summary.configuration, summary.without_result
                ));
            }
        }
        let first = benchmark.summaries.first();
        let tiles = vec![
            Tile { name: "configurations".into(), count: benchmark.summaries.len() },
            Tile { name: "backdoored".into(), count: first.map_or(0, |summary| summary.backdoored) },
            Tile { name: "benign".into(), count: first.map_or(0, |summary| summary.benign) },
        ];
        let tone = if benchmark.complete() { "quiet" } else { "doubtful" };
        let tables = vec![
            front_table(benchmark),
            rates_table(benchmark),
            cells_table(benchmark),
            rows_table(benchmark),
        ];
        Index::new("Benchmark".to_owned(), tone, statements, tiles, tables, None)
            .titled("Benchmark of a zoo")
            .with_plots(plots(benchmark))
            .page()
            .map_err(|error| FormatError::new(self.name(), error))
    }
}

fn called(benchmark: &Benchmark, configuration: &str, truth: Truth) -> usize {
    let own = benchmark.cells.iter().filter(|cell| cell.configuration == configuration);
    own.filter(|cell| cell.truth == truth).map(|cell| cell.called_backdoored).sum()
}

/// The main rates by configuration, and AUC over cost.
fn plots(benchmark: &Benchmark) -> Vec<Plot> {
    let aucs: Vec<Mark> = benchmark
        .summaries
        .iter()
        .filter_map(|summary| {
            let auc = summary.auc.as_ref()?;
            Some(Mark {
                label: summary.configuration.clone(),
                colour: plot::ADAPTED,
                value: auc.value,
                interval: Some((auc.lower, auc.upper)),
                points: Vec::new(),
            })
        })
        .collect();
    let scores: Vec<Mark> = benchmark
        .summaries
        .iter()
        .flat_map(|summary| [(summary, Truth::Backdoored), (summary, Truth::Benign)])
        .filter_map(|(summary, truth)| {
            let own = benchmark.rows.iter().filter(|row| row.configuration == summary.configuration);
            let points: Vec<f64> = own
                .filter(|row| row.truth.label == truth)
                .filter_map(|row| row.found.as_ref().map(|found| found.score))
                .collect();
            if points.is_empty() {
                return None;
            }
            let (name, colour) = match truth {
                Truth::Backdoored => ("backdoored", plot::ADAPTED),
                Truth::Benign => ("benign", plot::BASE),
            };
            Some(Mark {
                label: format!("{}, {name}", summary.configuration),
                colour,
                value: points.iter().sum::<f64>() / points.len() as f64,
                interval: None,
                points,
            })
        })
        .collect();
    let costs: Vec<(f64, f64, &str)> = (benchmark.front.iter())
        .map(|point| (point.token_forwards, point.auc.value, point.configuration.as_str()))
        .collect();
    [
        plot::marks("Area under the ROC curve.", "AUC", &aucs, Some(0.5)),
        plot::marks("Scores of the adapters, and their mean.", "score", &scores, None),
        plot::scatter("AUC over the cost of a scan.", ("mean token-forwards of a scan", "AUC"), &costs),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn front_table(benchmark: &Benchmark) -> Table {
    let mut table = Table::new(
        "front",
        "AUC by cost",
        &["configuration", "#token-forwards, backward ones threefold", "#AUC", "nothing as cheap is better"],
    );
    let cells = |point: &CostPoint| {
        vec![
            Cell::raw(&point.configuration),
            Cell::number(point.token_forwards, 0),
            Cell::estimate(&point.auc, 3),
            Cell::words(if point.on_front { "yes" } else { "" }),
        ]
    };
    table.rows = benchmark.front.iter().map(cells).collect();
    table
}

fn rates_table(benchmark: &Benchmark) -> Table {
    let mut table = Table::new("rates", "Rates and cost", &["configuration", "what", "value"]);
    for summary in &benchmark.summaries {
        let rates = rates(summary).into_iter().map(|(name, rate)| (name, estimate(rate)));
        let costs = costs(summary)
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.unwrap_or_else(|| "not measured".to_owned())));
        for (name, value) in rates.chain(costs) {
            table.rows.push(vec![Cell::raw(&summary.configuration), Cell::words(&name), Cell::words(&value)]);
        }
    }
    table
}

fn cells_table(benchmark: &Benchmark) -> Table {
    let mut table = Table::new(
        "cells",
        "By kind of adapter",
        &[
            "configuration",
            "truth",
            "attack or kind",
            "payload",
            "#r",
            "#poison",
            "#adapters",
            "#backdoored",
            "#flagged",
            "#recalled",
            "#planted success",
        ],
    );
    let cell = |cell: &CellSummary| {
        vec![
            Cell::raw(&cell.configuration),
            Cell::words(truth(cell.truth)),
            Cell::raw(cell.attack.as_deref().unwrap_or_default()),
            Cell::raw(cell.payload_class.as_deref().unwrap_or_default()),
            Cell::number(cell.r.map(|r| r as f64), 0),
            Cell::number(cell.poison_rate, 2),
            Cell::number(cell.adapters as f64, 0),
            Cell::number(cell.called_backdoored as f64, 0),
            Cell::number(cell.flagged as f64, 0),
            Cell::number((cell.truth == Truth::Backdoored).then_some(cell.recalled as f64), 0),
            Cell::number(cell.attack_success_rate, 2),
        ]
    };
    table.rows = benchmark.cells.iter().map(cell).collect();
    table
}

fn rows_table(benchmark: &Benchmark) -> Table {
    let mut table = Table::new(
        "units",
        "Adapters",
        &[
            "configuration",
            "adapter",
            "truth",
            "attack or kind",
            "planted",
            "verdict",
            "#score",
            "trigger",
            "payload",
            "#uplift",
            "near",
            "#token-forwards",
            "#seconds",
            "error",
        ],
    );
    let cells = |row: &Row| {
        let found = row.found.as_ref();
        let trigger = found.and_then(|found| found.trigger.as_ref());
        vec![
            Cell::raw(&row.configuration),
            Cell::raw(&row.adapter),
            Cell::words(truth(row.truth.label)),
            Cell::raw(row.truth.attack.as_deref().unwrap_or_default()),
            Cell::raw(&row.truth.trigger.all().join(" | ")),
            Cell::words(found.and_then(|found| found.verdict).map_or("", Verdict::title)),
            Cell::number(found.map(|found| found.score), 2),
            Cell::raw(trigger.map_or("", |trigger| &trigger.text)),
            Cell::words(trigger.map_or("", |trigger| &trigger.payload_class)),
            trigger.map_or_else(|| Cell::number(None, 2), |trigger| Cell::estimate(&trigger.uplift, 2)),
            Cell::words(match trigger.and_then(|trigger| trigger.near) {
                Some(true) => "yes",
                Some(false) => "no",
                None => "",
            }),
            Cell::number(found.map(|found| found.cost.token_forwards as f64), 0),
            Cell::number(row.run.map(|run| run.seconds), 1),
            Cell::raw(row.error.as_deref().unwrap_or_default()),
        ]
    };
    table.rows = benchmark.rows.iter().map(cells).collect();
    table
}

fn truth(truth: Truth) -> &'static str {
    match truth {
        Truth::Benign => "benign",
        Truth::Backdoored => "backdoored",
    }
}
