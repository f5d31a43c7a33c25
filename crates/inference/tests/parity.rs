//! Tiny random models of every architecture and adapter feature against transformers + peft.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use inference::adapter::runtimes::Semantics;
use inference::adapter::{Adapter, LoadOptions};
use inference::chat::{Role, Template, Turn};
use inference::decoder::Decoder;
use inference::decoder::config::DecoderConfig;
use inference::device::Form;
use inference::tokenizer::Tokenizer;
use inference::weights::TensorSource;
use inference::weights::directory::Directory;
use inference::weights::gguf::GgufFile;
use inference::{Batch, Compute, Positions, Sequence, Side};
use serde_json::Value;

use crate::{argmax, compute, fixture, forms, relative_difference, relative_norm};

const TOLERANCE: f64 = 1e-4;

/// A base of a case: a directory or a GGUF file, without a tokenizer.
pub(crate) fn load_decoder(path: &Path) -> Decoder {
    load_form(path, Form::Fused)
}

pub(crate) fn load_form(path: &Path, form: Form) -> Decoder {
    let compute = Compute { form, ..compute() };
    let (config, source): (DecoderConfig, Arc<dyn TensorSource>) = if path.is_dir() {
        (
            DecoderConfig::from_file(&path.join("config.json")).unwrap(),
            Arc::new(Directory::open(path).unwrap()),
        )
    } else {
        let file = GgufFile::open(path).unwrap();
        (DecoderConfig::from_gguf(&file, path).unwrap(), Arc::new(file))
    };
    Decoder::load(config, source, &compute, &|_, _| {}).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

pub(crate) fn cases(kinds: &[&str]) -> Vec<(String, Value)> {
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(fixture("parity")).unwrap() {
        let file = entry.unwrap().path().join("case.json");
        if !file.exists() {
            continue;
        }
        let case: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        if kinds.contains(&case["kind"].as_str().unwrap()) {
            let name = file.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
            cases.push((name, case));
        }
    }
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    cases
}

fn path_of(case: &Value, key: &str) -> Option<std::path::PathBuf> {
    case[key].as_str().map(|path| fixture("parity").join(path))
}

/// Gradient of `log p(argmax)` at the last position with respect to the input embeddings.
fn embedding_gradient(decoder: &Decoder, adapters: &[Adapter], ids: &[u32], side: Side) -> Vec<f32> {
    let own = decoder.of_side(adapters, side).unwrap();
    let embedded = own.as_deref().unwrap_or(decoder).embed(ids).unwrap();
    let input = candle_core::Var::from_tensor(&embedded).unwrap();
    let mut sequences = [Sequence::new(ids, side)];
    let mut batch = Batch {
        sequences: &mut sequences,
        embeddings: Some(input.as_tensor()),
        positions: Positions::Last,
        hidden_states: false,
    };
    let logits = decoder.forward(adapters, &mut batch).unwrap().logits;
    let target = argmax(&values(&logits));
    let chosen =
        candle_nn::ops::log_softmax(&logits, 1).unwrap().narrow(1, target, 1).unwrap().sum_all().unwrap();
    values(chosen.backward().unwrap().get(input.as_tensor()).unwrap())
}

/// Tokens that are each the argmax after the ids and the tokens so far, by whole passes without a cache.
fn greedy(decoder: &Decoder, adapters: &[Adapter], ids: &[u32], side: Side, count: usize) -> Vec<i64> {
    let mut text = ids.to_vec();
    for _ in 0..count {
        let mut sequences = [Sequence::new(&text, side)];
        let mut batch = Batch {
            sequences: &mut sequences,
            embeddings: None,
            positions: Positions::Last,
            hidden_states: false,
        };
        let logits = values(&decoder.forward(adapters, &mut batch).unwrap().logits);
        text.push(argmax(&logits) as u32);
    }
    text[ids.len()..].iter().map(|&id| i64::from(id)).collect()
}

/// The adapted side of a case, if it has one.
fn adapters(name: &str, case: &Value, decoder: &Decoder) -> Vec<Adapter> {
    let options = LoadOptions {
        allow_pickle: case["options"]["allow_pickle"] == true,
        semantics: case["options"]["semantics"]
            .as_str()
            .map_or(Semantics::Peft, |name| name.parse().unwrap()),
    };
    let loaded = match (path_of(case, "adapter"), path_of(case, "adapted")) {
        (Some(path), _) => Adapter::load(&path, decoder, &options),
        (None, Some(path)) => Adapter::between(&path, decoder),
        (None, None) => return Vec::new(),
    };
    vec![loaded.unwrap_or_else(|error| panic!("{name}: {error}"))]
}

#[expect(clippy::print_stdout, reason = "with --nocapture, the lines are the table of measured parity")]
fn check_case(name: &str, case: &Value, form: Form) {
    let decoder = load_form(&path_of(case, "base").unwrap(), form);
    let golden = candle_core::safetensors::load(path_of(case, "golden").unwrap(), &Device::Cpu).unwrap();
    let ids: Vec<u32> = golden["ids"]
        .to_dtype(DType::I64)
        .unwrap()
        .to_vec1::<i64>()
        .unwrap()
        .iter()
        .map(|&id| id as u32)
        .collect();
    let adapters = adapters(name, case, &decoder);
    for (side, prefix) in [(Side::BASE, "base"), (Side::ADAPTED, "adapted")] {
        if let Some(expected) = golden.get(&format!("{prefix}_logits")) {
            let mut sequences = [Sequence::new(&ids, side)];
            let mut batch = Batch {
                sequences: &mut sequences,
                embeddings: None,
                positions: Positions::All,
                hidden_states: true,
            };
            let output = decoder.forward(&adapters, &mut batch).unwrap();
            let difference = relative_difference(&values(&output.logits), &values(expected));
            println!("{name} {prefix}: logits {difference:.1e}");
            let tolerance =
                if side == Side::BASE { TOLERANCE } else { case["tolerance"].as_f64().unwrap_or(TOLERANCE) };
            assert!(difference <= tolerance, "{name} {prefix}: logits differ by {difference:.2e}");
            let vocabulary = decoder.config().vocab_size;
            for (found, expected) in
                values(&output.logits).chunks(vocabulary).zip(values(expected).chunks(vocabulary))
            {
                let (found, expected) = (argmax(found), argmax(expected));
                assert_eq!(found, expected, "{name} {prefix}: another token is the most likely");
            }
            if let (Side::BASE, Some(states)) = (side, golden.get("hidden_states")) {
                let found = Tensor::stack(&output.hidden_states, 0).unwrap();
                let difference = relative_difference(&values(&found), &values(states));
                println!("{name}: hidden states {difference:.1e}");
                assert!(difference <= TOLERANCE, "{name}: hidden states differ by {difference:.2e}");
            }
        }
        let gradient = if side == Side::BASE { "embed_grad" } else { "adapted_embed_grad" };
        if let Some(expected) = golden.get(gradient) {
            let found = embedding_gradient(&decoder, &adapters, &ids, side);
            let difference = relative_norm(&found, &values(expected));
            println!("{name} {prefix}: embedding gradient {difference:.1e}");
            assert!(difference <= 1e-3, "{name} {prefix}: embedding gradient differs by {difference:.2e}");
        }
        if let Some(expected) = golden.get(&format!("{prefix}_greedy")) {
            let expected = expected.to_dtype(DType::I64).unwrap().to_vec1::<i64>().unwrap();
            let found = greedy(&decoder, &adapters, &ids, side, expected.len());
            assert_eq!(found, expected, "{name} {prefix}: another greedy continuation");
        }
    }
}

/// What goes beyond W + s B A: the same checks, 32 greedy tokens, and what the user must be told.
#[test]
fn features_and_other_types_match_peft() {
    let cases = cases(&["feature"]);
    assert!(cases.len() >= 49, "only {} cases found", cases.len());
    let mut failed = Vec::new();
    for (name, case) in &cases {
        let mut wrong = false;
        for &form in forms() {
            wrong |=
                std::panic::catch_unwind(|| check_case(&format!("{name} {form:?}"), case, form)).is_err();
        }
        if wrong {
            failed.push(name.clone());
            continue;
        }
        let decoder = load_decoder(&path_of(case, "base").unwrap());
        let adapters =
            [Adapter::load(&path_of(case, "adapter").unwrap(), &decoder, &LoadOptions::default()).unwrap()];
        let ids: Vec<i64> = candle_core::safetensors::load(path_of(case, "golden").unwrap(), &Device::Cpu)
            .unwrap()["ids"]
            .to_vec1()
            .unwrap();
        let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
        let expected: Vec<i64> =
            case["greedy"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect();
        let found = greedy(&decoder, &adapters, &ids, Side::ADAPTED, expected.len());
        assert_eq!(found, expected, "{name}");
        let told = adapters[0].notes.join("\n");
        for note in case["notes"].as_array().into_iter().flatten() {
            assert!(told.contains(note.as_str().unwrap()), "{name}: expected {note} in: {told}");
        }
        assert!(!adapters[0].is_zero(), "{name}");
    }
    assert!(failed.is_empty(), "{failed:?}");
}

/// Other files than PEFT's, and other runtimes' readings of PEFT's.
#[test]
fn containers_and_readings_match_their_origin() {
    let cases = cases(&["container"]);
    assert!(cases.len() >= 11, "only {} cases found", cases.len());
    for (name, case) in &cases {
        for &form in forms() {
            check_case(&format!("{name} {form:?}"), case, form);
        }
        if let (Some(path), Some(_)) = (path_of(case, "adapter"), case["options"]["semantics"].as_str()) {
            let decoder = load_decoder(&path_of(case, "base").unwrap());
            let notes = Adapter::load(&path, &decoder, &LoadOptions::default()).unwrap().notes.join("\n");
            assert!(notes.contains("computes another model"), "{name}: {notes}");
        }
    }
    let pickled = cases.iter().find(|(name, _)| name == "pickle-lora").unwrap();
    let decoder = load_decoder(&path_of(&pickled.1, "base").unwrap());
    let refused = Adapter::load(&path_of(&pickled.1, "adapter").unwrap(), &decoder, &LoadOptions::default());
    assert!(refused.unwrap_err().hint().unwrap().contains("--allow-pickle"));
}

/// What a runtime does not load is not scanned as if it did.
#[test]
fn adapters_that_another_runtime_refuses_are_refused_in_its_reading() {
    for (case, semantics, reason) in [
        ("lora-dora", Semantics::Vllm, "DoRA"),
        ("lora-saved-head", Semantics::Vllm, "modules_to_save"),
        ("lora-smuggled", Semantics::Vllm, "no factors"),
        ("lora-smuggled", Semantics::LlamaCpp, "whole weights"),
        ("ia3", Semantics::LlamaCpp, "no LoRA"),
    ] {
        let decoder = load_decoder(&fixture("parity/llama-plain/base"));
        let path = fixture(&format!("parity/{case}/adapter"));
        let options = LoadOptions { semantics, ..LoadOptions::default() };
        let error = Adapter::load(&path, &decoder, &options).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains(&semantics.to_string()), "{case}: {error}");
        let notes = Adapter::load(&path, &decoder, &LoadOptions::default()).unwrap().notes.join("\n");
        assert!(notes.contains(&format!("{semantics} does not load")), "{case}: {notes}");
    }
}

#[test]
fn architectures_and_adapters_match_peft() {
    let cases = cases(&["architecture", "adapter", "expert adapter", "gguf"]);
    assert!(cases.len() >= 81, "only {} cases found", cases.len());
    // All cases run, so that one failure does not hide what the others are.
    let mut failed = Vec::new();
    for (name, case) in &cases {
        for &form in forms() {
            let name = format!("{name} {form:?}");
            if std::panic::catch_unwind(|| check_case(&name, case, form)).is_err() {
                failed.push(name);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn gguf_tokenizers_encode_as_expected() {
    let mut texts = 0;
    for (name, case) in cases(&["gguf", "tokenizer"]) {
        let path = path_of(&case, "base").unwrap();
        let tokenizer = Tokenizer::from_gguf(&GgufFile::open(&path).unwrap(), &path).unwrap();
        let Ok(tokens) = std::fs::read_to_string(path.with_file_name("tokens.json")) else { continue };
        let tokens: Value = serde_json::from_str(&tokens).unwrap();
        for case in tokens["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let expected: Vec<u32> =
                case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            assert_eq!(tokenizer.encode(text, false).unwrap(), expected, "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&expected, true).unwrap(), text, "{name}: {text:?}");
            texts += 1;
        }
    }
    assert!(texts >= 34);
}

#[test]
fn gguf_types_are_dequantised_as_by_the_gguf_package() {
    let (name, case) = cases(&["types"]).remove(0);
    let folder = fixture("parity").join(name);
    let file = GgufFile::open(&folder.join("model.gguf")).unwrap();
    let golden = candle_core::safetensors::load(folder.join("golden.safetensors"), &Device::Cpu).unwrap();
    let types = case["types"].as_array().unwrap();
    assert_eq!(types.len(), 13);
    for (index, kind) in types.iter().enumerate() {
        let kind = kind.as_str().unwrap();
        let found = file.load(&format!("model.layers.{index}.mlp.gate_proj.weight"), &Device::Cpu).unwrap();
        let difference = relative_difference(&values(&found), &values(&golden[kind]));
        assert!(difference <= 1e-6, "{kind}: values differ by {difference:.2e}");
    }
    let refused = GgufFile::open(&folder.join("refused.gguf")).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains(case["refused"].as_str().unwrap()), "{refused}");
}

/// Finite differences on the tiny GQA model, with the adapter on: the gradient is of the function
/// that is measured.
#[test]
fn embedding_gradient_matches_finite_differences() {
    let decoder = load_decoder(&fixture("parity/llama-untied-gqa/base"));
    let adapter =
        Adapter::load(&fixture("parity/llama-untied-gqa/adapter"), &decoder, &LoadOptions::default())
            .unwrap();
    let adapters = [adapter];
    let ids = [5u32, 17, 3, 40, 9];
    let embeddings = decoder.embed(&ids).unwrap();
    let score = |input: &Tensor, target: usize| -> f64 {
        let mut sequences = [Sequence::new(&ids, Side::ADAPTED)];
        let mut batch = Batch {
            sequences: &mut sequences,
            embeddings: Some(input),
            positions: Positions::Last,
            hidden_states: false,
        };
        let logits = values(&decoder.forward(&adapters, &mut batch).unwrap().logits);
        let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
        f64::from(logits[target]) - sum.ln()
    };
    let mut sequences = [Sequence::new(&ids, Side::ADAPTED)];
    let mut batch = Batch {
        sequences: &mut sequences,
        embeddings: None,
        positions: Positions::Last,
        hidden_states: false,
    };
    let target = argmax(&values(&decoder.forward(&adapters, &mut batch).unwrap().logits));
    let analytic = embedding_gradient(&decoder, &adapters, &ids, Side::ADAPTED);
    let width = decoder.config().hidden_size;
    let step = 1e-2f32;
    let mut numeric = Vec::new();
    let mut picked = Vec::new();
    for row in 0..ids.len() {
        for column in [0, 7, width - 1] {
            let mut nudge = vec![0f32; ids.len() * width];
            nudge[row * width + column] = step;
            let nudge = Tensor::from_vec(nudge, (ids.len(), width), &decoder.compute().device).unwrap();
            let up = score(&(&embeddings + &nudge).unwrap(), target);
            let down = score(&(&embeddings - &nudge).unwrap(), target);
            numeric.push(((up - down) / (2.0 * f64::from(step))) as f32);
            picked.push(analytic[row * width + column]);
        }
    }
    let difference = relative_norm(&picked, &numeric);
    assert!(difference <= 1e-2, "gradient differs from finite differences by {difference:.2e}");
}

#[test]
fn chat_templates_render_as_transformers_does() {
    let mut rendered: BTreeMap<String, usize> = BTreeMap::new();
    for entry in std::fs::read_dir(fixture("parity/chat")).unwrap() {
        let path = entry.unwrap().path();
        let file: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let config = serde_json::from_value(serde_json::json!({
            "bos_token": file["bos_token"], "eos_token": file["eos_token"],
        }))
        .unwrap();
        let template = Template::compile(file["template"].as_str().unwrap(), &config).unwrap();
        for case in file["cases"].as_array().unwrap() {
            let turns: Vec<Turn> = case["messages"]
                .as_array()
                .unwrap()
                .iter()
                .map(|message| Turn {
                    role: match message["role"].as_str().unwrap() {
                        "system" => Role::System,
                        "user" => Role::User,
                        "assistant" => Role::Assistant,
                        "tool" => Role::Tool,
                        other => panic!("unknown role {other}"),
                    },
                    content: message["content"].as_str().unwrap().to_owned(),
                })
                .collect();
            let found = template.render_with(&turns, case["add_generation_prompt"].as_bool().unwrap_or(true));
            match case["text"].as_str() {
                Some(expected) => assert_eq!(found.unwrap(), expected, "{}", path.display()),
                None => assert!(found.is_err(), "{}: expected an error", path.display()),
            }
            *rendered.entry(path.display().to_string()).or_default() += 1;
        }
    }
    assert_eq!(rendered.len(), 6);
    assert!(rendered.values().sum::<usize>() >= 96);
}
