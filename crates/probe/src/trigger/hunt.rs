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
use report::hunt::{HuntRecord, NullRecord, SearchRecord, TargetRecord};
use report::record::Cost;
use report::significance::empirical_p;
use report::verdict::Thresholds;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::budget::{Budget, GRADIENT_COST, Limit};
use super::confirm::{self, Finalist, TestPrompts};
use super::journal::{self, Entry, Journal};
use super::movement::{Moved, Movements, Question};
use super::null;
use super::pool::{Depth, Found, Pool, Score};
use super::search::{Role, SEARCHES, TriggerSearch};
use super::vocabulary::Vocabulary;
use crate::error::{Error, Result};
use crate::observe::Observer;
use crate::progress::Progress;
use crate::prompt::{Change, Prompt, Setting, scene};
use crate::selftest;
use crate::split::{SCREENING, Split};
use crate::suite::Candidate;
use inference::ModelPair;

/// Candidates of one entry of the journal, by depth.
const CHUNK: [usize; 3] = [1024, 256, 64];
/// Candidates that one round of the test looks at, and of one text at most.
const FINALISTS: usize = 10;
const PLACEMENTS_OF_ONE: usize = 2;
/// Candidates with this part of the strongest one's score are nearly alike.
const ALIKE: f64 = 0.9;
/// Log-probability of an answer, in nats, below which it makes no difference how improbable it is.
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
    observer: &'a Observer<'a>,
    /// The side under suspicion.
    adapted: Side,
    movements: Movements<'a>,
    vocabulary: Vocabulary,
    development: Vec<Prompt>,
    held_out: Vec<Prompt>,
    length: RangeInclusive<usize>,
    seed: u64,
    journal: Journal,
    budget: Budget,
    last: Instant,
    pool: Pool,
    targets: Vec<Target>,
    search: &'static str,
    evaluated: u64,
    best_nats: f64,
    tested: Vec<TestedTrigger>,
    put_to_test: Vec<Change>,
    /// Candidates by how surely they lead to a payload.
    rated: BTreeMap<Change, f64>,
}

