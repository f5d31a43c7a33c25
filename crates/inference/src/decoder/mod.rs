//! One config-driven decoder for every architecture of the table.
//!
//! Token ids or embeddings in; logits at all, the last or chosen positions out, and hidden states
//! on request. The forward pass is differentiable with respect to the input embeddings, and base,
//! adapted and amplified rows share it.

pub mod activation;
pub mod architectures;
mod attention;
pub mod capture;
pub mod config;
mod embedding;
mod experts;
mod generic;
mod invocation;
mod layer;
mod lens;
mod linear;
mod load;
mod mlp;
mod norm;
mod rope;
mod rows;
mod sides;
pub mod site;
mod stack;
mod variant;

use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Tensor};

use crate::adapter::delta::Branches;
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::kernels;
use crate::prefix::{KvCache, LayerCache, Prefix};
use crate::weights::TensorSource;

use capture::{Capture, Watched};
use config::DecoderConfig;
use embedding::Embedding;
pub(crate) use invocation::last_occurrence;
use layer::Layer;
use linear::Linear;
pub(crate) use load::stored_name;
use norm::Norm;
use rope::RotaryTables;
use rows::Rows;
pub use rows::Side;
use site::Site;

/// What a sequence's new tokens follow.
pub enum Past<'a> {
    /// Nothing.
    None,
    /// A prefix shared with other sequences; it must be of the sequence's own side.
    Shared(Arc<Prefix>),
    /// The sequence's own cache, which grows by the new tokens.
    Cache(&'a mut KvCache),
}

impl Past<'_> {
    /// Earlier keys and values of a layer, in order.
    fn segments(&self, layer: usize) -> Box<dyn Iterator<Item = &LayerCache> + '_> {
        match self {
            Self::None => Box::new(std::iter::empty()),
            Self::Shared(prefix) => Box::new(prefix.segments(layer).into_iter()),
            Self::Cache(cache) => Box::new(cache.segments(layer)),
        }
    }

    /// Puts a prefix before everything else, unless something stands there.
    pub(crate) fn begin_with(&mut self, prefix: impl FnOnce() -> Result<Arc<Prefix>>) -> Result<()> {
        match self {
            Self::None => *self = Self::Shared(prefix()?),
            Self::Cache(cache) if cache.is_empty() => **cache = KvCache::after(&prefix()?),
            _ => {}
        }
        Ok(())
    }

    /// The prefix whose side must be the sequence's own.
    fn prefix(&self) -> Option<&Prefix> {
        match self {
            Self::None => None,
            Self::Shared(prefix) => Some(prefix),
            Self::Cache(cache) => cache.prefix().map(|prefix| &**prefix),
        }
    }
}

/// One sequence of a batch.
pub struct Sequence<'a> {
    /// New tokens.
    pub ids: &'a [u32],
    /// Which model it sees.
    pub side: Side,
    /// What it follows.
    pub past: Past<'a>,
}

impl<'a> Sequence<'a> {
    /// A sequence that follows nothing.
    #[must_use]
    pub fn new(ids: &'a [u32], side: Side) -> Self {
        Self { ids, side, past: Past::None }
    }

    /// A sequence that follows a shared prefix, on the prefix's side.
    #[must_use]
    pub fn after(prefix: &Arc<Prefix>, ids: &'a [u32]) -> Self {
        Self { ids, side: prefix.side, past: Past::Shared(prefix.clone()) }
    }

    fn past_len(&self) -> usize {
        match &self.past {
            Past::None => 0,
            Past::Shared(prefix) => prefix.len,
            Past::Cache(cache) => cache.len(),
        }
    }
}

/// At which of the new tokens logits are wanted.
#[derive(Clone, Copy, Debug)]
pub enum Positions<'a> {
    /// At all.
    All,
    /// At the last of each sequence.
    Last,
    /// At these indices into each sequence's new tokens, one list a sequence.
    Chosen(&'a [Vec<usize>]),
}

/// A batch and what is wanted of it.
pub struct Batch<'a, 'b> {
    /// The sequences, in row order.
    pub sequences: &'b mut [Sequence<'a>],
    /// Input embeddings `[rows, hidden]` instead of the embedded ids, for gradients; the ids still
    /// give the lengths.
    pub embeddings: Option<&'b Tensor>,
    /// Where logits are wanted.
    pub positions: Positions<'b>,
    /// Whether hidden states are wanted.
    pub hidden_states: bool,
}

/// What a forward pass gives.
#[derive(Debug)]
pub struct Output {
    /// `[wanted positions, vocabulary]`, f32, in row order.
    pub logits: Tensor,
    /// On request: the embeddings, the output of each layer but the last, and the final norm's
    /// output, each `[rows, hidden]`; the order of transformers.
    pub hidden_states: Vec<Tensor>,
}

