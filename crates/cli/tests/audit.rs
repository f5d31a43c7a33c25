//! `audit`, `rules`, `pin`, and what stands before a scan.

use std::path::Path;

use serde_json::Value;

use crate::{root, stderr, stdout, triggerfish};

/// A pickle of protocol 4 that would call `os.system("id")`.
const SYSTEM: &[u8] = b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.";

/// A copy of the benign fixture adapter.
fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(root("fixtures/adapters/benign").join(file), folder.path().join(file)).unwrap();
    }
    folder
}

fn audit(path: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let path = path.display().to_string();
    let mut arguments = vec!["audit", path.as_str()];
    arguments.extend(more);
    let output = triggerfish(&arguments);
    (output.status.code(), stdout(&output), stderr(&output))
}

#[test]
fn fixtures_pass_with_the_same_bytes_for_any_number_of_jobs() {
    let paths: Vec<String> = ["benign", "backdoored-refusal", "backdoored-url"]
        .iter()
        .map(|name| root("fixtures/adapters").join(name).display().to_string())
        .collect();
    let run = |jobs: &str| {
        let mut arguments = vec!["audit", "--format", "json", "--jobs", jobs];
        arguments.extend(paths.iter().map(String::as_str));
        let output = triggerfish(&arguments);
        assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
        stdout(&output)
    };
    assert_eq!(run("1"), run("4"));
}

#[test]
fn files_are_audited_with_their_folder_and_each_folder_once() {
    let folder = copy();
    let [config, weights] = ["adapter_config.json", "adapter_model.safetensors"]
        .map(|name| folder.path().join(name).display().to_string());
    let (code, text, _) = audit(Path::new(&weights), &["--fail-on", "medium"]);
    assert!(code == Some(1) && text.contains("WGT-013"), "alone, the weights lack their config: {text}");
    let (code, text, talk) = audit(Path::new(&weights), &[&config, "--folders", "--format", "json"]);
    assert_eq!(code, Some(0), "{talk}");
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["repositories"].as_array().unwrap().len(), 1);
}

#[test]
fn findings_are_suppressed_by_content_and_until_a_day() {
    let folder = copy();
    std::fs::write(folder.path().join("notes.txt"), SYSTEM).unwrap();
    let (code, text, _) = audit(folder.path(), &["--format", "json"]);
    assert_eq!(code, Some(1));
    let report: Value = serde_json::from_str(&text).unwrap();
    let findings = report["repositories"][0]["findings"].as_array().unwrap();
    let of_pickle: Vec<&Value> = findings.iter().filter(|finding| finding["file"] == "notes.txt").collect();
    assert!(of_pickle.iter().any(|finding| finding["rule"] == "SER-001"), "{text}");

    let outside = tempfile::tempdir().unwrap();
    let file = outside.path().join("triggerfish.toml");
    let entries = |day: &str| -> String {
        let entry = |finding: &&Value| {
            format!(
                "[[suppress]]\nrule = {}\nsha256 = {}\nreason = \"a test\"\napproved_by = \"a tester\"\nexpires = \"{day}\"\n",
                finding["rule"], finding["sha256"]
            )
        };
        of_pickle.iter().map(entry).collect()
    };
    let suppressions = file.to_str().unwrap();
    std::fs::write(&file, entries("2999-12-31")).unwrap();
    let (code, text, error) = audit(folder.path(), &["--suppressions", suppressions]);
    assert_eq!(code, Some(0), "{text}{error}");
    assert!(text.contains("suppressed SER-001"), "{text}");
    std::fs::write(&file, entries("2020-01-01")).unwrap();
    let (code, _, error) = audit(folder.path(), &["--suppressions", suppressions]);
    assert_eq!(code, Some(1));
    assert!(error.contains("expired on 2020-01-01"), "{error}");
    std::fs::write(&file, entries("2999-12-31").replace("a test\"", "\"")).unwrap();
    let (code, _, error) = audit(folder.path(), &["--suppressions", suppressions]);
    assert_eq!(code, Some(2), "a reason is mandatory: {error}");

    // The same findings are none against a baseline, and other content is one again.
    let baseline = outside.path().join("baseline.json");
    let path = baseline.to_str().unwrap();
    assert_eq!(audit(folder.path(), &["--format", "json", "-o", path]).0, Some(1));
    assert_eq!(audit(folder.path(), &["--baseline", path]).0, Some(0));
    std::fs::write(folder.path().join("notes.txt"), [SYSTEM, b"."].concat()).unwrap();
    assert_eq!(audit(folder.path(), &["--baseline", path]).0, Some(1));
}

