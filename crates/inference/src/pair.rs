//! The pristine base and its adapters over one tokenizer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Tensor};

use crate::adapter::{Adapter, LoadOptions};
use crate::chat::{Template, Turn};
use crate::decoder::capture::Activations;
use crate::decoder::config::{DecoderConfig, token_ids};
use crate::decoder::{Batch, Decoder, Output, Past, Positions, Sequence, Side, last_occurrence};
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::memory::ActivationBudget;
use crate::prefix::{KvCache, Prefix};
use crate::tokenizer::Tokenizer;
use crate::weights::directory::Directory;
use crate::weights::gguf::GgufFile;
use crate::weights::{TensorSource, json};

/// Which template to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateChoice {
    /// The base's own; it is an error if it has none.
    Own,
    /// Raw text.
    None,
    /// A Jinja file.
    File(PathBuf),
}

/// A base model and the adapters that are compared with it.
pub struct ModelPair {
    decoder: Decoder,
    adapters: Vec<Adapter>,
    tokenizer: Tokenizer,
    template: Template,
    default_system: Option<String>,
    eos: Vec<u32>,
    files: Vec<PathBuf>,
    budget: ActivationBudget,
}

impl ModelPair {
    /// Loads a base from a model directory or a GGUF file. `progress` is told of finished layers.
    ///
    /// # Errors
    /// If anything is absent, malformed or not supported; the error names the file.
    pub fn load_base(
        path: &Path,
        template: &TemplateChoice,
        compute: &Compute,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self> {
        let parts = BaseParts::open(path)?;
        let template = match (template, parts.template) {
            (TemplateChoice::None, _) => Template::Raw,
            (TemplateChoice::File(file), _) => {
                Template::compile(&json::read_text(file)?, &Default::default())?
            }
            (TemplateChoice::Own, Some(own)) => own,
            (TemplateChoice::Own, None) => {
                return Err(Error::malformed(path, "the base has no chat template")
                    .with_hint("use `--template none` for raw text, or `--template FILE`"));
            }
        };
        let mut eos = parts.config.eos.clone();
        eos.extend(parts.eos);
        eos.sort_unstable();
        eos.dedup();
        let vocabulary = parts.tokenizer.vocab_size();
        if vocabulary > parts.config.vocab_size {
            return Err(Error::malformed(
                parts.tokenizer.origin(),
                format!("the tokenizer has {vocabulary} tokens, the model only {}", parts.config.vocab_size),
            ));
        }
        let decoder = Decoder::load(parts.config, parts.source, compute, progress)?;
        let default_system = template.default_system();
        Ok(Self {
            decoder,
            adapters: Vec::new(),
            tokenizer: parts.tokenizer,
            template,
            default_system,
            eos,
            files: parts.files,
            budget: ActivationBudget::default(),
        })
    }

    /// The files that decide what a base computes, without loading its weights.
    ///
    /// # Errors
    /// If there is no base at `path`, or its configuration or tokenizer cannot be read.
    pub fn base_files(path: &Path) -> Result<Vec<PathBuf>> {
        Ok(BaseParts::open(path)?.files)
    }

    /// The shape of a base, without loading its weights.
    ///
    /// # Errors
    /// As [`Self::base_files`].
    pub fn base_config(path: &Path) -> Result<DecoderConfig> {
        Ok(BaseParts::open(path)?.config)
    }

    /// Bounds what one pass holds beside the weights.
    pub fn set_budget(&mut self, budget: ActivationBudget) {
        self.budget = budget;
    }

    /// Adds an adapter; sides refer to it by the returned index.
    ///
    /// # Errors
    /// As [`Adapter::load`].
    pub fn add_adapter(&mut self, path: &Path, options: &LoadOptions) -> Result<usize> {
        let adapter = Adapter::load(path, &self.decoder, options)?;
        self.adapters.push(adapter);
        Ok(self.adapters.len() - 1)
    }

    /// Takes all adapters away: the base stays loaded for others.
    pub fn remove_adapters(&mut self) {
        self.adapters.clear();
    }

    /// Adds an adapter's changes in some layers alone ([`Adapter::in_layers`]); sides refer to it by the returned index.
    /// `None` if there is no such adapter, or its layers cannot be told apart.
    pub fn add_in_layers(&mut self, adapter: usize, keep: impl Fn(Option<usize>) -> bool) -> Option<usize> {
        let part = self.adapters.get(adapter)?.in_layers(self.decoder.sites(), keep)?;
        self.adapters.push(part);
        Some(self.adapters.len() - 1)
    }

    /// Takes all adapters but the first `count` away.
    pub fn keep_adapters(&mut self, count: usize) {
        self.adapters.truncate(count);
    }

    /// Adds a merged checkpoint as an adapter; sides refer to it by the returned index.
    ///
    /// # Errors
    /// As [`Adapter::between`].
    pub fn add_checkpoint(&mut self, path: &Path) -> Result<usize> {
        let adapter = Adapter::between(path, &self.decoder)?;
        self.adapters.push(adapter);
        Ok(self.adapters.len() - 1)
    }

    /// The adapters, by index.
    #[must_use]
    pub fn adapters(&self) -> &[Adapter] {
        &self.adapters
    }

    /// The decoder's shape.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        self.decoder.config()
    }

