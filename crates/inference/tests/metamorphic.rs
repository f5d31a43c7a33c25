//! Relations that hold for every architecture, whatever its numbers: no golden file is needed for them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use inference::adapter::Adapter;
use inference::adapter::delta::LoraDelta;
use inference::decoder::config::DecoderConfig;
use inference::decoder::{Decoder, Past};
use inference::device::Form;
use inference::prefix::KvCache;
use inference::weights::TensorSource;
use inference::weights::directory::Directory;
use inference::{Batch, Positions, Sequence, Side};

use crate::rows::{Pair, pair as pair_of};
use crate::{compute, fixture, forms, relative_difference, relative_norm};

/// One case of every kind of layer.
const KINDS: [&str; 14] = [
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3",
    "smollm3",
    "granite",
    "olmo2",
    "gpt2",
    "gpt-neox",
    "phi",
    "stablelm-parallel",
    "cohere2",
    "falcon-grouped",
    "qwen3-moe",
];

const TEXTS: [&[u32]; 5] =
    [&[5, 17, 3, 40, 9, 2, 60, 11, 12, 13], &[1, 2, 3], &[5, 17, 3, 40, 9, 2, 61], &[8], &[30, 31, 32]];

impl Pair {
    /// A further adapter: `change` gives A, B and the scaling at every site of the first. The side that sees it.
    fn add(&mut self, change: impl Fn(&Tensor, &Tensor, f64) -> (Tensor, Tensor, f64)) -> Side {
        let sites = self.decoder.sites();
        let changed = |site: usize| {
            let delta = self.adapters[0].delta(site)?;
            let (a, b) = delta.factors();
            let (a, b, scaling) = change(a, b, delta.scaling());
            Some(LoraDelta::new(&a, &b, scaling).unwrap())
        };
        let deltas = (0..sites.len()).map(changed).collect();
        self.adapters.push(Adapter::from_deltas(deltas, sites, self.decoder.compute()).unwrap());
        Side { adapter: self.adapters.len() - 1, scale: 1.0 }
    }
}

#[test]
fn a_row_depends_on_its_sequence_alone() {
    for case in KINDS {
        for &form in forms() {
            let pair = pair_of(case, form);
            let mut wanted = Vec::new();
            for side in [Side::BASE, Side::ADAPTED, Side::scaled(2.5), Side::BASE] {
                wanted.extend(TEXTS.map(|ids| (ids, side)));
            }
            let mut sequences: Vec<Sequence<'_>> =
                wanted.iter().map(|(ids, side)| Sequence::new(ids, *side)).collect();
            let together = pair.run(&mut sequences);
            for ((ids, side), found) in wanted.iter().zip(&together) {
                let alone = pair.alone(ids, *side);
                if form == Form::Fused {
                    assert_eq!(found, &alone, "{case} {ids:?} {side:?}: the same bit for bit in any batch");
                } else {
                    let difference = relative_difference(found, &alone);
                    assert!(difference <= 1e-5, "{case} {ids:?} {side:?}: differs by {difference:.2e}");
                }
            }
            let (base, adapted) = (pair.alone(TEXTS[0], Side::BASE), pair.alone(TEXTS[0], Side::ADAPTED));
            assert!(relative_difference(&adapted, &base) > 1e-2, "{case}: the adapter has no effect");
        }
    }
}

