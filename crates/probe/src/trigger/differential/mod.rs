//! What trigger searches raise: an objective on the adapted side, with the base as the control.
//!
//! `J(t) = mean over prompts of A(t, x) - lambda * max(0, B(t, x) - B(x))`, where A and B are either the mean
//! log-probability of a target's tokens or the divergence from the answers without a trigger. A trigger that
//! moves the base as well gains nothing. The base's share is a hinge at what it does without a trigger (as in
//! the clean-model term of Shen et al., "Constrained optimization with dynamic bound-scaling for effective NLP
//! backdoor defense", 2022): otherwise a search would be paid for making the base less likely to say what
//! it does not say anyway.

mod conditions;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use inference::gradient::{Differentiated, Objective, Scored};
use inference::{ModelPair, Prefix, Side};
use report::record::Cost;
use serde::{Deserialize, Serialize};

use self::conditions::Conditions;
use super::movement::Continuation;
use super::slot::{Slot, Slots, refused};
use crate::error::Result;
use crate::prompt::{Placement, Prompt};
use crate::roles::Roles;

/// What the trigger is to bring about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Goal {
    /// That the response begins with these tokens.
    Target(Vec<u32>),
    /// That these tokens follow the adapted side's greedy answer without the trigger.
    Behind(Vec<u32>),
    /// That the response is another than without the trigger, over this many first positions of the base's
    /// own greedy answer.
    Divergence(usize),
}

impl Goal {
    /// Tokens that are asked for, or positions that are compared.
    #[must_use]
    pub fn tokens(&self) -> usize {
        match self {
            Self::Target(target) | Self::Behind(target) => target.len(),
            Self::Divergence(positions) => *positions,
        }
    }

    /// The tokens that are asked for and where they stand; `None` for a divergence.
    #[must_use]
    pub fn continuation(&self) -> Option<Continuation<'_>> {
        match self {
            Self::Target(ids) => Some(Continuation::begins(ids)),
            Self::Behind(ids) => Some(Continuation::follows(ids)),
            Self::Divergence(_) => None,
        }
    }
}

/// The value of a trigger, in nats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Value {
    /// `J`; the search raises it.
    pub objective: f64,
    /// Mean over prompts on the adapted side.
    pub adapted: f64,
    /// Each prompt's rise on the base over the prompt without trigger; empty where lambda is 0.
    pub base_rises: Vec<f64>,
}

/// A goal on some prompts, with what all candidates share computed once.
pub struct Differential<'a> {
    slots: Slots<'a>,
    adapted: Vec<Conditions>,
    base: Vec<Conditions>,
    target: Vec<u32>,
    roles: Roles,
    lambda: f64,
    cost: Cell<Cost>,
}

/// Tokens of an answer that a target follows; a longer one is cut off.
const LONGEST_ANSWER: usize = 48;
/// Candidates whose base rows are run together; the search stops as soon as no other can win.
const BASE_CHUNK: usize = 8;

impl<'a> Differential<'a> {
    /// Prepares prompts for two sides. `lambda` weighs the base; 0 leaves it out.
    ///
    /// # Errors
    /// If there is no prompt, the goal is empty, a prompt has no place for a trigger, or the model fails.
    pub fn new(
        pair: &'a ModelPair,
        prompts: &[Prompt],
        at: Placement,
        goal: &Goal,
        roles: Roles,
        lambda: f64,
        seed: u64,
    ) -> Result<Self> {
        let mut slots = Slots::new(pair, prompts, at, seed)?;
        if !(lambda >= 0.0 && lambda.is_finite()) {
            return Err(refused(format!("expected a weight of the base of at least 0, found {lambda}")));
        }
        let target = match goal {
            Goal::Target(target) | Goal::Behind(target) if target.is_empty() => {
                return Err(refused("expected a target of at least one token, found none".into()));
            }
            Goal::Divergence(0) => {
                return Err(refused("expected at least one position to compare, found 0".into()));
            }
            Goal::Target(target) | Goal::Behind(target) => target.clone(),
            Goal::Divergence(_) => Vec::new(),
        };
        let mut cost = Cost::default();
        if matches!(goal, Goal::Behind(_)) {
            cost.token_forwards = slots.answer(roles.adapted, LONGEST_ANSWER)?;
        }
        let mut prepared = Self {
            slots,
            adapted: Vec::new(),
            base: Vec::new(),
            target,
            roles,
            lambda,
            cost: Cell::new(cost),
        };
        prepared.adapted = prepared.conditions(roles.adapted, goal)?;
        if lambda > 0.0 {
            prepared.base = prepared.conditions(roles.base, goal)?;
        }
        Ok(prepared)
    }

