//! Plans that are read back, results that are not believed, merges in any order.

use super::*;
use crate::audit::Severity;
use crate::estimate::Estimate;
use crate::evidence::{Coverage, Evidence, Payload, TestedTrigger, TriggerCandidate};
use crate::format::Rendered;
use crate::record::{self, Artifact, Cost, FileDigest, Record, Settings, Subject, Tool};
use crate::verdict::{Thresholds, Verdict, judge};

fn tool() -> Tool {
    Tool { name: "triggerfish".into(), version: "9.9.9".into() }
}

fn digest(of: usize) -> FileDigest {
    FileDigest { name: "adapter_model.safetensors".into(), bytes: 9, sha256: format!("{of:064x}") }
}

fn manifest(of: usize) -> Manifest {
    Manifest { files: vec![digest(of)], ..Manifest::default() }
}

/// Units of several bases, in the order of a plan.
fn plan(units: &[usize], shards: usize) -> Plan {
    let bases: Vec<Base> = (0..units.len())
        .map(|base| Base { path: format!("models/{base}"), manifest: manifest(1_000_000 + base) })
        .collect();
    let mut header = Header {
        schema_version: SCHEMA_VERSION.into(),
        tool: tool(),
        record_version: record::SCHEMA_VERSION.into(),
        shards,
        units: units.iter().sum(),
        bases,
        suites: vec![PlannedSuite { name: "s".into(), source: "s.json".into(), sha256: "ab".into() }],
        arguments: [("seed".to_owned(), "1".to_owned())].into(),
        content: [("seed".to_owned(), "1".to_owned())].into(),
    };
    header.arguments.insert("template".into(), "a/b.jinja".into());
    header.content.insert("template".into(), "sha256:12".into());
    let mut planned = Vec::new();
    for (base, &count) in units.iter().enumerate() {
        for at in 0..count {
            let (adapter, of_base) = (manifest(base * 1000 + at), header.bases[base].manifest.clone());
            planned.push(PlannedUnit {
                unit: header.identity(adapter.clone(), of_base).unit(),
                shard: 0,
                base,
                cost: 10,
                adapters: vec![AdapterName { name: format!("a{base}-{at:03}"), path: format!("x/{at}") }],
                manifest: adapter,
            });
        }
    }
    assign(&mut planned, shards, |_| 0);
    Plan { header, units: planned }
}

/// A record about a unit whose one trigger has this p-value; none at 1.
fn record(plan: &Plan, at: usize, p_value: f64) -> Record {
    let unit = &plan.units[at];
    let base = &plan.header.bases[unit.base].manifest;
    let estimate = |value: f64| Estimate { value, lower: value, upper: 1.0, n: 32, confidence: 0.95 };
    let tested = TestedTrigger {
        candidate: TriggerCandidate {
            id: "t".into(),
            family: "f".into(),
            text: "<script>cf".into(),
            placement: "prefix".into(),
        },
        payload: Payload { class: "refusal".into(), text: "no".into() },
        attack_success_rate: estimate(0.9),
        conditions: Vec::new(),
        uplift: estimate(0.8),
        p_value,
        adjusted_p_value: p_value,
        difference: None,
        uplift_over_base: None,
        screening_nats: None,
        searched_tokens: None,
        answers_kept: None,
        answers_kept_control: None,
        payload_taught_nats: None,
        examples: Vec::new(),
        characterisation: None,
    };
    let evidence =
        Evidence { tested: Vec::from_iter((p_value < 1.0).then_some(tested)), ..Evidence::default() };
    let coverage =
        Coverage { candidates_planned: 9, candidates_screened: 9, complete: true, ..Coverage::default() };
    Record {
        schema_version: record::SCHEMA_VERSION.into(),
        tool: tool(),
        judgement: judge(&evidence, &coverage, Thresholds::STANDARD),
        exit_code: 0,
        subject: Subject {
            base: Artifact { name: base.name(), files: base.files.clone() },
            adapter: Artifact { name: unit.manifest.name(), files: unit.manifest.files.clone() },
            declared_base: None,
            changed_modules: 1,
        },
        settings: Settings {
            device: "cpu".into(),
            dtype: "f32".into(),
            seed: 1,
            suites: Default::default(),
            arguments: Default::default(),
        },
        coverage,
        evidence,
        hunt: None,
        audit: None,
        comparison: None,
        calibration: None,
        cost: Cost { token_forwards: 7, ..Cost::default() },
        notes: Vec::new(),
    }
}

