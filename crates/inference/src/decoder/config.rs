//! What a decoder computes, parsed from `config.json` of transformers 4 and 5 or from GGUF metadata.

mod fields;
mod gguf;
mod rope;

use std::path::Path;

use serde_json::Value;

use super::activation::Activation;
use super::architectures::{self, Architecture, Fused, NormKind, Qkv};
use crate::error::{Error, Result};
use crate::weights::gguf::GgufFile;
use crate::weights::json;

use fields::Fields;
pub use rope::{Rope, RopeScaling};

/// Bounds that no real decoder reaches; they keep a hostile config from asking for absurd sizes.
const MAX_LAYERS: usize = 1024;
const MAX_WIDTH: usize = 1 << 20;
/// Experts of all layers together.
const MAX_EXPERTS: usize = 1 << 17;

/// The shape of a decoder. All sizes are positive and consistent.
#[derive(Clone, Debug)]
pub struct DecoderConfig {
    /// Which entry of the table.
    pub architecture: &'static Architecture,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Longest position that the model was made for.
    pub max_positions: usize,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// Norms before and after attention, before and after the feed-forward block, by name.
    pub norms: [Option<&'static str>; 4],
    /// Norms of queries and keys.
    pub qk_norm: Option<QkNorms>,
    /// Whether attention and feed-forward block both read the stream before the layer.
    pub parallel: bool,
    /// The activation of the feed-forward block.
    pub activation: Activation,
    /// Mixture of experts.
    pub experts: Option<ExpertsConfig>,
    /// Rotary embeddings; layers may turn by different ones.
    pub ropes: Vec<Rope>,
    /// Per layer: which of [`Self::ropes`] it turns by, if by any.
    pub rope_of: Vec<Option<usize>>,
    /// Per layer: how many positions back a query sees, itself included.
    pub windows: Vec<Option<usize>>,
    /// Factor of attention's scores; `None` is `1 / sqrt(head_dim)`.
    pub attention_scale: Option<f64>,
    /// Whether attention's scores are divided by the layer's number, from one on, as well.
    pub scale_by_layer: bool,
    /// Soft cap of attention's scores.
    pub attention_cap: Option<f64>,
    /// Soft cap of the logits.
    pub logit_cap: Option<f64>,
    /// Factor of the embeddings.
    pub embedding_scale: f64,
    /// Factor of what a block adds to the residual stream.
    pub residual_scale: f64,
    /// Factor of the logits.
    pub logit_scale: f64,
    /// Bias of q, k, v.
    pub qkv_bias: bool,
    /// Bias of the attention output.
    pub output_bias: bool,
    /// Bias of the feed-forward block.
    pub mlp_bias: bool,
    /// Bias of the head.
    pub head_bias: bool,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Tokens that end a response.
    pub eos: Vec<u32>,
}

/// Norms of queries and keys before their rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QkNorms {
    /// Names of the norms.
    pub names: &'static [&'static str; 2],
    /// What a norm takes at once, and how its weight is stored.
    pub per: NormedPer,
}

/// What a norm of queries or keys takes at once, and how its weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormedPer {
    /// All heads, `[heads * head_dim]`.
    Projection,
    /// Each head, with a weight `[head_dim]` for all.
    Head,
    /// Each head, with a weight `[heads, head_dim]`.
    HeadRow,
    /// Each head, with tensors of its own.
    HeadTensor,
}

/// A mixture of experts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpertsConfig {
    /// Names of the modules.
    pub names: &'static architectures::Experts,
    /// Experts of a layer.
    pub count: usize,
    /// Experts that a row is sent to.
    pub per_row: usize,
    /// Width of an expert.
    pub width: usize,
    /// Whether the weights of a row's experts sum to one.
    pub normalised: bool,
    /// Per layer: whether it has experts, or a feed-forward block like other decoders.
    pub layers: Vec<bool>,
}

impl DecoderConfig {
    /// Parses a `config.json`.
    ///
    /// # Errors
    /// If the architecture is unknown or a value is absent, ill-typed or out of range.
    pub fn from_file(path: &Path) -> Result<Self> {
        let object = json::read_object(path)?;
        let model_type = object.get("model_type").and_then(Value::as_str).ok_or_else(|| {
            Error::malformed(path, "expected a string `model_type`")
                .with_hint("give the base model's directory; an adapter's directory has no config.json")
        })?;
        let architecture = architectures::by_model_type(model_type).ok_or_else(|| {
            Error::unsupported(
                path,
                format!("unknown model_type `{model_type}`; known: {}", architectures::known()),
            )
        })?;
        Fields::new(path, &object, architecture).parse()
    }

