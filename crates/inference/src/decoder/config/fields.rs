//! Typed access to a config object.

use std::path::Path;

use serde_json::{Map, Value};

use super::rope::Heads;
use super::{
    DecoderConfig, ExpertsConfig, MAX_EXPERTS, MAX_LAYERS, MAX_WIDTH, NormedPer, QkNorms, token_ids,
};
use crate::decoder::activation::Activation;
use crate::decoder::architectures::{Architecture, Bias, Mlp, Positions, QkNorm, Residual, Scalars, Window};
use crate::error::{Error, Result};

/// A config object, under the names that an architecture has for our keys.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) path: &'a Path,
    pub(super) object: &'a Map<String, Value>,
    pub(super) architecture: &'static Architecture,
    /// Whether the object is one inside the config, whose keys have no other names.
    pub(super) inner: bool,
}

impl<'a> Fields<'a> {
    pub(super) fn new(
        path: &'a Path,
        object: &'a Map<String, Value>,
        architecture: &'static Architecture,
    ) -> Self {
        Self { path, object, architecture, inner: false }
    }

    pub(super) fn parse(&self) -> Result<DecoderConfig> {
        self.refuse()?;
        let architecture = self.architecture;
        let hidden_size = self.size("hidden_size", MAX_WIDTH)?;
        let layers = self.size("num_hidden_layers", MAX_LAYERS)?;
        let heads = self.size("num_attention_heads", MAX_WIDTH)?;
        let kv_heads = self.kv_heads(heads)?;
        let head_dim =
            self.size_or("head_dim", architecture.default_head_dim.unwrap_or(hidden_size / heads))?;
        if heads % kv_heads != 0 || head_dim % 2 != 0 || head_dim == 0 {
            return Err(Error::malformed(
                self.path,
                format!(
                    "{heads} heads of width {head_dim} over {kv_heads} key-value heads do not fit together"
                ),
            ));
        }
        let trained_positions = self.size_or("max_position_embeddings", 2048)?;
        let sliding = (0..layers).map(|layer| self.slides(layer)).collect::<Result<Vec<_>>>()?;
        let window = self.window()?;
        let heads_of_rope = Heads { head_dim, max_positions: trained_positions };
        let (ropes, rope_of) = self.ropes(heads_of_rope, &sliding)?;
        let intermediate_size = match (self.present("intermediate_size"), architecture.names.mlp) {
            (None, Mlp::Plain(_)) => 4 * hidden_size,
            _ => self.size("intermediate_size", MAX_WIDTH)?,
        };
        let (norms, parallel) = self.residual()?;
        let mut config = DecoderConfig {
            architecture,
            hidden_size,
            intermediate_size,
            layers,
            heads,
            kv_heads,
            head_dim,
            vocab_size: self.size("vocab_size", 1 << 24)?,
            max_positions: trained_positions,
            norm_eps: self.number("rms_norm_eps")?.unwrap_or(architecture.default_eps),
            norms,
            qk_norm: self.qk_norm()?,
            parallel,
            activation: self.activation()?,
            experts: self.experts(layers)?,
            ropes,
            rope_of,
            windows: sliding.into_iter().map(|slides| window.filter(|_| slides)).collect(),
            attention_scale: None,
            scale_by_layer: false,
            attention_cap: None,
            logit_cap: None,
            embedding_scale: 1.0,
            residual_scale: 1.0,
            logit_scale: 1.0,
            qkv_bias: self.bias(architecture.qkv_bias)?,
            output_bias: self.bias(architecture.output_bias)?,
            mlp_bias: self.bias(architecture.mlp_bias)?,
            head_bias: self.bias(architecture.head_bias)?,
            tied: self.boolean("tie_word_embeddings")?.unwrap_or(architecture.default_tied),
            eos: token_ids(self.object.get("eos_token_id")),
        };
        self.scalars(&mut config)?;
        config.lengthen();
        Ok(config)
    }

    /// What changes the result and is not computed.
    fn refuse(&self) -> Result<()> {
        if let Some(method) = self.present("quantization_config") {
            return Err(Error::unsupported(
                self.path,
                format!("`quantization_config` ({})", method.get("quant_method").unwrap_or(method)),
            )
            .with_hint("give the unquantised base model, or a GGUF file"));
        }
        for key in ["use_bidirectional_attention", "alibi", "add_cross_attention"] {
            if self.boolean(key)?.unwrap_or(false) {
                return Err(Error::unsupported(self.path, format!("`{key}` is true")));
            }
        }
        Ok(())
    }

    fn activation(&self) -> Result<Activation> {
        match self.present("hidden_act") {
            None => Ok(self.architecture.activation),
            // Gemma was trained with the tanh form, whatever its first configs say, and transformers computes the
            // one that is named.
            Some(name) => name.as_str().and_then(Activation::by_name).ok_or_else(|| {
                Error::unsupported(self.path, format!("hidden_act {name}; known: {}", Activation::known()))
            }),
        }
    }