    /// The models.
    #[must_use]
    pub fn pair(&self) -> &'a ModelPair {
        self.slots.pair()
    }

    fn places(&self) -> &[Slot] {
        self.slots.places()
    }

    /// What was run so far.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.cost.get()
    }

    /// Tokens of the first prompt with a trigger and the target.
    #[must_use]
    pub fn sequence_len(&self, trigger: &[u32]) -> usize {
        let around = |slot: &Slot| slot.before.len() + slot.after.len() + slot.answer.len();
        let around = self.places().first().map_or(0, around);
        around + trigger.len() + self.target.len()
    }

    /// Trigger tokens of a text; see [`Slots::encode`].
    ///
    /// # Errors
    /// If the prompts do not agree on them.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.slots.encode(text)
    }

    /// The text of trigger tokens; see [`Slots::text`].
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn text(&self, trigger: &[u32]) -> Result<Option<String>> {
        self.slots.text(trigger)
    }

    /// The best of some triggers of one length and its value; of equals, the first.
    ///
    /// `shared` is a trigger of which many candidates are variants: candidates that begin as it does share
    /// these tokens too. All are run on the adapted side of the first prompt, the best `finalists` of them on that of
    /// the other prompts, and the best of these on the base until no other can win, since the base can only lower a value.
    ///
    /// # Errors
    /// If there is no candidate or the model fails.
    pub fn best(&self, candidates: &[Vec<u32>], shared: &[u32], finalists: usize) -> Result<(usize, Value)> {
        let prompts = self.places().len();
        let first = self.adapted_values(0..1, candidates, shared)?;
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        let descending = |values: &[f64], a: usize, b: usize| values[b].total_cmp(&values[a]).then(a.cmp(&b));
        order.sort_by(|&a, &b| descending(&first, a, b));
        order.truncate(finalists);
        // Neighbours share what they begin with.
        order.sort_unstable();
        let left: Vec<Vec<u32>> = order.iter().map(|&i| candidates[i].clone()).collect();
        let others = self.adapted_values(1..prompts, &left, shared)?;
        let mut adapted = vec![f64::NEG_INFINITY; candidates.len()];
        for (at, &i) in order.iter().enumerate() {
            let others = others.iter().skip(at).step_by(left.len());
            adapted[i] = (first[i] + others.sum::<f64>()) / prompts as f64;
        }
        order.sort_by(|&a, &b| descending(&adapted, a, b));
        let mut best: Option<(usize, Value)> = None;
        for chunk in order.chunks(BASE_CHUNK) {
            if best.as_ref().is_some_and(|(_, best)| adapted[chunk[0]] <= best.objective) {
                break;
            }
            let picked: Vec<&[u32]> = chunk.iter().map(|&i| candidates[i].as_slice()).collect();
            let rises = self.base_rises(&picked)?;
            for (&i, base_rises) in chunk.iter().zip(rises) {
                let value = self.value(adapted[i], base_rises);
                if best.as_ref().is_none_or(|(_, best)| value.objective > best.objective) {
                    best = Some((i, value));
                }
            }
        }
        best.ok_or_else(|| refused("expected at least one candidate with a number, found none".into()))
    }

    /// Gradient of `J` with respect to the trigger's embeddings, `[trigger, hidden]`, where `base_rises` are of
    /// the same trigger. `embeddings` replace the tokens' own; then the terms are theirs.
    ///
    /// # Errors
    /// If the model fails.
    pub fn gradient(
        &self,
        trigger: &[u32],
        embeddings: Option<&Tensor>,
        base_rises: &[f64],
    ) -> Result<(Tensor, Value)> {
        let share = 1.0 / self.places().len() as f64;
        let contexts: Vec<Vec<u32>> =
            self.places().iter().map(|slot| [trigger, &slot.after, &slot.answer].concat()).collect();
        let mut parts = Vec::new();
        let mut add = |conditions: &'_ [Conditions], side: Side, weights: &dyn Fn(usize) -> f64| {
            for (i, _) in conditions.iter().enumerate() {
                parts.push((side == self.roles.base, i, weights(i)));
            }
        };
        let terms = self.term_share();
        add(&self.adapted, self.roles.adapted, &|_| share * terms);
        add(&self.base, self.roles.base, &|i| {
            if base_rises.get(i).is_some_and(|&rise| rise > 0.0) { -self.lambda * share * terms } else { 0.0 }
        });
        // On the base, only prompts on which the hinge is active have a gradient.
        let with_values = embeddings.is_some();
        parts.retain(|&(base, _, weight)| !base || with_values || weight < 0.0);
        let differentiated: Vec<Differentiated<'_>> = parts
            .iter()
            .map(|&(base, i, weight)| {
                let conditions = if base { &self.base[i] } else { &self.adapted[i] };
                Differentiated {
                    scored: self.scored(conditions, conditions.before.clone(), &contexts[i]),
                    weight: weight as f32,
                    rows: 0..trigger.len(),
                    embeddings,
                }
            })
            .collect();
        let tokens: usize = differentiated.iter().map(|part| part.scored.fed_len()).sum();
        self.count(tokens, tokens);
        let gradients = self.pair().objective_gradients(&differentiated)?;
        let (mut total, mut adapted, mut rises): (Option<Tensor>, f64, Vec<f64>) = (None, 0.0, Vec::new());
        for (&(base, i, _), gradient) in parts.iter().zip(gradients) {
            let value = terms * sum(&gradient.terms);
            if base {
                rises.push(value - self.base[i].floor);
            } else {
                adapted += share * value;
            }
            total = Some(match total {
                None => gradient.embeddings,
                Some(total) => (total + gradient.embeddings).map_err(inference::Error::from)?,
            });
        }
        let total = total.ok_or_else(|| refused("expected at least one prompt, found none".into()))?;
        let rises = if with_values { rises } else { base_rises.to_vec() };
        Ok((total, self.value(adapted, rises)))
    }

    fn value(&self, adapted: f64, base_rises: Vec<f64>) -> Value {
        let hinge = base_rises.iter().map(|rise| rise.max(0.0)).sum::<f64>() / self.places().len() as f64;
        Value { objective: adapted - self.lambda * hinge, adapted, base_rises }
    }

    /// A target counts by its mean token, a divergence by its sum over positions.
    fn term_share(&self) -> f64 {
        if self.target.is_empty() { 1.0 } else { 1.0 / self.target.len() as f64 }
    }

    /// Values on the adapted side of some prompts, prompt by prompt: `[prompts][candidates]`, flat.
    fn adapted_values(
        &self,
        prompts: Range<usize>,
        candidates: &[Vec<u32>],
        shared: &[u32],
    ) -> Result<Vec<f64>> {
        let mut contexts = Vec::with_capacity(prompts.len() * candidates.len());
        for (slot, conditions) in self.places()[prompts.clone()].iter().zip(&self.adapted[prompts]) {
            let prefixes = self.longer_prefixes(slot, conditions, candidates, shared)?;
            for candidate in candidates {
                let agreed = agreement(candidate, shared);
                let (own, prefix) = match prefixes.get(&agreed) {
                    Some(prefix) => (&candidate[agreed..], prefix.clone()),
                    None => (candidate.as_slice(), conditions.before.clone()),
                };
                contexts.push((conditions, prefix, [own, &slot.after, &slot.answer].concat()));
            }
        }
        let scored: Vec<Scored<'_>> = contexts
            .iter()
            .map(|(conditions, prefix, ids)| self.scored(conditions, prefix.clone(), ids))
            .collect();
        self.values(&scored)
    }

    /// Prefixes that hold the first tokens of the shared trigger too, where enough candidates begin so to pay
    /// for them.
    fn longer_prefixes(
        &self,
        slot: &Slot,
        conditions: &Conditions,
        candidates: &[Vec<u32>],
        shared: &[u32],
    ) -> Result<BTreeMap<usize, Arc<Prefix>>> {
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        for candidate in candidates {
            *counts.entry(agreement(candidate, shared)).or_default() += 1;
        }
        let mut prefixes = BTreeMap::new();
        for (agreed, count) in counts {
            let ids = [&slot.before, &shared[..agreed]].concat();
            if count * agreed > ids.len() {
                self.count(ids.len(), 0);
                prefixes.insert(agreed, self.pair().prefix(&ids, conditions.before.side)?);
            }
        }
        Ok(prefixes)
    }

    /// Each candidate's rise on the base, prompt by prompt; empty lists where the base is left out.
    fn base_rises(&self, candidates: &[&[u32]]) -> Result<Vec<Vec<f64>>> {
        let mut rises = vec![Vec::new(); candidates.len()];
        if self.base.is_empty() {
            return Ok(rises);
        }
        let contexts: Vec<Vec<u32>> = self
            .places()
            .iter()
            .flat_map(|slot| {
                candidates.iter().map(|candidate| [candidate, slot.after.as_slice(), &slot.answer].concat())
            })
            .collect();
        let scored: Vec<Scored<'_>> = contexts
            .iter()
            .zip(self.base.iter().flat_map(|conditions| candidates.iter().map(move |_| conditions)))
            .map(|(ids, conditions)| self.scored(conditions, conditions.before.clone(), ids))
            .collect();
        let values = self.values(&scored)?;
        for (values, conditions) in values.chunks(candidates.len()).zip(&self.base) {
            for (rises, value) in rises.iter_mut().zip(values) {
                rises.push(value - conditions.floor);
            }
        }
        Ok(rises)
    }

    fn scored<'b>(
        &'b self,
        conditions: &'b Conditions,
        prefix: Arc<Prefix>,
        context: &'b [u32],
    ) -> Scored<'b> {
        let objective = if self.target.is_empty() {
            let Conditions { continuation, reference, .. } = conditions;
            Objective::Divergence { continuation, reference }
        } else {
            Objective::LogProbability { target: &self.target }
        };
        Scored { side: prefix.side, prefix: Some(prefix), context, objective }
    }

    fn values(&self, scored: &[Scored<'_>]) -> Result<Vec<f64>> {
        self.count(scored.iter().map(Scored::fed_len).sum(), 0);
        let share = self.term_share();
        Ok(self.pair().objective_terms(scored)?.iter().map(|terms| share * sum(terms)).collect())
    }

    fn count(&self, forwards: usize, backwards: usize) {
        let mut cost = self.cost.get();
        cost.token_forwards += forwards as u64;
        cost.gradient_tokens += backwards as u64;
        self.cost.set(cost);
    }
}

/// How many first tokens agree, short of all: a sequence needs a token of its own.
fn agreement(candidate: &[u32], shared: &[u32]) -> usize {
    candidate.iter().zip(shared).take_while(|(a, b)| a == b).count().min(candidate.len().saturating_sub(1))
}

fn sum(terms: &[f32]) -> f64 {
    terms.iter().map(|&term| f64::from(term)).sum()
}