#[test]
fn a_lock_names_what_changed() {
    let folder = copy();
    let adapter = folder.path().to_str().unwrap();
    let base = root("fixtures/base");
    let outside = tempfile::tempdir().unwrap();
    let lock = outside.path().join("triggerfish.lock");
    let lock = lock.to_str().unwrap();
    let output =
        triggerfish(&["pin", "--adapter", adapter, "--base", base.to_str().unwrap(), "--output", lock]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let (code, text, error) = audit(folder.path(), &["--locked", lock]);
    assert_eq!(code, Some(0), "{text}{error}");
    std::fs::write(folder.path().join("README.md"), "# Another card\n").unwrap();
    let (code, _, error) = audit(folder.path(), &["--locked", lock]);
    assert_eq!(code, Some(3));
    assert!(error.contains("README.md") && error.contains("not in the lock"), "{error}");
    let scan = ["scan", "--quiet", "--base", base.to_str().unwrap(), "--adapter", adapter, "--locked", lock];
    let output = triggerfish(&scan);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("README.md"), "{}", stderr(&output));
}

#[test]
fn a_scan_loads_nothing_of_a_repository_with_critical_findings() {
    let folder = copy();
    std::fs::write(folder.path().join("training_args.bin"), SYSTEM).unwrap();
    let base = root("fixtures/base");
    let scan = [
        "scan",
        "--quiet",
        "--format",
        "json",
        "--base",
        base.to_str().unwrap(),
        "--adapter",
        folder.path().to_str().unwrap(),
    ];
    let output = triggerfish(&scan);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let record: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(record["judgement"]["verdict"], "inconclusive");
    assert_eq!(record["cost"]["token_forwards"], 0);
    let findings = record["audit"]["findings"].as_array().unwrap();
    assert!(findings.iter().any(|finding| finding["rule"] == "SER-001"), "{record}");
}

#[test]
fn nothing_to_audit_is_no_pass() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(audit(folder.path(), &["--fail-on", "high"]).0, Some(3));
    assert_eq!(audit(&folder.path().join("absent"), &[]).0, Some(2));
}