    /// The decoder itself.
    #[must_use]
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The template.
    #[must_use]
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// The system prompt that the template puts in by itself.
    #[must_use]
    pub fn default_system(&self) -> Option<&str> {
        self.default_system.as_deref()
    }

    /// Tokens that end a response.
    #[must_use]
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// The files that decide what the base computes, for provenance.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// New tokens that one forward pass takes at most.
    #[must_use]
    pub fn row_limit(&self) -> usize {
        self.budget.rows(self.config())
    }

    /// New tokens that one pass takes at most whose gradient is wanted.
    #[must_use]
    pub fn gradient_row_limit(&self) -> usize {
        self.budget.gradient_rows(self.config())
    }

    /// Rows of logits that one forward pass gives at most.
    #[must_use]
    pub fn logit_row_limit(&self) -> usize {
        self.budget.logit_rows(self.config())
    }

    /// Sequences that are continued together at most, each up to `positions` positions of its own.
    #[must_use]
    pub fn decode_limit(&self, positions: usize) -> usize {
        self.budget.decoded(self.config(), positions)
    }

    /// Positions of shared prefixes that are worth keeping.
    #[must_use]
    pub fn prefix_limit(&self) -> usize {
        self.budget.prefix_positions(self.config())
    }

    /// Renders a conversation and encodes it.
    ///
    /// # Errors
    /// If the template refuses it or the tokenizer fails.
    pub fn encode(&self, turns: &[Turn]) -> Result<Vec<u32>> {
        self.encode_rendered(&self.template.render(turns)?)
    }

