//! Output against published schemas.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{junit_schema, records, render};
use crate::audit::{AuditReport, Finding, RepositoryAudit, Rule, Severity, Suppressed};
use crate::format::Row;
use crate::record::{FileDigest, Record, Tool};
use crate::sarif::{LOCATIONS_PER_RESULT, RESULTS_PER_RUN, TAGS_PER_RULE};

/// The published schema has one pattern, of language codes, with a bracket too many, which only lenient engines take for
/// a regular expression. Nothing that is written has a language.
fn sarif_schema() -> Value {
    let text = include_str!("../../../schemas/sarif-2.1.0.json");
    let mended = text.replace("-[a-zA-Z]{2}]?$", "-[a-zA-Z]{2}$");
    assert_ne!(text, mended, "a corrected schema needs no mending");
    serde_json::from_str(&mended).unwrap()
}

fn assert_valid(schema: &Value, value: &Value, what: &str) {
    let validator = jsonschema::validator_for(schema).unwrap();
    let errors: Vec<String> = validator
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .take(5)
        .collect();
    assert!(errors.is_empty(), "{what}: {errors:#?}");
}

#[test]
fn json_is_what_its_schema_says() {
    let schema = serde_json::to_value(schemars::schema_for!(Record)).unwrap();
    for (name, record) in records() {
        let mut value: Value = serde_json::from_str(&render("json", &record)).unwrap();
        assert_valid(&schema, &value, name);
        value["evidence"]["screened"] = "none".into();
        assert!(
            !jsonschema::validator_for(&schema).unwrap().is_valid(&value),
            "the schema refuses something"
        );
    }
}

#[test]
fn every_line_is_a_row() {
    let schema = serde_json::to_value(schemars::schema_for!(Row<'_>)).unwrap();
    for (name, record) in records() {
        let text = render("jsonl", &record);
        let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows[0]["row"], "run");
        let of_kind = |kind: &str| rows.iter().filter(|row| row["row"] == kind).count();
        assert_eq!(of_kind("screened"), record.evidence.screened.len());
        assert_eq!(of_kind("answer"), record.evidence.answers.len());
        assert_eq!(of_kind("tested"), record.evidence.tested.len());
        for row in &rows {
            assert_valid(&schema, row, name);
        }
    }
}

#[test]
fn sarif_is_valid_and_within_the_limits_of_code_scanning() {
    let schema = sarif_schema();
    for (name, record) in records() {
        let log: Value = serde_json::from_str(&render("sarif", &record)).unwrap();
        assert_valid(&schema, &log, name);
        let run = &log["runs"][0];
        let results = run["results"].as_array().unwrap();
        assert!(!results.is_empty() && results.len() <= RESULTS_PER_RUN);
        let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
        for result in results {
            assert!(rules.iter().any(|rule| rule["id"] == result["ruleId"]), "{result}");
            let locations = result["locations"].as_array().unwrap();
            assert!((1..=LOCATIONS_PER_RESULT).contains(&locations.len()));
            let place = &locations[0]["physicalLocation"];
            assert_eq!(place["artifactLocation"]["uri"], "adapter_model.safetensors");
            assert_eq!(place["region"]["startLine"], 1);
            let fingerprints = result["partialFingerprints"].as_object().unwrap();
            assert_eq!(fingerprints["triggerfish/v1"].as_str().unwrap().len(), 32);
        }
        let logical = &results[0]["locations"][0]["logicalLocations"][0];
        assert_eq!(logical["kind"], "trigger", "the worst comes first");
        for rule in rules {
            assert!(rule["properties"]["tags"].as_array().unwrap().len() <= TAGS_PER_RULE);
            if let Some(severity) = rule["properties"]["security-severity"].as_str() {
                assert!((0.0..=10.0).contains(&severity.parse::<f64>().unwrap()));
            }
        }
        assert_eq!(run["invocations"][0]["executionSuccessful"], record.coverage.complete);
    }
    let mut broken: Value = serde_json::from_str(&render("sarif", &records().next().unwrap().1)).unwrap();
    broken["runs"][0]["results"][0]["level"] = "fatal".into();
    assert!(!jsonschema::validator_for(&schema).unwrap().is_valid(&broken), "the schema refuses something");
}

#[test]
fn an_incomplete_run_is_no_success_anywhere() {
    let (_, mut record) = records().next().unwrap();
    record.evidence.tested.clear();
    record.evidence.taught.clear();
    record.comparison = None;
    record.coverage.complete = false;
    record.judgement =
        crate::verdict::judge(&record.evidence, &record.coverage, crate::verdict::Thresholds::STANDARD);
    record.exit_code = 3;
    let log: Value = serde_json::from_str(&render("sarif", &record)).unwrap();
    let run = &log["runs"][0];
    assert_eq!(run["invocations"][0]["executionSuccessful"], false);
    assert_eq!(run["results"][0]["ruleId"], "RUN-001");
    let junit = render("junit", &record);
    assert!(junit.contains("<error type=\"verdict\"") && !junit.contains("<failure"), "{junit}");
    for format in ["text", "markdown", "html"] {
        let text = render(format, &record).to_lowercase();
        assert!(text.contains("inconclusive") && text.contains("not a pass"), "{format}");
    }
}

#[test]
fn junit_is_valid() {
    for (name, record) in records() {
        let text = render("junit", &record);
        let failures = junit_schema::failures(&text);
        assert!(failures.is_empty(), "{name}: {failures:#?}");
        assert!(text.contains("<failure type=\"TRG-001\""), "{name}");
    }
    for broken in [
        "<testsuites tests=\"1\"><testcase name=\"x\"/></testsuites>",
        "<testsuites><testsuite name=\"a\" tests=\"0\" failures=\"0\"/></testsuites>",
        "<testsuites skipped=\"0\"/>",
    ] {
        assert!(!junit_schema::failures(broken).is_empty(), "{broken}");
    }
}

#[test]
fn the_audits_sarif_is_what_the_published_schema_says() {
    const RULE: Rule = Rule {
        id: "SER-001",
        severity: Severity::Critical,
        cwe: 502,
        title: "A title",
        help: "What it is.",
        remediation: "What to do.",
        gap: false,
    };
    let finding = Finding::new(&RULE, "a b.zip!/data.pkl", "found").at("offset 7").evidence("os.system");
    let accepted = Suppressed { reason: "reviewed".into(), approved_by: None, expires: None };
    let report = AuditReport {
        schema_version: "1.0.0".into(),
        tool: Tool { name: "triggerfish".into(), version: "0.1.0".into() },
        exit_code: 1,
        limits: BTreeMap::new(),
        repositories: vec![RepositoryAudit {
            name: "x".into(),
            files: vec![FileDigest { name: "a b.zip".into(), bytes: 3, sha256: "00".repeat(32) }],
            findings: vec![finding.clone(), Finding { suppressed: Some(accepted), ..finding.line(2) }],
        }],
    };
    let text = crate::audit::format::by_name("sarif").unwrap().render(&report, &[&RULE]);
    let log: Value = serde_json::from_str(&text).unwrap();
    assert_valid(&sarif_schema(), &log, "audit");
    let results = &log["runs"][0]["results"];
    let location = &results[0]["locations"][0];
    assert_eq!(location["physicalLocation"]["artifactLocation"]["uri"], "a%20b.zip");
    assert_eq!(location["logicalLocations"][0]["fullyQualifiedName"], "data.pkl");
    assert_eq!(results[0]["suppressions"], Value::Null);
    assert_eq!(results[1]["suppressions"][0]["justification"], "reviewed");
    assert_ne!(results[0]["partialFingerprints"], results[1]["partialFingerprints"]);
}