#[test]
fn a_cache_and_a_shared_prefix_equal_one_pass() {
    // Windows of the cases are 8, shorter than the text, so that they cut into the past.
    let text: Vec<u32> = (0..14).map(|i| (i * 7 + 3) % 60).collect();
    for case in KINDS {
        for &form in forms() {
            let pair = pair_of(case, form);
            for side in [Side::BASE, Side::ADAPTED] {
                let whole = pair.alone(&text, side);
                let vocabulary = whole.len() / text.len();
                let mut cache = KvCache::new();
                let (head, tail) = text.split_at(5);
                pair.run(&mut [Sequence { ids: head, side, past: Past::Cache(&mut cache) }]);
                let prefix = Arc::new(cache.freeze(side));
                let found = pair.run(&mut [Sequence::after(&prefix, tail), Sequence::after(&prefix, tail)]);
                for found in &found {
                    let difference = relative_difference(found, &whole[5 * vocabulary..]);
                    assert!(difference <= 1e-5, "{case}: a shared prefix differs by {difference:.2e}");
                }
                let mut cache = KvCache::after(&prefix);
                for (step, id) in tail.iter().enumerate() {
                    let past = Past::Cache(&mut cache);
                    let found =
                        pair.run(&mut [Sequence { ids: std::slice::from_ref(id), side, past }]).remove(0);
                    let at = (5 + step) * vocabulary;
                    let difference = relative_difference(&found, &whole[at..at + vocabulary]);
                    assert!(
                        difference <= 1e-5,
                        "{case} step {step}: cached decoding differs by {difference:.2e}"
                    );
                }
            }
        }
    }
}

#[test]
fn zero_and_rescaled_factors() {
    for case in KINDS {
        for &form in forms() {
            let mut pair = pair_of(case, form);
            let zero = pair.add(|a, b, scaling| (a.clone(), b.zeros_like().unwrap(), scaling));
            let halved = pair.add(|a, b, scaling| (a.clone(), (b * 0.5).unwrap(), scaling * 2.0));
            let base = pair.alone(TEXTS[0], Side::BASE);
            assert_eq!(pair.alone(TEXTS[0], zero), base, "{case}: B = 0 is the base bit for bit");
            let (adapted, same) = (pair.alone(TEXTS[0], Side::ADAPTED), pair.alone(TEXTS[0], halved));
            let difference = relative_difference(&same, &adapted);
            assert!(difference <= 1e-5, "{case}: twice alpha with half of B differs by {difference:.2e}");
        }
    }
}

/// A source whose tensors are others where there are any.
struct Overlay {
    below: Directory,
    tensors: BTreeMap<String, Tensor>,
}

impl TensorSource for Overlay {
    fn origin(&self) -> &Path {
        self.below.origin()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|tensor| tensor.dims().to_vec()).or_else(|| self.below.shape(name))
    }

    fn load(&self, name: &str, device: &Device) -> Result<Tensor, inference::Error> {
        match self.tensors.get(name) {
            Some(tensor) => Ok(tensor.to_device(device)?),
            None => self.below.load(name, device),
        }
    }

    fn names(&self) -> Vec<String> {
        self.below.names()
    }
}

#[test]
fn merged_equals_unmerged() {
    for case in KINDS {
        let pair = pair_of(case, Form::Fused);
        let path = fixture(&format!("parity/{case}/base"));
        let directory = Directory::open(&path).unwrap();
        let mut tensors = BTreeMap::new();
        for (index, site) in pair.decoder.sites().iter().enumerate() {
            let Some(delta) = pair.adapters[0].delta(index) else { continue };
            let (a, b) = delta.factors();
            let change = (b.matmul(a).unwrap() * delta.scaling()).unwrap();
            let name = format!("{}.weight", site.name);
            let weight = directory.load(&name, &Device::Cpu).unwrap();
            let turned = case == "gpt2";
            let change = if turned { change.t().unwrap() } else { change };
            tensors.insert(name, (weight + change).unwrap());
        }
        assert!(tensors.len() >= 8, "{case}: {}", tensors.len());
        let config = DecoderConfig::from_file(&path.join("config.json")).unwrap();
        let source = Arc::new(Overlay { below: directory, tensors });
        let decoder = Decoder::load(config, source, &compute(), &|_, _| {}).unwrap();
        let merged = Pair { decoder, adapters: Vec::new() };
        let adapted = pair.alone(TEXTS[0], Side::ADAPTED);
        let difference = relative_difference(&merged.alone(TEXTS[0], Side::BASE), &adapted);
        assert!(difference <= 2e-5, "{case}: merged differs by {difference:.2e}");
    }
}

