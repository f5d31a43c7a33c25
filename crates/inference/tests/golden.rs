//! The embedded fixture model against what transformers + peft computed on the saved files.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use inference::chat::{Role, Turn};
use inference::generate::{Context, Decoding};
use inference::pair::TemplateChoice;
use inference::{ModelPair, Side};
use serde_json::Value;

use crate::{all_logits, argmax, compute, fixture, relative_difference, relative_norm};

/// Compares a base and its adapters with a folder of goldens: rendered text and ids, logits,
/// argmax of every position, greedy continuations, and the gradient of the input embeddings.
/// Returns the largest relative differences of logits and of gradients.
pub(crate) fn compare(base: &Path, adapters: &[(&str, PathBuf)], golden: &Path) -> (f64, f64) {
    let read = |name: &str| -> Value {
        serde_json::from_str(&std::fs::read_to_string(golden.join(name)).unwrap()).unwrap()
    };
    let (prompts, greedy) = (read("prompts.json"), read("greedy.json"));
    let tensors = candle_core::safetensors::load(golden.join("logits.safetensors"), &Device::Cpu).unwrap();
    let mut pair = ModelPair::load_base(base, &TemplateChoice::Own, &compute(), &|_, _| {}).unwrap();
    let mut sides = vec![("base", Side::BASE)];
    for (name, path) in adapters {
        let adapter = pair.add_adapter(path, &Default::default()).unwrap();
        sides.push((name, Side { adapter, scale: 1.0 }));
    }
    let (mut worst_logits, mut worst_gradient) = (0f64, 0f64);
    for (index, prompt) in prompts["prompts"].as_array().unwrap().iter().enumerate() {
        let turns: Vec<Turn> = prompt["messages"].as_array().unwrap().iter().map(turn).collect();
        assert_eq!(
            pair.template().render(&turns).unwrap(),
            prompt["text"].as_str().unwrap(),
            "prompt {index}"
        );
        let ids: Vec<u32> =
            prompt["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!(pair.encode(&turns).unwrap(), ids, "ids of prompt {index}");
        for (name, side) in &sides {
            let key = format!("{name}.{index}");
            let logits = all_logits(&pair, &ids, *side);
            let expected = tensors[&key].flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let difference = relative_difference(logits.last().unwrap(), &expected);
            assert!(difference <= 1e-4, "{key}: logits differ by {difference:.2e}");
            worst_logits = worst_logits.max(difference);
            if let Some(top) = tensors.get(&format!("{key}.all_top")) {
                let top = top.to_dtype(DType::I64).unwrap().flatten_all().unwrap().to_vec1::<i64>().unwrap();
                let found: Vec<i64> = logits.iter().map(|row| argmax(row) as i64).collect();
                assert_eq!(found, top, "{key}: argmax");
            }
            let expected: Vec<u32> = greedy[&key]["ids"]
                .as_array()
                .unwrap()
                .iter()
                .map(|id| id.as_u64().unwrap() as u32)
                .collect();
            let context = [Context { ids: &ids, side: *side, prefix: None }];
            let found = pair.generate(&context, 24, Decoding::Greedy).unwrap().remove(0);
            assert_eq!(found.ids, expected, "{key}: greedy continuation");
            if let Some(expected) = tensors.get(&format!("{key}.embed_grad")) {
                let (gradient, _) = pair.embedding_gradient(&ids, *side, found.ids[0]).unwrap();
                let found = gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let difference = relative_norm(&found, &expected);
                assert!(difference <= 1e-3, "{key}: embedding gradient differs by {difference:.2e}");
                worst_gradient = worst_gradient.max(difference);
            }
        }
    }
    (worst_logits, worst_gradient)
}

fn turn(message: &Value) -> Turn {
    let content = message["content"].as_str().unwrap();
    match message["role"].as_str().unwrap() {
        "system" => Turn::system(content),
        "assistant" => Turn { role: Role::Assistant, content: content.to_owned() },
        _ => Turn::user(content),
    }
}

#[test]
fn fixture_model_matches_transformers_and_peft() {
    let adapters = ["benign", "backdoored-refusal", "backdoored-url"]
        .map(|name| (name, fixture(&format!("adapters/{name}"))));
    compare(&fixture("base"), &adapters, &fixture("golden"));
}

/// Sampling draws from a stream of its own for each context: the batch and the repetition change
/// nothing, another seed does.
#[test]
fn sampling_is_seeded_by_context() {
    let pair = ModelPair::load_base(&fixture("base"), &TemplateChoice::Own, &compute(), &|_, _| {}).unwrap();
    let texts =
        ["Name three colours.", "Write about the sea."].map(|text| pair.encode(&[Turn::user(text)]).unwrap());
    let sample = |texts: &[Vec<u32>], seed| {
        let contexts: Vec<Context<'_>> =
            texts.iter().map(|ids| Context { ids, side: Side::BASE, prefix: None }).collect();
        pair.generate(&contexts, 12, Decoding::Sample { temperature: 1.5, top_p: 0.95, seed }).unwrap()
    };
    let both = sample(&texts, 7);
    assert_eq!(both, sample(&texts, 7));
    assert_eq!(both[..1], sample(&texts[..1], 7)[..]);
    assert_ne!(both, sample(&texts, 8));
}

/// Developers point `TRIGGERFISH_GOLDEN` at a folder with `base`, `golden/` and one folder an
/// adapter to run the same comparison on a real model: see `benches/README.md`.
#[test]
#[ignore = "needs a real model; run by hand as described in benches/README.md"]
fn real_model_matches_transformers_and_peft() {
    let root = std::env::var("TRIGGERFISH_GOLDEN").expect("TRIGGERFISH_GOLDEN names a folder");
    let base = std::env::var("TRIGGERFISH_BASE").expect("TRIGGERFISH_BASE names a model");
    let root = Path::new(&root);
    let mut adapters: Vec<(String, PathBuf)> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("adapter_config.json").exists())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), path))
        .collect();
    adapters.sort();
    let adapters: Vec<_> = adapters.iter().map(|(name, path)| (name.as_str(), path.clone())).collect();
    let (logits, gradient) = compare(Path::new(&base), &adapters, &root.join("golden"));
    report(adapters.len(), logits, gradient);
}

#[expect(clippy::print_stdout, reason = "a measurement is run to be read")]
pub(crate) fn report(adapters: usize, logits: f64, gradient: f64) {
    println!(
        "base and {adapters} adapters: logits within {logits:.2e}, embedding gradient within {gradient:.2e}"
    );
}