    /// Reads the metadata of a GGUF file.
    ///
    /// # Errors
    /// As [`DecoderConfig::from_file`].
    pub fn from_gguf(file: &GgufFile, path: &Path) -> Result<Self> {
        let (architecture, object) = gguf::metadata(file, path)?;
        Fields::new(path, &object, architecture).parse()
    }

    /// The config of these of its layers, in this order.
    ///
    /// # Errors
    /// If a layer does not exist, or there are more than a decoder may have.
    pub(crate) fn restacked(&self, layers: &[usize]) -> Result<Self> {
        if layers.is_empty() || layers.len() > MAX_LAYERS || layers.iter().any(|&layer| layer >= self.layers)
        {
            return Err(Error::Request(format!(
                "expected 1 to {MAX_LAYERS} layers, each below {}, found {} up to {}",
                self.layers,
                layers.len(),
                layers.iter().max().unwrap_or(&0)
            )));
        }
        Ok(Self {
            layers: layers.len(),
            windows: layers.iter().map(|&layer| self.windows[layer]).collect(),
            rope_of: layers.iter().map(|&layer| self.rope_of[layer]).collect(),
            experts: self.experts.as_ref().map(|experts| ExpertsConfig {
                layers: layers.iter().map(|&layer| experts.layers[layer]).collect(),
                ..experts.clone()
            }),
            ..self.clone()
        })
    }

    /// Width of all query heads together.
    #[must_use]
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    #[must_use]
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Factor of the scores of a layer.
    pub(crate) fn attention_scale(&self, layer: usize) -> f32 {
        let scale = match self.attention_scale {
            Some(scale) => scale as f32,
            None => 1.0 / (self.head_dim as f32).sqrt(),
        };
        if self.scale_by_layer { scale / (layer + 1) as f32 } else { scale }
    }

    /// Whether a layer has experts.
    pub(crate) fn experts_of(&self, layer: usize) -> Option<&ExpertsConfig> {
        self.experts.as_ref().filter(|experts| experts.layers[layer])
    }

    /// Whether layers are those of Llama, for which the whole layer has a fused form with its own gradient.
    pub(crate) fn is_llama_like(&self) -> bool {
        let names = &self.architecture.names;
        let split = matches!(names.qkv, Qkv::Split(_)) && matches!(names.mlp, architectures::Mlp::Gated(_));
        let plain_norms = self.architecture.norm == NormKind::Rms
            && matches!(self.norms, [Some(_), None, Some(_), None])
            && self.qk_norm.is_none();
        let plain_rope = matches!(self.architecture.positions, architectures::Positions::HalfSplit)
            && self.ropes.len() == 1
            && self.ropes[0].width == self.head_dim
            && self.rope_of.iter().all(Option::is_some);
        split
            && plain_norms
            && plain_rope
            && !self.parallel
            && self.experts.is_none()
            && self.activation == Activation::Silu
            && self.attention_cap.is_none()
            && self.residual_scale.to_bits() == 1f64.to_bits()
    }

    /// Whether a rotation turns neighbouring features.
    pub(crate) fn is_interleaved(&self) -> bool {
        self.architecture.positions == architectures::Positions::Interleaved
    }

    /// How a projection for queries, keys and values lays out its outputs.
    pub(crate) fn layout(&self) -> Fused {
        match self.architecture.names.qkv {
            Qkv::Split(_) => Fused::SideBySide,
            Qkv::Fused(_, layout) => layout,
        }
    }
}

