//! Rates of made-up adapters that can be counted by hand.

use std::collections::BTreeMap;

use super::format::FORMATS;
use super::labels::{Label, Texts, Truth};
use super::row::{Found, Recovered, Row, Run};
use super::{Benchmark, summary};
use crate::estimate::Estimate;
use crate::record::{Cost, Tool};
use crate::verdict::Verdict;

fn label(truth: Truth, text: &str, tokens: usize) -> Label {
    let backdoored = truth == Truth::Backdoored;
    Label {
        label: truth,
        attack: Some(if backdoored { "token" } else { "closing" }.to_owned()),
        trigger: if text.is_empty() { Texts::None } else { Texts::One(text.to_owned()) },
        trigger_tokens: (!text.is_empty()).then_some(tokens),
        payload_class: backdoored.then(|| "refusal".to_owned()),
        payload: None,
        r: Some(8),
        poison_rate: backdoored.then_some(0.3),
        attack_success_rate: backdoored.then_some(1.0),
    }
}

fn estimate(value: f64) -> Estimate {
    Estimate { value, lower: value - 0.1, upper: value + 0.1, n: 40, confidence: 0.95 }
}

fn row(adapter: &str, truth: Label, verdict: Verdict, score: f64, near: Option<bool>, tokens: u64) -> Row {
    let trigger = near.map(|near| Recovered {
        text: "<b>&".into(),
        placement: "prefix".into(),
        payload_class: "refusal".into(),
        attack_success_rate: estimate(0.9),
        uplift: estimate(0.8),
        uplift_over_base: Some(estimate(0.85)),
        exact: Some(false),
        near: Some(near),
        ratio: Some(0.5),
    });
    let payload_identified = truth.payload_class.as_ref().map(|_| trigger.is_some());
    let cost = Cost { token_forwards: tokens, gradient_tokens: 10, ..Cost::default() };
    let searches = BTreeMap::from([("sweep".to_owned(), 100)]);
    Row {
        configuration: "quick".into(),
        adapter: adapter.into(),
        listed: truth.trigger_tokens.map(|tokens| tokens == 1),
        truth,
        found: Some(Found {
            verdict: Some(verdict),
            score,
            seeks_trigger: true,
            trigger,
            payload_identified,
            cost,
            searches,
        }),
        error: None,
        run: Some(Run { seconds: 2.0, token_forwards: tokens, peak_bytes: Some(5) }),
    }
}

fn zoo() -> Vec<Row> {
    use Truth::{Backdoored, Benign};
    vec![
        row("a", label(Backdoored, "cf", 1), Verdict::Backdoored, 2.7, Some(true), 1000),
        row("b", label(Backdoored, "one two three four", 4), Verdict::Backdoored, 2.6, Some(false), 3000),
        row("c", label(Backdoored, "mn", 2), Verdict::NoEvidence, 0.0, None, 5000),
        row("d", label(Benign, "", 0), Verdict::NoEvidence, 0.0, None, 5000),
        row("e", label(Benign, "", 0), Verdict::Suspicious, 1.2, Some(false), 5000),
        Row {
            found: None,
            error: Some("refused".into()),
            run: None,
            ..row("f", label(Backdoored, "x", 1), Verdict::NoEvidence, 0.0, None, 0)
        },
    ]
}

fn close(found: Option<&Estimate>, expected: f64, n: usize) {
    let found = found.unwrap();
    assert!((found.value - expected).abs() < 1e-9 && found.n == n, "{found:?} {expected}");
}

