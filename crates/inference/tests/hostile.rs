//! Files that must be refused: one clear error each that names the file and the reason.

use std::path::Path;

use inference::adapter::{Adapter, LoadOptions};
use serde_json::Value;

use crate::fixture;
use crate::parity::{cases, load_decoder};

/// The error must hold every string of `error_contains` and one of `error_contains_any`.
fn check(error: &str, expected: &Path, name: &str) {
    let expected: Value = serde_json::from_str(&std::fs::read_to_string(expected).unwrap()).unwrap();
    let strings = |key: &str| -> Vec<String> {
        expected[key].as_array().into_iter().flatten().map(|s| s.as_str().unwrap().to_lowercase()).collect()
    };
    let error = error.to_lowercase();
    for needle in strings("error_contains") {
        assert!(error.contains(&needle), "{name}: expected `{needle}` in: {error}");
    }
    let any = strings("error_contains_any");
    assert!(
        any.is_empty() || any.iter().any(|needle| error.contains(needle)),
        "{name}: expected one of {any:?} in: {error}"
    );
}

#[test]
fn adapters_that_cannot_be_applied_are_refused_by_name() {
    let cases = cases(&["refusal"]);
    assert!(cases.len() >= 6, "only {} cases found", cases.len());
    for (name, case) in cases {
        let decoder = load_decoder(&fixture("parity").join(case["base"].as_str().unwrap()));
        let directory = fixture("parity").join(case["adapter"].as_str().unwrap());
        let error = Adapter::load(&directory, &decoder, &LoadOptions::default()).unwrap_err();
        check(&error.to_string(), &directory.with_file_name("expected.json"), &name);
    }
}

#[test]
fn hostile_files_are_refused_with_a_reason() {
    let decoder = load_decoder(&fixture("parity/llama-plain/base"));
    let mut count = 0;
    for entry in std::fs::read_dir(fixture("parity/hostile")).unwrap() {
        let directory = entry.unwrap().path();
        let error = Adapter::load(&directory, &decoder, &LoadOptions::default()).unwrap_err();
        check(&error.to_string(), &directory.join("expected.json"), &directory.display().to_string());
        count += 1;
    }
    assert!(count >= 14);
}

/// Files that cannot be kept in a repository.
#[test]
fn special_files_are_refused_before_they_are_opened() {
    let decoder = load_decoder(&fixture("parity/llama-plain/base"));
    let load = |directory: &Path| {
        Adapter::load(directory, &decoder, &LoadOptions::default()).unwrap_err().to_string()
    };
    let directory = tempfile::tempdir().unwrap();
    assert!(load(&directory.path().join("absent")).contains("found nothing"));
    assert!(load(directory.path()).contains("expected `adapter_model.safetensors`"));
    // A directory in the place of a file stands for every special file (a FIFO would hang a reader).
    std::fs::create_dir(directory.path().join("adapter_model.safetensors")).unwrap();
    std::fs::copy(
        fixture("parity/lora-rslora/adapter/adapter_config.json"),
        directory.path().join("adapter_config.json"),
    )
    .unwrap();
    assert!(load(directory.path()).contains("expected a regular file"));
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(200_000), "]".repeat(200_000));
    std::fs::write(directory.path().join("adapter_config.json"), deep).unwrap();
    assert!(load(directory.path()).contains("recursion limit"));
}