/// Phi 3 with its fused projections, and the same weights as a Mistral with split ones.
#[test]
fn fused_projections_equal_split_ones() {
    let fused = pair_of("phi3", Form::Fused);
    let path = fixture("parity/phi3/base");
    let directory = Directory::open(&path).unwrap();
    let mut text: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path.join("config.json")).unwrap()).unwrap();
    text["model_type"] = "mistral".into();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text.to_string()).unwrap();
    let config = DecoderConfig::from_file(file.path()).unwrap();
    let (q, kv, inner) = (config.q_width(), config.kv_width(), config.intermediate_size);
    let parts = [
        ("self_attn.q_proj", "self_attn.qkv_proj", 0, q),
        ("self_attn.k_proj", "self_attn.qkv_proj", q, kv),
        ("self_attn.v_proj", "self_attn.qkv_proj", q + kv, kv),
        ("mlp.gate_proj", "mlp.gate_up_proj", 0, inner),
        ("mlp.up_proj", "mlp.gate_up_proj", inner, inner),
    ];
    let part_of = |name: &str| {
        let part = parts.iter().find(|(split, ..)| name.ends_with(split))?;
        Some((name.replace(part.0, part.1), part.2, part.3))
    };
    let mut tensors = BTreeMap::new();
    for layer in 0..config.layers {
        for (split, ..) in parts {
            let name = format!("model.layers.{layer}.{split}");
            let (both, first, count) = part_of(&name).unwrap();
            let weight = directory.load(&format!("{both}.weight"), &Device::Cpu).unwrap();
            tensors.insert(format!("{name}.weight"), weight.narrow(0, first, count).unwrap());
        }
    }
    let source = Arc::new(Overlay { below: directory, tensors });
    let decoder = Decoder::load(config, source, &compute(), &|_, _| {}).unwrap();
    let site_of = |name: &str| fused.decoder.sites().iter().position(|site| site.name == name).unwrap();
    let deltas = decoder.sites().iter().map(|site| {
        let (name, rows) = match part_of(&site.name) {
            Some((both, first, count)) => (both, Some((first, count))),
            None => (site.name.clone(), None),
        };
        let delta = fused.adapters[0].delta(site_of(&name))?;
        let (a, b) = delta.factors();
        let b = match rows {
            Some((first, count)) => b.narrow(0, first, count).unwrap().contiguous().unwrap(),
            None => b.clone(),
        };
        Some(LoraDelta::new(a, &b, delta.scaling()).unwrap())
    });
    let adapter = Adapter::from_deltas(deltas.collect(), decoder.sites(), decoder.compute()).unwrap();
    let split = Pair { decoder, adapters: vec![adapter] };
    for side in [Side::BASE, Side::ADAPTED] {
        let text: Vec<u32> = (0..14).map(|i| (i * 7 + 3) % 60).collect();
        let difference = relative_difference(&split.alone(&text, side), &fused.alone(&text, side));
        assert!(difference <= 1e-5, "{side:?}: split projections differ by {difference:.2e}");
    }
}