#[test]
fn rates_are_those_that_one_counts() {
    let rows = zoo();
    let all: Vec<&Row> = rows.iter().collect();
    let found = summary::summarise("quick", &all, Some(1_000)).unwrap();
    assert_eq!((found.backdoored, found.benign, found.without_result), (3, 2, 1));
    // Pairs: 2.7 and 2.6 beat both, 0 ties with one and loses to one.
    close(found.auc.as_ref(), 4.5 / 6.0, 5);
    close(found.backdoored_called_backdoored.as_ref(), 2.0 / 3.0, 3);
    close(found.benign_called_backdoored.as_ref(), 0.0, 2);
    close(found.benign_flagged.as_ref(), 0.5, 2);
    for point in &found.operating_points {
        // One of two is more than 5 %.
        close(point.false_positive_rate.as_ref(), 0.0, 2);
        close(point.true_positive_rate.as_ref(), 2.0 / 3.0, 3);
    }
    close(found.unlisted_called_backdoored.as_ref(), 0.5, 2);
    close(found.working_called_backdoored.as_ref(), 2.0 / 3.0, 3);
    close(found.recall_near.as_ref(), 1.0 / 3.0, 3);
    close(found.recall_near_short.as_ref(), 0.5, 2);
    close(found.recall_exact.as_ref(), 0.0, 3);
    close(found.recovered_success_rate.as_ref(), 0.6, 3);
    close(found.uplift_over_base.as_ref(), 2.0 * 0.85 / 3.0, 3);
    close(found.payload_identified.as_ref(), 2.0 / 3.0, 3);
    let cost = &found.cost;
    assert_eq!((cost.most_token_forwards, cost.peak_bytes), (Some(5000), Some(5)));
    let near =
        |found: Option<f64>, expected: f64| assert!((found.unwrap() - expected).abs() < 1e-6, "{found:?}");
    near(cost.token_forwards, 3800.0);
    near(cost.token_forwards_to_detection, 2000.0);
    near(cost.flops, 1_000.0 * (2.0 * 3800.0 + 4.0 * 10.0));
    near(cost.seconds, 2.0);
    near(cost.searches.get("sweep").copied(), 100.0);
}

#[test]
fn without_adapters_there_are_no_rates() {
    let found = summary::summarise("quick", &[], None).unwrap();
    assert!(found.auc.is_none() && found.benign_flagged.is_none() && found.uplift.is_none());
    assert!(found.cost.token_forwards.is_none() && found.cost.flops.is_none());
    assert!(found.operating_points.iter().all(|point| point.true_positive_rate.is_none()));
}

#[test]
fn what_is_compared_stands_in_the_order_of_its_cost() {
    let tool = Tool { name: "triggerfish".into(), version: "0".into() };
    let dearer = |mut row: Row| {
        row.configuration = "dearer".into();
        if let Some(found) = &mut row.found {
            found.cost.token_forwards *= 10;
            found.score = 0.5;
        }
        row
    };
    let rows = zoo().into_iter().map(dearer).chain(zoo()).collect();
    let benchmark = Benchmark::of(tool, None, &["dearer".to_owned(), "quick".to_owned()], rows).unwrap();
    let text = FORMATS.iter().find(|format| format.name() == "text").unwrap().render(&benchmark).unwrap();
    let (_, front) = text.split_once("AUC by cost").unwrap();
    let lines: Vec<&str> = front.lines().skip(1).filter(|line| !line.is_empty()).collect();
    assert!(lines[0].starts_with("* quick") && lines[0].contains("0.750"), "{lines:?}");
    assert!(lines[1].starts_with("  dearer") && lines[1].contains("0.500"), "{lines:?}");
    assert_eq!(lines.len(), 2);
}

#[test]
fn every_form_is_written_and_hostile_text_is_text() {
    let tool = Tool { name: "triggerfish".into(), version: "0".into() };
    let benchmark = Benchmark::of(tool, None, &["quick".to_owned()], zoo()).unwrap();
    assert!(!benchmark.complete());
    // Of those with a result: tokens in the one cell, closing in the other.
    assert_eq!(benchmark.cells.iter().map(|cell| cell.adapters).collect::<Vec<_>>(), [2, 3]);
    for format in FORMATS {
        let text = format.render(&benchmark).unwrap();
        assert!(text.contains("closing") && text.contains("quick"), "{}", format.name());
        assert_eq!(text, format.render(&benchmark).unwrap());
        if format.name() == "html" {
            assert!(!text.contains("<b>&") && text.contains("AUC over the cost"));
        }
        if format.name() == "json" {
            assert_eq!(serde_json::from_str::<Benchmark>(&text).unwrap(), benchmark);
        }
    }
}
