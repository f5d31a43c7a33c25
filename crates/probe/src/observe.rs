//! Running prompts on both sides: next-token distributions and continuations, streamed.
//!
//! Contexts that begin alike (system prompt, template head) share the keys and values of that
//! beginning. Distributions are handed on batch by batch, so memory does not grow with the suite.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use candle_core::{DType, Device};
use inference::generate::{Context, Decoding};
use inference::{Activations, Batch, ModelPair, Output, Positions, Prefix, Sequence, Side};
use rayon::prelude::*;
use report::divergence::log_softmax_in_place;
use report::record::Cost;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::memory::{self, Memory, Recalled};
use crate::progress::{self, Progress};
use crate::prompt::Scene;
use crate::roles::Roles;
use crate::sharing::{Plan, PrefixKey, prefix_key};

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

/// What a pass shows at one position.
#[derive(Debug)]
pub struct Seen<'a> {
    /// The inner states of its batch.
    pub states: &'a Activations,
    /// Its row among them.
    pub row: usize,
    /// Natural log-probabilities of the next token, `[vocabulary]`.
    pub log_probabilities: &'a [f32],
}

/// The rows of logits, normalised.
fn log_probabilities(output: &Output) -> Result<Distributions> {
    let mut rows = output
        .logits
        .to_dtype(DType::F32)
        .and_then(|logits| logits.to_device(&Device::Cpu))
        .and_then(|logits| logits.to_vec2::<f32>())
        .map_err(inference::Error::from)?;
    rows.par_iter_mut().map(|row| log_softmax_in_place(row)).collect::<Result<(), _>>()?;
    Ok(rows)
}

/// Takes the responses of a batch and the index of its first.
type Kept<'a> = dyn Fn(usize, &[Response]) -> Result<()> + 'a;

/// Runs requests on a model pair and counts what they cost.
pub struct Observer<'a> {
    pair: &'a ModelPair,
    progress: &'a dyn Progress,
    roles: Roles,
    memory: Option<&'a Memory>,
    cost: Cell<Cost>,
    /// Shared beginnings that are in memory.
    prefixes: RefCell<BTreeMap<PrefixKey, Arc<Prefix>>>,
    /// Those that would be if nothing were remembered: what the cost rests on.
    charged: RefCell<BTreeSet<PrefixKey>>,
}

impl<'a> Observer<'a> {
    /// An observer of a pair's first adapter and its base.
    #[must_use]
    pub fn new(pair: &'a ModelPair, progress: &'a dyn Progress) -> Self {
        Self::in_roles(pair, progress, Roles::SCAN)
    }

    /// An observer of two sides of a pair.
    #[must_use]
    pub fn in_roles(pair: &'a ModelPair, progress: &'a dyn Progress, roles: Roles) -> Self {
        Self {
            pair,
            progress,
            roles,
            memory: None,
            cost: Cell::default(),
            prefixes: RefCell::default(),
            charged: RefCell::default(),
        }
    }

    /// An observer that looks up what was measured before, and keeps what it measures.
    #[must_use]
    pub fn with_memory(pair: &'a ModelPair, progress: &'a dyn Progress, memory: &'a Memory) -> Self {
        Self { memory: Some(memory), ..Self::new(pair, progress) }
    }

    /// An observer of the same pair in the same roles that has cost as much, and remembers nothing.
    #[must_use]
    pub fn without_memory(&self) -> Self {
        let observer = Self::in_roles(self.pair, self.progress, self.roles);
        observer.charge(self.cost());
        observer
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
        self.charged.borrow_mut().clear();
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
        self.count_contexts(requests);
        self.run(requests)
    }

