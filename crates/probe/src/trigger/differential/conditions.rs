//! What all triggers on a prompt have in common: run once, before the search.

use std::collections::BTreeMap;
use std::sync::Arc;

use inference::generate::{Context, Decoding};
use inference::gradient::{Objective, Scored};
use inference::{Prefix, Side};

use super::{Differential, Goal};
use crate::error::Result;
use crate::observe::{Distributions, Observer, Request};
use crate::progress::Silent;

/// What one prompt is on one side.
pub(super) struct Conditions {
    /// Keys and values of the tokens before the trigger.
    pub(super) before: Arc<Prefix>,
    /// For divergences: the base's answer, and this side's distributions along it without a trigger.
    pub(super) continuation: Vec<u32>,
    pub(super) reference: Distributions,
    /// The objective without a trigger.
    pub(super) floor: f64,
}

impl Differential<'_> {
    /// Runs what all triggers have in common on one side.
    pub(super) fn conditions(&self, side: Side, goal: &Goal) -> Result<Vec<Conditions>> {
        let mut known: BTreeMap<&[u32], Arc<Prefix>> = BTreeMap::new();
        let mut conditions = Vec::new();
        let references = match goal {
            Goal::Target(_) | Goal::Behind(_) => {
                vec![(Vec::new(), Distributions::new()); self.places().len()]
            }
            Goal::Divergence(positions) => self.references(side, *positions)?,
        };
        for (slot, (continuation, reference)) in self.places().iter().zip(references) {
            let before = match known.get(slot.before.as_slice()) {
                Some(prefix) => prefix.clone(),
                None => {
                    self.count(slot.before.len(), 0);
                    let prefix = self.pair().prefix(&slot.before, side)?;
                    known.insert(&slot.before, prefix.clone());
                    prefix
                }
            };
            conditions.push(Conditions { before, continuation, reference, floor: 0.0 });
        }
        // Without a trigger a divergence is zero; a target has the probability that it has.
        if !self.target.is_empty() {
            let objective = Objective::LogProbability { target: &self.target };
            let scored: Vec<Scored<'_>> = self
                .places()
                .iter()
                .map(|slot| Scored { side, prefix: None, context: &slot.clean, objective })
                .collect();
            for (conditions, floor) in conditions.iter_mut().zip(self.values(&scored)?) {
                conditions.floor = floor;
            }
        }
        Ok(conditions)
    }

    /// For each prompt without a trigger, the base's first greedy tokens and this side's distributions along them.
    fn references(&self, side: Side, positions: usize) -> Result<Vec<(Vec<u32>, Distributions)>> {
        let contexts: Vec<Context<'_>> = self
            .places()
            .iter()
            .map(|slot| Context { ids: &slot.clean, side: self.roles.base, prefix: None })
            .collect();
        let continuations = self.pair().generate(&contexts, positions - 1, Decoding::Greedy)?;
        self.count(contexts.iter().map(|context| context.ids.len()).sum(), 0);
        self.count(continuations.iter().map(|found| found.ids.len()).sum(), 0);
        let requests: Vec<Request> = self
            .places()
            .iter()
            .zip(&continuations)
            .map(|(slot, found)| Request { ids: slot.clean.clone(), side, continuation: found.ids.clone() })
            .collect();
        let observer = Observer::new(self.pair(), &Silent);
        let distributions = observer.distributions(&requests)?;
        self.count(observer.cost().token_forwards as usize, 0);
        Ok(continuations.into_iter().map(|found| found.ids).zip(distributions).collect())
    }
}
