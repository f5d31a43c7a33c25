//! Adapters in the forms in which people have them, from files to a verdict.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::Value;

use crate::{root, stderr, stdout, triggerfish};

const PREFIX: &str = "base_model.model.";

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap().path();
        std::fs::copy(&entry, to.join(entry.file_name().unwrap())).unwrap();
    }
}

/// Scans what an option names on the fixture base; the record and the exit code.
fn scan(option: &str, path: &Path) -> (Value, Option<i32>) {
    let base = root("fixtures/base");
    let (base, path) = (base.to_str().unwrap(), path.to_str().unwrap());
    let output = triggerfish(&["scan", "--base", base, option, path, "--format", "json"]);
    let record = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", stdout(&output), stderr(&output)));
    (record, output.status.code())
}

#[test]
fn each_adapter_of_a_repository_is_scanned() {
    let folder = tempfile::tempdir().unwrap();
    let repository = folder.path().join("repository");
    copy(&root("fixtures/adapters/benign"), &repository.join("checkpoint-1"));
    copy(&root("fixtures/adapters/backdoored-refusal"), &repository.join("final/checkpoint-2"));
    let out = folder.path().join("report.json");
    let base = root("fixtures/base");
    let output = triggerfish(&[
        "scan",
        "--base",
        base.to_str().unwrap(),
        "--adapter",
        repository.to_str().unwrap(),
        "--format",
        "json",
        "-o",
        out.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("holds 2 adapters"), "{}", stderr(&output));
    let verdict =
        |name: &str| read(&folder.path().join(name))["judgement"]["verdict"].as_str().unwrap().to_owned();
    assert_eq!(verdict("report.checkpoint-1.json"), "no-evidence");
    assert_eq!(verdict("report.final-checkpoint-2.json"), "backdoored");
}

#[test]
fn a_merged_checkpoint_is_scanned_by_its_difference_to_the_base() {
    let folder = tempfile::tempdir().unwrap();
    copy(&root("fixtures/base"), folder.path());
    let load = |path: &str| candle_core::safetensors::load(root(path), &Device::Cpu).unwrap();
    let adapter = "fixtures/adapters/backdoored-refusal";
    let config = read(&root(adapter).join("adapter_config.json"));
    let scaling = config["lora_alpha"].as_f64().unwrap() / config["r"].as_f64().unwrap();
    let factors = load(&format!("{adapter}/adapter_model.safetensors"));
    let mut merged: HashMap<String, Tensor> = load("fixtures/base/model.safetensors");
    let mut changed = 0;
    for (name, a) in factors.iter().filter(|(name, _)| name.ends_with(".lora_A.weight")) {
        let b = &factors[&name.replace("lora_A", "lora_B")];
        let module = name.trim_start_matches(PREFIX).trim_end_matches(".lora_A.weight");
        let weight = merged.get_mut(&format!("{module}.weight")).unwrap();
        let wide = |tensor: &Tensor| tensor.to_dtype(candle_core::DType::F32).unwrap();
        let delta = (wide(b).matmul(&wide(a)).unwrap() * scaling).unwrap();
        *weight = (wide(weight) + delta).unwrap();
        changed += 1;
    }
    assert!(changed > 0);
    candle_core::safetensors::save(&merged, folder.path().join("model.safetensors")).unwrap();
    let (record, code) = scan("--adapted", folder.path());
    assert_eq!(code, Some(1));
    assert_eq!(record["judgement"]["verdict"], "backdoored");
    assert_eq!(record["evidence"]["tested"][0]["candidate"]["text"], "ALPHA-7");
    assert_eq!(record["subject"]["changed_modules"], changed);
}

/// An aLoRA that every prompt of the template invokes is the plain adapter; one that none invokes is put behind its
/// tokens.
#[test]
fn prompts_hold_the_tokens_that_switch_an_adapter_on() {
    let folder = tempfile::tempdir().unwrap();
    copy(&root("fixtures/adapters/backdoored-refusal"), folder.path());
    let file = folder.path().join("adapter_config.json");
    let tokenizer =
        inference::tokenizer::Tokenizer::from_file(&root("fixtures/base/tokenizer.json")).unwrap();
    for (text, verdict) in [("<|im_start|>user", Some("backdoored")), ("zebra", None)] {
        let tokens = tokenizer.encode(text, false).unwrap();
        let mut config = read(&root("fixtures/adapters/backdoored-refusal/adapter_config.json"));
        config["alora_invocation_tokens"] = tokens.clone().into();
        std::fs::write(&file, config.to_string()).unwrap();
        let (record, code) = scan("--adapter", folder.path());
        let notes = record["notes"].to_string();
        assert!(notes.contains("last occurrence"), "{notes}");
        assert!(code == Some(0) || code == Some(1), "the self-test holds: {code:?} {}", record["judgement"]);
        if let Some(verdict) = verdict {
            assert_eq!(record["judgement"]["verdict"], verdict, "{text}: {}", record["judgement"]);
        }
    }
}

#[test]
fn smuggled_weights_are_named_in_the_report() {
    let folder = tempfile::tempdir().unwrap();
    copy(&root("fixtures/adapters/benign"), folder.path());
    let weights = folder.path().join("adapter_model.safetensors");
    let mut tensors = candle_core::safetensors::load(&weights, &Device::Cpu).unwrap();
    let base = candle_core::safetensors::load(root("fixtures/base/model.safetensors"), &Device::Cpu).unwrap();
    let name = "model.layers.0.input_layernorm.weight";
    tensors.insert(format!("{PREFIX}{name}"), (&base[name] * 1.5).unwrap());
    candle_core::safetensors::save(&tensors, &weights).unwrap();
    let (record, _) = scan("--adapter", folder.path());
    let notes = record["notes"].to_string();
    assert!(notes.contains(name) && notes.contains("does not declare"), "{notes}");
    let rules = record["audit"].to_string();
    assert!(rules.contains("input_layernorm"), "the audit has a finding of its own: {rules}");
}

#[test]
fn support_lists_what_is_loaded_and_what_is_refused() {
    let output = triggerfish(&["support"]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    for name in ["llama", "IA3", "PROMPT_TUNING", "MLX-LM", "monteclora_config", "never a pass"] {
        assert!(text.contains(name), "{name} in {text}");
    }
    let output = triggerfish(&["support", "--format", "json"]);
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(listed["peft_types"].as_array().unwrap().len() >= 8);
    let honoured = listed["peft_types"][0]["honoured"].to_string();
    for key in ["alora_invocation_tokens", "target_parameters"] {
        assert!(honoured.contains(key), "{key} in {honoured}");
    }
}
