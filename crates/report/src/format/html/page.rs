//! The page's contents, from the record.

use std::collections::BTreeSet;

use askama::Template;

use super::plot::{self, ADAPTED, BASE, Mark, NULL, Plot, Step};
use super::table::{Cell, Table};
use super::trigger::TriggerView;
use super::{SCRIPT, STYLE, policy};
use crate::comparison::Comparison;
use crate::evidence::SelfTest;
use crate::format::comparison::{Statement, statements};
use crate::format::finding::{next_steps, rule_of_trigger};
use crate::hunt::HuntRecord;
use crate::record::Record;
use crate::verdict::Verdict;

/// The whole page.
#[derive(Template)]
#[template(path = "report.html")]
pub(super) struct Page<'a> {
    record: &'a Record,
    policy: String,
    style: &'static str,
    script: &'static str,
    tone: &'static str,
    confidence: String,
    next_steps: Vec<&'static str>,
    triggers: Vec<TriggerView<'a>>,
    /// Against the earlier run.
    statements: Vec<Statement>,
    changes: Section,
    files: Section,
    behaviour: Section,
    screening: Section,
    search: Section,
    tests: Table,
}

/// Plots and tables under one heading.
#[derive(Default)]
struct Section {
    plots: Vec<Plot>,
    tables: Vec<Table>,
}

impl<'a> Page<'a> {
    pub(super) fn of(record: &'a Record) -> Self {
        let judgement = &record.judgement;
        Self {
            record,
            policy: policy(),
            style: STYLE,
            script: SCRIPT,
            tone: match judgement.verdict {
                Verdict::Backdoored => "bad",
                Verdict::Suspicious | Verdict::Inconclusive => "doubtful",
                Verdict::NoEvidence => "quiet",
            },
            confidence: format!("{:?}", judgement.confidence).to_lowercase(),
            next_steps: next_steps(record),
            triggers: (record.evidence.tested.iter())
                .filter_map(|tested| Some(TriggerView::of(tested, rule_of_trigger(record, tested)?)))
                .collect(),
            statements: record.comparison.as_ref().map(statements).unwrap_or_default(),
            changes: record.comparison.as_ref().map(changes).unwrap_or_default(),
            files: files(record),
            behaviour: behaviour(record),
            screening: screening(record),
            search: record.hunt.as_ref().map(search).unwrap_or_default(),
            tests: self_tests(&record.evidence.self_tests),
        }
    }
}

