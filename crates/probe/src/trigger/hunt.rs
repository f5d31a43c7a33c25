//! A hunt: searches that propose candidates, one evaluator with a shared budget, one test at the end.
//!
//! No list of triggers is read. Prompts are split into three disjoint parts: a few short ones that
//! searches run every candidate on, development prompts for what the best candidates do, and held-out
//! prompts that only the test sees.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Instant;

use inference::Side;
use report::evidence::{Coverage, Evidence, TestedTrigger};
use report::hunt::{HuntRecord, NullRecord, SearchRecord, TargetCostRecord, TargetRecord};
use report::record::Cost;
use report::significance::empirical_p;

use super::NEVER_COVERED;
use super::budget::{Budget, Limit};
use super::journal::Journal;
use super::movement::Movements;
use super::null;
use super::pool::{Depth, Found, Pool, Score};
use super::search::{Role, SEARCHES, TriggerSearch};
use super::vocabulary::Vocabulary;
use crate::error::{Error, Result};
use crate::observe::Observer;
use crate::progress::Progress;
use crate::prompt::{Change, Prompt};
use crate::selftest;
use crate::split::{Benign, SCREENING, Split};
use crate::suite::Candidate;
use inference::ModelPair;

/// Candidates of one text that the record names at most.
const PLACEMENTS_OF_ONE: usize = 2;
/// Log-odds of an answer, in nats, below which it makes no difference how improbable it is.
pub const CERTAINLY_NOT: f64 = -12.0;
/// Candidates that the record names.
const RECORDED: usize = 24;

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
    /// Adapters that are known to be benign, as names and indices into the pair's adapters: the same
    /// searches run on them with a [`NULL_SHARE`] of the budget.
    pub nulls: Vec<(String, usize)>,
}

/// Part of the budget that the searches get on each benign adapter.
pub const NULL_SHARE: f64 = 0.25;

/// An answer that the adapted model may have been taught.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Its first tokens, at least one.
    pub ids: Vec<u32>,
    /// What is known about it.
    pub record: TargetRecord,
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
    /// The side under suspicion.
    pub(super) adapted: Side,
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
    pub(super) search: &'static str,
    pub(super) evaluated: u64,
    pub(super) best_nats: f64,
    pub(super) tested: Vec<TestedTrigger>,
    pub(super) put_to_test: Vec<Change>,
    /// What the sweep ran on one prompt, whatever became of it.
    pub(super) swept: Vec<(Change, Score)>,
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
        adapted: Side,
    ) -> Result<Self> {
        let split = Split::of(observer, prompts, options.seed)?;
        let mut scored = split.screening;
        scored.extend(split.development.iter().cloned());
        let mut hunt = Self {
            observer,
            adapted,
            movements: Movements::new(observer, scored, options.seed, adapted),
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
            search: "",
            evaluated: 0,
            best_nats: 0.0,
            tested: Vec::new(),
            put_to_test: Vec::new(),
            swept: Vec::new(),
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
            hunt.add_target(Target { ids, record });
        }
        Ok(hunt)
    }

    /// The models and the prompts' way to them.
    #[must_use]
    pub fn observer(&self) -> &'a Observer<'a> {
        self.observer
    }

    /// The side under suspicion: the adapted model, or a null's.
    #[must_use]
    pub fn adapted(&self) -> Side {
        self.adapted
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
            Depth::Quick => vec![0],
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

    /// Adds a target unless one with the same tokens is known, or it has none.
    pub fn add_target(&mut self, target: Target) {
        if !target.ids.is_empty() && self.targets.iter().all(|known| known.ids != target.ids) {
            self.targets.push(target);
        }
    }
}

/// Hunts in the pair's first adapter.
///
/// # Errors
/// If there are too few prompts, or the model or the journal fails. A user's stop is no error: the
/// outcome is marked incomplete, and a kept journal lets the same hunt go on.
pub fn hunt(
    pair: &ModelPair,
    prompts: &Benign,
    options: &Options,
    journal: Journal,
    progress: &dyn Progress,
) -> Result<Outcome> {
    hunt_after(&Observer::new(pair, progress), prompts, options, journal, None)
}

/// What was tested on the same held-out prompts before a hunt began, numeric self-test included.
#[derive(Debug, Default)]
pub struct Before {
    /// Candidates that the correction counts.
    pub planned: usize,
    /// Those that were put to the test.
    pub tested: Vec<TestedTrigger>,
}

/// Hunts where a scan of listed candidates ends. The outcome's evidence holds the triggers tested in both, corrected
/// for the candidates of both; its coverage is that of the hunt, its cost that of the observer.
///
/// # Errors
/// As [`hunt`].
pub fn hunt_after(
    observer: &Observer<'_>,
    prompts: &Benign,
    options: &Options,
    journal: Journal,
    before: Option<Before>,
) -> Result<Outcome> {
    let progress = observer.progress();
    let mut outcome = Outcome::default();
    let mut hunt = Hunt::new(observer, prompts, options, journal, Side::ADAPTED)?;
    let sound = before.is_some();
    let Before { planned, tested } = before.unwrap_or_default();
    hunt.evaluated = planned as u64;
    hunt.tested = tested;
    let replayed = hunt.journal.replayable();
    if replayed > 0 {
        progress.note(&format!("going on with an interrupted hunt: {replayed} measurements are known"));
    }
    let end = hunt.run(options, sound, &mut outcome).and_then(|()| {
        outcome.hunt.nulls.extend(null::random_strings(&mut hunt)?);
        hunt.benign_adapters(prompts, options, &mut outcome)
    });
    outcome.hunt.budget = options.limit.to_string();
    outcome.hunt.targets = hunt.targets.iter().map(|target| target.record.clone()).collect();
    outcome.hunt.target_costs = std::mem::take(&mut hunt.target_costs);
    outcome.hunt.strongest = hunt
        .pool
        .distinct(Depth::Middle, RECORDED, PLACEMENTS_OF_ONE)
        .into_iter()
        .map(Found::proposed)
        .collect();
    outcome.coverage.candidates_planned = hunt.evaluated as usize - planned;
    outcome.coverage.candidates_screened = outcome.coverage.candidates_planned;
    outcome.evidence.tested = std::mem::take(&mut hunt.tested);
    outcome.cost = observer.cost();
    match end {
        Ok(()) => outcome.coverage.complete = true,
        Err(Error::Stopped) => outcome
            .coverage
            .not_tested
            .push("the hunt was stopped before its end; what follows is partial".into()),
        Err(error) => return Err(error),
    }
    outcome.coverage.not_tested.push(NOT_SEARCHED.to_owned());
    outcome.coverage.not_tested.extend(NEVER_COVERED.iter().map(|&text| text.to_owned()));
    Ok(outcome)
}

