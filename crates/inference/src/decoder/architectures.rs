//! The switches in which decoders differ. [`ARCHITECTURES`] sets them for every known `model_type`: a new one is one
//! entry there, plus code only where it differs from all others in kind.

mod table;

use super::activation::Activation;
pub use table::ARCHITECTURES;

/// When a projection has a bias vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// Never.
    Never,
    /// Always, whatever the config says.
    Always,
    /// If this boolean key of the config is true.
    Key(&'static str),
    /// Unless this boolean key of the config is false.
    Unless(&'static str),
}

/// Which layers attend through a sliding window of `sliding_window` positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// None.
    Never,
    /// All of them, if the config gives a window; absent means this default.
    Every {
        /// What transformers assumes when the key is absent.
        default: Option<usize>,
    },
    /// All of them, if `use_sliding_window` is true.
    Flag,
    /// Those from `max_window_layers` on, if `use_sliding_window` is true.
    UpperLayers,
    /// Those that `layer_types` calls `sliding_attention`; by default all but every n-th, where n is
    /// `sliding_window_pattern`.
    LayerTypes {
        /// The default of n.
        pattern: usize,
    },
    /// Those without positions, if `use_sliding_window` is true.
    WithoutRope,
}

/// How norms scale rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Root mean square, times the weight.
    Rms,
    /// Root mean square, times one plus the weight.
    RmsPlusOne,
    /// Mean and variance, times the weight, plus the bias.
    LayerNorm,
    /// Mean and variance, times the weight.
    LayerNormWithoutBias,
}

