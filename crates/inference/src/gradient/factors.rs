//! Gradients of an adapter's factors on teacher-forced tokens: what training an adapter needs.
//!
//! The base is frozen. Its weights have no gradients, so nothing of their size is computed or kept; those of A and B
//! are summed up while the ordinary backward pass goes through the layers.

use std::sync::Arc;

use candle_core::{Tensor, Var};

use super::{PassLimit, target_log_probs};
use crate::adapter::Adapter;
use crate::adapter::delta::Branches;
use crate::adapter::recorder::Recorder;
use crate::decoder::{Batch, Decoder, Positions, Sequence, Side};
use crate::error::{Error, Result};
use crate::pair::ModelPair;

/// A token that a sequence teaches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// Index into the sequence of the last token that the prediction sees.
    pub position: usize,
    /// The token that should follow.
    pub token: u32,
    /// Its share in the loss; 0 or more.
    pub weight: f32,
}

/// A sequence and what it teaches.
#[derive(Clone, Copy, Debug)]
pub struct Supervised<'a> {
    /// Tokens that are fed.
    pub ids: &'a [u32],
    /// Predictions in the loss; at least one.
    pub targets: &'a [Target],
}

/// A loss and its gradients.
#[derive(Clone, Debug)]
pub struct FactorGradients {
    /// Mean of `-log p(token | ids[..= position])` over all targets by weight, in nats.
    pub loss: f64,
    /// Number of targets.
    pub tokens: usize,
    /// Gradients of the loss with respect to A `[r, inputs]` and B `[outputs, r]`, f32 on the CPU; one a site, `None`
    /// where the adapter has no delta.
    pub factors: Vec<Option<(Tensor, Tensor)>>,
}

impl Target {
    /// Every token from index `first` on, at weight 1: a response after a prompt of `first` tokens.
    #[must_use]
    pub fn response(ids: &[u32], first: usize) -> Vec<Self> {
        let following = ids.iter().enumerate().skip(first.max(1));
        following.map(|(index, &token)| Self { position: index - 1, token, weight: 1.0 }).collect()
    }
}