/// A decoder with frozen weights.
pub struct Decoder {
    config: DecoderConfig,
    sites: Arc<[Site]>,
    embedding: Embedding,
    /// Learned positions `[positions, hidden]`, where there are any.
    positions: Option<Tensor>,
    layers: Arc<[Arc<Layer>]>,
    norm: Norm,
    head: Arc<Linear>,
    rotary: Arc<RotaryTables>,
    compute: Compute,
    /// Where the weights come from, for adapters that replace some of them.
    source: Arc<dyn TensorSource>,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Decoder {
    /// The decoder's shape.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The linear modules, in the order of adapter deltas.
    #[must_use]
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// Device and precision.
    #[must_use]
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// The longest context that can be run.
    #[must_use]
    pub fn max_context(&self) -> usize {
        match &self.positions {
            Some(table) => table.dims()[0],
            None => self.rotary.positions(),
        }
    }

    /// Embeddings `[ids, hidden]` of token ids.
    ///
    /// # Errors
    /// If an id is outside the vocabulary.
    pub fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.config.vocab_size) {
            return Err(Error::Request(format!(
                "token id {id} is outside the vocabulary of {} tokens; do tokenizer and base belong together?",
                self.config.vocab_size
            )));
        }
        self.embedding.rows(ids, &self.compute)
    }

    /// One pass of this very decoder, with the branches of adapters by index.
    pub(crate) fn forward_with(
        &self,
        adapters: Arc<[Branches]>,
        batch: &mut Batch<'_, '_>,
    ) -> Result<Output> {
        self.forward_seen(adapters, batch, None)
    }

    /// The same, and leaves what the `capture` asks for.
    fn forward_seen(
        &self,
        adapters: Arc<[Branches]>,
        batch: &mut Batch<'_, '_>,
        capture: Option<&Arc<Capture>>,
    ) -> Result<Output> {
        self.check(batch)?;
        if let Some(capture) = capture {
            capture.check(self.config.layers)?;
        }
        if self.compute.fused().is_some() {
            // From within the pool, an operation is shared out without waking and waiting for another thread.
            return rayon::scope(|_| self.run(adapters, batch, capture));
        }
        self.run(adapters, batch, capture)
    }

    fn run(
        &self,
        adapters: Arc<[Branches]>,
        batch: &mut Batch<'_, '_>,
        capture: Option<&Arc<Capture>>,
    ) -> Result<Output> {
        let mut rows = invocation::rows(batch.sequences, &adapters);
        let wanted = wanted_rows(&rows, batch.positions)?;
        rows.watched = capture.map(|capture| Watched::new(capture, &wanted, 0));
        let x = match batch.embeddings {
            Some(embeddings) => embeddings.clone(),
            None => {
                let ids: Vec<u32> = batch.sequences.iter().flat_map(|s| s.ids.iter().copied()).collect();
                self.embed(&ids)?
            }
        };
        let x = match &self.positions {
            Some(table) => {
                let index = Tensor::from_vec(rows.positions(), rows.total, &self.compute.device)?;
                (x + table.index_select(&index, 0)?)?
            }
            None => x,
        };
        let mut hidden_states = Vec::new();
        let states = batch.hidden_states.then_some(&mut hidden_states);
        let mut x = self.through_layers(&x, &adapters, batch.sequences, &wanted, states, capture)?;
        for sequence in batch.sequences.iter_mut() {
            let active_from = invocation::active_from(sequence, &adapters);
            if let Past::Cache(cache) = &mut sequence.past {
                cache.advance(sequence.ids, active_from);
            }
        }
        let picked = self.picked(&rows, &wanted)?;
        if batch.hidden_states {
            hidden_states.push(self.norm.forward(&x)?);
            x = x.index_select(&picked.index, 0)?;
        }
        let logits = self.head.forward(&self.norm.forward(&x)?, &picked.rows, &adapters)?;
        Ok(Output { logits: self.finished(&logits.to_dtype(DType::F32)?)?, hidden_states })
    }

    /// Logits with their factor and their soft cap.
    fn finished(&self, logits: &Tensor) -> Result<Tensor> {
        let scale = self.config.logit_scale;
        let scaled = if scale.to_bits() == 1f64.to_bits() { logits.clone() } else { (logits * scale)? };
        Ok(match self.config.logit_cap {
            Some(cap) => ((scaled / cap)?.tanh()? * cap)?,
            None => scaled,
        })
    }

    fn check(&self, batch: &Batch<'_, '_>) -> Result<()> {
        if batch.sequences.is_empty() {
            return Err(Error::Request("expected at least one sequence in a batch".into()));
        }
        for sequence in batch.sequences.iter() {
            let total = sequence.past_len() + sequence.ids.len();
            if sequence.ids.is_empty() || total > self.max_context() {
                return Err(Error::Request(format!(
                    "expected 1 to {} tokens in a sequence, found {total}",
                    self.max_context()
                )));
            }
            if sequence.past.prefix().is_some_and(|prefix| prefix.side != sequence.side) {
                return Err(Error::Request("a prefix of one side cannot be continued on another".into()));
            }
        }
        Ok(())
    }
}

/// The sum of two streams of rows.
fn residual(fused: bool, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    // candle's sum runs on a second, spinning pool of threads.
    Ok(if fused { kernels::residual_sum(x, y)? } else { (x + y)? })
}

/// Row indices at which logits are wanted.
fn wanted_rows(rows: &Rows, positions: Positions<'_>) -> Result<Vec<u32>> {
    match positions {
        Positions::All => Ok((0..rows.total as u32).collect()),
        Positions::Last => Ok(rows.spans.iter().map(|span| (span.start + span.len - 1) as u32).collect()),
        Positions::Chosen(lists) => {
            let mut wanted = Vec::new();
            if lists.len() != rows.spans.len() {
                return Err(Error::Request(format!(
                    "expected one list of positions for each of {} sequences, found {}",
                    rows.spans.len(),
                    lists.len()
                )));
            }
            for (span, list) in rows.spans.iter().zip(lists) {
                for &position in list {
                    if position >= span.len {
                        return Err(Error::Request(format!(
                            "position {position} of a sequence of {} new tokens does not exist",
                            span.len
                        )));
                    }
                    wanted.push((span.start + position) as u32);
                }
            }
            if wanted.is_empty() {
                return Err(Error::Request("expected at least one wanted position".into()));
            }
            Ok(wanted)
        }
    }
}