    /// What `reduce` makes of the distributions of each `group` of requests, in order; it is given the group's index. What
    /// is remembered of a group under `kind` and `given` is not run again.
    ///
    /// # Errors
    /// If the model or the memory fails, or the user stops.
    pub fn reduced<T: Serialize + DeserializeOwned>(
        &self,
        kind: &str,
        given: &[&str],
        requests: &[Request],
        group: usize,
        reduce: impl Fn(usize, &[Distributions]) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.count_contexts(requests);
        let key = |index: usize, own: &[Request]| memory::key(kind, &given.get(index), own);
        let Recalled { keys, mut known, missing, requests: picked } =
            Recalled::<T>::of(self.memory, requests, group, key)?;
        for (&index, rows) in missing.iter().zip(self.run(&picked)?.chunks(group)) {
            known[index] = Some(reduce(index, rows)?);
        }
        if let Some(memory) = self.memory {
            let new: Vec<_> = missing
                .iter()
                .filter_map(|&i| known[i].as_ref().map(|value| (keys[i].clone(), value)))
                .collect();
            memory.keep(&new)?;
        }
        Ok(known.into_iter().flatten().collect())
    }

    /// Distributions of requests whose cost is counted already.
    fn run(&self, requests: &[Request]) -> Result<Vec<Distributions>> {
        let mut results: Vec<Distributions> = vec![Vec::new(); requests.len()];
        self.in_batches(requests, |batch| {
            for (index, rows) in self.run_batch(requests, batch)? {
                results[index] = rows;
            }
            Ok(())
        })?;
        Ok(results)
    }

