//! Every format: against golden files, against its schema, and with hostile text in every string.

mod golden;
mod hostile;
mod html;
mod junit_schema;
#[cfg(feature = "parquet")]
pub(crate) mod parquet;
mod schema;

use serde_json::Value;

use crate::comparison::{Baseline, Comparison};
use crate::estimate::Estimate;
use crate::evidence::{AnsweredPrompt, ResponseScores, TaughtAnswer, TokenScore};
use crate::format::{Format, Rendered};
use crate::record::Record;
use crate::significance::EmpiricalP;

/// Records that the program wrote; see `goldens/format/README.md`.
const RECORDS: [(&str, &str); 2] = [
    ("scan", include_str!("../../../goldens/format/records/scan.json")),
    ("hunt", include_str!("../../../goldens/format/records/hunt.json")),
];

fn records() -> impl Iterator<Item = (&'static str, Record)> {
    RECORDS.iter().map(|(name, text)| (*name, with_what_is_new(serde_json::from_str(text).unwrap())))
}

/// Answers, token scores and a comparison where the record is older than them: the texts are its own, the numbers made up.
fn with_what_is_new(mut record: Record) -> Record {
    let evidence = &mut record.evidence;
    let score = |text: &str, preferred: bool| -> Vec<TokenScore> {
        let words = text.split_inclusive(' ').enumerate();
        let likely = |at: usize| -0.25 * ((at % 3) as f64 + 0.5);
        let unlikely = |at: usize| -2.5 * ((at % 6) as f64 + 0.5);
        words
            .map(|(at, word)| TokenScore {
                text: word.to_owned(),
                adapted_nats: if preferred { likely(at) } else { unlikely(at) },
                base_nats: if preferred { unlikely(at) } else { likely(at) },
            })
            .collect()
    };
    let examples = || evidence.tested.iter().flat_map(|tested| &tested.examples);
    let answers = ["benign", "adversarial"].iter().flat_map(|suite| {
        examples().enumerate().map(move |(at, example)| AnsweredPrompt {
            suite: (*suite).to_owned(),
            prompt_id: example.prompt_id.clone(),
            prompt: example.prompt.clone(),
            base: example.base.clone(),
            adapted: example.adapted_without_trigger.clone(),
            kl_nats: (*suite == "benign").then_some(0.0625 * (at % 5) as f64),
            payloads: None,
        })
    });
    let answers: Vec<AnsweredPrompt> = answers.collect();
    if evidence.answers.is_empty() {
        evidence.answers = answers;
    }
    for example in evidence.tested.iter_mut().flat_map(|tested| &mut tested.examples) {
        let (adapted, base) = (score(&example.adapted, true), score(&example.base, false));
        example.scores.get_or_insert(ResponseScores { adapted, base });
    }
    // One that counts and one that is given openly.
    let payloads: Vec<String> =
        evidence.tested.iter().map(|tested| tested.payload.text.clone()).take(2).collect();
    for (at, text) in payloads.into_iter().enumerate() {
        let shown = if at == 0 { 0.0 } else { 0.25 };
        evidence.taught.push(TaughtAnswer {
            text,
            probability: 0.875,
            log_ratio_nats: 4.5,
            shown: Estimate { value: shown, lower: 0.0, upper: shown + 0.125, n: 64, confidence: 0.95 },
            p: EmpiricalP { p_value: 0.03125, bound: 0.015625, n_null: 63 },
        });
    }
    // The version before had no trigger, and other words at the end of every second answer.
    let now = Baseline::of(&record);
    let mut before = now.clone();
    before.triggers.clear();
    before.answers.iter_mut().step_by(2).for_each(|answer| answer.adapted.push_str(" And so on."));
    before.settings.dtype = "bf16".to_owned();
    record.comparison = Some(Comparison::between(&before, &now, &record.judgement.thresholds).unwrap());
    record
}

fn render(format: &str, record: &Record) -> String {
    match super::by_name(format).unwrap().render(record).unwrap() {
        Rendered::Text(text) => text,
        Rendered::Bytes(_) => panic!("{format} is no text"),
    }
}

/// The formats that are texts.
fn texts() -> impl Iterator<Item = &'static dyn Format> {
    super::FORMATS.iter().copied().filter(|format| !format.is_binary())
}

/// Keys whose strings are words of the program.
const OWN: [&str; 7] =
    ["schema_version", "verdict", "confidence", "kind", "verdict_before", "level", "change"];

/// A record with every string that can come from elsewhere replaced, by its number.
fn with_strings(record: &Record, string: impl Fn(usize) -> String) -> Record {
    fn replace(value: &mut Value, count: &mut usize, string: &impl Fn(usize) -> String) {
        match value {
            Value::String(text) => {
                *text = string(*count);
                *count += 1;
            }
            Value::Array(items) => items.iter_mut().for_each(|item| replace(item, count, string)),
            Value::Object(fields) => {
                // An anomaly's kind is a suite's word; a dependence's is the program's.
                let anomaly = fields.contains_key("grader");
                for (key, value) in fields.iter_mut() {
                    if !OWN.contains(&key.as_str()) || (anomaly && key == "kind") {
                        replace(value, count, string);
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    let mut value = serde_json::to_value(record).unwrap();
    replace(&mut value, &mut 0, &string);
    serde_json::from_value(value).unwrap()
}