/// Norms of queries and keys before their rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    Never,
    /// Each head by itself, all with one weight.
    Head(&'static [&'static str; 2]),
    /// The whole projection.
    Whole(&'static [&'static str; 2]),
    /// As [`Self::Head`], if this key of the config is true.
    HeadIf(&'static str, &'static [&'static str; 2]),
    /// Each head by itself with its own row of the weight, if this key of the config is true.
    RowsIf(&'static str, &'static [&'static str; 2]),
    /// Each head by itself with a weight tensor of its own (`NAME.norms.HEAD`), if this key of the config is true.
    TensorsIf(&'static str, &'static [&'static str; 2]),
}

/// How attention and feed-forward block are joined to the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// One after the other.
    Sequential,
    /// Both read the stream before the layer, through one norm.
    Parallel,
    /// In parallel, each through its own norm, unless this key is false.
    ParallelUnless(&'static str),
    /// In parallel through one norm, if this key is true.
    ParallelIf(&'static str),
    /// As Falcon's keys say.
    Falcon,
}

/// Which layers have no positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nope {
    /// None.
    Never,
    /// Those with a 0 in `no_rope_layers`; by default every n-th, where n is `no_rope_layer_interval`.
    Listed,
    /// Those that attend without a window.
    FullAttention,
}

/// Where positions come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// Rotation: feature `j` of a head turns with feature `j + width / 2`.
    HalfSplit,
    /// Rotation: feature `2 j` of a head turns with feature `2 j + 1`.
    Interleaved,
    /// A learned table of this name, added to the embeddings.
    Learned(&'static str),
}

/// Constant factors, and which keys hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalars {
    /// None but `1 / sqrt(head_dim)` in attention.
    Plain,
    /// Embeddings times `sqrt(hidden_size)`.
    Gemma,
    /// The same; `query_pre_attn_scalar` for `head_dim`; soft caps of scores and logits.
    Gemma2,
    /// The same without a soft cap of scores.
    Gemma3,
    /// `embedding_multiplier`, `residual_multiplier`, `attention_multiplier`, `logits_scaling`.
    Granite,
    /// `logit_scale`.
    Cohere,
    /// `scale_attn_weights` and `scale_attn_by_inverse_layer_idx`.
    Gpt2,
}

/// How one projection for queries, keys and values lays them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fused {
    /// All queries, all keys, all values.
    SideBySide,
    /// For each key-value head: its query heads, its key, its value.
    ByKeyValueHead,
}

/// Modules of queries, keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qkv {
    /// One each.
    Split([&'static str; 3]),
    /// One for all.
    Fused(&'static str, Fused),
}

/// Modules of the feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mlp {
    /// `down(activation(gate(x)) * up(x))`: gate, up, down.
    Gated([&'static str; 3]),
    /// The same with gate and up in one module: both, down.
    GatedFused([&'static str; 2]),
    /// `down(activation(up(x)))`: up, down.
    Plain([&'static str; 2]),
}

/// Modules of a mixture of experts, by the names of checkpoints before transformers 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experts {
    /// The block that holds the router and the experts.
    pub block: &'static str,
    /// The same block in transformers 5, where experts are stacked.
    pub stacked_block: &'static str,
    /// Gate, up and down of an expert.
    pub names: [&'static str; 3],
    /// Key of the number of experts.
    pub count: &'static str,
    /// Key of an expert's width.
    pub width: &'static str,
    /// Whether the weights of the chosen experts sum to one; `None` if `norm_topk_prob` says so.
    pub normalised: Option<bool>,
    /// Whether `mlp_only_layers` and `decoder_sparse_step` may leave layers without experts.
    pub sparse: bool,
}

/// Names of modules and tensors, within a layer unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// The input embedding, from the root.
    pub embedding: &'static str,
    /// What the layers are in, from the root.
    pub layers: &'static str,
    /// The final norm, from the root.
    pub norm: &'static str,
    /// The output head, from the root.
    pub head: &'static str,
    /// Queries, keys and values.
    pub qkv: Qkv,
    /// The attention's output.
    pub output: &'static str,
    /// The feed-forward block.
    pub mlp: Mlp,
    /// Norms before and after attention, before and after the feed-forward block.
    pub norms: [Option<&'static str>; 4],
}

/// How one `model_type` of transformers differs from the others.
#[derive(Debug)]
pub struct Architecture {
    /// `model_type` of `config.json`.
    pub model_type: &'static str,
    /// `general.architecture` of a GGUF file, where that has one of its own.
    pub gguf: Option<&'static str>,
    /// Whether llama.cpp's converter permutes the rows of queries and keys.
    pub gguf_permuted: bool,
    /// Keys of the config under other names than here: ours, theirs.
    pub aliases: &'static [(&'static str, &'static str)],
    /// Names of modules.
    pub names: Names,
    /// Mixture of experts.
    pub experts: Option<Experts>,
    /// Beginnings of names that older checkpoints spell in another way: ours, theirs.
    pub older: &'static [(&'static str, &'static str)],
    /// Whether weights of a layer's linear modules are stored as `[inputs, outputs]`.
    pub transposed: bool,
    /// Kind of all norms but those of queries and keys.
    pub norm: NormKind,
    /// Norms of queries and keys.
    pub qk_norm: QkNorm,
    /// The residual stream.
    pub residual: Residual,
    /// Bias of q, k and v.
    pub qkv_bias: Bias,
    /// Bias of the attention output.
    pub output_bias: Bias,
    /// Bias of the feed-forward block.
    pub mlp_bias: Bias,
    /// Bias of the head.
    pub head_bias: Bias,
    /// Sliding-window attention.
    pub window: Window,
    /// Positions.
    pub positions: Positions,
    /// Layers without them.
    pub nope: Nope,
    /// Constant factors.
    pub scalars: Scalars,
    /// The activation where the config does not say.
    pub activation: Activation,
    /// Key-value heads where the config does not say; `None` means as many as query heads.
    pub default_kv_heads: Option<usize>,
    /// Width of a head where the config does not say; `None` means a share of the width.
    pub default_head_dim: Option<usize>,
    /// Epsilon of the norms where the config does not say.
    pub default_eps: f64,
    /// Base of the rotation where the config does not say.
    pub default_theta: f64,
    /// Base of the rotation in layers with a window, where it has one of its own and the config does not say.
    pub local_theta: Option<f64>,
    /// Share of a head that is rotated where the config does not say.
    pub default_partial: f64,
    /// Positions of pre-training for long contexts, where the config does not say.
    pub default_original_positions: Option<usize>,
    /// Whether the head is the embedding where the config does not say.
    pub default_tied: bool,
}

/// The entry of a `model_type`.
#[must_use]
pub fn by_model_type(model_type: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|architecture| architecture.model_type == model_type)
}

/// The entry of a GGUF architecture.
#[must_use]
pub fn by_gguf(name: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|architecture| architecture.gguf == Some(name))
}

/// The known names of GGUF files, for error messages.
#[must_use]
pub fn known_gguf() -> String {
    ARCHITECTURES.iter().filter_map(|architecture| architecture.gguf).collect::<Vec<_>>().join(", ")
}

/// The known names, for error messages.
#[must_use]
pub fn known() -> String {
    ARCHITECTURES.iter().map(|architecture| architecture.model_type).collect::<Vec<_>>().join(", ")
}