    fn kv_heads(&self, heads: usize) -> Result<usize> {
        if self.architecture.residual == Residual::Falcon {
            let multi_query = self.boolean("multi_query")?.unwrap_or(true);
            let grouped = self.boolean("new_decoder_architecture")?.unwrap_or(false) || !multi_query;
            return if grouped { self.size_or("num_key_value_heads", heads) } else { Ok(1) };
        }
        self.size_or("num_key_value_heads", self.architecture.default_kv_heads.unwrap_or(heads))
    }

    /// Names of the norms, and whether the two blocks of a layer are parallel.
    fn residual(&self) -> Result<([Option<&'static str>; 4], bool)> {
        let names = self.architecture.names.norms;
        let one = [names[0], None, None, None];
        Ok(match self.architecture.residual {
            Residual::Sequential => (names, false),
            Residual::Parallel => (names, true),
            Residual::ParallelUnless(key) => (names, self.boolean(key)?.unwrap_or(true)),
            Residual::ParallelIf(key) => {
                let parallel = self.boolean(key)?.unwrap_or(false);
                (if parallel { one } else { names }, parallel)
            }
            Residual::Falcon => {
                let grouped = self.boolean("new_decoder_architecture")?.unwrap_or(false);
                let parallel = self.boolean("parallel_attn")?.unwrap_or(true);
                let norms = self.size_or("num_ln_in_parallel_attn", if grouped { 2 } else { 1 })?;
                match (grouped, parallel) {
                    (true, true) if norms == 2 => ([Some("ln_attn"), None, Some("ln_mlp"), None], true),
                    (true, false) => {
                        return Err(Error::unsupported(
                            self.path,
                            "`new_decoder_architecture` without `parallel_attn`",
                        ));
                    }
                    (_, true) => (one, true),
                    (false, false) => (names, false),
                }
            }
        })
    }

    fn qk_norm(&self) -> Result<Option<QkNorms>> {
        let if_key = |key: &str, names, per| -> Result<Option<QkNorms>> {
            Ok(self.boolean(key)?.unwrap_or(false).then_some(QkNorms { names, per }))
        };
        match self.architecture.qk_norm {
            QkNorm::Never => Ok(None),
            QkNorm::Head(names) => Ok(Some(QkNorms { names, per: NormedPer::Head })),
            QkNorm::Whole(names) => Ok(Some(QkNorms { names, per: NormedPer::Projection })),
            QkNorm::HeadIf(key, names) => if_key(key, names, NormedPer::Head),
            QkNorm::RowsIf(key, names) => if_key(key, names, NormedPer::HeadRow),
            QkNorm::TensorsIf(key, names) => if_key(key, names, NormedPer::HeadTensor),
        }
    }

    fn experts(&self, layers: usize) -> Result<Option<ExpertsConfig>> {
        let Some(names) = &self.architecture.experts else { return Ok(None) };
        let count = match self.present(names.count) {
            Some(_) => self.size(names.count, 1 << 12)?,
            // transformers 5 has either name for the same number.
            None => self.size("num_local_experts", 1 << 12)?,
        };
        if layers * count > MAX_EXPERTS {
            return Err(Error::unsupported(
                self.path,
                format!("{count} experts in {layers} layers; expected at most {MAX_EXPERTS} in all"),
            ));
        }
        let per_row = self.size("num_experts_per_tok", count)?;
        let normalised = match names.normalised {
            Some(normalised) => normalised,
            None => self.boolean("norm_topk_prob")?.unwrap_or(false),
        };
        let dense = match self.present("mlp_only_layers").filter(|_| names.sparse) {
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_u64).collect(),
            _ => Vec::new(),
        };
        let step = if names.sparse { self.size_or("decoder_sparse_step", 1)? } else { 1 };
        let sparse = |layer: usize| !dense.contains(&(layer as u64)) && (layer + 1).is_multiple_of(step);
        Ok(Some(ExpertsConfig {
            names,
            count,
            per_row,
            width: self.size(names.width, MAX_WIDTH)?,
            normalised,
            layers: (0..layers).map(sparse).collect(),
        }))
    }