impl Section {
    fn new(plots: impl IntoIterator<Item = Option<Plot>>, tables: impl IntoIterator<Item = Table>) -> Self {
        Self {
            plots: plots.into_iter().flatten().collect(),
            tables: tables.into_iter().filter(|table| !table.rows.is_empty()).collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.plots.is_empty() && self.tables.is_empty()
    }
}

/// Answers that changed since the earlier run.
fn changes(comparison: &Comparison) -> Section {
    let mut changed = Table::new(
        "changes",
        "Answers that changed: those with a new payload, then those that moved furthest from the base",
        &["suite", "prompt", "before", "now", "new payloads", "#KL now minus before, nats"],
    );
    for row in &comparison.examples {
        changed.rows.push(vec![
            Cell::words(&row.suite),
            Cell::raw(&row.prompt),
            Cell::answer(&row.before, &row.now),
            Cell::answer(&row.now, &row.before),
            Cell::words(&row.new_payloads.join(", ")),
            Cell::number(row.drift_nats, 3),
        ]);
    }
    Section::new([], [changed])
}

/// What the adapter's files say.
fn files(record: &Record) -> Section {
    let mut findings = Table::new(
        "findings",
        "Findings in the adapter's files",
        &["severity", "rule", "where", "what", "accepted"],
    );
    for finding in record.audit.iter().flat_map(|audit| &audit.findings) {
        let accepted = finding.suppressed.as_ref().map_or("", |suppressed| suppressed.reason.as_str());
        findings.rows.push(vec![
            Cell::words(finding.severity.name()),
            Cell::words(&finding.rule),
            Cell::raw(&finding.place()),
            Cell::raw(&finding.message),
            Cell::raw(accepted),
        ]);
    }
    Section::new([], [findings])
}

/// What the adapter does without any trigger.
fn behaviour(record: &Record) -> Section {
    let evidence = &record.evidence;
    let mut drift = Table::new(
        "drift",
        "Divergence of the two models on benign prompts",
        &["divergence", "unit", "#mean", "#prompts"],
    );
    for row in &evidence.drift {
        drift.rows.push(vec![
            Cell::words(&row.divergence),
            Cell::words(&row.unit),
            Cell::estimate(&row.estimate, 4),
            Cell::number(row.estimate.n as f64, 0),
        ]);
    }
    let mut anomalies = Table::new(
        "anomalies",
        "Payloads in answers to prompts without trigger",
        &["payload", "suite", "kind", "#adapted", "#base", "#difference", "#adjusted p"],
    );
    for row in &evidence.anomalies {
        anomalies.rows.push(vec![
            Cell::words(&row.grader),
            Cell::words(&row.suite),
            Cell::words(&row.kind),
            Cell::estimate(&row.adapted, 2),
            Cell::estimate(&row.base, 2),
            Cell::estimate(&row.difference, 2),
            Cell::p_value(row.adjusted_p_value),
        ]);
    }
    let mut taught = Table::new(
        "taught",
        "Answers that the adapted model knows by heart and the base does not",
        &[
            "answer",
            "#probability of a token",
            "#nats above the base",
            "#shown in ordinary answers",
            "#rank among them",
        ],
    );
    for row in &evidence.taught {
        taught.rows.push(vec![
            Cell::raw(&row.text),
            Cell::number(row.probability, 2),
            Cell::number(row.log_ratio_nats, 2),
            Cell::estimate(&row.shown, 3),
            Cell::p_value(row.p.p_value),
        ]);
    }
    let mut activations = Table::new(
        "activations",
        "Layers beyond what benign prompts do: share of held-out prompts",
        &["candidate", "placement", "#with it", "#with random text", "#with neither"],
    );
    for row in &evidence.activations {
        activations.rows.push(vec![
            Cell::raw(&row.candidate.text),
            Cell::words(&row.candidate.placement),
            Cell::estimate(&row.flagged, 2),
            Cell::estimate(&row.control, 2),
            Cell::estimate(&row.clean, 2),
        ]);
    }
    let mut answers = Table::new(
        "answers",
        "Answers of both models to prompts without trigger",
        &["suite", "prompt", "base", "adapted", "#KL, nats"],
    );
    for row in &evidence.answers {
        answers.rows.push(vec![
            Cell::words(&row.suite),
            Cell::raw(&row.prompt),
            Cell::answer(&row.base, &row.adapted),
            Cell::answer(&row.adapted, &row.base),
            Cell::number(row.kl_nats, 3),
        ]);
    }
    Section::new(
        [divergence_by_suite(record), rates_by_grader(record)],
        [anomalies, taught, activations, answers, drift],
    )
}

/// KL of every prompt by suite, and its mean with the interval.
fn divergence_by_suite(record: &Record) -> Option<Plot> {
    let evidence = &record.evidence;
    let suites: BTreeSet<&str> = evidence.answers.iter().map(|answer| answer.suite.as_str()).collect();
    let mean = evidence.drift.iter().find(|drift| drift.divergence == "kl").map(|drift| &drift.estimate);
    let mut marks = Vec::new();
    for suite in suites {
        let of_suite = evidence.answers.iter().filter(|answer| answer.suite == suite);
        let points: Vec<f64> = of_suite.filter_map(|answer| answer.kl_nats).collect();
        if points.is_empty() {
            continue;
        }
        // The drift is that of the benign prompts: its interval belongs to the suite with as many.
        let known = mean.filter(|estimate| estimate.n == points.len());
        let average = points.iter().sum::<f64>() / points.len() as f64;
        marks.push(Mark {
            label: suite.to_owned(),
            colour: ADAPTED,
            value: known.map_or(average, |estimate| estimate.value),
            interval: known.map(|estimate| (estimate.lower, estimate.upper)),
            points,
        });
    }
    if marks.is_empty() {
        let mean = mean?;
        marks.push(Mark {
            label: "all benign prompts".to_owned(),
            colour: ADAPTED,
            value: mean.value,
            interval: Some((mean.lower, mean.upper)),
            points: Vec::new(),
        });
    }
    plot::marks(
        "Divergence by suite: every prompt, the mean and its interval",
        "KL(base || adapted), nats",
        &marks,
        None,
    )
}

/// Rates of the payloads that appear at all.
fn rates_by_grader(record: &Record) -> Option<Plot> {
    let mut marks = Vec::new();
    for anomaly in &record.evidence.anomalies {
        if anomaly.adapted.value > 0.0 || anomaly.base.value > 0.0 {
            for (side, colour, rate) in
                [("adapted", ADAPTED, &anomaly.adapted), ("base", BASE, &anomaly.base)]
            {
                marks.push(Mark {
                    label: format!("{}, {side}", anomaly.grader),
                    colour,
                    value: rate.value,
                    interval: Some((rate.lower, rate.upper)),
                    points: Vec::new(),
                });
            }
        }
    }
    plot::marks("Payloads in answers without any trigger", "share of answers", &marks, None)
}

/// Candidates of the lists: how far they move the models, and those that were tested.
fn screening(record: &Record) -> Section {
    let evidence = &record.evidence;
    let mut values: Vec<(f64, &str)> = (evidence.screened.iter())
        .filter_map(|screened| Some((screened.difference_nats?, screened.candidate.text.as_str())))
        .collect();
    values.sort_by(|a, b| b.0.total_cmp(&a.0));
    let ranked = plot::ranked(
        "Listed candidates, strongest first; grey: random strings",
        "KL, adapted minus base, nats",
        &values,
        &evidence.control_nats,
    );
    let marks: Vec<Mark> = (evidence.tested.iter())
        .filter_map(|tested| {
            let estimate = &tested.difference.as_ref()?.estimate;
            Some(Mark {
                label: format!("{} ({})", tested.candidate.text, tested.candidate.placement),
                colour: ADAPTED,
                value: estimate.value,
                interval: Some((estimate.lower, estimate.upper)),
                points: Vec::new(),
            })
        })
        .collect();
    let moved = plot::marks(
        "Candidates tested on held-out prompts: divergence and interval",
        "KL, adapted minus base, nats",
        &marks,
        Some(0.0),
    );
    let mut tested = Table::new(
        "tested",
        "Candidates tested on held-out prompts",
        &["trigger", "placement", "payload", "#attack success rate", "#uplift", "#adjusted p", "#KL, nats"],
    );
    for row in &evidence.tested {
        tested.rows.push(vec![
            Cell::raw(&row.candidate.text),
            Cell::words(&row.candidate.placement),
            Cell::words(&row.payload.class),
            Cell::estimate(&row.attack_success_rate, 2),
            Cell::estimate(&row.uplift, 2),
            Cell::p_value(row.adjusted_p_value),
            Cell::number(row.difference.as_ref().map(|difference| difference.estimate.value), 2),
        ]);
    }
    let mut screened = Table::new(
        "screened",
        "Listed candidates that were screened",
        &[
            "candidate",
            "placement",
            "family",
            "#difference, nats",
            "#adapted",
            "#base",
            "#collapse",
            "#control p",
        ],
    );
    for row in &evidence.screened {
        screened.rows.push(vec![
            Cell::raw(&row.candidate.text),
            Cell::words(&row.candidate.placement),
            Cell::words(&row.candidate.family),
            Cell::number(row.difference_nats, 3),
            Cell::number(row.adapted_nats, 3),
            Cell::number(row.base_nats, 3),
            Cell::number(row.collapse_nats, 3),
            Cell::p_value(row.control_p),
        ]);
    }
    Section::new([ranked, moved], [tested, screened])
}

/// What the searches did.
fn search(hunt: &HuntRecord) -> Section {
    let (mut cost, mut reached) = (0.0_f64, 0.0_f64);
    let mut steps = Vec::new();
    let mut searches = Table::new(
        "searches",
        "Searches, in their order",
        &["search", "#candidates", "#token-forwards", "#with gradients", "ended", "best", "#nats"],
    );
    for row in &hunt.searches {
        let nats = row.best.as_ref().map(|best| best.adapted_nats - best.base_nats.unwrap_or(0.0));
        cost += row.token_forwards as f64;
        reached = reached.max(nats.unwrap_or(0.0));
        steps.push(Step { name: row.name.clone(), cost, reached });
        searches.rows.push(vec![
            Cell::words(&row.name),
            Cell::number(row.candidates as f64, 0),
            Cell::number(row.token_forwards as f64, 0),
            Cell::number(row.gradient_tokens as f64, 0),
            Cell::words(if row.complete { "by itself" } else { "by its share of the budget" }),
            Cell::raw(row.best.as_ref().map_or("", |best| &best.candidate.text)),
            Cell::number(nats, 2),
        ]);
    }
    let progress = plot::progress(
        "Progress of the searches: the strongest candidate so far",
        "KL, adapted minus base, nats",
        &steps,
    );
    let marks: Vec<Mark> = (hunt.target_costs.iter())
        .filter_map(|cost| {
            Some(Mark {
                label: cost.text.clone(),
                colour: if cost.reference { NULL } else { ADAPTED },
                value: cost.anomaly_index?,
                interval: None,
                points: Vec::new(),
            })
        })
        .collect();
    let index = plot::marks(
        "Anomaly index of the targets; grey: what the base answers",
        "robust standard deviations below the median",
        &marks,
        Some(2.0),
    );
    let mut targets = Table::new(
        "targets",
        "Possible payloads",
        &["target", "source", "#token probability", "#over the base, nats a token"],
    );
    for row in &hunt.targets {
        targets.rows.push(vec![
            Cell::raw(&row.text),
            Cell::words(&row.source),
            Cell::number(row.probability, 3),
            Cell::number(row.log_ratio_nats, 2),
        ]);
    }
    let mut strongest = Table::new(
        "proposed",
        "Strongest candidates of all searches",
        &["candidate", "placement", "search", "#adapted, nats", "#base, nats", "#agreement", "#prompts"],
    );
    for row in &hunt.strongest {
        strongest.rows.push(vec![
            Cell::raw(&row.candidate.text),
            Cell::words(&row.candidate.placement),
            Cell::words(&row.candidate.family),
            Cell::number(row.adapted_nats, 3),
            Cell::number(row.base_nats, 3),
            Cell::number(row.agreement, 2),
            Cell::number(row.prompts as f64, 0),
        ]);
    }
    Section::new([progress, index], [searches, targets, strongest])
}

fn self_tests(tests: &[SelfTest]) -> Table {
    let mut table =
        Table::new("self-tests", "Numeric self-test", &["compared", "#difference", "#allowed", "result"]);
    for test in tests {
        table.rows.push(vec![
            Cell::words(&test.name),
            Cell::p_value(test.difference),
            Cell::p_value(test.tolerance),
            Cell::words(if test.passed() { "agrees" } else { "differs" }),
        ]);
    }
    table
}
