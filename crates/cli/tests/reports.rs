//! Reports in several forms, from a run and from the record of one.

use std::path::Path;

use serde_json::Value;

use crate::{stderr, stdout, triggerfish};

const FORMS: [&str; 8] = ["text", "json", "jsonl", "csv", "markdown", "html", "sarif", "junit"];

#[test]
fn one_run_writes_every_form_and_its_record_gives_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let mut arguments = vec!["scan".to_owned(), "--quiet".to_owned()];
    for form in FORMS {
        arguments.extend(["--report".to_owned(), format!("{form}={}", file(form))]);
    }
    let output = triggerfish(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let read = |form: &str| std::fs::read_to_string(file(form)).unwrap();
    assert_eq!(stdout(&output), read("text"), "text is what standard output has by default");
    for form in FORMS {
        let again = triggerfish(&["report", &file("json"), "--format", form]);
        assert_eq!(again.status.code(), Some(0), "{form}: {}", stderr(&again));
        assert!(stdout(&again) == read(form), "{form}");
    }

    let record: Value = serde_json::from_str(&read("json")).unwrap();
    let answers = record["evidence"]["answers"].as_array().unwrap();
    let of_suite = |suite: &str| answers.iter().filter(|answer| answer["suite"] == suite).count();
    assert!(of_suite("benign") > 100 && of_suite("adversarial") > 20);
    let nats: Vec<f64> = answers.iter().filter_map(|answer| answer["kl_nats"].as_f64()).collect();
    let mean = nats.iter().sum::<f64>() / nats.len() as f64;
    let drift =
        record["evidence"]["drift"].as_array().unwrap().iter().find(|drift| drift["divergence"] == "kl");
    assert!((drift.unwrap()["estimate"]["value"].as_f64().unwrap() - mean).abs() < 1e-9);
    let scores = &record["evidence"]["tested"][0]["examples"][0]["scores"];
    let sum = |side: &str| {
        let tokens = scores["adapted"].as_array().unwrap();
        tokens.iter().map(|token| token[side].as_f64().unwrap()).sum::<f64>()
    };
    assert!(sum("adapted_nats") > sum("base_nats") + 5.0, "the base would not have said this");
}

#[test]
fn what_cannot_be_written_is_refused_before_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let html = format!("html={}", path("a"));
    for (arguments, expected) in [
        (vec!["--report", "html=/nowhere/at/all.html"], "there is no folder"),
        (vec!["--report", html.as_str(), "-o", &path("a")], "named for two reports"),
        (vec!["-o", folder.path().to_str().unwrap()], "it is a folder"),
        (vec!["--report", "docx=a"], "unknown format `docx`"),
        (vec!["--report", "html"], "expected a format and a file"),
    ] {
        let mut all = vec!["scan", "--quiet"];
        all.extend(arguments);
        let output = triggerfish(&all);
        assert_eq!(output.status.code(), Some(2), "{all:?}");
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn only_records_of_this_major_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("record.json");
    let refused = |file: &Path, expected: &str| {
        let output = triggerfish(&["report", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    };
    refused(&file, "cannot read");
    for (text, expected) in [
        ("", "is no record"),
        ("[1]", "it has no `schema_version`"),
        (r#"{"schema_version":"2.0.0"}"#, "found 2.0.0"),
        (r#"{"schema_version":"1.0.0"}"#, "missing field"),
    ] {
        std::fs::write(&file, text).unwrap();
        refused(&file, expected);
    }
}