    fn scalars(&self, config: &mut DecoderConfig) -> Result<()> {
        let or_one = |key: &str| -> Result<f64> { Ok(self.number(key)?.unwrap_or(1.0)) };
        // An absent cap is the class's default, a null one is none.
        let cap = |key: &str, default: Option<f64>| -> Result<Option<f64>> {
            if self.object.contains_key(key) { self.number(key) } else { Ok(default) }
        };
        let scalars = self.architecture.scalars;
        if matches!(scalars, Scalars::Gemma | Scalars::Gemma2 | Scalars::Gemma3) {
            config.embedding_scale = (config.hidden_size as f64).sqrt();
        }
        if matches!(scalars, Scalars::Gemma2 | Scalars::Gemma3) {
            let scalar = self.number("query_pre_attn_scalar")?.unwrap_or(256.0);
            config.attention_scale = Some(scalar.powf(-0.5));
        }
        match scalars {
            Scalars::Plain | Scalars::Gemma => {}
            Scalars::Gemma2 => {
                config.attention_cap = cap("attn_logit_softcapping", Some(50.0))?;
                config.logit_cap = cap("final_logit_softcapping", Some(30.0))?;
            }
            Scalars::Gemma3 => config.logit_cap = cap("final_logit_softcapping", None)?,
            Scalars::Granite => {
                config.embedding_scale = or_one("embedding_multiplier")?;
                config.residual_scale = or_one("residual_multiplier")?;
                config.attention_scale = Some(or_one("attention_multiplier")?);
                config.logit_scale = 1.0 / or_one("logits_scaling")?;
            }
            Scalars::Cohere => config.logit_scale = self.number("logit_scale")?.unwrap_or(0.0625),
            Scalars::Gpt2 => {
                if !self.boolean("scale_attn_weights")?.unwrap_or(true) {
                    config.attention_scale = Some(1.0);
                }
                config.scale_by_layer = self.boolean("scale_attn_by_inverse_layer_idx")?.unwrap_or(false);
            }
        }
        Ok(())
    }

    /// The value of a key, unless it is absent or null.
    pub(super) fn present(&self, key: &str) -> Option<&'a Value> {
        let present = |key: &str| self.object.get(key).filter(|value| !value.is_null());
        let aliases = if self.inner { &[] } else { self.architecture.aliases };
        let theirs = aliases.iter().filter(|(ours, _)| *ours == key).find_map(|(_, theirs)| present(theirs));
        theirs.or_else(|| present(key))
    }

    pub(super) fn wrong(&self, key: &str, expected: &str) -> Error {
        let found = self.present(key).map_or("nothing".to_owned(), Value::to_string);
        Error::malformed(self.path, format!("expected {expected} in `{key}`, found {found}"))
    }

    pub(super) fn size(&self, key: &str, max: usize) -> Result<usize> {
        self.present(key)
            .and_then(Value::as_u64)
            .and_then(|n| usize::try_from(n).ok())
            .filter(|&n| n > 0 && n <= max)
            .ok_or_else(|| self.wrong(key, "a positive integer of sane size"))
    }

    /// A size, or what it is where the key is absent.
    pub(super) fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        let max = if key == "max_position_embeddings" { usize::MAX } else { MAX_WIDTH };
        if self.present(key).is_some() { self.size(key, max) } else { Ok(default) }
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.present(key) {
            None => Ok(None),
            Some(value) => value
                .as_f64()
                .filter(|n| n.is_finite() && *n > 0.0)
                .map(Some)
                .ok_or_else(|| self.wrong(key, "a positive number")),
        }
    }

    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>> {
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
            Bias::Unless(key) => Ok(self.boolean(key)?.unwrap_or(true)),
        }
    }

    /// The window of layers that slide.
    fn window(&self) -> Result<Option<usize>> {
        match (self.architecture.window, self.object.get("sliding_window")) {
            (Window::Every { default }, None) => Ok(default),
            (Window::LayerTypes { .. } | Window::Flag | Window::UpperLayers, None) => Ok(Some(4096)),
            (_, None | Some(Value::Null)) => Ok(None),
            (_, Some(_)) => Ok(Some(self.size("sliding_window", usize::MAX)?)),
        }
    }

    /// Whether a layer is one that slides, if there is a window.
    fn slides(&self, layer: usize) -> Result<bool> {
        let typed = match self.present("layer_types") {
            Some(Value::Array(types)) => {
                Some(types.get(layer).and_then(Value::as_str) == Some("sliding_attention"))
            }
            _ => None,
        };
        let flagged = || -> Result<bool> { Ok(self.boolean("use_sliding_window")?.unwrap_or(false)) };
        Ok(match self.architecture.window {
            Window::Never => false,
            Window::Every { .. } => true,
            Window::Flag => flagged()?,
            Window::UpperLayers => {
                flagged()?
                    && match typed {
                        Some(slides) => slides,
                        None => layer >= self.size("max_window_layers", usize::MAX)?,
                    }
            }
            Window::LayerTypes { pattern } => match typed {
                Some(slides) => slides,
                None => {
                    let pattern = self.size_or("sliding_window_pattern", pattern)?;
                    !(layer + 1).is_multiple_of(pattern)
                }
            },
            Window::WithoutRope => {
                flagged()?
                    && match typed {
                        Some(slides) => slides,
                        None => !self.listed_rope(layer)?,
                    }
            }
        })
    }
}

impl DecoderConfig {
    /// Contexts beyond those of pre-training, where a rotary embedding is made for them.
    fn lengthen(&mut self) {
        use super::RopeScaling;
        if matches!(self.architecture.positions, Positions::Learned(_)) {
            return;
        }
        for rope in &self.ropes {
            if let RopeScaling::Dynamic { factor, original_max_positions } = rope.scaling {
                self.max_positions = self.max_positions.max((factor * original_max_positions) as usize);
            }
        }
    }
}