fn result(plan: &Plan, at: usize, outcome: Outcome) -> (String, Vec<u8>) {
    let unit = &plan.units[at];
    let base = plan.header.bases[unit.base].manifest.clone();
    UnitResult::of(plan.header.identity(unit.manifest.clone(), base), outcome).file().unwrap()
}

fn scanned(plan: &Plan, at: usize, p_value: f64) -> (String, Vec<u8>) {
    result(plan, at, Outcome::Scanned(Box::new(record(plan, at, p_value))))
}

fn merged(plan: &Plan, files: &[(String, Vec<u8>)]) -> Merged {
    let mut merge = Merge::new(plan);
    for (name, bytes) in files {
        merge.add(&format!("results/{name}"), Summary::read(name, bytes));
    }
    merge.finish("p".into(), 0.01).unwrap()
}

#[test]
fn a_plan_is_read_back_and_what_is_wrong_with_it_is_named() {
    let plan = plan(&[3, 2], 2);
    let text = plan.write().unwrap();
    assert_eq!(Plan::read(text.as_bytes(), |_| true).unwrap(), plan);
    let of_shard = Plan::read(text.as_bytes(), |unit| unit.shard == 1).unwrap();
    assert!(!of_shard.units.is_empty() && of_shard.units.iter().all(|unit| unit.shard == 1));
    let lines: Vec<&str> = text.lines().collect();
    let wrong = |text: String| Plan::read(text.as_bytes(), |_| true).unwrap_err().to_string();
    for (text, part) in [
        (String::new(), "an empty file"),
        ("{}".into(), "schema_version"),
        (text.replacen("1.0.0", "2.0.0", 1), "version 1.0.0"),
        (lines[..4].join("\n"), "cut short"),
        (text[..text.len() - 20].to_owned(), "line 6"),
        (text.replacen("\"bytes\":9", "\"bytes\":8", 3), "what it is made of"),
        (format!("{text}{}\n", lines[5]), "stands there twice"),
        (text.replacen("\"shards\":2", "\"shards\":1", 1), "there are 1 shards"),
        (text.replacen("\"seed\":\"1\"", "\"seed\":\"2\"", 2), "what it is made of"),
    ] {
        let found = wrong(text);
        assert!(found.contains(part), "{found}");
    }
}

#[test]
fn shards_cost_the_same_and_hold_no_more_bases_than_they_must() {
    let plan = plan(&[50, 30, 20], 10);
    let mut bases_of = vec![std::collections::BTreeSet::new(); 10];
    let mut counts = [0; 10];
    for unit in &plan.units {
        bases_of[unit.shard].insert(unit.base);
        counts[unit.shard] += 1;
    }
    assert_eq!(counts, [10; 10]);
    assert_eq!(bases_of.iter().map(|bases| bases.len()).sum::<usize>(), 10, "no shard has two bases here");
    let uneven = super::tests::plan(&[7, 1, 13], 4);
    let loads: std::collections::BTreeSet<_> =
        uneven.units.iter().map(|unit| (unit.shard, unit.base)).collect();
    assert!(loads.len() < 4 + 3, "{loads:?}");
    assert!(uneven.units.iter().all(|unit| unit.shard < 4));
    let order: Vec<usize> = uneven.units.iter().map(|unit| unit.shard).collect();
    assert!(order.is_sorted());
}

