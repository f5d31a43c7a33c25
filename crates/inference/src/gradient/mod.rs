//! Objectives on what a sequence makes the model say, and their gradients with respect to input embeddings
//! or to an adapter's factors ([`factor_gradients`]).
//!
//! Trigger searches raise a target's log-probability or the divergence from a fixed distribution on one
//! side and hold it down on the other. Both need many values without a gradient (candidates) and a few
//! with one (where to look next). Sequences of any side share a pass, and the gradient goes no further
//! than the tokens after their prefix.

mod factors;
mod objective;
#[cfg(test)]
mod tests;
mod token_scorer;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use rayon::prelude::*;

use crate::decoder::{Batch, Past, Positions, Sequence, Side};
use crate::error::{Error, Result};
use crate::kernels;
use crate::pair::ModelPair;

pub use factors::{FactorGradients, Supervised, Target, factor_gradients, supervised_loss};
pub use objective::{Differentiated, Objective, Scored};
pub use token_scorer::TokenScorer;

/// A sequence's share of the gradient.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// The objective's terms in nats, without the weight.
    pub terms: Vec<f32>,
    /// Gradient of the weighted sum of terms with respect to the chosen embeddings, `[rows, hidden]`, f32.
    pub embeddings: Tensor,
}

/// What one pass takes at most; a sequence that is longer has a pass of its own.
#[derive(Clone, Copy, Debug)]
pub struct PassLimit {
    /// Tokens that are fed.
    pub rows: usize,
    /// Rows of logits.
    pub logit_rows: usize,
}

impl ModelPair {
    /// The limit of a pass that is differentiated.
    fn gradient_limit(&self) -> PassLimit {
        PassLimit { rows: self.gradient_row_limit(), logit_rows: self.logit_row_limit() }
    }

