//! Bad input: one clear error, the documented exit code, never a panic.

use std::path::Path;

use crate::{root, stderr, triggerfish};

/// Runs a scan of the fixture base with this adapter and checks the code and the words.
fn refused(base: &Path, adapter: &Path, code: i32, words: &[&str]) {
    let output = triggerfish(&[
        "scan",
        "--quiet",
        "--base",
        base.to_str().unwrap(),
        "--adapter",
        adapter.to_str().unwrap(),
    ]);
    let error = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{}: {error}", adapter.display());
    assert_eq!(error.matches("error:").count(), 1, "one error: {error}");
    assert!(!error.contains("panicked"), "{error}");
    assert!(output.stdout.is_empty(), "no report");
    for word in words {
        assert!(error.contains(word), "expected `{word}` in: {error}");
    }
}

fn base() -> std::path::PathBuf {
    root("fixtures/base")
}

/// A copy of the benign fixture adapter, to be damaged.
fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(root("fixtures/adapters/benign").join(file), folder.path().join(file)).unwrap();
    }
    folder
}

#[test]
fn missing_files() {
    refused(&base(), Path::new("/no/such/adapter"), 2, &["/no/such/adapter", "found nothing"]);
    refused(
        Path::new("/no/such/base"),
        &root("fixtures/adapters/benign"),
        2,
        &["/no/such/base", "found nothing"],
    );
    let folder = copy();
    std::fs::remove_file(folder.path().join("adapter_config.json")).unwrap();
    refused(&base(), folder.path(), 2, &["adapter_config.json"]);
}

#[test]
fn damaged_weights() {
    let folder = copy();
    let weights = folder.path().join("adapter_model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() - 100]).unwrap();
    refused(&base(), folder.path(), 2, &["adapter_model.safetensors", "truncated", "hint:"]);
    std::fs::write(&weights, b"PK\x03\x04 and the rest of an archive").unwrap();
    refused(&base(), folder.path(), 2, &["zip archive", "safetensors"]);
    std::fs::write(&weights, b"\x80\x04\x95 pickle").unwrap();
    refused(&base(), folder.path(), 2, &["pickle"]);
}

#[test]
fn nan_weights() {
    let folder = copy();
    let weights = folder.path().join("adapter_model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    // All bits set is NaN in every floating-point type.
    bytes[header..header + 4].fill(0xff);
    std::fs::write(&weights, bytes).unwrap();
    refused(&base(), folder.path(), 2, &["NaN"]);
}

/// PEFT adapters start with B = 0; one that was never trained is no pass.
#[test]
fn a_zero_adapter_is_inconclusive() {
    let folder = copy();
    let weights = folder.path().join("adapter_model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[header..].fill(0);
    std::fs::write(&weights, bytes).unwrap();
    let base = base();
    let arguments =
        ["scan", "--quiet", "--base", base.to_str().unwrap(), "--adapter", folder.path().to_str().unwrap()];
    let output = triggerfish(&arguments);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let text = crate::stdout(&output);
    assert!(text.starts_with("INCONCLUSIVE") && text.contains("changes nothing"), "{text}");
}

#[test]
fn another_base() {
    refused(
        &root("fixtures/base"),
        &root("fixtures/parity/lora-rslora/adapter"),
        2,
        &["hint:", "trained on"],
    );
}

#[test]
fn only_a_pickle_is_unsupported_and_never_a_pass() {
    let folder = copy();
    std::fs::rename(folder.path().join("adapter_model.safetensors"), folder.path().join("adapter_model.bin"))
        .unwrap();
    refused(&base(), folder.path(), 3, &["adapter_model.bin", "pickle"]);
}

#[test]
fn another_method_is_unsupported_and_never_a_pass() {
    let folder = copy();
    let config = folder.path().join("adapter_config.json");
    let text = std::fs::read_to_string(&config).unwrap().replace("\"LORA\"", "\"OFT\"");
    std::fs::write(&config, text).unwrap();
    refused(&base(), folder.path(), 3, &["OFT", "not scanned"]);
}

#[test]
fn an_unknown_architecture_lists_the_known_ones() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), r#"{"model_type":"rwkv"}"#).unwrap();
    refused(folder.path(), &root("fixtures/adapters/benign"), 3, &["rwkv", "llama, mistral, mixtral"]);
}

#[test]
fn suites_that_cannot_be_used() {
    let run = |suites: &str| {
        let output = triggerfish(&["scan", "--quiet", "--suites", suites]);
        (output.status.code(), stderr(&output))
    };
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.json");
    std::fs::write(
        &empty,
        r#"{"schema_version":1,"name":"e","kind":"prompts","description":"d","prompts":[]}"#,
    )
    .unwrap();
    let (code, error) = run(empty.to_str().unwrap());
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("at least one item"), "{error}");
    let (code, error) = run("no-such-suite");
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("no-such-suite") && error.contains("benign"), "{error}");
    let (code, error) = run("none");
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("leaves nothing to test") && error.contains("--depth standard"), "{error}");
    let (code, error) = run("triggers");
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("add the suite `benign`"), "{error}");
    // Its own suite, in which no prompt is free of a system prompt: nothing could screen candidates.
    let all = std::fs::read_to_string(root("suites/benign.json")).unwrap();
    let mut suite: serde_json::Value = serde_json::from_str(&all).unwrap();
    suite["name"] = "bakery".into();
    for prompt in suite["prompts"].as_array_mut().unwrap() {
        prompt["system"] = "You are the assistant of a bakery.".into();
    }
    let file = folder.path().join("bakery.json");
    std::fs::write(&file, suite.to_string()).unwrap();
    let (code, error) = run(file.to_str().unwrap());
    assert_eq!(code, Some(2), "{error}");
    for expected in
        ["suite `bakery`", "without a system prompt of their own", "found 0 of", "leave `system` out"]
    {
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn impossible_devices_and_options() {
    let run = |arguments: &[&str]| {
        let output = triggerfish(arguments);
        (output.status.code(), stderr(&output))
    };
    // No machine has so many GPUs; most that run this test have no driver either.
    let (code, error) = run(&["scan", "--quiet", "--device", "cuda:4096"]);
    assert_eq!(code, Some(2), "{error}");
    let expected = if cfg!(feature = "cuda") { "cannot open cuda:4096" } else { "--features cuda" };
    assert!(error.contains(expected), "{error}");
    assert!(!error.contains("panicked"), "{error}");
    assert_eq!(run(&["scan", "--device", "tpu"]).0, Some(2));
    assert_eq!(run(&["scan", "--dtype", "int4"]).0, Some(2));
    assert_eq!(run(&["scan", "--depth", "abyss"]).0, Some(2));
    let (code, error) = run(&["scan", "--quiet", "--budget=1e6tok"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("add `--depth standard`"), "{error}");
    assert_eq!(run(&["scan", "--base", "x"]).0, Some(2), "--base needs --adapter");
    assert_eq!(run(&["scan", "--adapter", "nonsense"]).0, Some(2));
}