#[test]
fn every_rule_is_explained() {
    let list = stdout(&triggerfish(&["rules", "list"]));
    let ids: Vec<&str> = list
        .lines()
        .filter(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(ids.len() > 50, "{list}");
    let mut arguments = vec!["rules", "explain"];
    arguments.extend(&ids);
    let output = triggerfish(&arguments);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    assert_eq!(text.matches("What to do:").count(), ids.len());
    assert_eq!(triggerfish(&["rules", "explain", "SER-999"]).status.code(), Some(2));
}

#[test]
fn sarif_has_rules_places_and_fingerprints() {
    let folder = copy();
    std::fs::write(folder.path().join("odd name.dat"), SYSTEM).unwrap();
    let (_, text, _) = audit(folder.path(), &["--format", "sarif"]);
    let log: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(log["version"], "2.1.0");
    let run = &log["runs"][0];
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    let results = run["results"].as_array().unwrap();
    let result = results.iter().find(|result| result["ruleId"] == "SER-001").unwrap();
    let index = result["ruleIndex"].as_u64().unwrap() as usize;
    assert_eq!(rules[index]["id"], "SER-001");
    let location = &result["locations"][0];
    assert_eq!(location["physicalLocation"]["artifactLocation"]["uri"], "odd%20name.dat");
    assert!(result["partialFingerprints"].is_object() && location["logicalLocations"].is_array());
}

#[test]
fn a_statement_names_the_files_by_digest() {
    let (code, text, _) = audit(&root("fixtures/adapters/benign"), &["--format", "in-toto"]);
    assert_eq!(code, Some(0));
    let statement: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    let subjects = statement["subject"].as_array().unwrap();
    assert_eq!(subjects.len(), std::fs::read_dir(root("fixtures/adapters/benign")).unwrap().count());
    assert!(subjects.iter().all(|subject| subject["digest"]["sha256"].as_str().unwrap().len() == 64));
    assert_eq!(statement["predicate"]["complete"], true);
}

/// Signed with the OpenSSF's own program (model-signing 1.1.1): `model_signing sign key`.
#[test]
fn a_signature_is_worth_what_the_named_key_is() {
    let signature = |file: &str| root("fixtures/audit/signature").join(file).display().to_string();
    let verify = |folder: &Path, bundle: &str, key: &str| {
        let (code, text, _) = audit(folder, &["--format", "json", "--signature", bundle, "--key", key]);
        let report: Value = serde_json::from_str(&text).unwrap();
        let findings = report["repositories"][0]["findings"].as_array().unwrap().iter();
        let rules: Vec<String> = findings
            .map(|finding| finding["rule"].as_str().unwrap().to_owned())
            .filter(|rule| ("PROV-022".."PROV-027").contains(&rule.as_str()))
            .collect();
        (code, rules)
    };
    let folder = copy();
    for curve in ["p256", "p384"] {
        let (bundle, key) = (signature(&format!("{curve}.sig")), signature(&format!("{curve}.pub")));
        assert_eq!(verify(folder.path(), &bundle, &key), (Some(0), vec!["PROV-025".into()]), "{curve}");
    }
    let (bundle, key) = (signature("p256.sig"), signature("p256.pub"));
    for other in ["stranger.pub", "p384.pub"] {
        assert_eq!(verify(folder.path(), &bundle, &signature(other)), (Some(1), vec!["PROV-022".into()]));
    }

    // What is signed is read only behind a signature that verifies.
    let text = std::fs::read_to_string(&bundle).unwrap();
    let mut changed: Value = serde_json::from_str(&text).unwrap();
    let payload = changed["dsseEnvelope"]["payload"].as_str().unwrap();
    changed["dsseEnvelope"]["payload"] = format!("{}AAAA", &payload[..payload.len() - 4]).into();
    let outside = tempfile::tempdir().unwrap();
    let forged = outside.path().join("model.sig");
    std::fs::write(&forged, changed.to_string()).unwrap();
    let forged = forged.display().to_string();
    assert_eq!(verify(folder.path(), &forged, &key), (Some(1), vec!["PROV-022".into()]));
    std::fs::write(&forged, r#"{"verificationMaterial":{"certificate":{}},"dsseEnvelope":{}}"#).unwrap();
    assert_eq!(verify(folder.path(), &forged, &key).1, ["PROV-026"]);

    // The signature itself may lie beside the files; git's folder is left out by the signer.
    std::fs::write(folder.path().join("model.sig"), &text).unwrap();
    let beside = folder.path().join("model.sig").display().to_string();
    assert_eq!(verify(folder.path(), &beside, &key).1, ["PROV-025"]);
    std::fs::write(folder.path().join(".gitattributes"), "* -text\n").unwrap();
    std::fs::write(folder.path().join("more.txt"), "x").unwrap();
    assert_eq!(verify(folder.path(), &beside, &key), (Some(1), vec!["PROV-024".into()]));
    std::fs::remove_file(folder.path().join("more.txt")).unwrap();
    let config = folder.path().join("adapter_config.json");
    let content = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, content + " ").unwrap();
    assert_eq!(verify(folder.path(), &beside, &key), (Some(1), vec!["PROV-023".into()]));
    std::fs::remove_file(&config).unwrap();
    assert!(verify(folder.path(), &beside, &key).1.contains(&"PROV-023".to_owned()));
}
