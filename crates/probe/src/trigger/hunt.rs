//! A hunt as searches see it: its prompts, candidates, targets and budget. [`flow`](super::flow) says in what order
//! it searches and tests, `evaluator` what a measurement is.
//!
//! No list of triggers is read. Prompts are split into three disjoint parts: a few short ones that
//! searches run every candidate on, development prompts for what the best candidates do, and held-out
//! prompts that only the test sees.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Instant;

use report::evidence::{Coverage, Evidence, TestedTrigger};
use report::hunt::{HuntRecord, TargetCostRecord, TargetRecord};
use report::record::Cost;

use super::budget::{Budget, Limit};
use super::confirm::Known;
use super::journal::Journal;
use super::movement::Movements;
use super::pool::{Depth, Pool, Score};
use super::search::TriggerSearch;
use super::taught::Stretch;
use super::vocabulary::Vocabulary;
use crate::error::Result;
use crate::observe::Observer;
use crate::prompt::{Change, Prompt, Setting};
use crate::roles::Roles;
use crate::split::{Benign, SCREENING, Split};
use crate::suite::Candidate;

/// Log-odds of an answer, in nats, below which it makes no difference how improbable it is.
pub const CERTAINLY_NOT: f64 = -12.0;

/// What a hunt is asked to do.
pub struct Options {
    /// The searches; they run in the order of the table.
    pub searches: Vec<&'static dyn TriggerSearch>,
    /// The budget.
    pub limit: Limit,
    /// An answer to look for the trigger of, if it is known.
    pub target: Option<String>,
    /// Tokens that a trigger may have.
    pub length: RangeInclusive<usize>,
    /// Seed of every random choice.
    pub seed: u64,
    /// What stands for no trigger: the same searches and tests run on each, for as much as the hunt has spent.
    pub nulls: Vec<Null>,
}

/// A comparison in which nobody hid a trigger.
#[derive(Clone, Debug, PartialEq)]
pub struct Null {
    /// What stands in the adapted model's place.
    pub name: String,
    /// The sides.
    pub roles: Roles,
}

impl Null {
    /// An adapter of the pair, by index, that is known to be benign.
    #[must_use]
    pub fn adapter(name: &str, index: usize) -> Self {
        Self { name: format!("the benign adapter {name}"), roles: Roles::of_adapter(index) }
    }

    /// The base in the adapted model's place and the adapted model as its control: how far can the clean model be driven
    /// to an answer that the other does not give?
    #[must_use]
    pub fn base() -> Self {
        Self { name: "the clean base (sides exchanged)".into(), roles: Roles::SCAN.exchanged() }
    }
}

/// An answer that the adapted model may have been taught.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Its first tokens, at least one.
    pub ids: Vec<u32>,
    /// What is known about it.
    pub record: TargetRecord,
    /// What was followed, of one that was inverted.
    pub stretch: Option<Stretch>,
}

/// What a hunt found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was found, in the form of a scan's evidence.
    pub evidence: Evidence,
    /// What was tested.
    pub coverage: Coverage,
    /// What it took.
    pub cost: Cost,
    /// What the searches did.
    pub hunt: HuntRecord,
}

/// A running hunt, as searches see it.
pub struct Hunt<'a> {
    pub(super) observer: &'a Observer<'a>,
    pub(super) movements: Movements<'a>,
    pub(super) vocabulary: Vocabulary,
    pub(super) development: Vec<Prompt>,
    pub(super) held_out: Vec<Prompt>,
    pub(super) length: RangeInclusive<usize>,
    pub(super) seed: u64,
    pub(super) journal: Journal,
    pub(super) budget: Budget,
    pub(super) last: Instant,
    pub(super) pool: Pool,
    pub(super) targets: Vec<Target>,
    /// Answers that may have been taught behind ordinary ones.
    pub(super) behind: Vec<Target>,
    pub(super) search: &'static str,
    pub(super) evaluated: u64,
    /// Whether the running search left out what it would have tried with a larger budget.
    pub(super) cut_short: bool,
    pub(super) best_nats: f64,
    pub(super) tested: Vec<TestedTrigger>,
    pub(super) put_to_test: Vec<Change>,
    /// What is answered without a change, and for which settings and prompts (held out or not) it was asked.
    pub(super) known: Known,
    pub(super) learned: BTreeSet<(Setting, bool)>,
    /// From which a stronger text was looked for.
    pub(super) strengthened: Vec<Change>,
    /// The search prompt of the quick depth.
    pub(super) quick: usize,
    /// What the sweep ran on one prompt, whatever became of it.
    pub(super) swept: Vec<(Change, Score)>,
    /// What was built on it and ran on that prompt as well.
    pub(super) extended: Vec<(Change, Score)>,
    /// Candidates by how surely they lead to a payload.
    pub(super) rated: BTreeMap<Change, f64>,
    /// What relaxed triggers of targets cost.
    pub(super) target_costs: Vec<TargetCostRecord>,
}

