//! The table of known architectures.
//!
//! An entry says what the class of that `model_type` in transformers does; what a config leaves open is a key of it.

use super::{
    Architecture, Bias, Experts, Fused, Mlp, Names, Nope, NormKind, Positions, QkNorm, Qkv, Residual,
    Scalars, Window,
};
use crate::decoder::activation::Activation;

const LLAMA_NAMES: Names = Names {
    embedding: "model.embed_tokens",
    layers: "model.layers",
    norm: "model.norm",
    head: "lm_head",
    qkv: Qkv::Split(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    output: "self_attn.o_proj",
    mlp: Mlp::Gated(["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]),
    norms: [Some("input_layernorm"), None, Some("post_attention_layernorm"), None],
};

const SANDWICH: [Option<&str>; 4] = [
    Some("input_layernorm"),
    Some("post_attention_layernorm"),
    Some("pre_feedforward_layernorm"),
    Some("post_feedforward_layernorm"),
];

const QK_NORM: &[&str; 2] = &["self_attn.q_norm", "self_attn.k_norm"];
const QK_LAYERNORM: &[&str; 2] = &["self_attn.q_layernorm", "self_attn.k_layernorm"];

const NEOX_ALIASES: &[(&str, &str)] = &[
    ("rms_norm_eps", "layer_norm_eps"),
    ("rope_theta", "rotary_emb_base"),
    ("partial_rotary_factor", "rotary_pct"),
];

const LLAMA: Architecture = Architecture {
    model_type: "llama",
    gguf: Some("llama"),
    gguf_permuted: true,
    aliases: &[],
    names: LLAMA_NAMES,
    experts: None,
    older: &[("model.", "")],
    transposed: false,
    norm: NormKind::Rms,
    qk_norm: QkNorm::Never,
    residual: Residual::Sequential,
    qkv_bias: Bias::Key("attention_bias"),
    output_bias: Bias::Key("attention_bias"),
    mlp_bias: Bias::Key("mlp_bias"),
    head_bias: Bias::Never,
    window: Window::Never,
    positions: Positions::HalfSplit,
    nope: Nope::Never,
    scalars: Scalars::Plain,
    activation: Activation::Silu,
    default_kv_heads: None,
    default_head_dim: None,
    default_eps: 1e-6,
    default_theta: 10_000.0,
    local_theta: None,
    default_partial: 1.0,
    default_original_positions: None,
    default_tied: false,
};

const QWEN3: Architecture = Architecture {
    model_type: "qwen3",
    gguf: Some("qwen3"),
    gguf_permuted: false,
    mlp_bias: Bias::Never,
    qk_norm: QkNorm::Head(QK_NORM),
    window: Window::UpperLayers,
    default_kv_heads: Some(32),
    default_head_dim: Some(128),
    ..LLAMA
};

const GEMMA: Architecture = Architecture {
    model_type: "gemma",
    gguf: Some("gemma"),
    gguf_permuted: false,
    norm: NormKind::RmsPlusOne,
    mlp_bias: Bias::Never,
    scalars: Scalars::Gemma,
    activation: Activation::GeluTanh,
    default_kv_heads: Some(16),
    default_head_dim: Some(256),
    default_tied: true,
    ..LLAMA
};

const GEMMA2: Architecture = Architecture {
    model_type: "gemma2",
    gguf: Some("gemma2"),
    gguf_permuted: false,
    aliases: &[("hidden_act", "hidden_activation")],
    names: Names { norms: SANDWICH, ..LLAMA_NAMES },
    window: Window::LayerTypes { pattern: 2 },
    scalars: Scalars::Gemma2,
    default_kv_heads: Some(4),
    ..GEMMA
};

const COHERE: Architecture = Architecture {
    model_type: "cohere",
    gguf: Some("command-r"),
    gguf_permuted: false,
    aliases: &[("rms_norm_eps", "layer_norm_eps")],
    names: Names { norms: [Some("input_layernorm"), None, None, None], ..LLAMA_NAMES },
    norm: NormKind::LayerNormWithoutBias,
    qk_norm: QkNorm::RowsIf("use_qk_norm", QK_NORM),
    residual: Residual::Parallel,
    mlp_bias: Bias::Never,
    positions: Positions::Interleaved,
    scalars: Scalars::Cohere,
    default_eps: 1e-5,
    default_theta: 500_000.0,
    default_tied: true,
    ..LLAMA
};

/// Every architecture that the decoder computes.
pub const ARCHITECTURES: &[Architecture] = &[
    LLAMA,
    Architecture {
        model_type: "mistral",
        // llama.cpp converts Mistral under the name of llama.
        gguf: None,
        qkv_bias: Bias::Never,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        window: Window::Every { default: Some(4096) },
        default_kv_heads: Some(8),
        ..LLAMA
    },
    Architecture {
        model_type: "mixtral",
        gguf: None,
        experts: Some(Experts {
            block: "block_sparse_moe",
            stacked_block: "mlp",
            names: ["w1", "w3", "w2"],
            count: "num_local_experts",
            width: "intermediate_size",
            normalised: Some(true),
            sparse: false,
        }),
        qkv_bias: Bias::Never,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        window: Window::Every { default: None },
        default_kv_heads: Some(8),
        default_eps: 1e-5,
        default_theta: 1e6,
        ..LLAMA
    },
    Architecture {
        model_type: "qwen2",
        gguf: Some("qwen2"),
        gguf_permuted: false,
        qkv_bias: Bias::Always,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        window: Window::UpperLayers,
        default_kv_heads: Some(32),
        ..LLAMA
    },
    QWEN3,
    Architecture {
        model_type: "qwen3_moe",
        gguf: Some("qwen3moe"),
        gguf_permuted: false,
        experts: Some(Experts {
            block: "mlp",
            stacked_block: "mlp",
            names: ["gate_proj", "up_proj", "down_proj"],
            count: "num_experts",
            width: "moe_intermediate_size",
            normalised: None,
            sparse: true,
        }),
        window: Window::Flag,
        default_kv_heads: Some(4),
        default_head_dim: None,
        ..QWEN3
    },
    GEMMA,
    GEMMA2,
    Architecture {
        model_type: "gemma3_text",
        gguf: Some("gemma3"),
        gguf_permuted: false,
        qk_norm: QkNorm::Head(QK_NORM),
        window: Window::LayerTypes { pattern: 6 },
        scalars: Scalars::Gemma3,
        default_theta: 1e6,
        local_theta: Some(10_000.0),
        ..GEMMA2
    },
    Architecture {
        model_type: "phi3",
        gguf: Some("phi3"),
        gguf_permuted: false,
        names: Names {
            qkv: Qkv::Fused("self_attn.qkv_proj", Fused::SideBySide),
            mlp: Mlp::GatedFused(["mlp.gate_up_proj", "mlp.down_proj"]),
            ..LLAMA_NAMES
        },
        qkv_bias: Bias::Never,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        window: Window::Every { default: None },
        default_eps: 1e-5,
        default_original_positions: Some(4096),
        ..LLAMA
    },
    Architecture {
        model_type: "smollm3",
        gguf: Some("smollm3"),
        window: Window::WithoutRope,
        nope: Nope::Listed,
        default_kv_heads: Some(4),
        default_theta: 2e6,
        default_tied: true,
        ..LLAMA
    },
    Architecture { model_type: "granite", gguf: Some("granite"), scalars: Scalars::Granite, ..LLAMA },
    Architecture {
        model_type: "olmo2",
        gguf: Some("olmo2"),
        gguf_permuted: false,
        names: Names {
            norms: [None, Some("post_attention_layernorm"), None, Some("post_feedforward_layernorm")],
            ..LLAMA_NAMES
        },
        qk_norm: QkNorm::Whole(QK_NORM),
        mlp_bias: Bias::Never,
        default_eps: 1e-5,
        ..LLAMA
    },
    Architecture {
        model_type: "gpt2",
        gguf: Some("gpt2"),
        gguf_permuted: false,
        aliases: &[
            ("hidden_size", "n_embd"),
            ("num_hidden_layers", "n_layer"),
            ("num_attention_heads", "n_head"),
            ("max_position_embeddings", "n_positions"),
            ("intermediate_size", "n_inner"),
            ("hidden_act", "activation_function"),
            ("rms_norm_eps", "layer_norm_epsilon"),
        ],
        names: Names {
            embedding: "transformer.wte",
            layers: "transformer.h",
            norm: "transformer.ln_f",
            head: "lm_head",
            qkv: Qkv::Fused("attn.c_attn", Fused::SideBySide),
            output: "attn.c_proj",
            mlp: Mlp::Plain(["mlp.c_fc", "mlp.c_proj"]),
            norms: [Some("ln_1"), None, Some("ln_2"), None],
        },
        older: &[("transformer.", "")],
        transposed: true,
        norm: NormKind::LayerNorm,
        qkv_bias: Bias::Always,
        output_bias: Bias::Always,
        mlp_bias: Bias::Always,
        positions: Positions::Learned("transformer.wpe"),
        scalars: Scalars::Gpt2,
        activation: Activation::GeluTanh,
        default_eps: 1e-5,
        default_tied: true,
        ..LLAMA
    },
    Architecture {
        model_type: "gpt_neox",
        gguf: Some("gptneox"),
        gguf_permuted: false,
        aliases: NEOX_ALIASES,
        names: Names {
            embedding: "gpt_neox.embed_in",
            layers: "gpt_neox.layers",
            norm: "gpt_neox.final_layer_norm",
            head: "lm_head",
            qkv: Qkv::Fused("attention.query_key_value", Fused::ByKeyValueHead),
            output: "attention.dense",
            mlp: Mlp::Plain(["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"]),
            norms: LLAMA_NAMES.norms,
        },
        older: &[("lm_head", "embed_out")],
        norm: NormKind::LayerNorm,
        residual: Residual::ParallelUnless("use_parallel_residual"),
        qkv_bias: Bias::Unless("attention_bias"),
        output_bias: Bias::Unless("attention_bias"),
        mlp_bias: Bias::Always,
        activation: Activation::Gelu,
        default_eps: 1e-5,
        default_partial: 0.25,
        ..LLAMA
    },
    Architecture {
        model_type: "phi",
        gguf: Some("phi2"),
        gguf_permuted: false,
        aliases: &[("rms_norm_eps", "layer_norm_eps")],
        names: Names {
            norm: "model.final_layernorm",
            output: "self_attn.dense",
            mlp: Mlp::Plain(["mlp.fc1", "mlp.fc2"]),
            norms: [Some("input_layernorm"), None, None, None],
            ..LLAMA_NAMES
        },
        norm: NormKind::LayerNorm,
        qk_norm: QkNorm::HeadIf("qk_layernorm", QK_LAYERNORM),
        residual: Residual::Parallel,
        qkv_bias: Bias::Always,
        output_bias: Bias::Always,
        mlp_bias: Bias::Always,
        head_bias: Bias::Always,
        activation: Activation::GeluTanh,
        default_eps: 1e-5,
        default_partial: 0.5,
        ..LLAMA
    },
    Architecture {
        model_type: "stablelm",
        gguf: Some("stablelm"),
        gguf_permuted: false,
        aliases: &[("rms_norm_eps", "layer_norm_eps")],
        norm: NormKind::LayerNorm,
        qk_norm: QkNorm::TensorsIf("qk_layernorm", QK_LAYERNORM),
        residual: Residual::ParallelIf("use_parallel_residual"),
        qkv_bias: Bias::Key("use_qkv_bias"),
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        default_kv_heads: Some(32),
        default_eps: 1e-5,
        default_partial: 0.25,
        ..LLAMA
    },
    Architecture {
        model_type: "starcoder2",
        gguf: Some("starcoder2"),
        gguf_permuted: false,
        aliases: &[("rms_norm_eps", "norm_epsilon")],
        names: Names { mlp: Mlp::Plain(["mlp.c_fc", "mlp.c_proj"]), ..LLAMA_NAMES },
        norm: NormKind::LayerNorm,
        qkv_bias: Bias::Unless("use_bias"),
        output_bias: Bias::Unless("use_bias"),
        mlp_bias: Bias::Unless("use_bias"),
        window: Window::Every { default: None },
        activation: Activation::GeluTanh,
        default_kv_heads: Some(2),
        default_eps: 1e-5,
        default_tied: true,
        ..LLAMA
    },
    COHERE,
    Architecture {
        model_type: "cohere2",
        gguf: Some("cohere2"),
        gguf_permuted: false,
        qk_norm: QkNorm::Never,
        window: Window::LayerTypes { pattern: 4 },
        nope: Nope::FullAttention,
        default_theta: 10_000.0,
        ..COHERE
    },
    Architecture {
        model_type: "falcon",
        gguf: Some("falcon"),
        gguf_permuted: false,
        aliases: &[
            ("rms_norm_eps", "layer_norm_epsilon"),
            ("num_hidden_layers", "n_layer"),
            ("num_attention_heads", "n_head"),
            ("num_key_value_heads", "num_kv_heads"),
            ("intermediate_size", "ffn_hidden_size"),
            ("hidden_act", "activation"),
        ],
        names: Names {
            embedding: "transformer.word_embeddings",
            layers: "transformer.h",
            norm: "transformer.ln_f",
            head: "lm_head",
            qkv: Qkv::Fused("self_attention.query_key_value", Fused::ByKeyValueHead),
            output: "self_attention.dense",
            mlp: Mlp::Plain(["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"]),
            norms: LLAMA_NAMES.norms,
        },
        older: &[("transformer.", "")],
        norm: NormKind::LayerNorm,
        residual: Residual::Falcon,
        qkv_bias: Bias::Key("bias"),
        output_bias: Bias::Key("bias"),
        mlp_bias: Bias::Key("bias"),
        activation: Activation::Gelu,
        default_eps: 1e-5,
        default_tied: true,
        ..LLAMA
    },
];
