//! Running prompts on both sides: next-token distributions and continuations, streamed.
//!
//! Contexts that begin alike (system prompt, template head) share the keys and values of that
//! beginning. Distributions are handed on batch by batch, so memory does not grow with the suite.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device};
use inference::generate::{Context, Decoding};
use inference::{Activations, Batch, ModelPair, Positions, Prefix, Sequence, Side};
use rayon::prelude::*;
use report::divergence::log_softmax_in_place;
use report::record::Cost;

use crate::error::Result;
use crate::progress::{self, Progress};
use crate::prompt::Scene;
use crate::roles::Roles;

/// A shared beginning must pay for its own pass: so many tokens at least, and so many saved.
const MIN_SHARED: usize = 8;
const MIN_SAVED: usize = 48;

/// A context and the side that sees it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Tokens of the rendered conversation.
    pub ids: Vec<u32>,
    /// Which model.
    pub side: Side,
    /// Tokens of a common continuation: the distribution is also taken after each of them.
    pub continuation: Vec<u32>,
}

/// Next-token log-probabilities in nats, one row of vocabulary size a position.
pub type Distributions = Vec<Vec<f32>>;

/// Runs requests on a model pair and counts what they cost.
pub struct Observer<'a> {
    pair: &'a ModelPair,
    progress: &'a dyn Progress,
    roles: Roles,
    cost: Cell<Cost>,
    prefixes: RefCell<BTreeMap<PrefixKey, Arc<Prefix>>>,
}

/// Side (adapter, bits of the scale) and tokens.
type PrefixKey = (usize, u32, Vec<u32>);

impl<'a> Observer<'a> {
    /// An observer of a pair's first adapter and its base.
    #[must_use]
    pub fn new(pair: &'a ModelPair, progress: &'a dyn Progress) -> Self {
        Self::in_roles(pair, progress, Roles::SCAN)
    }

    /// An observer of two sides of a pair.
    #[must_use]
    pub fn in_roles(pair: &'a ModelPair, progress: &'a dyn Progress, roles: Roles) -> Self {
        Self { pair, progress, roles, cost: Cell::default(), prefixes: RefCell::default() }
    }

    /// Which side stands for the adapted model, and which for its base.
    #[must_use]
    pub fn roles(&self) -> Roles {
        self.roles
    }

