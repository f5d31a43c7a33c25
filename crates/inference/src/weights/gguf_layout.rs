//! How llama.cpp's converter names and lays out tensors, and the way back to those of Hugging Face.

use candle_core::{Result, Tensor};

use super::gguf::{ROPE_FACTORS, ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT};
use crate::decoder::architectures::{Architecture, Fused, Mlp, NormKind, Positions, QkNorm, Qkv, Residual};

/// The Hugging Face name of a stored tensor; `None` if it has none.
///
/// `two_norms` says whether the file has two norms before a layer's parallel blocks.
pub(crate) fn translate(architecture: &Architecture, name: &str, two_norms: bool) -> Option<String> {
    if [ROPE_FACTORS, ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT].contains(&name) {
        return Some(name.to_owned());
    }
    let (module, kind) = name.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
    let names = &architecture.names;
    let whole = match module {
        "token_embd" => Some(names.embedding.to_owned()),
        "output_norm" => Some(names.norm.to_owned()),
        "output" => Some(names.head.to_owned()),
        "position_embd" => match architecture.positions {
            Positions::Learned(table) => Some(table.to_owned()),
            _ => None,
        },
        _ => None,
    };
    let module = match whole {
        Some(module) => module,
        None => {
            let (layer, part) = module.strip_prefix("blk.")?.split_once('.')?;
            let layer: usize = layer.parse().ok()?;
            format!("{}.{layer}.{}", names.layers, of_layer(architecture, part, two_norms)?)
        }
    };
    Some(format!("{module}.{kind}"))
}

/// A module of a layer.
fn of_layer(architecture: &Architecture, part: &str, two_norms: bool) -> Option<String> {
    let names = &architecture.names;
    let falcon = architecture.residual == Residual::Falcon;
    let split = |index: usize| match names.qkv {
        Qkv::Split(modules) => Some(modules[index]),
        Qkv::Fused(..) => None,
    };
    let qk_norm = |index: usize| match architecture.qk_norm {
        QkNorm::Head(names) | QkNorm::Whole(names) | QkNorm::HeadIf(_, names) | QkNorm::RowsIf(_, names) => {
            Some(names[index])
        }
        QkNorm::Never | QkNorm::TensorsIf(..) => None,
    };
    let module = match part {
        "attn_q" => split(0),
        "attn_k" => split(1),
        "attn_v" => split(2),
        "attn_qkv" => match names.qkv {
            Qkv::Fused(module, _) => Some(module),
            Qkv::Split(_) => None,
        },
        "attn_output" => Some(names.output),
        "attn_q_norm" => qk_norm(0),
        "attn_k_norm" => qk_norm(1),
        // Falcon's larger models have their norm of the feed-forward block in the place of the other.
        "attn_norm_2" if falcon => Some("ln_attn"),
        "attn_norm" if falcon && two_norms => Some("ln_mlp"),
        "attn_norm" => names.norms[0],
        "post_attention_norm" => names.norms[1],
        "ffn_norm" => names.norms[2],
        "post_ffw_norm" => names.norms[3],
        "ffn_gate" => match names.mlp {
            Mlp::Gated([gate, ..]) => Some(gate),
            _ => None,
        },
        "ffn_up" => match names.mlp {
            Mlp::Gated([_, up, _]) | Mlp::GatedFused([up, _]) | Mlp::Plain([up, _]) => Some(up),
        },
        "ffn_down" => match names.mlp {
            Mlp::Gated([.., down]) | Mlp::GatedFused([_, down]) | Mlp::Plain([_, down]) => Some(down),
        },
        _ => None,
    };
    if let Some(module) = module {
        return Some(module.to_owned());
    }
    // Experts are stacked, and so are they under our names: one tensor for all.
    let experts = architecture.experts.as_ref()?;
    let [gate, up, down] = experts.names;
    let name = match part {
        "ffn_gate_inp" => return Some(format!("{}.gate", experts.block)),
        "ffn_gate_exps" => gate,
        "ffn_up_exps" => up,
        "ffn_down_exps" => down,
        _ => return None,
    };
    Some(format!("{}.experts.{name}", experts.block))
}

/// Whether a stored tensor is the transpose of Hugging Face's.
pub(super) fn is_turned(architecture: &Architecture, stored: &str) -> bool {
    let linear = ["attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight"];
    architecture.transposed && stored.splitn(3, '.').nth(2).is_some_and(|part| linear.contains(&part))
}

/// Heads of a file, for the row orders.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileHeads {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
}

/// A stored tensor as Hugging Face has it.
pub(super) fn restore(
    architecture: &Architecture,
    stored: &str,
    tensor: Tensor,
    heads: Option<FileHeads>,
) -> Result<Tensor> {
    let part = stored.split('.').nth(2).unwrap_or_default();
    let module = if stored.starts_with("blk.") { part } else { stored.split('.').next().unwrap_or_default() };
    if architecture.norm == NormKind::RmsPlusOne && module.ends_with("norm") {
        return tensor - 1.0;
    }
    let heads = || match heads {
        Some(heads) => Ok(heads),
        None => candle_core::bail!("the metadata do not say how many heads there are"),
    };
    if is_turned(architecture, stored) {
        return tensor.t()?.contiguous();
    }
    match module {
        "attn_q" | "attn_k" if architecture.gguf_permuted => {
            restore_rows(architecture, module, tensor, heads()?)
        }
        "attn_qkv" => restore_rows(architecture, module, tensor, heads()?),
        _ => Ok(tensor),
    }
}

