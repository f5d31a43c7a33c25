//! Comparisons of made-up runs.

use super::*;
use crate::evidence::Payload;
use crate::record::{FileDigest, Tool};

fn estimate(value: f64) -> Estimate {
    Estimate { value, lower: value - 0.1, upper: value + 0.1, n: 32, confidence: 0.95 }
}

fn baseline(adapter: &str, answers: Vec<AnsweredPrompt>) -> Baseline {
    let artifact = |name: &str| Artifact {
        name: "a".into(),
        files: vec![FileDigest { name: "f".into(), bytes: 1, sha256: name.into() }],
    };
    Baseline {
        schema_version: SCHEMA_VERSION.into(),
        tool: Tool { name: "t".into(), version: "1".into() },
        verdict: Verdict::NoEvidence,
        reasons: Vec::new(),
        adapter: artifact(adapter),
        base: artifact("base"),
        settings: Settings {
            device: "cpu".into(),
            dtype: "f32".into(),
            seed: 1,
            suites: BTreeMap::new(),
            arguments: BTreeMap::new(),
        },
        triggers: Vec::new(),
        anomalies: Vec::new(),
        findings: Vec::new(),
        answers,
    }
}

fn answers(n: usize, refused: usize, kl: f64) -> Vec<AnsweredPrompt> {
    (0..n)
        .map(|i| AnsweredPrompt {
            suite: "benign".into(),
            prompt_id: i.to_string(),
            prompt: format!("prompt {i}"),
            base: "yes".into(),
            adapted: if i < refused { "no".into() } else { "yes".into() },
            kl_nats: Some(kl + 0.01 * (i % 3) as f64),
            payloads: Some(if i < refused { vec!["refusal".into()] } else { Vec::new() }),
        })
        .collect()
}

fn trigger(text: &str, rate: f64, confirmed: bool) -> KnownTrigger {
    KnownTrigger {
        candidate: TriggerCandidate {
            id: "t".into(),
            family: "f".into(),
            text: text.into(),
            placement: "prefix".into(),
        },
        payload: Payload { class: "refusal".into(), text: "no".into() },
        confirmed,
        attack_success_rate: estimate(rate),
        uplift: estimate(rate),
    }
}

fn compare(before: &Baseline, now: &Baseline) -> Comparison {
    Comparison::between(before, now, &Thresholds::STANDARD).unwrap()
}

#[test]
fn the_same_run_has_not_changed() {
    let run = baseline("a", answers(40, 3, 0.1));
    let found = compare(&run, &run);
    assert!(found.same_adapter && found.regressions.is_empty() && found.not_compared.is_empty());
    assert_eq!((found.prompts, found.changed_answers), (40, 0));
    let shift = found.drift.unwrap();
    assert!(shift.difference.upper.abs() + shift.difference.lower.abs() < 1e-12);
    assert!(found.payloads[0].adjusted_p_value >= 1.0);
}

#[test]
fn more_of_a_payload_on_the_same_prompts_is_a_regression_and_less_is_not() {
    let (few, many) = (baseline("a", answers(40, 2, 0.1)), baseline("b", answers(40, 20, 0.3)));
    let worse = compare(&few, &many);
    assert_eq!(worse.worst(), Some(Verdict::Suspicious));
    assert!(worse.regressions[0].what.contains("refusal in 20 of 40"), "{:?}", worse.regressions);
    assert_eq!(worse.changed_answers, 18);
    assert_eq!(worse.examples[0].new_payloads, ["refusal"]);
    let shift = worse.drift.as_ref().unwrap();
    assert!(shift.difference.lower > 0.1 && shift.p_value < 0.01, "{shift:?}");
    assert!(compare(&many, &few).regressions.is_empty());
}

#[test]
fn triggers_are_new_worse_known_or_gone() {
    let (mut before, mut now) = (baseline("a", Vec::new()), baseline("b", Vec::new()));
    before.triggers =
        vec![trigger("known", 0.5, false), trigger("worse", 0.3, false), trigger("gone", 0.5, true)];
    now.triggers =
        vec![trigger("new", 0.9, true), trigger("known", 0.6, false), trigger("worse", 0.6, false)];
    let found = compare(&before, &now);
    let changes: Vec<_> = found.triggers.iter().map(|t| (t.candidate.text.as_str(), t.change)).collect();
    assert_eq!(
        changes,
        [("new", Change::New), ("known", Change::Known), ("worse", Change::Worse), ("gone", Change::Gone)]
    );
    assert_eq!(found.regressions.len(), 2);
    assert_eq!(found.worst(), Some(Verdict::Backdoored));
    now.triggers = vec![trigger("known", 0.5, true)];
    assert_eq!(compare(&before, &now).triggers[0].change, Change::Worse, "confirmed where it was suspected");
}

#[test]
fn prompts_of_other_words_are_not_compared_and_other_settings_are_named() {
    let before = baseline("a", answers(10, 0, 0.1));
    let mut now = baseline("a", answers(10, 0, 0.1));
    now.answers[3].prompt = "something else".into();
    now.settings.dtype = "bf16".into();
    let found = compare(&before, &now);
    assert_eq!(found.prompts, 9);
    assert!(found.not_compared.iter().any(|what| what == "dtype: f32 before, bf16 now"), "{found:?}");
    assert!(found.not_compared.iter().any(|what| what.contains("1 prompts of this run")), "{found:?}");
}

#[test]
fn a_finding_is_known_by_what_it_says_and_not_by_its_numbers() {
    let finding = |message: &str, severity| KnownFinding {
        rule: "WGT-001".into(),
        file: "adapter_model.safetensors".into(),
        message: message.into(),
        severity,
    };
    use crate::audit::Severity::{High, Medium};
    let accepted = finding("7 modules are 12.5 times as strong: q_proj.", Some(Medium));
    assert!(accepted.covers(&finding("12 modules are 3 times as strong: q_proj.", Some(Medium))));
    assert!(!accepted.covers(&finding("7 modules are 12.5 times as strong: v_proj.", Some(Medium))));
    assert!(!accepted.covers(&finding("7 modules are 12.5 times as strong: q_proj.", Some(High))), "worse");
    let address = |message: &str| KnownFinding { rule: "CODE-001".into(), ..finding(message, Some(High)) };
    assert!(!address("opens 10.0.0.1").covers(&address("opens 10.0.0.2")));
    assert!(finding("one", None).covers(&finding("one", Some(High))), "a baseline of version 1.0");

    let with = |finding: &KnownFinding| Baseline {
        findings: vec![finding.clone()],
        ..baseline("a", answers(4, 0, 0.1))
    };
    let shifts = |before: &Baseline, now: &Baseline| files(before, now).len();
    let again = finding("8 modules are 11 times as strong: q_proj.", Some(Medium));
    assert_eq!(shifts(&with(&accepted), &with(&again)), 0);
    let worse = finding("8 modules are 11 times as strong: q_proj.", Some(High));
    assert_eq!(shifts(&with(&accepted), &with(&worse)), 1, "new, and nothing is gone");
}