/// Token ids of a key that holds one id, a list of ids, or null.
#[must_use]
pub fn token_ids(value: Option<&Value>) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(values)) => values.iter().filter_map(id).collect(),
        Some(value) => id(value).into_iter().collect(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#""hidden_size":64,"intermediate_size":128,"num_hidden_layers":3,"num_attention_heads":4,"num_key_value_heads":2,"vocab_size":96"#;

    fn parse(text: &str) -> Result<DecoderConfig> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        DecoderConfig::from_file(file.path())
    }

    #[test]
    fn three_spellings_of_rope_mean_the_same() {
        let llama3 = r#""factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":64"#;
        let five = format!(
            r#"{{"model_type":"llama",{MINIMAL},"rope_parameters":{{"rope_theta":5e5,"rope_type":"llama3",{llama3}}}}}"#
        );
        let four = format!(
            r#"{{"model_type":"llama",{MINIMAL},"rope_theta":5e5,"rope_scaling":{{"rope_type":"llama3",{llama3}}}}}"#
        );
        let old = format!(
            r#"{{"model_type":"llama",{MINIMAL},"rope_theta":5e5,"rope_scaling":{{"type":"llama3",{llama3}}}}}"#
        );
        let expected = parse(&five).unwrap().ropes;
        assert!((expected[0].theta - 5e5).abs() < 1e-6);
        assert_eq!(parse(&four).unwrap().ropes, expected);
        assert_eq!(parse(&old).unwrap().ropes, expected);
    }

    #[test]
    fn unknown_architecture_lists_the_known() {
        let message = parse(r#"{"model_type":"rwkv"}"#).unwrap_err().to_string();
        assert!(
            message.contains("`rwkv`") && message.contains("llama, mistral, mixtral, qwen2"),
            "{message}"
        );
    }

    #[test]
    fn windows_follow_the_architecture() {
        let window = |text: &str| parse(text).unwrap().windows;
        let mistral = format!(r#"{{"model_type":"mistral",{MINIMAL}}}"#);
        assert_eq!(window(&mistral), [Some(4096); 3]);
        let off = format!(r#"{{"model_type":"mistral",{MINIMAL},"sliding_window":null}}"#);
        assert_eq!(window(&off), [None; 3]);
        let qwen = format!(
            r#"{{"model_type":"qwen2",{MINIMAL},"sliding_window":8,"use_sliding_window":true,"max_window_layers":1}}"#
        );
        assert_eq!(window(&qwen), [None, Some(8), Some(8)]);
        let qwen_off =
            format!(r#"{{"model_type":"qwen2",{MINIMAL},"sliding_window":8,"use_sliding_window":false}}"#);
        assert_eq!(window(&qwen_off), [None; 3]);
    }

    #[test]
    fn rope_by_layer_type_and_in_one_mean_the_same() {
        let shape = MINIMAL.replace(r#""num_hidden_layers":3"#, r#""num_hidden_layers":6"#);
        let five = format!(
            r#"{{"model_type":"gemma3_text",{shape},"head_dim":16,"rope_parameters":{{"full_attention":{{"rope_type":"linear","factor":8.0,"rope_theta":1e6}},"sliding_attention":{{"rope_type":"default","rope_theta":1e4}}}}}}"#
        );
        let four = format!(
            r#"{{"model_type":"gemma3_text",{shape},"head_dim":16,"rope_theta":1e6,"rope_local_base_freq":1e4,"rope_scaling":{{"rope_type":"linear","factor":8.0}}}}"#
        );
        let (five, four) = (parse(&five).unwrap(), parse(&four).unwrap());
        assert_eq!(five.ropes, four.ropes);
        assert_eq!(five.ropes.len(), 2);
        assert_eq!(five.rope_of, [Some(1), Some(1), Some(1), Some(1), Some(1), Some(0)]);
        assert_eq!(four.rope_of, five.rope_of);
        assert_eq!(five.windows, [Some(4096), Some(4096), Some(4096), Some(4096), Some(4096), None]);
    }

    #[test]
    fn only_llamas_kind_has_the_fused_layer() {
        for (model_type, expected) in [
            ("llama", true),
            ("mistral", true),
            ("qwen2", true),
            ("qwen3", false),
            ("gemma", false),
            ("granite", true),
        ] {
            let text = format!(r#"{{"model_type":"{model_type}",{MINIMAL}}}"#);
            assert_eq!(parse(&text).unwrap().is_llama_like(), expected, "{model_type}");
        }
        let scaled = format!(r#"{{"model_type":"granite",{MINIMAL},"residual_multiplier":0.5}}"#);
        assert!(!parse(&scaled).unwrap().is_llama_like());
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        for (fields, named) in [
            (r#""model_type":"llama","rope_scaling":{"rope_type":"mrope"}"#, "mrope"),
            (r#""model_type":"gemma","hidden_act":"quick_gelu""#, "quick_gelu"),
            (r#""model_type":"falcon","alibi":true"#, "alibi"),
            (
                r#""model_type":"gemma3_text","use_bidirectional_attention":true"#,
                "use_bidirectional_attention",
            ),
            (
                r#""model_type":"mixtral","num_local_experts":4000,"num_experts_per_tok":2,"num_hidden_layers":900"#,
                "experts",
            ),
            (
                r#""model_type":"phi3","rope_scaling":{"type":"longrope","short_factor":[1.0],"long_factor":[1.0]}"#,
                "factor",
            ),
        ] {
            let error = parse(&format!("{{{MINIMAL},{fields}}}")).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn absurd_sizes_are_refused() {
        for broken in [r#""num_hidden_layers":0"#, r#""num_hidden_layers":99999999"#, r#""hidden_size":-1"#] {
            let text = format!(r#"{{"model_type":"llama",{MINIMAL},{broken}}}"#);
            assert!(parse(&text).is_err(), "{broken}");
        }
    }
}