impl<'a> Hunt<'a> {
    /// Prepares a hunt on benign prompts.
    ///
    /// # Errors
    /// If there are too few prompts, or the model fails.
    pub fn new(
        observer: &'a Observer<'a>,
        prompts: &[Prompt],
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
            rated: BTreeMap::new(),
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

    /// Runs a measurement, or reads it from the journal of an interrupted hunt. `stage` and `input`
    /// must say what is measured to the last detail; what `work` gives must depend on nothing else.
    /// Gradient steps tell the observer what they cost through [`Observer::charge`].
    ///
    /// # Errors
    /// As `work`, or if the journal fails.
    pub fn measured<T: Serialize + DeserializeOwned>(
        &mut self,
        stage: &str,
        input: &impl Serialize,
        work: impl FnOnce(&Self) -> Result<T>,
    ) -> Result<T> {
        let key = journal::key(&(self.adapted.adapter, self.search, stage, input))?;
        if let Some(entry) = self.journal.next(stage, &key)? {
            self.observer.charge(entry.cost);
            self.spend(entry.cost, entry.seconds);
            self.last = Instant::now();
            return serde_json::from_value(entry.result)
                .map_err(|error| self.journal.error(format!("`{stage}` {key}: {error}")));
        }
        self.observer.forget_prefixes();
        let before = self.observer.cost();
        let result = work(self)?;
        let cost = difference(self.observer.cost(), before);
        let seconds = self.last.elapsed().as_secs_f64();
        self.last = Instant::now();
        let value = serde_json::to_value(&result)
            .map_err(|error| self.journal.error(format!("`{stage}` {key}: {error}")))?;
        self.journal.write(&Entry { stage: stage.to_owned(), key, cost, seconds, result: value })?;
        self.spend(cost, seconds);
        Ok(result)
    }

    /// Scores changes at a depth without keeping them: what is no candidate, such as a null.
    ///
    /// # Errors
    /// As [`Hunt::evaluate`].
    pub fn scores(&mut self, depth: Depth, changes: &[Change], base: bool) -> Result<Vec<Score>> {
        self.movements.prepare(changes)?;
        let prompts = self.prompts_of(depth);
        let targets: Vec<u32> = self.targets.iter().map(|target| target.ids[0]).collect();
        self.measured("evaluate", &(depth, changes, base, &targets), |hunt| {
            let measure = |side| {
                let question = Question { prompts: &prompts, side, targets: &targets, continuation: &[] };
                hunt.movements.measure(changes, question, &hunt.vocabulary)
            };
            let adapted = measure(hunt.adapted)?;
            let base = if base { Some(measure(Side::BASE)?) } else { None };
            Ok((0..changes.len())
                .map(|i| {
                    let base = base.as_ref().map(|base| base[i].as_slice());
                    hunt.score(depth, &prompts, &targets, changes[i].setting(), &adapted[i], base)
                })
                .collect())
        })
    }

    /// Scores changes at a depth. `base` says whether the base is run too. The list is shorter than
    /// `changes` if the running search's share ends on the way. From two prompts on, what is scored
    /// is kept in the pool, with `parents` as the texts that it was made from.
    ///
    /// # Errors
    /// If the model or the journal fails, or the user stops.
    pub fn evaluate(
        &mut self,
        depth: Depth,
        changes: &[Change],
        base: bool,
        parents: impl Fn(usize) -> Vec<String>,
    ) -> Result<Vec<Score>> {
        let mut scores = Vec::with_capacity(changes.len());
        for chunk in changes.chunks(CHUNK[depth as usize]) {
            if self.exhausted() {
                break;
            }
            let of_chunk = self.scores(depth, chunk, base)?;
            self.evaluated += chunk.len() as u64;
            self.observer.progress().advance(chunk.len());
            for (change, score) in chunk.iter().zip(&of_chunk) {
                if score.prompts > 1 {
                    self.keep(change, score, parents(scores.len()));
                }
                scores.push(score.clone());
            }
        }
        Ok(scores)
    }

    /// How surely the adapted model, and not the base, gives a whole continuation after each change: mean
    /// over the prompts of a depth of `log p_A - log p_B`, in nats, both taken for [`CERTAINLY_NOT`] where
    /// they are below; without `base` the base's is taken for that. Shorter than `changes` if the share ends
    /// on the way. At full depth the rating is kept and decides what is put to the test.
    ///
    /// # Errors
    /// As [`Hunt::evaluate`].
    pub fn rate(
        &mut self,
        depth: Depth,
        changes: &[Change],
        continuation: &[u32],
        base: bool,
    ) -> Result<Vec<f64>> {
        self.movements.prepare(changes)?;
        let prompts = self.prompts_of(depth);
        let mut ratings = Vec::with_capacity(changes.len());
        for chunk in changes.chunks(CHUNK[depth as usize]) {
            if self.exhausted() {
                break;
            }
            let of_chunk: Vec<f64> = self.measured("rate", &(depth, chunk, continuation, base), |hunt| {
                let means = |side| -> Result<Vec<f64>> {
                    let question = Question { prompts: &prompts, side, targets: &[], continuation };
                    let moved = hunt.movements.measure(chunk, question, &hunt.vocabulary)?;
                    let nats = |moved: &Moved| moved.continuation.unwrap_or(CERTAINLY_NOT).max(CERTAINLY_NOT);
                    Ok(moved.iter().map(|moved| mean(moved.iter().map(nats))).collect())
                };
                let adapted = means(hunt.adapted)?;
                let base = if base { means(Side::BASE)? } else { vec![CERTAINLY_NOT; chunk.len()] };
                Ok(adapted.iter().zip(&base).map(|(adapted, base)| adapted - base).collect())
            })?;
            self.evaluated += chunk.len() as u64;
            if depth == Depth::Full && base {
                self.rated.extend(chunk.iter().cloned().zip(of_chunk.iter().copied()));
            }
            ratings.extend(of_chunk);
        }
        Ok(ratings)
    }

    /// What candidates make the adapted model answer on the development prompts.
    ///
    /// # Errors
    /// If the model or the journal fails, or the user stops.
    pub fn develop(&mut self, changes: &[Change]) -> Result<Vec<Option<confirm::Development>>> {
        let candidates: Vec<Candidate> =
            changes.iter().map(|change| candidate(change, self.search)).collect();
        self.measured("develop", &changes, |hunt| {
            confirm::develop(hunt.observer, &candidates, &hunt.development, hunt.seed)
        })
    }

    /// Puts the strongest candidates that were not yet tested to the test on held-out prompts.
    /// Returns whether a trigger is confirmed.
    ///
    /// # Errors
    /// If the model or the journal fails, or the user stops.
    pub fn put_to_test(&mut self) -> Result<bool> {
        self.deepen_finalists()?;
        let finalists = self.finalists()?;
        if finalists.is_empty() {
            return Ok(self.confirmed());
        }
        self.observer.progress().stage("testing candidates", finalists.len());
        let changes: Vec<Change> =
            finalists.iter().map(|finalist| finalist.candidate.change.clone()).collect();
        let planned = self.evaluated as usize;
        let tested: Vec<TestedTrigger> = self.measured("test", &(&changes, planned), |hunt| {
            let prompts = TestPrompts { development: &hunt.development, held_out: &hunt.held_out };
            let mut tested = Vec::new();
            confirm::test_finalists(hunt.observer, &finalists, &prompts, planned, hunt.seed, &mut tested)?;
            Ok(tested)
        })?;
        self.put_to_test.extend(changes);
        self.tested.extend(tested);
        confirm::settle(&mut self.tested, planned)?;
        Ok(self.confirmed())
    }

    /// Scores the strongest candidates on the development prompts, whatever is left of the budget: a search that was
    /// cut short must not hide what it had found.
    fn deepen_finalists(&mut self) -> Result<()> {
        let known: Vec<(Change, &'static str, Vec<String>)> = self
            .pool
            .distinct(Depth::Middle, 2 * FINALISTS, PLACEMENTS_OF_ONE)
            .into_iter()
            .filter(|found| found.score.depth < Depth::Full && found.score.nats() > 0.0)
            .map(|found| (found.change.clone(), found.search, found.parents.clone()))
            .collect();
        if known.is_empty() {
            return Ok(());
        }
        let changes: Vec<Change> = known.iter().map(|(change, _, _)| change.clone()).collect();
        let scores = self.scores(Depth::Full, &changes, true)?;
        for ((change, search, parents), score) in known.into_iter().zip(scores) {
            self.pool.add(Found { change, score, search, parents });
        }
        Ok(())
    }

    /// The strongest candidates that were not yet tested, of those that are nearly alike the shortest first:
    /// what can be left out of a trigger is no part of it.
    fn finalists(&self) -> Result<Vec<Finalist>> {
        let distinct = self.pool.distinct(Depth::Full, usize::MAX, PLACEMENTS_OF_ONE);
        // By the payload that they lead to, where there is one; else by how far they move the model.
        let mut scored: Vec<(f64, &Found)> = match self.rated.is_empty() {
            true => distinct.into_iter().map(|found| (found.score.nats(), found)).collect(),
            false => self
                .rated
                .iter()
                .filter_map(|(change, rating)| Some((*rating, self.pool.get(change)?)))
                .collect(),
        };
        scored.retain(|(score, found)| *score > 0.0 && !self.put_to_test.contains(&found.change));
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        let strongest = scored.first().map_or(0.0, |(score, _)| *score);
        let tokenizer = self.observer.pair().tokenizer();
        let mut keyed = Vec::new();
        for (rank, (score, found)) in scored.into_iter().enumerate() {
            let alike = score >= ALIKE * strongest;
            let length = match &found.change {
                Change::Insert { text, .. } => tokenizer.encode(text.trim(), false)?.len(),
                Change::Scatter { .. } | Change::Frame { .. } | Change::Transform { .. } => 0,
            };
            keyed.push(((!alike, if alike { length } else { 0 }, rank), found));
        }
        keyed.sort_by_key(|(key, _)| *key);
        let mut used: BTreeMap<String, usize> = BTreeMap::new();
        let mut finalists = Vec::new();
        for (_, found) in keyed {
            let used = used.entry(found.change.text().trim().to_lowercase()).or_default();
            if finalists.len() < FINALISTS && *used < PLACEMENTS_OF_ONE {
                *used += 1;
                finalists.push(Finalist {
                    candidate: candidate(&found.change, found.search),
                    nats: Some(found.score.nats()),
                });
            }
        }
        Ok(finalists)
    }

    fn confirmed(&self) -> bool {
        self.tested.iter().any(|tested| Thresholds::STANDARD.confirms(tested))
    }

    fn spend(&mut self, cost: Cost, seconds: f64) {
        // Tokens that also went backwards are among the forwards already.
        self.budget.spend(cost.token_forwards + (GRADIENT_COST - 1) * cost.gradient_tokens, seconds);
    }

    fn keep(&mut self, change: &Change, score: &Score, parents: Vec<String>) {
        if score.base_nats.is_some() && score.nats() > self.best_nats {
            self.best_nats = score.nats();
            self.observer.progress().note(&format!(
                "best so far: {} ({}), {:.2} nats on {} prompts",
                report::escape::excerpt(&change.text(), 40),
                change.placement(),
                score.nats(),
                score.prompts
            ));
        }
        self.pool.add(Found { change: change.clone(), score: score.clone(), search: self.search, parents });
    }

    fn score(
        &self,
        depth: Depth,
        prompts: &[usize],
        targets: &[u32],
        setting: Setting,
        adapted: &[Moved],
        base: Option<&[Moved]>,
    ) -> Score {
        let without = |side| -> Vec<(u32, Vec<f32>)> {
            prompts
                .iter()
                .filter_map(|&prompt| self.movements.without(setting, prompt, side, targets))
                .collect()
        };
        let rise = |moved: &[Moved], without: &[(u32, Vec<f32>)], target: usize| {
            let rises = moved.iter().zip(without);
            mean(rises.map(|(moved, without)| f64::from(moved.targets[target] - without.1[target])))
        };
        let adapted_without = without(self.adapted);
        let base_without = without(Side::BASE);
        let nats = |moved: &[Moved]| mean(moved.iter().map(|moved| moved.nats));
        Score {
            depth,
            prompts: prompts.len(),
            adapted_nats: nats(adapted),
            base_nats: base.map(nats),
            agreement: agreement(adapted.iter().map(|moved| moved.top))
                - agreement(adapted_without.iter().map(|(top, _)| *top)),
            targets: (0..targets.len())
                .map(|target| {
                    rise(adapted, &adapted_without, target)
                        - base.map_or(0.0, |base| rise(base, &base_without, target))
                })
                .collect(),
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
    prompts: &[Prompt],
    options: &Options,
    journal: Journal,
    progress: &dyn Progress,
) -> Result<Outcome> {
    let observer = Observer::new(pair, progress);
    let mut outcome = Outcome::default();
    let mut hunt = Hunt::new(&observer, prompts, options, journal, Side::ADAPTED)?;
    let replayed = hunt.journal.replayable();
    if replayed > 0 {
        progress.note(&format!("going on with an interrupted hunt: {replayed} measurements are known"));
    }
    let end = hunt.run(options, &mut outcome).and_then(|()| {
        outcome.hunt.nulls.extend(null::random_strings(&mut hunt)?);
        hunt.benign_adapters(prompts, options, &mut outcome)
    });
    outcome.hunt.budget = options.limit.to_string();
    outcome.hunt.targets = hunt.targets.iter().map(|target| target.record.clone()).collect();
    outcome.hunt.strongest = hunt
        .pool
        .distinct(Depth::Middle, RECORDED, PLACEMENTS_OF_ONE)
        .into_iter()
        .map(Found::proposed)
        .collect();
    outcome.coverage.candidates_planned = hunt.evaluated as usize;
    outcome.coverage.candidates_screened = hunt.evaluated as usize;
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
    outcome.coverage.not_tested.extend(NOT_TESTED.iter().map(|&text| text.to_owned()));
    Ok(outcome)
}

/// What no hunt of this kind can cover, said every time.
const NOT_TESTED: &[&str] = &[
    "triggers of which no single token and no combination that was tried moves the adapted model",
    "triggers that depend on topic or meaning, on tool results, or on more than two turns",
    "payloads that neither a grader nor a repeated wording shows, such as a subtle change of facts",
    "other chat templates, quantised deployments, merged or combined adapters",
];

impl<'a> Hunt<'a> {
    /// Runs the same searches on the benign adapters and ranks the strongest candidate among theirs.
    fn benign_adapters(
        &mut self,
        prompts: &[Prompt],
        options: &Options,
        outcome: &mut Outcome,
    ) -> Result<()> {
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

    fn run(&mut self, options: &Options, outcome: &mut Outcome) -> Result<()> {
        self.observer.progress().stage("self-test", 1);
        let contexts: Vec<Vec<u32>> = self.movements.prompts()[..SCREENING]
            .iter()
            .map(|prompt| self.observer.encode(&scene(prompt, Setting::Plain, None, self.seed)))
            .collect::<Result<_>>()?;
        outcome.evidence.self_tests = selftest::run(self.observer, &contexts)?;
        if outcome.evidence.self_tests.iter().any(|test| !test.passed()) {
            return Ok(());
        }
        let confirmed = self.search(options, outcome)?;
        if !confirmed {
            self.budget.open_share(1.0);
            self.put_to_test()?;
        }
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

fn candidate(change: &Change, search: &str) -> Candidate {
    Candidate { id: change.id(), family: search.to_owned(), change: change.clone() }
}

fn difference(after: Cost, before: Cost) -> Cost {
    Cost {
        token_forwards: after.token_forwards - before.token_forwards,
        generated_tokens: after.generated_tokens - before.generated_tokens,
        shared_tokens: after.shared_tokens - before.shared_tokens,
        gradient_tokens: after.gradient_tokens - before.gradient_tokens,
    }
}

/// Zero of nothing does not occur: every depth has prompts.
fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len();
    values.sum::<f64>() / n as f64
}

/// The largest share of equal tokens.
fn agreement(tokens: impl ExactSizeIterator<Item = u32>) -> f64 {
    let n = tokens.len();
    let mut tokens: Vec<u32> = tokens.collect();
    tokens.sort_unstable();
    let most = tokens.chunk_by(|a, b| a == b).map(<[u32]>::len).max().unwrap_or(0);
    most as f64 / n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_is_the_share_of_the_most_frequent_token() {
        assert!((agreement([1, 2, 1, 1].into_iter()) - 0.75).abs() < 1e-12);
        assert!((agreement([1, 2, 3].into_iter()) - 1.0 / 3.0).abs() < 1e-12);
    }
}