/// The gradient of the sum of the squares of the last logits, against differences of that sum.
#[test]
fn gradients_match_differences() {
    let ids = [5u32, 17, 3, 40, 9, 12, 33, 2, 61, 7];
    for case in KINDS {
        for &form in forms() {
            let pair = pair_of(case, form);
            let embeddings = pair.decoder.embed(&ids).unwrap();
            let loss = |input: &Tensor| {
                let mut sequences = [Sequence::new(&ids, Side::ADAPTED)];
                let mut batch = Batch {
                    sequences: &mut sequences,
                    embeddings: Some(input),
                    positions: Positions::Last,
                    hidden_states: false,
                };
                let logits = pair.decoder.forward(&pair.adapters, &mut batch).unwrap().logits;
                logits.sqr().unwrap().sum_all().unwrap()
            };
            let variable = Var::from_tensor(&embeddings).unwrap();
            let gradients = loss(variable.as_tensor()).backward().unwrap();
            let analytic = gradients.get(variable.as_tensor()).unwrap().to_vec2::<f32>().unwrap();
            let width = pair.decoder.config().hidden_size;
            let (mut found, mut expected) = (Vec::new(), Vec::new());
            for (row, column) in [(0, 0), (1, width - 1), (3, 5), (6, 2), (9, 7), (9, 1)] {
                let at = |step: f32| {
                    let mut nudge = vec![0f32; ids.len() * width];
                    nudge[row * width + column] = step;
                    let nudge = Tensor::from_vec(nudge, (ids.len(), width), embeddings.device()).unwrap();
                    f64::from(loss(&(&embeddings + nudge).unwrap()).to_scalar::<f32>().unwrap())
                };
                let step = 4e-3f32;
                expected.push(((at(step) - at(-step)) / (2.0 * f64::from(step))) as f32);
                found.push(analytic[row][column]);
            }
            let difference = relative_norm(&found, &expected);
            assert!(difference <= 1e-2, "{case} {form:?}: differs from differences by {difference:.2e}");
        }
    }
}

/// The tensors of a case's base under other names, with its configuration, as a checkpoint.
fn checkpoint(
    case: &str,
    to: &Path,
    rename: impl Fn(&str) -> String,
    change: impl Fn(&str, Tensor) -> Tensor,
) {
    let path = fixture(&format!("parity/{case}/base"));
    let directory = Directory::open(&path).unwrap();
    let of = |name: String| {
        let tensor = change(&name, directory.load(&name, &Device::Cpu).unwrap());
        (rename(&name), tensor)
    };
    let tensors: std::collections::HashMap<String, Tensor> = directory.names().into_iter().map(of).collect();
    std::fs::create_dir_all(to).unwrap();
    std::fs::copy(path.join("config.json"), to.join("config.json")).unwrap();
    candle_core::safetensors::save(&tensors, to.join("model.safetensors")).unwrap();
}

#[test]
fn merged_checkpoints_may_have_older_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let older = |name: &str| name.trim_start_matches("transformer.").to_owned();
    let newer = |name: &str| name.to_owned();
    let same = |_: &str, tensor: Tensor| tensor;
    let changed = |name: &str, tensor: Tensor| {
        let touched =
            ["h.1.ln_1.weight", "h.0.mlp.c_fc.weight", "wpe.weight"].iter().any(|end| name.ends_with(end));
        if touched { (tensor * 1.5).unwrap() } else { tensor }
    };
    checkpoint("gpt2", &path("base-older"), older, same);
    checkpoint("gpt2", &path("base-newer"), newer, same);
    checkpoint("gpt2", &path("merged-older"), older, changed);
    checkpoint("gpt2", &path("merged-newer"), newer, changed);
    let load = |name: &str| crate::parity::load_decoder(&path(name));
    let expected = Pair { decoder: load("merged-newer"), adapters: Vec::new() }.alone(TEXTS[0], Side::BASE);
    for (base, merged) in
        [("base-older", "merged-newer"), ("base-newer", "merged-older"), ("base-older", "merged-older")]
    {
        let decoder = load(base);
        let adapters = vec![Adapter::between(&path(merged), &decoder).unwrap()];
        assert_eq!(adapters[0].changed_modules(), 3, "{base} {merged}");
        let pair = Pair { decoder, adapters };
        assert_eq!(pair.alone(TEXTS[0], Side::ADAPTED), expected, "{base} {merged}");
    }
    // What cannot be compared is no part of the base that stayed as it was.
    checkpoint("mixtral", &path("experts"), |name| name.replace("block_sparse_moe.experts.0.w1", "x"), same);
    let error =
        Adapter::between(&path("experts"), &crate::parity::load_decoder(&fixture("parity/mixtral/base")));
    assert!(error.unwrap_err().to_string().contains("experts.0.w1"));
}