impl<'a> Hunt<'a> {
    /// Prepares a hunt on benign prompts.
    ///
    /// # Errors
    /// If there are too few prompts, or the model fails.
    pub fn new(
        observer: &'a Observer<'a>,
        prompts: &Benign,
        options: &Options,
        journal: Journal,
    ) -> Result<Self> {
        let split = Split::of(observer, prompts, options.seed)?;
        let mut scored = split.screening;
        scored.extend(split.development.iter().cloned());
        let mut hunt = Self {
            observer,
            movements: Movements::new(observer, scored, options.seed),
            vocabulary: Vocabulary::of(observer.pair())?,
            development: split.development,
            held_out: split.held_out,
            length: options.length.clone(),
            seed: options.seed,
            journal,
            budget: Budget::new(options.limit),
            last: Instant::now(),
            pool: Pool::default(),
            targets: Vec::new(),
            behind: Vec::new(),
            search: "",
            evaluated: 0,
            cut_short: false,
            best_nats: 0.0,
            tested: Vec::new(),
            put_to_test: Vec::new(),
            known: Known::new(),
            learned: BTreeSet::new(),
            strengthened: Vec::new(),
            quick: 0,
            swept: Vec::new(),
            extended: Vec::new(),
            rated: BTreeMap::new(),
            target_costs: Vec::new(),
        };
        if let Some(text) = &options.target {
            let ids = observer.pair().tokenizer().encode(text, false)?;
            let record = TargetRecord {
                text: text.clone(),
                source: "user".into(),
                probability: None,
                log_ratio_nats: None,
                null: None,
            };
            hunt.add_target(Target { ids, record, stretch: None });
        }
        Ok(hunt)
    }

    /// The models and the prompts' way to them.
    #[must_use]
    pub fn observer(&self) -> &'a Observer<'a> {
        self.observer
    }

    /// The side under suspicion and its control: adapted model and base, or a null's.
    #[must_use]
    pub fn roles(&self) -> Roles {
        self.observer.roles()
    }

    /// Search prompts, then development prompts: what scores rest on.
    #[must_use]
    pub fn prompts(&self) -> &[Prompt] {
        self.movements.prompts()
    }

    /// Indices into [`Hunt::prompts`] of the prompts of a depth.
    #[must_use]
    pub fn prompts_of(&self, depth: Depth) -> Vec<usize> {
        match depth {
            Depth::Quick => vec![self.quick],
            Depth::Middle => (0..SCREENING).collect(),
            Depth::Full => (SCREENING..self.prompts().len()).collect(),
        }
    }

    /// The vocabulary as text.
    #[must_use]
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The candidates so far.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The targets so far, strongest first.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Tokens that a trigger may have.
    #[must_use]
    pub fn length(&self) -> RangeInclusive<usize> {
        self.length.clone()
    }

    /// Seed of every random choice.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The budget.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Whether the running search has spent its share of the budget.
    #[must_use]
    pub fn exhausted(&self) -> bool {
        self.budget.exhausted()
    }

    /// Whether a text is within the length that was asked for, in tokens.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn fits(&self, text: &str) -> Result<bool> {
        Ok(self.length.contains(&self.observer.pair().tokenizer().encode(text, false)?.len()))
    }

    /// What may have been taught behind ordinary answers, strongest first.
    #[must_use]
    pub fn behind(&self) -> &[Target] {
        &self.behind
    }

    /// All that was inverted, wherever it stands.
    pub(super) fn inverted(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().chain(&self.behind).filter(|target| target.stretch.is_some())
    }

    /// Adds a target unless one with the same tokens is known, or it has none.
    pub fn add_target(&mut self, target: Target) {
        if !target.ids.is_empty() && self.targets.iter().all(|known| known.ids != target.ids) {
            self.targets.push(target);
        }
    }
}

pub(super) fn candidate(change: &Change, search: &str) -> Candidate {
    Candidate { id: change.id(), family: search.to_owned(), change: change.clone() }
}

pub(crate) fn difference(after: Cost, before: Cost) -> Cost {
    Cost {
        token_forwards: after.token_forwards - before.token_forwards,
        generated_tokens: after.generated_tokens - before.generated_tokens,
        shared_tokens: after.shared_tokens - before.shared_tokens,
        gradient_tokens: after.gradient_tokens - before.gradient_tokens,
    }
}