    /// Inner states and distributions at the end of each request's context, handed on batch by batch with the index of
    /// the request. A `continuation` is not used.
    ///
    /// # Errors
    /// If the model fails, an adapter has another number of layers than the base, or the user stops.
    pub fn activations(
        &self,
        requests: &[Request],
        mut each: impl FnMut(usize, &Seen<'_>) -> Result<()>,
    ) -> Result<()> {
        self.count_contexts(requests);
        self.in_batches(requests, |batch| {
            let run = |forward: &mut Batch<'_, '_>| self.pair.forward_captured(forward);
            let ((output, states), wanted) = self.pass(requests, batch, run)?;
            let log_probabilities = log_probabilities(&output)?;
            let mut row = 0;
            for (&(index, _), wanted) in batch.iter().zip(wanted) {
                each(index, &Seen { states: &states, row, log_probabilities: &log_probabilities[row] })?;
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
        let mut rows = log_probabilities(&output)?.into_iter();
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
            self.spend(own.len());
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

    /// Greedy or sampled continuations as text, in request order; `continuation` is not used. What is remembered is not
    /// generated again; of sampled ones, only all together are.
    ///
    /// # Errors
    /// If the model or the memory fails, or the user stops.
    pub fn responses(
        &self,
        requests: &[Request],
        max_new: usize,
        decoding: Decoding,
    ) -> Result<Vec<Response>> {
        self.count_contexts(requests);
        let Some(memory) = self.memory else {
            let responses = self.generate(requests, max_new, decoding, None)?;
            responses.iter().for_each(|response| self.count_generated(response));
            return Ok(responses);
        };
        let greedy = matches!(decoding, Decoding::Greedy);
        let given = if greedy { format!("greedy {max_new}") } else { format!("{decoding:?} {max_new}") };
        // Random streams go by the place in the list.
        let group = if greedy { 1 } else { requests.len().max(1) };
        let key = |_: usize, own: &[Request]| memory::key("responses", &given, own);
        let Recalled { keys, mut known, missing, requests: picked } =
            Recalled::<Vec<Response>>::of(Some(memory), requests, group, key)?;
        self.progress.advance((known.len() - missing.len()) * group);
        if greedy {
            let kept = |start: usize, responses: &[Response]| {
                let responses: Vec<_> = responses.iter().map(|response| vec![response.clone()]).collect();
                let entries: Vec<_> =
                    responses.iter().zip(&missing[start..]).map(|(r, &i)| (keys[i].clone(), r)).collect();
                memory.keep(&entries)
            };
            let responses = self.generate(&picked, max_new, decoding, Some(&kept))?;
            for (&index, response) in missing.iter().zip(responses) {
                known[index] = Some(vec![response]);
            }
        } else if let [index] = missing[..] {
            let responses = self.generate(&picked, max_new, decoding, None)?;
            memory.keep(&[(keys[index].clone(), &responses)])?;
            known[index] = Some(responses);
        }
        let responses: Vec<Response> = known.into_iter().flatten().flatten().collect();
        responses.iter().for_each(|response| self.count_generated(response));
        Ok(responses)
    }

    /// Continuations of requests whose contexts are counted already; `kept` is given those of each batch as soon as it is
    /// through, and the index of its first.
    fn generate(
        &self,
        requests: &[Request],
        max_new: usize,
        decoding: Decoding,
        kept: Option<&Kept<'_>>,
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
                    self.spend(requests[i].ids.len() - shared);
                    Context {
                        ids: &requests[i].ids[shared..],
                        side: requests[i].side,
                        prefix: prefixes[i].clone(),
                    }
                })
                .collect();
            // The streams are those of one batch, however many it is cut into.
            for continuation in self.pair.generate(&contexts, max_new, decoding.after(start))? {
                self.spend(continuation.ids.len().saturating_sub(1));
                let text = self.pair.tokenizer().decode(&continuation.ids, false)?;
                results.push(Response { text, ids: continuation.ids, ended: continuation.ended });
            }
            if let Some(kept) = kept {
                kept(start, &results[start..])?;
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
            self.prefixes.borrow_mut().clear();
        }
        let plan = Plan::of(requests);
        let mut computed: Vec<Arc<Prefix>> = Vec::with_capacity(plan.nodes.len());
        for node in &plan.nodes {
            let parent = node.parent.map(|parent| &computed[parent]);
            computed.push(self.prefix(&requests[node.request], node.len, parent)?);
        }
        Ok(plan.of.iter().map(|node| node.map(|node| computed[node].clone())).collect())
    }

    /// The first `len` tokens of a request as a prefix that continues `parent`.
    fn prefix(&self, request: &Request, len: usize, parent: Option<&Arc<Prefix>>) -> Result<Arc<Prefix>> {
        let key = prefix_key(request, len);
        if let Some(known) = self.prefixes.borrow().get(&key) {
            return Ok(known.clone());
        }
        let prefix = match parent {
            Some(parent) => self.pair.prefix_after(parent, &request.ids[parent.len..len])?,
            None => self.pair.prefix(&request.ids[..len], request.side)?,
        };
        self.spend(len - parent.map_or(0, |parent| parent.len));
        self.prefixes.borrow_mut().insert(key, prefix.clone());
        Ok(prefix)
    }

    /// Counts what the contexts of requests and their continuations take where nothing is remembered.
    fn count_contexts(&self, requests: &[Request]) {
        let mut charged = self.charged.borrow_mut();
        if charged.iter().map(|(_, _, ids)| ids.len()).sum::<usize>() > self.pair.prefix_limit() {
            charged.clear();
        }
        let plan = Plan::of(requests);
        for node in &plan.nodes {
            if charged.insert(prefix_key(&requests[node.request], node.len)) {
                self.count(node.len - node.parent.map_or(0, |parent| plan.nodes[parent].len), 0, 0);
            }
        }
        for (index, request) in requests.iter().enumerate() {
            let shared = plan.shared(index);
            self.count(request.ids.len() - shared + request.continuation.len(), 0, shared);
        }
    }

    fn count_generated(&self, response: &Response) {
        self.count(response.ids.len().saturating_sub(1), response.ids.len(), 0);
    }

    /// Tells the memory what was really run.
    fn spend(&self, tokens: usize) {
        if let Some(memory) = self.memory {
            memory.spend(tokens as u64);
        }
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Text without special tokens.
    pub text: String,
    /// Tokens.
    pub ids: Vec<u32>,
    /// Whether the model ended it.
    pub ended: bool,
}