    /// The terms of each sequence's objective, in the order given, in as many passes as the row limit asks.
    ///
    /// # Errors
    /// If a sequence is empty or too long, a target is empty or outside the vocabulary, a reference has
    /// another shape, or the model fails.
    pub fn objective_terms(&self, scored: &[Scored<'_>]) -> Result<Vec<Vec<f32>>> {
        let vocabulary = self.config().vocab_size;
        scored.iter().try_for_each(|scored| scored.check(vocabulary))?;
        let mut results = vec![Vec::new(); scored.len()];
        let limit = PassLimit { rows: self.row_limit(), logit_rows: self.logit_row_limit() };
        for pass in passes(scored.iter().collect(), limit) {
            let parts: Vec<&Scored<'_>> = pass.iter().map(|&i| &scored[i]).collect();
            let logits = self.objective_logits(&parts, None)?;
            let mut terms = self.terms_of(&logits, &parts)?.values.into_iter();
            for &i in &pass {
                results[i] = terms.by_ref().take(scored[i].objective.positions()).collect();
            }
        }
        Ok(results)
    }

    /// Terms and gradients of `sum(weight * objective)` for each sequence, in the order given.
    ///
    /// # Errors
    /// As [`Self::objective_terms`], and if rows lie outside a context or embeddings do not fit them.
    pub fn objective_gradients(&self, differentiated: &[Differentiated<'_>]) -> Result<Vec<Gradient>> {
        let config = self.config();
        for part in differentiated {
            part.scored.check(config.vocab_size)?;
            part.check(config.hidden_size)?;
        }
        let mut results: Vec<Option<Gradient>> = vec![None; differentiated.len()];
        let scored = differentiated.iter().map(|part| &part.scored).collect();
        for pass in passes(scored, self.gradient_limit()) {
            let parts: Vec<&Differentiated<'_>> = pass.iter().map(|&i| &differentiated[i]).collect();
            for (&i, gradient) in pass.iter().zip(self.pass_gradients(&parts)?) {
                results[i] = Some(gradient);
            }
        }
        // Every index is in one pass.
        Ok(results.into_iter().flatten().collect())
    }

    /// One pass forwards and backwards.
    fn pass_gradients(&self, parts: &[&Differentiated<'_>]) -> Result<Vec<Gradient>> {
        let scored: Vec<&Scored<'_>> = parts.iter().map(|part| &part.scored).collect();
        let embeddings = Var::from_tensor(&self.input_embeddings(parts)?)?;
        let logits = self.objective_logits(&scored, Some(embeddings.as_tensor()))?;
        let terms = self.terms_of(&logits, &scored)?;
        let weights: Vec<f32> =
            parts.iter().flat_map(|part| vec![part.weight; part.scored.objective.positions()]).collect();
        let weights = Tensor::from_vec(weights, terms.values.len(), logits.device())?;
        let gradients = (terms.differentiable()? * weights)?.sum_all()?.backward()?;
        let gradient = gradients
            .get(embeddings.as_tensor())
            .ok_or_else(|| Error::Request("the forward pass lost the gradient of its input".into()))?;
        let (mut first, mut values) = (0, terms.values.into_iter());
        let mut results = Vec::with_capacity(parts.len());
        for part in parts {
            let own = gradient.narrow(0, first + part.rows.start, part.rows.len())?;
            results.push(Gradient {
                terms: values.by_ref().take(part.scored.objective.positions()).collect(),
                embeddings: own.to_dtype(DType::F32)?.contiguous()?,
            });
            first += part.scored.fed_len();
        }
        Ok(results)
    }

    /// The embeddings of all tokens that are fed, with the relaxed ones in their places.
    fn input_embeddings(&self, parts: &[&Differentiated<'_>]) -> Result<Tensor> {
        let own: Vec<Tensor> = parts
            .iter()
            .map(|part| self.embed(&part.scored.fed(), part.scored.side))
            .collect::<Result<_>>()?;
        let own = Tensor::cat(&own, 0)?;
        if parts.iter().all(|part| part.embeddings.is_none()) {
            return Ok(own);
        }
        let mut pieces = Vec::new();
        let mut first = 0;
        for part in parts {
            let len = part.scored.fed_len();
            match part.embeddings {
                Some(relaxed) => {
                    if part.rows.start > 0 {
                        pieces.push(own.narrow(0, first, part.rows.start)?);
                    }
                    pieces.push(relaxed.to_dtype(own.dtype())?.to_device(own.device())?);
                    if part.rows.end < len {
                        pieces.push(own.narrow(0, first + part.rows.end, len - part.rows.end)?);
                    }
                }
                None => pieces.push(own.narrow(0, first, len)?),
            }
            first += len;
        }
        Ok(Tensor::cat(&pieces, 0)?)
    }

    /// Logits where the terms are read, `[terms, vocabulary]`.
    fn objective_logits(&self, parts: &[&Scored<'_>], embeddings: Option<&Tensor>) -> Result<Tensor> {
        let fed: Vec<Vec<u32>> = parts.iter().map(|part| part.fed()).collect();
        let chosen: Vec<Vec<usize>> = parts
            .iter()
            .map(|part| {
                let first = part.context.len() - 1;
                (first..first + part.objective.positions()).collect()
            })
            .collect();
        let mut sequences: Vec<Sequence<'_>> = parts
            .iter()
            .zip(&fed)
            .map(|(part, ids)| Sequence {
                ids,
                side: part.side,
                past: part.prefix.as_ref().map_or(Past::None, |prefix| Past::Shared(prefix.clone())),
            })
            .collect();
        let mut batch = Batch {
            sequences: &mut sequences,
            embeddings,
            positions: Positions::Chosen(&chosen),
            hidden_states: false,
        };
        Ok(self.forward(&mut batch)?.logits)
    }

    /// The terms of a pass, whose objectives are all of one kind.
    fn terms_of<'a>(&self, logits: &Tensor, parts: &[&Scored<'a>]) -> Result<Terms<'a>> {
        let fused = self.decoder().compute().fused().is_some();
        let (mut targets, mut references) = (Vec::new(), Vec::new());
        for part in parts {
            match part.objective {
                Objective::LogProbability { target } => targets.extend_from_slice(target),
                Objective::Divergence { reference, .. } => references.extend(reference),
            }
        }
        if references.is_empty() {
            let terms = target_log_probs(logits, targets, fused)?;
            return Ok(Terms { values: terms.to_vec1::<f32>()?, form: TermsForm::LogProbabilities(terms) });
        }
        let log_p =
            if fused { kernels::log_softmax(logits)? } else { candle_nn::ops::log_softmax(logits, 1)? };
        let rows = log_p.to_device(&Device::Cpu)?.to_vec2::<f32>()?;
        let values =
            rows.par_iter().zip(&references).map(|(log_p, log_q)| divergence(log_p, log_q)).collect();
        Ok(Terms { values, form: TermsForm::Divergences { log_p, log_q: references } })
    }
}

/// The log-probability of one token for each row of logits, `[rows]`; differentiable.
fn target_log_probs(logits: &Tensor, targets: Vec<u32>, fused: bool) -> Result<Tensor> {
    if fused {
        return Ok(kernels::token_log_probs(logits, &Arc::from(targets))?);
    }
    let targets = Tensor::from_vec(targets, (logits.dims()[0], 1), logits.device())?;
    Ok(candle_nn::ops::log_softmax(logits, 1)?.gather(&targets, 1)?.squeeze(1)?)
}

/// The terms of a pass.
struct Terms<'a> {
    values: Vec<f32>,
    form: TermsForm<'a>,
}

/// What the gradient flows through.
enum TermsForm<'a> {
    /// `[terms]`.
    LogProbabilities(Tensor),
    Divergences {
        /// `[terms, vocabulary]`.
        log_p: Tensor,
        log_q: Vec<&'a Vec<f32>>,
    },
}