    /// The models.
    #[must_use]
    pub fn pair(&self) -> &'a ModelPair {
        self.pair
    }

    /// Where progress is told.
    #[must_use]
    pub fn progress(&self) -> &'a dyn Progress {
        self.progress
    }

    /// What the requests have cost so far.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.cost.get()
    }

    /// Counts work that was done, or replayed, outside of this observer.
    pub fn charge(&self, more: Cost) {
        let mut cost = self.cost.get();
        cost.token_forwards += more.token_forwards;
        cost.generated_tokens += more.generated_tokens;
        cost.shared_tokens += more.shared_tokens;
        cost.gradient_tokens += more.gradient_tokens;
        self.cost.set(cost);
    }

    /// Forgets shared beginnings, so that what follows costs the same whatever was run before.
    pub fn forget_prefixes(&self) {
        self.prefixes.borrow_mut().clear();
    }

    /// Tokens of a scene.
    ///
    /// # Errors
    /// If the template or the tokenizer refuses it.
    pub fn encode(&self, scene: &Scene) -> Result<Vec<u32>> {
        Ok(self.pair.encode(&scene.turns)?)
    }

    /// Distributions after each request's context and along its continuation, in request order:
    /// `1 + continuation.len()` rows a request.
    ///
    /// # Errors
    /// If the model fails or the user stops.
    pub fn distributions(&self, requests: &[Request]) -> Result<Vec<Distributions>> {
        let mut results: Vec<Distributions> = vec![Vec::new(); requests.len()];
        self.in_batches(requests, |batch| {
            for (index, rows) in self.run_batch(requests, batch)? {
                results[index] = rows;
            }
            Ok(())
        })?;
        Ok(results)
    }

    /// Inner states at the end of each request's context, handed on batch by batch: the request, the states of its
    /// batch, and its row among them. A `continuation` is not used.
    ///
    /// # Errors
    /// If the model fails, an adapter has another number of layers than the base, or the user stops.
    pub fn activations(
        &self,
        requests: &[Request],
        mut each: impl FnMut(usize, &Activations, usize) -> Result<()>,
    ) -> Result<()> {
        self.in_batches(requests, |batch| {
            let run = |forward: &mut Batch<'_, '_>| self.pair.forward_captured(forward);
            let ((_, activations), wanted) = self.pass(requests, batch, run)?;
            let mut row = 0;
            for (&(index, _), wanted) in batch.iter().zip(wanted) {
                each(index, &activations, row)?;
                row += wanted;
            }
            Ok(())
        })
    }

    /// Runs batches of requests of about equal length, with the prefixes that they share with others.
    fn in_batches(
        &self,
        requests: &[Request],
        mut run: impl FnMut(&[(usize, Option<Arc<Prefix>>)]) -> Result<()>,
    ) -> Result<()> {
        let prefixes = self.shared_prefixes(requests)?;
        let mut order: Vec<usize> = (0..requests.len()).collect();
        // Neighbours of one side and length form runs that the attention takes together.
        order.sort_by_key(|&i| {
            let own = requests[i].ids.len() - prefixes[i].as_ref().map_or(0, |prefix| prefix.len);
            (
                own + requests[i].continuation.len(),
                requests[i].side.adapter,
                requests[i].side.scale.to_bits(),
                i,
            )
        });
        let mut start = 0;
        while start < order.len() {
            progress::check(self.progress)?;
            let end = self.batch_end(requests, &prefixes, &order, start);
            let batch: Vec<_> = order[start..end].iter().map(|&i| (i, prefixes[i].clone())).collect();
            run(&batch)?;
            start = end;
        }
        Ok(())
    }

    fn batch_end(
        &self,
        requests: &[Request],
        prefixes: &[Option<Arc<Prefix>>],
        order: &[usize],
        start: usize,
    ) -> usize {
        let (mut rows, mut logits) = (0, 0);
        for (position, &i) in order.iter().enumerate().skip(start) {
            let request = &requests[i];
            rows += request.ids.len() - prefixes[i].as_ref().map_or(0, |prefix| prefix.len)
                + request.continuation.len();
            logits += 1 + request.continuation.len();
            if position > start && (rows > self.pair.row_limit() || logits > self.pair.logit_row_limit()) {
                return position;
            }
        }
        order.len()
    }

    fn run_batch(
        &self,
        requests: &[Request],
        batch: &[(usize, Option<Arc<Prefix>>)],
    ) -> Result<Vec<(usize, Distributions)>> {
        let (output, wanted) = self.pass(requests, batch, |forward| self.pair.forward(forward))?;
        let mut rows = output
            .logits
            .to_dtype(DType::F32)
            .and_then(|logits| logits.to_device(&Device::Cpu))
            .and_then(|logits| logits.to_vec2::<f32>())
            .map_err(inference::Error::from)?;
        rows.par_iter_mut().map(|row| log_softmax_in_place(row)).collect::<Result<(), _>>()?;
        let mut rows = rows.into_iter();
        Ok(batch
            .iter()
            .zip(&wanted)
            .map(|((i, _), &wanted)| (*i, rows.by_ref().take(wanted).collect()))
            .collect())
    }

    /// One forward pass of some requests after their prefixes, and how many positions of each it was wanted at.
    fn pass<T>(
        &self,
        requests: &[Request],
        batch: &[(usize, Option<Arc<Prefix>>)],
        run: impl FnOnce(&mut Batch<'_, '_>) -> inference::Result<T>,
    ) -> Result<(T, Vec<usize>)> {
        let mut ids = Vec::with_capacity(batch.len());
        let mut wanted = Vec::with_capacity(batch.len());
        for (i, prefix) in batch {
            let i = *i;
            let shared = prefix.as_ref().map_or(0, |prefix| prefix.len);
            let own: Vec<u32> =
                requests[i].ids[shared..].iter().chain(&requests[i].continuation).copied().collect();
            let last = requests[i].ids.len() - shared - 1;
            wanted.push((last..own.len()).collect::<Vec<_>>());
            self.count(own.len(), 0, shared);
            ids.push(own);
        }
        let mut sequences: Vec<Sequence<'_>> = batch
            .iter()
            .zip(&ids)
            .map(|((i, prefix), ids)| match prefix {
                Some(prefix) => Sequence::after(prefix, ids),
                None => Sequence::new(ids, requests[*i].side),
            })
            .collect();
        let mut forward = Batch {
            sequences: &mut sequences,
            embeddings: None,
            positions: Positions::Chosen(&wanted),
            hidden_states: false,
        };
        let output = run(&mut forward)?;
        Ok((output, wanted.iter().map(Vec::len).collect()))
    }

    /// Greedy or sampled continuations as text, in request order; `continuation` is not used.
    ///
    /// # Errors
    /// If the model fails or the user stops.
    pub fn responses(
        &self,
        requests: &[Request],
        max_new: usize,
        decoding: Decoding,
    ) -> Result<Vec<Response>> {
        let prefixes = self.shared_prefixes(requests)?;
        let mut results = Vec::with_capacity(requests.len());
        let own = |i: usize| requests[i].ids.len() - prefixes[i].as_ref().map_or(0, |prefix| prefix.len);
        let longest = (0..requests.len()).map(own).max().unwrap_or(0) + max_new;
        let together = self.pair.decode_limit(longest);
        for start in (0..requests.len()).step_by(together) {
            progress::check(self.progress)?;
            let end = (start + together).min(requests.len());
            let contexts: Vec<Context<'_>> = (start..end)
                .map(|i| {
                    let shared = prefixes[i].as_ref().map_or(0, |prefix| prefix.len);
                    self.count(requests[i].ids.len() - shared, 0, shared);
                    Context {
                        ids: &requests[i].ids[shared..],
                        side: requests[i].side,
                        prefix: prefixes[i].clone(),
                    }
                })
                .collect();
            // The streams are those of one batch, however many it is cut into.
            for continuation in self.pair.generate(&contexts, max_new, decoding.after(start))? {
                self.count(continuation.ids.len().saturating_sub(1), continuation.ids.len(), 0);
                let text = self.pair.tokenizer().decode(&continuation.ids, false)?;
                results.push(Response { text, ids: continuation.ids, ended: continuation.ended });
            }
            self.progress.advance(end - start);
        }
        Ok(results)
    }

    /// The longest beginning that each request shares with others of its side, computed once. Beginnings
    /// form a tree: a template's head, then a prompt, then what several candidates have in common.
    fn shared_prefixes(&self, requests: &[Request]) -> Result<Vec<Option<Arc<Prefix>>>> {
        let kept: usize = self.prefixes.borrow().values().map(|prefix| prefix.len).sum();
        if kept > self.pair.prefix_limit() {
            self.forget_prefixes();
        }
        let mut order: Vec<usize> = (0..requests.len()).collect();
        let side = |i: usize| (requests[i].side.adapter, requests[i].side.scale.to_bits());
        order.sort_by(|&i, &j| side(i).cmp(&side(j)).then_with(|| requests[i].ids.cmp(&requests[j].ids)));
        let mut prefixes = vec![None; requests.len()];
        for group in order.chunk_by(|&i, &j| side(i) == side(j)) {
            self.share(requests, group, None, &mut prefixes)?;
        }
        Ok(prefixes)
    }

    /// Gives the requests of a group, which are sorted and begin with `parent`, their prefixes.
    fn share(
        &self,
        requests: &[Request],
        group: &[usize],
        parent: Option<&Arc<Prefix>>,
        prefixes: &mut [Option<Arc<Prefix>>],
    ) -> Result<()> {
        let (Some(&first), Some(&last)) = (group.first(), group.last()) else { return Ok(()) };
        let ids = |i: usize| &requests[i].ids;
        let shared = parent.map_or(0, |prefix| prefix.len);
        // Of sorted lists, the first and the last have the least in common. At least one token of each context
        // stays its own: its row gives the first distribution.
        let common = ids(first).iter().zip(ids(last)).take_while(|(a, b)| a == b).count();
        let shortest = group.iter().map(|&i| ids(i).len()).min().unwrap_or(0);
        let common = common.min(shortest.saturating_sub(1));
        let new = common.saturating_sub(shared);
        if group.len() > 1 && new >= MIN_SHARED && (group.len() - 1) * new >= MIN_SAVED {
            let prefix = self.prefix(&requests[first], common, parent)?;
            return self.share(requests, group, Some(&prefix), prefixes);
        }
        let branch = |i: usize| ids(i).get(common.max(shared));
        for part in group.chunk_by(|&i, &j| branch(i) == branch(j)) {
            if part.len() == group.len() || part.len() == 1 {
                for &i in part {
                    prefixes[i] = parent.cloned();
                }
            } else {
                self.share(requests, part, parent, prefixes)?;
            }
        }
        Ok(())
    }

    /// The first `len` tokens of a request as a prefix that continues `parent`.
    fn prefix(&self, request: &Request, len: usize, parent: Option<&Arc<Prefix>>) -> Result<Arc<Prefix>> {
        let key = (request.side.adapter, request.side.scale.to_bits(), request.ids[..len].to_vec());
        if let Some(known) = self.prefixes.borrow().get(&key) {
            return Ok(known.clone());
        }
        let prefix = match parent {
            Some(parent) => self.pair.prefix_after(parent, &request.ids[parent.len..len])?,
            None => self.pair.prefix(&request.ids[..len], request.side)?,
        };
        self.count(len - parent.map_or(0, |parent| parent.len), 0, 0);
        self.prefixes.borrow_mut().insert(key, prefix.clone());
        Ok(prefix)
    }

    fn count(&self, forwards: usize, generated: usize, shared: usize) {
        self.charge(Cost {
            token_forwards: forwards as u64,
            generated_tokens: generated as u64,
            shared_tokens: shared as u64,
            ..Cost::default()
        });
    }
}

/// A continuation as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Text without special tokens.
    pub text: String,
    /// Tokens.
    pub ids: Vec<u32>,
    /// Whether the model ended it.
    pub ended: bool,
}