/// The rows of queries and keys as Hugging Face has them, of a module of a layer or of a factor with its outputs.
pub(crate) fn restore_rows(
    architecture: &Architecture,
    module: &str,
    tensor: Tensor,
    heads: FileHeads,
) -> Result<Tensor> {
    match module {
        "attn_q" if architecture.gguf_permuted => unpermute(&tensor, heads.heads),
        "attn_k" if architecture.gguf_permuted => unpermute(&tensor, heads.kv_heads),
        "attn_qkv" if matches!(architecture.names.qkv, Qkv::Fused(_, Fused::ByKeyValueHead)) => {
            by_kv_head(&tensor, heads)
        }
        _ => Ok(tensor),
    }
}

/// Inverse of the converter's row order: within each head, rows alternate between the two halves
/// of the rotary pair (`[heads, d/2, 2]`); half-split order is `[heads, 2, d/2]`.
fn unpermute(tensor: &Tensor, heads: usize) -> Result<Tensor> {
    let shape = tensor.dims().to_vec();
    let rows = shape[0];
    if heads == 0 || !rows.is_multiple_of(2 * heads) {
        candle_core::bail!("{rows} rows do not split into {heads} heads of an even size");
    }
    let width: usize = shape[1..].iter().product();
    tensor.reshape((heads, rows / heads / 2, 2, width))?.transpose(1, 2)?.contiguous()?.reshape(shape)
}

/// From all queries, all keys and all values to those of each key-value head.
fn by_kv_head(tensor: &Tensor, FileHeads { heads, kv_heads }: FileHeads) -> Result<Tensor> {
    let shape = tensor.dims().to_vec();
    let rows = shape[0];
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) || !rows.is_multiple_of(heads + 2 * kv_heads) {
        candle_core::bail!("{rows} rows do not split into {heads} heads over {kv_heads} key-value heads");
    }
    let head_dim = rows / (heads + 2 * kv_heads);
    let part = |start: usize, count: usize| {
        tensor.narrow(0, start * head_dim, count * head_dim)?.reshape((
            kv_heads,
            count / kv_heads * head_dim,
            (),
        ))
    };
    let parts = [part(0, heads)?, part(heads, kv_heads)?, part(heads + kv_heads, kv_heads)?];
    Tensor::cat(&parts, 1)?.contiguous()?.reshape(shape)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::decoder::architectures::by_model_type;

    #[test]
    fn unpermute_inverts_the_converter() {
        // One head of four rows: half-split rows 0 1 | 2 3 are stored interleaved as 0 2 1 3.
        let stored = Tensor::new(&[[0f32], [2.], [1.], [3.]], &Device::Cpu).unwrap();
        let rows = unpermute(&stored, 1).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(rows, [[0.], [1.], [2.], [3.]]);
        assert!(unpermute(&stored, 3).is_err());
    }

    #[test]
    fn fused_rows_go_back_to_their_heads() {
        // Two key-value heads of one feature with two query heads each: q q q q k k v v.
        let stored = Tensor::new(&[0f32, 1., 2., 3., 4., 5., 6., 7.], &Device::Cpu).unwrap();
        let heads = FileHeads { heads: 4, kv_heads: 2 };
        let rows = by_kv_head(&stored, heads).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(rows, [0., 1., 4., 6., 2., 3., 5., 7.]);
        assert!(by_kv_head(&stored, FileHeads { heads: 3, kv_heads: 2 }).is_err());
    }

    #[test]
    fn names_translate() {
        let of = |model_type: &str, name: &str| translate(by_model_type(model_type).unwrap(), name, false);
        for (model_type, stored, expected) in [
            ("llama", "blk.12.attn_q.weight", "model.layers.12.self_attn.q_proj.weight"),
            ("llama", "token_embd.weight", "model.embed_tokens.weight"),
            ("gemma2", "blk.0.ffn_norm.weight", "model.layers.0.pre_feedforward_layernorm.weight"),
            ("gpt2", "blk.1.attn_qkv.bias", "transformer.h.1.attn.c_attn.bias"),
            ("phi3", "blk.1.ffn_up.weight", "model.layers.1.mlp.gate_up_proj.weight"),
            ("qwen3_moe", "blk.0.ffn_up_exps.weight", "model.layers.0.mlp.experts.up_proj.weight"),
        ] {
            assert_eq!(of(model_type, stored).as_deref(), Some(expected), "{model_type}");
        }
        assert_eq!(of("llama", "blk.0.attn_unknown.weight"), None);
        assert_eq!(of("phi3", "blk.0.attn_q.weight"), None);
    }
}
