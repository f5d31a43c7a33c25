//! What a decoder computes, parsed from `config.json` of transformers 4 and 5 or from GGUF metadata.

use std::path::Path;

use serde_json::{Map, Value};

use super::architectures::{self, Architecture, Bias, Window};
use crate::error::{Error, Result};
use crate::weights::gguf::GgufFile;
use crate::weights::json;

/// Bounds that no real decoder reaches; they keep a hostile config from asking for absurd sizes.
const MAX_LAYERS: usize = 1024;
const MAX_WIDTH: usize = 1 << 20;

/// The shape of a decoder. All sizes are positive and consistent.
#[derive(Clone, Debug)]
pub struct DecoderConfig {
    /// Which entry of the table.
    pub architecture: &'static Architecture,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated MLP.
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
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f64,
    /// Rotary embedding.
    pub rope: Rope,
    /// Per layer: how many positions back a query sees, itself included.
    pub windows: Vec<Option<usize>>,
    /// Bias of q, k, v.
    pub qkv_bias: bool,
    /// Bias of the attention output.
    pub output_bias: bool,
    /// Bias of the MLP.
    pub mlp_bias: bool,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Tokens that end a response.
    pub eos: Vec<u32>,
}

/// Rotary embedding: base and how its frequencies are stretched.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Stretching.
    pub scaling: RopeScaling,
}

/// The kinds of rotary scaling that are computed.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// All frequencies divided by a factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3: long wavelengths divided, short kept, a ramp between.
    Llama3 {
        /// The divisor.
        factor: f64,
        /// Wavelengths above `original / low` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high` are kept.
        high_freq_factor: f64,
        /// Positions of pre-training.
        original_max_positions: f64,
    },
    /// One divisor a frequency, as GGUF files carry them.
    Divisors(Vec<f32>),
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
        Fields { path, object: &object }.parse(architecture)
    }

    /// Reads the metadata of a GGUF file.
    ///
    /// # Errors
    /// As [`DecoderConfig::from_file`].
    pub fn from_gguf(file: &GgufFile, path: &Path) -> Result<Self> {
        let name = file.architecture()?;
        let architecture = architectures::by_gguf(name).ok_or_else(|| {
            Error::unsupported(
                path,
                format!("unknown GGUF architecture `{name}`; known: {}", architectures::known()),
            )
        })?;
        // The same parser serves both: GGUF keys are renamed to those of config.json.
        let mut object = Map::new();
        let integer = |key: &str| file.integer(&format!("{name}.{key}")).map(Value::from);
        let float = |key: &str| file.float(&format!("{name}.{key}")).map(Value::from);
        let vocabulary =
            integer("vocab_size").or_else(|| file.list("tokenizer.ggml.tokens").map(|l| l.len().into()));
        for (key, value) in [
            ("hidden_size", integer("embedding_length")),
            ("intermediate_size", integer("feed_forward_length")),
            ("num_hidden_layers", integer("block_count")),
            ("num_attention_heads", integer("attention.head_count")),
            (
                "num_key_value_heads",
                integer("attention.head_count_kv").or_else(|| integer("attention.head_count")),
            ),
            ("head_dim", integer("attention.key_length").or_else(|| integer("rope.dimension_count"))),
            ("max_position_embeddings", integer("context_length")),
            ("rms_norm_eps", float("attention.layer_norm_rms_epsilon")),
            ("rope_theta", float("rope.freq_base")),
            ("sliding_window", integer("attention.sliding_window")),
            ("vocab_size", vocabulary),
            ("eos_token_id", file.integer("tokenizer.ggml.eos_token_id").map(Value::from)),
        ] {
            if let Some(value) = value {
                object.insert(key.to_owned(), value);
            }
        }
        if let Some(kind) = file.string(&format!("{name}.rope.scaling.type"))
            && kind != "none"
        {
            let mut scaling = Map::from_iter([("rope_type".to_owned(), Value::from(kind))]);
            if let Some(factor) = float("rope.scaling.factor") {
                scaling.insert("factor".to_owned(), factor);
            }
            object.insert("rope_scaling".to_owned(), Value::Object(scaling));
        }
        use crate::weights::TensorSource as _;
        let has = |tensor: &str| file.shape(tensor).is_some();
        object.insert("attention_bias".to_owned(), has("model.layers.0.self_attn.q_proj.bias").into());
        object.insert("mlp_bias".to_owned(), has("model.layers.0.mlp.down_proj.bias").into());
        object.insert("tie_word_embeddings".to_owned(), (!has("lm_head.weight")).into());
        Fields { path, object: &object }.parse(architecture)
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
}