impl Terms<'_> {
    /// The terms `[terms]` in the graph.
    fn differentiable(&self) -> Result<Tensor> {
        match &self.form {
            TermsForm::LogProbabilities(terms) => Ok(terms.clone()),
            TermsForm::Divergences { log_p, log_q } => {
                let log_q: Vec<f32> = log_q.iter().flat_map(|row| row.iter().copied()).collect();
                let log_q = Tensor::from_vec(log_q, log_p.shape(), log_p.device())?;
                Ok((log_p.exp()? * (log_p - log_q)?)?.sum(1)?)
            }
        }
    }
}

/// `KL(p || q)` of log-probabilities, summed in f64; places of no probability add nothing.
fn divergence(log_p: &[f32], log_q: &[f32]) -> f32 {
    let term = |(&p, &q): (&f32, &f32)| {
        let mass = f64::from(p.exp());
        // A token that both exclude would be infinity minus infinity.
        if mass > 0.0 { mass * (f64::from(p) - f64::from(q)) } else { 0.0 }
    };
    log_p.iter().zip(log_q).map(term).sum::<f64>() as f32
}

/// Cuts sequences into passes. Neighbours of one kind, length and side form runs that
/// the decoder takes together.
fn passes(scored: Vec<&Scored<'_>>, limit: PassLimit) -> Vec<Vec<usize>> {
    let kind = |i: usize| matches!(scored[i].objective, Objective::Divergence { .. });
    let mut order: Vec<usize> = (0..scored.len()).collect();
    order.sort_by_key(|&i| {
        let Side { adapter, scale } = scored[i].side;
        (kind(i), scored[i].fed_len(), adapter, scale.to_bits(), i)
    });
    let mut passes: Vec<Vec<usize>> = Vec::new();
    let (mut rows, mut logits) = (0, 0);
    for i in order {
        rows += scored[i].fed_len();
        logits += scored[i].objective.positions();
        match passes.last_mut() {
            Some(pass) if rows <= limit.rows && logits <= limit.logit_rows && kind(pass[0]) == kind(i) => {
                pass.push(i)
            }
            _ => {
                (rows, logits) = (scored[i].fed_len(), scored[i].objective.positions());
                passes.push(vec![i]);
            }
        }
    }
    passes
}
