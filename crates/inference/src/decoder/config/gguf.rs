//! The metadata of a GGUF file under the keys of a `config.json`, so that one parser serves both.

use std::path::Path;

use candle_core::Device;
use serde_json::{Map, Value};

use crate::decoder::architectures::{Architecture, Bias, Mlp, Qkv, Residual, Scalars};
use crate::error::Result;
use crate::weights::TensorSource as _;
use crate::weights::gguf::{GgufFile, ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT, SECOND_NORM};

/// Keys that every architecture has under one name: ours, theirs behind the architecture's.
const INTEGERS: &[(&str, &str)] = &[
    ("hidden_size", "embedding_length"),
    ("intermediate_size", "feed_forward_length"),
    ("num_hidden_layers", "block_count"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("max_position_embeddings", "context_length"),
    ("original_max_position_embeddings", "rope.scaling.original_context_length"),
    ("sliding_window", "attention.sliding_window"),
    ("num_local_experts", "expert_count"),
    ("num_experts_per_tok", "expert_used_count"),
    ("moe_intermediate_size", "expert_feed_forward_length"),
];
const FLOATS: &[(&str, &str)] = &[
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("rms_norm_eps", "attention.layer_norm_epsilon"),
    ("rope_theta", "rope.freq_base"),
    ("rope_local_base_freq", "rope.freq_base_swa"),
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("final_logit_softcapping", "final_logit_softcapping"),
    ("attention_multiplier", "attention.scale"),
    ("embedding_multiplier", "embedding_scale"),
    ("residual_multiplier", "residual_scale"),
    ("logits_scaling", "logit_scale"),
    ("logit_scale", "logit_scale"),
];

/// The entry of a file's architecture, and its metadata as a config.
pub(super) fn metadata(file: &GgufFile, path: &Path) -> Result<(&'static Architecture, Map<String, Value>)> {
    let name = file.architecture()?;
    let architecture = file.entry(path)?;
    let mut object = Map::new();
    let integer = |key: &str| file.integer(&format!("{name}.{key}"));
    let float = |key: &str| file.float(&format!("{name}.{key}"));
    for (ours, theirs) in INTEGERS {
        if let Some(value) = integer(theirs) {
            object.insert((*ours).to_owned(), value.into());
        }
    }
    for (ours, theirs) in FLOATS {
        if let Some(value) = float(theirs) {
            object.insert((*ours).to_owned(), value.into());
        }
    }
    let tokens = file.list("tokenizer.ggml.tokens").map(<[_]>::len);
    let more = [
        ("vocab_size", integer("vocab_size").or(tokens)),
        ("eos_token_id", file.integer("tokenizer.ggml.eos_token_id")),
    ];
    for (key, value) in more {
        if let Some(value) = value {
            object.insert(key.to_owned(), value.into());
        }
    }
    rotation(file, name, architecture, &mut object)?;
    switches(file, name, architecture, &mut object);
    Ok((architecture, object))
}

fn rotation(
    file: &GgufFile,
    name: &str,
    architecture: &Architecture,
    object: &mut Map<String, Value>,
) -> Result<()> {
    let turned = file.integer(&format!("{name}.rope.dimension_count"));
    let number = |object: &Map<String, Value>, key: &str| object.get(key).and_then(Value::as_u64);
    match (turned, number(object, "head_dim")) {
        // Older files of Llama's kind say it only there.
        (Some(turned), None) if architecture.gguf_permuted => {
            object.insert("head_dim".to_owned(), turned.into());
        }
        (Some(turned), head_dim) => {
            let share = || {
                let (hidden, heads) =
                    (number(object, "hidden_size")?, number(object, "num_attention_heads")?);
                hidden.checked_div(heads)
            };
            if let Some(head_dim) = head_dim.or_else(share).filter(|&head_dim| head_dim > 0) {
                let share = turned as f64 / head_dim as f64;
                object.insert("partial_rotary_factor".to_owned(), share.into());
            }
        }
        (None, _) => {}
    }
    if let (Some(short), Some(long)) =
        (divisors(file, ROPE_FACTORS_SHORT)?, divisors(file, ROPE_FACTORS_LONG)?)
    {
        let mut scaling = Map::from_iter([
            ("rope_type".to_owned(), Value::from("longrope")),
            ("short_factor".to_owned(), short.into()),
            ("long_factor".to_owned(), long.into()),
        ]);
        if let Some(factor) = file.float(&format!("{name}.rope.scaling.attn_factor")) {
            scaling.insert("attention_factor".to_owned(), factor.into());
        }
        object.insert("rope_scaling".to_owned(), Value::Object(scaling));
    } else if let Some(kind) = file.string(&format!("{name}.rope.scaling.type"))
        && kind != "none"
    {
        let mut scaling = Map::from_iter([("rope_type".to_owned(), Value::from(kind))]);
        if let Some(factor) = file.float(&format!("{name}.rope.scaling.factor")) {
            scaling.insert("factor".to_owned(), factor.into());
        }
        object.insert("rope_scaling".to_owned(), Value::Object(scaling));
    }
    Ok(())
}

/// Divisors of rotary frequencies.
fn divisors(file: &GgufFile, name: &str) -> Result<Option<Vec<f32>>> {
    if file.shape(name).is_none() {
        return Ok(None);
    }
    Ok(Some(file.load(name, &Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?))
}

/// Keys that files say by the tensors that they hold, or not at all.
fn switches(file: &GgufFile, name: &str, architecture: &Architecture, object: &mut Map<String, Value>) {
    let names = &architecture.names;
    let has = |tensor: &str| file.shape(tensor).is_some();
    let has_bias = |module: &str| has(&format!("{}.0.{module}.bias", names.layers));
    let qkv = match names.qkv {
        Qkv::Split([q, ..]) => q,
        Qkv::Fused(both, _) => both,
    };
    let down = match names.mlp {
        Mlp::Gated([.., down]) | Mlp::GatedFused([_, down]) | Mlp::Plain([_, down]) => down,
    };
    for (bias, module) in [
        (architecture.output_bias, names.output),
        (architecture.qkv_bias, qkv),
        (architecture.mlp_bias, down),
    ] {
        if let Bias::Key(key) | Bias::Unless(key) = bias {
            object.insert(key.to_owned(), has_bias(module).into());
        }
    }
    object.insert("tie_word_embeddings".to_owned(), (!has(&format!("{}.weight", names.head))).into());
    if let Some(parallel) = file.boolean(&format!("{name}.use_parallel_residual")) {
        object.insert("use_parallel_residual".to_owned(), parallel.into());
    }
    if architecture.residual == Residual::Falcon {
        let one = object.get("num_key_value_heads").and_then(Value::as_u64) == Some(1);
        let two_norms = file.has_stored(SECOND_NORM);
        object.insert("multi_query".to_owned(), one.into());
        object.insert("new_decoder_architecture".to_owned(), two_norms.into());
    }
    // The runtime normalises for Qwen 3 whatever was trained; every published model is trained so.
    object.insert("norm_topk_prob".to_owned(), true.into());
    if matches!(architecture.scalars, Scalars::Gemma2 | Scalars::Gemma3) {
        object.insert("query_pre_attn_scalar".to_owned(), query_scalar(object, architecture).into());
    }
}

/// Gemma's scalar is not in the file: it is the width of a head but in the 27B models, known by their depth, where it
/// is the heads' share of the width.
fn query_scalar(object: &Map<String, Value>, architecture: &Architecture) -> u64 {
    let number = |key: &str| object.get(key).and_then(Value::as_u64).unwrap_or(0);
    let layers_of_27b = if architecture.scalars == Scalars::Gemma2 { 46 } else { 62 };
    let share = number("hidden_size").checked_div(number("num_attention_heads")).unwrap_or(0);
    let head_dim = if object.contains_key("head_dim") { number("head_dim") } else { share };
    if number("num_hidden_layers") == layers_of_27b { share } else { head_dim }
}