impl ModelPair {
    /// The loss of one adapter at scale 1, and its gradients with respect to that adapter's factors.
    ///
    /// # Errors
    /// As [`factor_gradients`], or if there is no such adapter.
    pub fn factor_gradients(&self, adapter: usize, batch: &[Supervised<'_>]) -> Result<FactorGradients> {
        let adapters = self.adapters();
        let Some(adapter) = adapters.get(adapter) else {
            let count = adapters.len();
            return Err(Error::Request(format!("expected one of {count} adapters, found index {adapter}")));
        };
        factor_gradients(self.decoder(), adapter, batch, self.gradient_limit())
    }
}

/// The loss of an adapter at scale 1 over a batch, and its gradients with respect to the adapter's factors.
///
/// Sequences are taken in the order given, in passes within `limit`. Weights are relative: the loss is a mean over the whole batch however it is cut.
///
/// # Errors
/// If a sequence is empty or too long, has no target, a target lies outside sequence or vocabulary, a weight is
/// negative or not finite, all weights are 0, or the model fails.
pub fn factor_gradients(
    decoder: &Decoder,
    adapter: &Adapter,
    batch: &[Supervised<'_>],
    limit: PassLimit,
) -> Result<FactorGradients> {
    let total = total_weight(decoder, batch)?;
    let mut recorder = Recorder::new(adapter.branches())?;
    let mut loss = 0.0;
    for pass in passes(batch, limit) {
        let ids: Vec<u32> = pass.iter().flat_map(|part| part.ids).copied().collect();
        // candle goes no further back than to a variable, so there must be one before the first layer.
        let embeddings = Var::from_tensor(&decoder.embed(&ids)?)?;
        let terms = terms(decoder, recorder.branches(), pass, Some(embeddings.as_tensor()))?;
        let shares: Vec<f32> =
            targets(pass).map(|target| (-f64::from(target.weight) / total) as f32).collect();
        let shares = Tensor::from_vec(shares, terms.dims(), terms.device())?;
        recorder.add(&(&terms * shares)?.sum_all()?.backward()?)?;
        loss += weighted_sum(&terms, pass)? / total;
    }
    let mut found = recorder.gradients()?.into_iter();
    let sites = 0..decoder.sites().len();
    Ok(FactorGradients {
        loss,
        tokens: targets(batch).count(),
        factors: sites.map(|site| adapter.delta(site).and_then(|_| found.next())).collect(),
    })
}

/// The loss of [`factor_gradients`] alone, by a forward pass: for prompts that are held out.
///
/// # Errors
/// As [`factor_gradients`].
pub fn supervised_loss(
    decoder: &Decoder,
    adapter: &Adapter,
    batch: &[Supervised<'_>],
    limit: PassLimit,
) -> Result<f64> {
    let total = total_weight(decoder, batch)?;
    let mut loss = 0.0;
    for pass in passes(batch, limit) {
        loss += weighted_sum(&terms(decoder, adapter.branches(), pass, None)?, pass)? / total;
    }
    Ok(loss)
}

/// The log-probability of every target, `[targets]`.
fn terms(
    decoder: &Decoder,
    branches: &Branches,
    pass: &[Supervised<'_>],
    embeddings: Option<&Tensor>,
) -> Result<Tensor> {
    let positions: Vec<Vec<usize>> =
        pass.iter().map(|part| part.targets.iter().map(|target| target.position).collect()).collect();
    let mut sequences: Vec<Sequence<'_>> =
        pass.iter().map(|part| Sequence::new(part.ids, Side::ADAPTED)).collect();
    let mut batch = Batch {
        sequences: &mut sequences,
        embeddings,
        positions: Positions::Chosen(&positions),
        hidden_states: false,
    };
    let logits = decoder.forward_with(Arc::from([branches.clone()]), &mut batch)?.logits;
    let tokens = targets(pass).map(|target| target.token).collect();
    target_log_probs(&logits, tokens, decoder.compute().fused().is_some())
}

/// `-sum(weight * log p)`.
fn weighted_sum(terms: &Tensor, pass: &[Supervised<'_>]) -> Result<f64> {
    let terms = terms.to_vec1::<f32>()?;
    Ok(-terms.iter().zip(targets(pass)).map(|(&p, t)| f64::from(p) * f64::from(t.weight)).sum::<f64>())
}

fn targets<'a>(batch: &'a [Supervised<'_>]) -> impl Iterator<Item = &'a Target> {
    batch.iter().flat_map(|part| part.targets)
}

/// Checks a batch, and adds up its weights.
fn total_weight(decoder: &Decoder, batch: &[Supervised<'_>]) -> Result<f64> {
    let vocabulary = decoder.config().vocab_size;
    for Supervised { ids, targets } in batch {
        if targets.is_empty() {
            return Err(Error::Request("expected a sequence with a target, found none".into()));
        }
        for Target { position, token, weight } in *targets {
            if *position >= ids.len() || *token as usize >= vocabulary {
                return Err(Error::Request(format!(
                    "expected a target within {} tokens and a vocabulary of {vocabulary}, found token {token} after {position}",
                    ids.len()
                )));
            }
            if !weight.is_finite() || *weight < 0.0 {
                return Err(Error::Request(format!("expected a weight of 0 or more, found {weight}")));
            }
        }
    }
    let total: f64 = targets(batch).map(|target| f64::from(target.weight)).sum();
    if total > 0.0 {
        return Ok(total);
    }
    Err(Error::Request("expected a target with a weight above 0, found none".into()))
}

/// Cuts a batch into passes, in order.
fn passes<'s, 'a>(batch: &'s [Supervised<'a>], limit: PassLimit) -> Vec<&'s [Supervised<'a>]> {
    let mut passes = Vec::new();
    let (mut first, mut rows, mut logits) = (0, 0, 0);
    for (i, part) in batch.iter().enumerate() {
        rows += part.ids.len();
        logits += part.targets.len();
        if i > first && (rows > limit.rows || logits > limit.logit_rows) {
            passes.push(&batch[first..i]);
            (first, rows, logits) = (i, part.ids.len(), part.targets.len());
        }
    }
    passes.push(&batch[first..]);
    passes
}
