//! The audit on generated repositories: hostile ones are caught by the right rule, harmless ones do not alarm.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{root, stderr, triggerfish};

/// Longer than this is a hang to whoever waits.
const LONGEST: Duration = Duration::from_secs(2);

/// What the generator says of a repository.
struct Case {
    name: String,
    hostile: bool,
    rules: Vec<String>,
    base: Option<String>,
}

fn generate(folder: &Path) -> Vec<Case> {
    let made = Command::new("python3")
        .arg("-B")
        .arg(root("fixtures/audit/generate.py"))
        .arg(folder)
        .output()
        .expect("python3 is installed: it writes the corpus");
    assert!(made.status.success(), "{}", stderr(&made));
    let text = std::fs::read_to_string(folder.join("cases.json")).expect("the generator wrote its cases");
    let cases: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    cases
        .iter()
        .map(|case| Case {
            name: case["name"].as_str().expect("a name").to_owned(),
            hostile: case["hostile"].as_bool().expect("hostile or not"),
            rules: case["rules"]
                .as_array()
                .expect("rules")
                .iter()
                .filter_map(|rule| rule.as_str().map(str::to_owned))
                .collect(),
            base: case["base"].as_str().map(str::to_owned),
        })
        .collect()
}

/// Runs an audit, again if it took long: on a busy machine the first time is the machine's, not the program's.
fn fastest(arguments: &[&str]) -> (Output, Duration) {
    let run = || {
        let started = Instant::now();
        let output = triggerfish(arguments);
        (output, started.elapsed())
    };
    let mut best = run();
    for _ in 0..2 {
        if best.1 <= LONGEST {
            break;
        }
        let again = run();
        if again.1 < best.1 {
            best = again;
        }
    }
    best
}

/// What went wrong with a case, if anything did.
fn audit(folder: &Path, case: &Case) -> Option<String> {
    let repository = folder.join("repositories").join(&case.name).display().to_string();
    let base = case.base.as_ref().map(|base| folder.join("bases").join(base).display().to_string());
    let mut arguments = vec!["audit", repository.as_str(), "--format", "json"];
    if let Some(base) = &base {
        arguments.extend(["--base", base]);
    }
    let (output, took) = fastest(&arguments);
    if took > LONGEST {
        return Some(format!("took {took:?}"));
    }
    if stderr(&output).contains("panicked") {
        return Some(stderr(&output));
    }
    let Ok(report) = serde_json::from_slice::<Value>(&output.stdout) else {
        return Some(format!("wrote no report: {}", stderr(&output)));
    };
    let findings = report["repositories"][0]["findings"].as_array().cloned().unwrap_or_default();
    let found: Vec<(&str, &str)> = findings
        .iter()
        .filter_map(|finding| Some((finding["rule"].as_str()?, finding["severity"].as_str()?)))
        .collect();
    if case.hostile {
        let caught = found.iter().any(|(rule, _)| case.rules.iter().any(|expected| expected == rule));
        return (!caught).then(|| format!("expected one of {:?}, found {found:?}", case.rules));
    }
    let alarms: Vec<String> = findings
        .iter()
        .filter(|finding| !matches!(finding["severity"].as_str(), Some("note" | "low")))
        .map(|finding| format!("{} {}: {}", finding["rule"], finding["file"], finding["message"]))
        .collect();
    (!alarms.is_empty()).then(|| format!("false alarms: {}", alarms.join("; ")))
}

#[test]
fn every_hostile_repository_is_caught_and_no_harmless_one_alarms() {
    let folder = tempfile::tempdir().expect("a folder");
    let cases = generate(folder.path());
    let hostile = cases.iter().filter(|case| case.hostile).count();
    assert!(hostile >= 110 && cases.len() - hostile >= 12, "{hostile} of {}", cases.len());
    let wrong: BTreeMap<&str, String> =
        cases.iter().filter_map(|case| Some((case.name.as_str(), audit(folder.path(), case)?))).collect();
    let table: Vec<String> = wrong.iter().map(|(name, what)| format!("{name}: {what}")).collect();
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), cases.len(), table.join("\n"));
}