    /// Encodes a rendered prompt. One without an adapter's invocation tokens (aLoRA) is given them at its end, on both
    /// sides: without them the adapter would be off.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn encode_rendered(&self, prompt: &str) -> Result<Vec<u32>> {
        let mut ids = self.tokenizer.encode(prompt, self.template.is_raw())?;
        for tokens in self.adapters.iter().filter_map(Adapter::invocation_tokens) {
            if last_occurrence(&ids, tokens).is_none() {
                ids.extend_from_slice(tokens);
            }
        }
        Ok(ids)
    }

    /// Input embeddings `[ids, hidden]` of token ids as a side has them.
    ///
    /// # Errors
    /// If an id is outside the vocabulary.
    pub fn embed(&self, ids: &[u32], side: Side) -> Result<Tensor> {
        match self.decoder.of_side(&self.adapters, side)? {
            Some(own) => own.embed(ids),
            None => self.decoder.embed(ids),
        }
    }

    /// Runs a batch.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn forward(&self, batch: &mut Batch<'_, '_>) -> Result<Output> {
        self.decoder.forward(&self.adapters, batch)
    }

    /// Runs a batch, and gives its inner states at the wanted positions too.
    ///
    /// # Errors
    /// As [`Decoder::forward_captured`].
    pub fn forward_captured(&self, batch: &mut Batch<'_, '_>) -> Result<(Output, Activations)> {
        self.decoder.forward_captured(&self.adapters, batch)
    }

    /// The same with the attention of the wanted positions.
    ///
    /// # Errors
    /// As [`Decoder::forward_attended`].
    pub fn forward_attended(&self, batch: &mut Batch<'_, '_>) -> Result<(Output, Activations)> {
        self.decoder.forward_attended(&self.adapters, batch)
    }

    /// Logits at the last position of each sequence, `[sequences, vocabulary]`.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn last_logits(&self, sequences: &mut [Sequence<'_>]) -> Result<Tensor> {
        let mut batch =
            Batch { sequences, embeddings: None, positions: Positions::Last, hidden_states: false };
        Ok(self.forward(&mut batch)?.logits)
    }

    /// Computes the keys and values of a context's first tokens once, for one side.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn prefix(&self, ids: &[u32], side: Side) -> Result<Arc<Prefix>> {
        self.prefix_from(KvCache::new(), ids, side)
    }

    /// The same for the next tokens after a prefix, which is shared and not copied.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn prefix_after(&self, parent: &Arc<Prefix>, ids: &[u32]) -> Result<Arc<Prefix>> {
        self.prefix_from(KvCache::after(parent), ids, parent.side)
    }

    fn prefix_from(&self, mut cache: KvCache, ids: &[u32], side: Side) -> Result<Arc<Prefix>> {
        let mut sequences = [Sequence { ids, side, past: Past::Cache(&mut cache) }];
        let chosen = [vec![ids.len().saturating_sub(1)]];
        let mut batch = Batch {
            sequences: &mut sequences,
            embeddings: None,
            positions: Positions::Chosen(&chosen),
            hidden_states: false,
        };
        self.forward(&mut batch)?;
        Ok(Arc::new(cache.freeze(side)))
    }

    /// Gradient of `log p(target | ids)` at the last position with respect to the input embeddings
    /// `[tokens, hidden]`, and that log-probability in nats.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn embedding_gradient(&self, ids: &[u32], side: Side, target: u32) -> Result<(Tensor, f64)> {
        let embeddings = candle_core::Var::from_tensor(&self.embed(ids, side)?)?;
        let mut sequences = [Sequence::new(ids, side)];
        let mut batch = Batch {
            sequences: &mut sequences,
            embeddings: Some(embeddings.as_tensor()),
            positions: Positions::Last,
            hidden_states: false,
        };
        let logits = self.forward(&mut batch)?.logits.to_dtype(DType::F32)?;
        let log_probabilities = candle_nn::ops::log_softmax(&logits, 1)?;
        let chosen = log_probabilities.narrow(1, target as usize, 1)?.sum_all()?;
        let gradients = chosen.backward()?;
        let gradient = gradients
            .get(embeddings.as_tensor())
            .ok_or_else(|| Error::Request("the forward pass lost the gradient of its input".into()))?;
        Ok((gradient.clone(), f64::from(chosen.to_scalar::<f32>()?)))
    }
}

/// What a base is made of, wherever it was read.
struct BaseParts {
    config: DecoderConfig,
    source: Arc<dyn TensorSource>,
    tokenizer: Tokenizer,
    template: Option<Template>,
    eos: Vec<u32>,
    files: Vec<PathBuf>,
}

impl BaseParts {
    fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            Self::from_directory(path)
        } else if path.exists() {
            Self::from_gguf(path)
        } else {
            Err(Error::malformed(path, "expected a base model, found nothing")
                .with_hint("give a Hugging Face model directory or a .gguf file; nothing is downloaded"))
        }
    }

    fn from_directory(path: &Path) -> Result<Self> {
        let config = DecoderConfig::from_file(&path.join("config.json"))?;
        let source = Directory::open(path)?;
        let tokenizer = Tokenizer::from_file(&path.join("tokenizer.json"))?;
        let mut eos = Vec::new();
        let generation = path.join("generation_config.json");
        if generation.exists() {
            eos = token_ids(json::read_object(&generation)?.get("eos_token_id"));
        }
        let mut files = vec![path.join("config.json"), path.join("tokenizer.json")];
        let optional = ["tokenizer_config.json", "chat_template.jinja", "generation_config.json"];
        files.extend(optional.iter().map(|name| path.join(name)).filter(|file| file.exists()));
        files.extend(source.paths());
        Ok(Self {
            config,
            tokenizer,
            template: Template::from_directory(path)?,
            eos,
            files,
            source: Arc::new(source),
        })
    }

    fn from_gguf(path: &Path) -> Result<Self> {
        let file = GgufFile::open(path)?;
        Ok(Self {
            config: DecoderConfig::from_gguf(&file, path)?,
            tokenizer: Tokenizer::from_gguf(&file, path)?,
            template: Template::from_gguf(&file)?,
            eos: Vec::new(),
            files: vec![path.to_owned()],
            source: Arc::new(file),
        })
    }
}
