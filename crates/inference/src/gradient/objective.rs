//! What is measured on a sequence, and with respect to what it is differentiated.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;

use crate::decoder::Side;
use crate::error::{Error, Result};
use crate::prefix::Prefix;

/// What is measured after a context, in nats.
#[derive(Clone, Copy, Debug)]
pub enum Objective<'a> {
    /// `log p(target[j] | context, target[..j])`, one term a token.
    LogProbability {
        /// Tokens that are to be said; at least one.
        target: &'a [u32],
    },
    /// `KL(p || q)` of the next-token distribution `p`, one term for the context's end and one after each
    /// token of the continuation.
    Divergence {
        /// Tokens that are fed after the context; may be empty.
        continuation: &'a [u32],
        /// `log q`, `1 + continuation.len()` rows of vocabulary size. A constant: no gradient flows to it.
        reference: &'a [Vec<f32>],
    },
}

/// A sequence and what is measured on it.
#[derive(Clone)]
pub struct Scored<'a> {
    /// Which model.
    pub side: Side,
    /// What the context follows; of the same side.
    pub prefix: Option<Arc<Prefix>>,
    /// Tokens after the prefix; at least one.
    pub context: &'a [u32],
    /// What is measured.
    pub objective: Objective<'a>,
}

/// A sequence with a share in a sum of objectives that is differentiated.
#[derive(Clone)]
pub struct Differentiated<'a> {
    /// The sequence.
    pub scored: Scored<'a>,
    /// Factor of its objective in the sum, such as 1 on the adapted side and -lambda on the base.
    pub weight: f32,
    /// The context's tokens whose embeddings are differentiated.
    pub rows: Range<usize>,
    /// Embeddings `[rows, hidden]` that these tokens have instead of their own, for relaxed tokens.
    pub embeddings: Option<&'a Tensor>,
}

impl Objective<'_> {
    /// Number of terms, that is of positions whose logits are read.
    pub(super) fn positions(&self) -> usize {
        match self {
            Self::LogProbability { target } => target.len(),
            Self::Divergence { continuation, .. } => 1 + continuation.len(),
        }
    }

    /// Tokens that are fed after the context: the last target is only predicted.
    fn fed(&self) -> &[u32] {
        match self {
            Self::LogProbability { target } => &target[..target.len() - 1],
            Self::Divergence { continuation, .. } => continuation,
        }
    }
}

impl Scored<'_> {
    /// All tokens after the prefix.
    pub(super) fn fed(&self) -> Vec<u32> {
        [self.context, self.objective.fed()].concat()
    }

    /// Tokens that go through the decoder after the prefix: the last target is only predicted.
    #[must_use]
    pub fn fed_len(&self) -> usize {
        self.context.len() + self.objective.positions() - 1
    }

    pub(super) fn check(&self, vocabulary: usize) -> Result<()> {
        if self.context.is_empty() {
            return Err(Error::Request("expected at least one token of context, found none".into()));
        }
        match self.objective {
            Objective::LogProbability { target: [] } => {
                Err(Error::Request("expected a target of at least one token, found none".into()))
            }
            Objective::LogProbability { target } => {
                match target.iter().find(|&&token| token as usize >= vocabulary) {
                    Some(token) => Err(Error::Request(format!(
                        "expected a target below the vocabulary of {vocabulary} tokens, found {token}"
                    ))),
                    None => Ok(()),
                }
            }
            Objective::Divergence { continuation, reference } => {
                let fits = reference.len() == 1 + continuation.len()
                    && reference.iter().all(|row| row.len() == vocabulary);
                if fits {
                    return Ok(());
                }
                Err(Error::Request(format!(
                    "expected a reference of {} rows of {vocabulary} log-probabilities, found {} of {:?}",
                    1 + continuation.len(),
                    reference.len(),
                    reference.iter().map(Vec::len).find(|&width| width != vocabulary).unwrap_or(vocabulary),
                )))
            }
        }
    }
}

impl Differentiated<'_> {
    pub(super) fn check(&self, hidden: usize) -> Result<()> {
        let Range { start, end } = self.rows;
        if start >= end || end > self.scored.context.len() {
            return Err(Error::Request(format!(
                "expected rows of a context of {} tokens, found {start}..{end}",
                self.scored.context.len()
            )));
        }
        match self.embeddings {
            Some(given) if given.dims() != [end - start, hidden] => Err(Error::Request(format!(
                "expected embeddings of {:?}, found {:?}",
                [end - start, hidden],
                given.dims()
            ))),
            _ => Ok(()),
        }
    }
}