/// Typed access to a config object.
struct Fields<'a> {
    path: &'a Path,
    object: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn parse(&self, architecture: &'static Architecture) -> Result<DecoderConfig> {
        if let Some(method) = self.present("quantization_config") {
            return Err(Error::unsupported(
                self.path,
                format!("`quantization_config` ({})", method.get("quant_method").unwrap_or(method)),
            )
            .with_hint("give the unquantised base model, or a GGUF file"));
        }
        if let Some(activation) = self.present("hidden_act")
            && activation != "silu"
        {
            return Err(Error::unsupported(self.path, format!("hidden_act {activation}; expected \"silu\"")));
        }
        let hidden_size = self.size("hidden_size", MAX_WIDTH)?;
        let layers = self.size("num_hidden_layers", MAX_LAYERS)?;
        let heads = self.size("num_attention_heads", MAX_WIDTH)?;
        let kv_heads = match self.present("num_key_value_heads") {
            Some(_) => self.size("num_key_value_heads", MAX_WIDTH)?,
            None => architecture.default_kv_heads.unwrap_or(heads),
        };
        let head_dim = match self.present("head_dim") {
            Some(_) => self.size("head_dim", MAX_WIDTH)?,
            None => hidden_size / heads,
        };
        if heads % kv_heads != 0 || head_dim % 2 != 0 || head_dim == 0 {
            return Err(Error::malformed(
                self.path,
                format!(
                    "{heads} heads of width {head_dim} over {kv_heads} key-value heads do not fit together"
                ),
            ));
        }
        Ok(DecoderConfig {
            architecture,
            hidden_size,
            intermediate_size: self.size("intermediate_size", MAX_WIDTH)?,
            layers,
            heads,
            kv_heads,
            head_dim,
            vocab_size: self.size("vocab_size", 1 << 24)?,
            max_positions: match self.present("max_position_embeddings") {
                Some(_) => self.size("max_position_embeddings", usize::MAX)?,
                None => 2048,
            },
            rms_norm_eps: self.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope: self.rope()?,
            windows: self.windows(architecture.window, layers)?,
            qkv_bias: self.bias(architecture.qkv_bias)?,
            output_bias: self.bias(architecture.output_bias)?,
            mlp_bias: self.bias(architecture.mlp_bias)?,
            tied: self.boolean("tie_word_embeddings")?.unwrap_or(false),
            eos: token_ids(self.object.get("eos_token_id")),
        })
    }

    /// The value of a key, unless it is absent or null.
    fn present(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, expected: &str) -> Error {
        let found = self.object.get(key).map_or("nothing".to_owned(), Value::to_string);
        Error::malformed(self.path, format!("expected {expected} in `{key}`, found {found}"))
    }

    fn size(&self, key: &str, max: usize) -> Result<usize> {
        self.present(key)
            .and_then(Value::as_u64)
            .and_then(|n| usize::try_from(n).ok())
            .filter(|&n| n > 0 && n <= max)
            .ok_or_else(|| self.wrong(key, "a positive integer of sane size"))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.present(key) {
            None => Ok(None),
            Some(value) => value
                .as_f64()
                .filter(|n| n.is_finite() && *n > 0.0)
                .map(Some)
                .ok_or_else(|| self.wrong(key, "a positive number")),
        }
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>> {
        match self.present(key) {
            None => Ok(None),
            Some(value) => value.as_bool().map(Some).ok_or_else(|| self.wrong(key, "a boolean")),
        }
    }

    fn bias(&self, bias: Bias) -> Result<bool> {
        match bias {
            Bias::Never => Ok(false),
            Bias::Always => Ok(true),
            Bias::Key(key) => Ok(self.boolean(key)?.unwrap_or(false)),
        }
    }

    /// Three spellings: `rope_parameters` (transformers 5), `rope_theta` with `rope_scaling`
    /// (transformers 4), and the older key `type` inside the latter.
    fn rope(&self) -> Result<Rope> {
        let nested = self.present("rope_parameters").or_else(|| self.present("rope_scaling"));
        let empty = Map::new();
        let scaling = match nested {
            None => &empty,
            Some(Value::Object(map)) => map,
            Some(_) => return Err(self.wrong("rope_parameters", "an object")),
        };
        let inner = Fields { path: self.path, object: scaling };
        let theta = match inner.number("rope_theta")? {
            Some(theta) => theta,
            None => self.number("rope_theta")?.unwrap_or(10_000.0),
        };
        let partial = match inner.number("partial_rotary_factor")? {
            Some(partial) => Some(partial),
            None => self.number("partial_rotary_factor")?,
        };
        if partial.is_some_and(|partial| partial < 1.0) {
            return Err(Error::unsupported(self.path, "partial_rotary_factor below 1"));
        }
        let required = |key: &str| inner.number(key)?.ok_or_else(|| inner.wrong(key, "a positive number"));
        let kind = inner.present("rope_type").or_else(|| inner.present("type"));
        let scaling = match kind.map(|kind| kind.as_str().unwrap_or_default()) {
            None | Some("default") => RopeScaling::Default,
            Some("linear") => RopeScaling::Linear { factor: required("factor")? },
            Some("llama3") => RopeScaling::Llama3 {
                factor: required("factor")?,
                low_freq_factor: required("low_freq_factor")?,
                high_freq_factor: required("high_freq_factor")?,
                original_max_positions: required("original_max_position_embeddings")?,
            },
            Some(other) => {
                return Err(Error::unsupported(
                    self.path,
                    format!("rope type `{other}`; known: default, linear, llama3"),
                ));
            }
        };
        Ok(Rope { theta, scaling })
    }

    fn windows(&self, window: Window, layers: usize) -> Result<Vec<Option<usize>>> {
        let size = match (window, self.object.get("sliding_window")) {
            (Window::Every { default }, None) => default,
            (_, None | Some(Value::Null)) => None,
            (_, Some(_)) => Some(self.size("sliding_window", usize::MAX)?),
        };
        let slides = |layer: usize| -> Result<bool> {
            match window {
                Window::Never => Ok(false),
                Window::Every { .. } => Ok(true),
                Window::UpperLayers => {
                    if !self.boolean("use_sliding_window")?.unwrap_or(false) {
                        return Ok(false);
                    }
                    match self.present("layer_types") {
                        Some(Value::Array(types)) => {
                            Ok(types.get(layer).and_then(Value::as_str) == Some("sliding_attention"))
                        }
                        _ => Ok(layer >= self.size("max_window_layers", usize::MAX)?),
                    }
                }
            }
        };
        (0..layers).map(|layer| Ok(if slides(layer)? { size } else { None })).collect()
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
        let expected = parse(&five).unwrap().rope;
        assert!((expected.theta - 5e5).abs() < 1e-6);
        assert_eq!(parse(&four).unwrap().rope, expected);
        assert_eq!(parse(&old).unwrap().rope, expected);
    }

    #[test]
    fn unknown_architecture_lists_the_known() {
        let message = parse(r#"{"model_type":"rwkv"}"#).unwrap_err().to_string();
        assert!(message.contains("`rwkv`") && message.contains("llama, mistral, qwen2"), "{message}");
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
    fn absurd_sizes_are_refused() {
        for broken in [r#""num_hidden_layers":0"#, r#""num_hidden_layers":99999999"#, r#""hidden_size":-1"#] {
            let text = format!(r#"{{"model_type":"llama",{MINIMAL},{broken}}}"#);
            assert!(parse(&text).is_err(), "{broken}");
        }
    }
}