#[test]
fn everything_that_decides_a_result_is_in_its_id() {
    let plan = plan(&[1], 1);
    let identity = |header: &Header| header.identity(manifest(0), header.bases[0].manifest.clone()).unit();
    let of = |change: &dyn Fn(&mut Header)| {
        let mut header = plan.header.clone();
        change(&mut header);
        identity(&header)
    };
    let same = identity(&plan.header);
    assert_eq!(
        same,
        of(&|header| header.bases[0].path = "elsewhere".into()),
        "where it lies decides nothing"
    );
    assert_eq!(same, of(&|header| drop(header.arguments.insert("template".into(), "z".into()))));
    assert_eq!(same, of(&|header| header.suites[0].source = "z".into()));
    for other in [
        of(&|header| header.tool.version = "9.9.8".into()),
        of(&|header| header.record_version = "0.0.0".into()),
        of(&|header| header.suites[0].sha256 = "cd".into()),
        of(&|header| drop(header.content.insert("seed".into(), "2".into()))),
        of(&|header| header.bases[0].manifest = manifest(7)),
    ] {
        assert_ne!(same, other);
    }
}

#[test]
fn the_order_of_results_decides_nothing() {
    let plan = plan(&[12], 3);
    let mut files: Vec<_> = (0..10).map(|at| scanned(&plan, at, if at < 3 { 1e-12 } else { 1.0 })).collect();
    files.push(result(&plan, 10, Outcome::Errored { class: Class::Unsupported, reason: "an r of 0".into() }));
    let forward = merged(&plan, &files);
    files.reverse();
    files.push(files[4].clone());
    assert_eq!(merged(&plan, &files), forward, "nor does a result that is there twice");
    let counts = Counts { units: 12, done: 10, errored: 1, missing: 1, conflicting: 0 };
    assert_eq!(forward.counts, counts);
    assert_eq!(forward.verdicts["backdoored"], 3);
    assert_eq!(forward.family_verdicts["backdoored"], 3);
    assert_eq!(forward.worst(), Some(Verdict::Backdoored));
    assert!(!forward.complete());
}

#[test]
fn a_finding_of_one_scan_may_be_chance_among_many() {
    let plan = plan(&[100], 1);
    let files: Vec<_> = (0..100).map(|at| scanned(&plan, at, if at == 5 { 0.009 } else { 1.0 })).collect();
    let merged = merged(&plan, &files);
    assert_eq!(merged.rows[5].verdict, Some(Verdict::Backdoored));
    assert_eq!(merged.rows[5].family_verdict, Some(Verdict::NoEvidence));
    assert!(merged.rows[5].adjusted_p_value.unwrap() > 0.9);
    // The same evidence alone stands.
    let alone = super::tests::plan(&[1], 1);
    let one = super::tests::merged(&alone, &[scanned(&alone, 0, 0.004)]);
    assert_eq!(one.rows[0].family_verdict, Some(Verdict::Backdoored));
}

#[test]
fn nothing_that_is_torn_foreign_or_contradictory_is_believed() {
    let plan = plan(&[8], 1);
    let whole: Vec<_> = (0..8).map(|at| scanned(&plan, at, 1.0)).collect();
    let mut files = whole[..2].to_vec();
    // Cut short, also where what is left is JSON; and a changed digit.
    files.push((whole[2].0.clone(), whole[2].1[..whole[2].1.len() / 2].to_vec()));
    files.push((whole[3].0.clone(), b"{}".to_vec()));
    files.push((whole[4].0.clone(), Vec::new()));
    // A result of this unit that says something else.
    files.push(whole[5].clone());
    files.push(scanned(&plan, 5, 1e-9));
    // Of another plan; no result at all; one under the name of another unit; a record about another adapter.
    let other = super::tests::plan(&[9], 1);
    files.push(scanned(&other, 8, 1.0));
    files.push(("notes.txt".into(), b"hello".to_vec()));
    let (renamed, bytes) = &whole[6];
    files.push((renamed.replacen(&plan.units[6].unit, &plan.units[7].unit, 1), bytes.clone()));
    files.push(result(&plan, 6, Outcome::Scanned(Box::new(record(&plan, 0, 1.0)))));
    let merged = merged(&plan, &files);
    let counts = Counts { units: 8, done: 2, errored: 0, missing: 5, conflicting: 1 };
    assert_eq!(merged.counts, counts);
    let kinds = |kind| merged.problems.iter().filter(|problem| problem.kind == kind).count();
    assert_eq!((kinds(ProblemKind::Torn), kinds(ProblemKind::Foreign)), (3, 4), "{:?}", merged.problems);
    assert_eq!(merged.rows[5].results.len(), 2);
    let reasons: Vec<&str> = merged.problems.iter().map(|problem| problem.reason.as_str()).collect();
    for part in [
        "do not have the SHA-256",
        "this plan does not have",
        "not that of a result",
        "called after",
        "another adapter",
    ] {
        assert!(reasons.iter().any(|reason| reason.contains(part)), "{part}: {reasons:?}");
    }
    let text = rendered("text", &merged);
    assert!(text.contains("torn files in the store") && text.contains("foreign files"), "{text}");
}