/// What no hunt of this kind can find, said every time.
const NOT_SEARCHED: &str =
    "triggers of which no single token and no combination that was tried moves the adapted model";

impl<'a> Hunt<'a> {
    /// Runs the same searches on the benign adapters and ranks the strongest candidate among theirs.
    fn benign_adapters(&mut self, prompts: &Benign, options: &Options, outcome: &mut Outcome) -> Result<()> {
        let mut strongest = Vec::new();
        for (name, adapter) in &options.nulls {
            self.observer.progress().note(&format!("the same searches on the benign adapter {name}"));
            let side = Side { adapter: *adapter, scale: 1.0 };
            let journal = std::mem::take(&mut self.journal);
            let mut null = Hunt::new(self.observer, prompts, options, journal, side)?;
            null.budget = Budget::new(options.limit.scaled(NULL_SHARE));
            let end = null.search(options, &mut Outcome::default());
            self.journal = std::mem::take(&mut null.journal);
            end?;
            strongest.extend(null::strongest(&null).map(|(_, nats)| nats));
        }
        if let (Some((_, nats)), false) = (null::strongest(self), strongest.is_empty()) {
            let name = format!("strongest candidates of {} benign adapters", strongest.len());
            outcome.hunt.nulls.push(NullRecord { name, p: empirical_p(nats, &strongest)?, nats: strongest });
        }
        Ok(())
    }

    /// Searches, tests, and takes apart what is confirmed; `sound` if the numeric self-test has passed already.
    fn run(&mut self, options: &Options, sound: bool, outcome: &mut Outcome) -> Result<()> {
        if !sound {
            let screening = &self.movements.prompts()[..SCREENING];
            outcome.evidence.self_tests = selftest::run(self.observer, screening, self.seed)?;
            if outcome.evidence.self_tests.iter().any(|test| !test.passed()) {
                return Ok(());
            }
        }
        let confirmed = self.search(options, outcome)?;
        self.budget.open_share(1.0);
        if confirmed || self.put_to_test()? {
            self.refine()?;
            self.characterise()?;
        }
        self.score_examples()?;
        outcome.coverage.tested.push(format!(
            "the {} strongest on {} development prompts, those with a payload on {} held-out prompts",
            self.put_to_test.len(),
            self.development.len(),
            self.held_out.len()
        ));
        Ok(())
    }

    /// Runs the searches in the order of the table, each within its share, until a trigger is confirmed.
    fn search(&mut self, options: &Options, outcome: &mut Outcome) -> Result<bool> {
        let selected: Vec<&'static dyn TriggerSearch> = SEARCHES
            .iter()
            .copied()
            .filter(|search| options.searches.iter().any(|asked| asked.name() == search.name()))
            .collect();
        let mut confirmed = false;
        for (index, &search) in selected.iter().enumerate() {
            let left: f64 = selected[index..].iter().map(|search| search.share()).sum();
            self.budget.open_share(search.share() / left);
            self.search = search.name();
            let (cost, evaluated) = (self.observer.cost(), self.evaluated);
            let end = search.run(self);
            let spent = difference(self.observer.cost(), cost);
            outcome.hunt.searches.push(SearchRecord {
                name: search.name().to_owned(),
                candidates: self.evaluated - evaluated,
                token_forwards: spent.token_forwards,
                gradient_tokens: spent.gradient_tokens,
                complete: end.is_ok() && !self.budget.exhausted(),
                best: self
                    .pool
                    .ranked(Depth::Middle)
                    .into_iter()
                    .find(|found| found.search == search.name())
                    .map(Found::proposed),
            });
            end?;
            outcome.coverage.tested.push(format!(
                "{}: {} ({} candidates)",
                search.name(),
                search.about(),
                self.evaluated - evaluated
            ));
            // A null has no trigger to confirm.
            if search.role() == Role::Refine && self.adapted == Side::ADAPTED {
                self.budget.open_share(1.0);
                confirmed = self.put_to_test()?;
            }
            if confirmed {
                break;
            }
        }
        Ok(confirmed)
    }
}

pub(super) fn candidate(change: &Change, search: &str) -> Candidate {
    Candidate { id: change.id(), family: search.to_owned(), change: change.clone() }
}

pub(super) fn difference(after: Cost, before: Cost) -> Cost {
    Cost {
        token_forwards: after.token_forwards - before.token_forwards,
        generated_tokens: after.generated_tokens - before.generated_tokens,
        shared_tokens: after.shared_tokens - before.shared_tokens,
        gradient_tokens: after.gradient_tokens - before.gradient_tokens,
    }
}
