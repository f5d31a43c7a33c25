//! Continuations: greedy or sampled with a seed, many sequences of any side at once.

use std::sync::Arc;

use candle_core::Tensor;
use candle_transformers::generation::{LogitsProcessor, Sampling};

use crate::decoder::{Batch, Past, Positions, Sequence, Side};
use crate::error::{Error, Result};
use crate::kernels;
use crate::pair::ModelPair;
use crate::prefix::{KvCache, Prefix};

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decoding {
    /// The most probable token.
    Greedy,
    /// A seeded draw; each sequence has its own stream, so results do not depend on the batch.
    Sample {
        /// Divides the logits.
        temperature: f64,
        /// Keeps the smallest set of tokens with this much probability.
        top_p: f64,
        /// Seed of the first sequence; sequence `i` uses `seed + i`.
        seed: u64,
    },
}

impl Decoding {
    /// The same for sequences that stand behind `sequences` others.
    #[must_use]
    pub fn after(self, sequences: usize) -> Self {
        match self {
            Self::Greedy => Self::Greedy,
            Self::Sample { temperature, top_p, seed } => {
                Self::Sample { temperature, top_p, seed: seed.wrapping_add(sequences as u64) }
            }
        }
    }
}

/// A context to continue.
pub struct Context<'a> {
    /// Tokens after the prefix.
    pub ids: &'a [u32],
    /// Which model continues it.
    pub side: Side,
    /// What the tokens follow; of the same side.
    pub prefix: Option<Arc<Prefix>>,
}

/// One continuation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continuation {
    /// The tokens, the ending token included if there is one.
    pub ids: Vec<u32>,
    /// Whether the model ended it; otherwise the limit did.
    pub ended: bool,
}

impl ModelPair {
    /// Continues every context by up to `max_new` tokens. A context may be dropped from the batch
    /// as soon as it ends, so the cost is that of the tokens produced.
    ///
    /// # Errors
    /// If a context is empty or too long, or the model yields no usable distribution.
    pub fn generate(
        &self,
        contexts: &[Context<'_>],
        max_new: usize,
        decoding: Decoding,
    ) -> Result<Vec<Continuation>> {
        let mut results = vec![Continuation { ids: Vec::new(), ended: false }; contexts.len()];
        if max_new == 0 {
            return Ok(results);
        }
        let mut caches = Vec::with_capacity(contexts.len());
        for context in contexts {
            caches.push(match &context.prefix {
                Some(prefix) => KvCache::after(prefix),
                None => KvCache::new(),
            });
        }
        let mut samplers = samplers(contexts.len(), decoding);
        let mut pending: Vec<Vec<u32>> = contexts.iter().map(|context| context.ids.to_vec()).collect();
        let mut active: Vec<usize> = (0..contexts.len()).collect();
        for _ in 0..max_new {
            let mut still = Vec::with_capacity(active.len());
            for chunk in chunks(&active, &pending, self.row_limit()) {
                let logits = self.step(chunk, contexts, &pending, &mut caches)?;
                let next = choose(&logits, chunk, samplers.as_deref_mut())?;
                for (&index, token) in chunk.iter().zip(next) {
                    results[index].ids.push(token);
                    results[index].ended = self.eos().contains(&token);
                    pending[index] = vec![token];
                    if !results[index].ended {
                        still.push(index);
                    }
                }
            }
            active = still;
            if active.is_empty() {
                break;
            }
        }
        Ok(results)
    }

    /// One forward pass of the pending tokens; `[chunk, vocabulary]`.
    fn step(
        &self,
        chunk: &[usize],
        contexts: &[Context<'_>],
        pending: &[Vec<u32>],
        caches: &mut [KvCache],
    ) -> Result<Tensor> {
        let mut by_index: Vec<Option<&mut KvCache>> = caches.iter_mut().map(Some).collect();
        let mut sequences = Vec::with_capacity(chunk.len());
        for &index in chunk {
            let Some(cache) = by_index[index].take() else {
                return Err(Error::Request("a context was scheduled twice".into()));
            };
            sequences.push(Sequence {
                ids: &pending[index],
                side: contexts[index].side,
                past: Past::Cache(cache),
            });
        }
        let mut batch = Batch {
            sequences: &mut sequences,
            embeddings: None,
            positions: Positions::Last,
            hidden_states: false,
        };
        Ok(self.forward(&mut batch)?.logits)
    }
}

/// One stream a sequence; none where the most probable token is taken.
fn samplers(n: usize, decoding: Decoding) -> Option<Vec<LogitsProcessor>> {
    let Decoding::Sample { temperature, top_p, seed } = decoding else { return None };
    let sampler = |index| {
        LogitsProcessor::from_sampling(seed.wrapping_add(index), Sampling::TopP { p: top_p, temperature })
    };
    Some((0..n as u64).map(sampler).collect())
}

fn choose(logits: &Tensor, chunk: &[usize], samplers: Option<&mut [LogitsProcessor]>) -> Result<Vec<u32>> {
    let logits = logits.to_device(&candle_core::Device::Cpu)?;
    let Some(samplers) = samplers else {
        let largest: Option<Vec<u32>> = kernels::argmax(&logits)?.into_iter().collect();
        return largest
            .ok_or_else(|| Error::Request("logits are not numbers; are the weights damaged?".into()));
    };
    chunk.iter().enumerate().map(|(row, &index)| Ok(samplers[index].sample(&logits.get(row)?)?)).collect()
}

/// Cuts the active sequences into batches of at most `limit` new tokens.
fn chunks<'a>(active: &'a [usize], pending: &[Vec<u32>], limit: usize) -> Vec<&'a [usize]> {
    let mut chunks = Vec::new();
    let mut start = 0;
    let mut rows = 0;
    for (position, &index) in active.iter().enumerate() {
        let len = pending[index].len();
        if position > start && rows + len > limit {
            chunks.push(&active[start..position]);
            start = position;
            rows = 0;
        }
        rows += len;
    }
    if start < active.len() {
        chunks.push(&active[start..]);
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_everything_once() {
        let pending = vec![vec![0; 5], vec![0; 9], vec![0; 1], vec![0; 4]];
        let active = [0, 1, 2, 3];
        let cut = chunks(&active, &pending, 10);
        assert_eq!(cut, [&[0][..], &[1, 2], &[3]]);
        assert_eq!(chunks(&[1, 3], &pending, 100), [&[1, 3][..]]);
        assert!(chunks(&[], &pending, 10).is_empty());
    }
}