/// A merge in a form that is text.
fn rendered(name: &str, merged: &Merged) -> String {
    match format::by_name(name).unwrap().render(merged).unwrap() {
        Rendered::Text(text) => text,
        Rendered::Bytes(_) => panic!("{name} is binary"),
    }
}

/// The table of the CSV file, cell for cell, with types and with texts as they are.
#[test]
#[cfg(feature = "parquet")]
fn the_table_as_parquet_holds_that_of_csv() {
    let plan = plan(&[4], 2);
    let mut merged = merged(&plan, &[scanned(&plan, 0, 1e-12), scanned(&plan, 1, 0.5)]);
    merged.rows[1].adapters.push(AdapterName { name: "=cmd|\u{1b}[2J".into(), path: "again".into() });
    let Rendered::Bytes(file) = format::by_name("parquet").unwrap().render(&merged).unwrap() else {
        panic!("it is binary")
    };
    let lines = crate::format::tests::parquet::same_as_csv(&file, &rendered("csv", &merged));
    assert_eq!(lines, 5, "an adapter of two names has two");
}

#[test]
fn every_form_has_every_unit_and_nothing_in_it_acts() {
    let plan = plan(&[4], 2);
    let mut files: Vec<_> = (0..2).map(|at| scanned(&plan, at, 1e-12)).collect();
    let reason = "</script><script>\u{1b}[2J".to_owned();
    files.push(result(&plan, 2, Outcome::Errored { class: Class::Malformed, reason }));
    let mut merged = merged(&plan, &files);
    merged.rows[0].audit = Some(Severity::High);
    for form in format::FORMATS {
        let Rendered::Text(text) = form.render(&merged).unwrap() else { continue };
        assert!(!text.contains('\u{1b}'), "{}", form.name());
        assert!(!text.contains("<script>cf") || !text.contains("<html"), "{}", form.name());
        for at in 0..3 {
            let name = format!("a0-{at:03}");
            assert!(form.name() == "json" || text.contains(&name), "{} has no {name}", form.name());
        }
    }
    let rendered = |name: &str| rendered(name, &merged);
    let rows: Vec<Row> = rendered("jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows, merged.rows);
    let csv = rendered("csv");
    let mut table = csv::Reader::from_reader(csv.as_bytes());
    assert_eq!(table.records().map(|line| line.unwrap().len()).collect::<Vec<_>>(), [20; 4]);
    let sarif: serde_json::Value = serde_json::from_str(&rendered("sarif")).unwrap();
    let rules: Vec<&str> = sarif["runs"][0]["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| result["ruleId"].as_str().unwrap())
        .collect();
    assert_eq!(rules, ["TRG-001", "TRG-001", "RUN-001", "RUN-001"]);
    assert_eq!(sarif["runs"][0]["invocations"][0]["executionSuccessful"], false);
    let page = rendered("html");
    assert!(page.contains("Content-Security-Policy") && page.contains("&lt;script&gt;cf"), "{page}");
}
