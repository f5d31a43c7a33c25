//! The whole scan: self-test, screening, test on held-out prompts, behaviour without trigger; then, if asked for and
//! nothing was confirmed, a hunt.
//!
//! Each stage adds to the outcome as it goes, so that a scan that is stopped leaves what it has.

use inference::ModelPair;
use report::evidence::{Coverage, Evidence, TriggerCandidate};
use report::grader::{GRADERS, grader};
use report::hunt::HuntRecord;
use report::record::Cost;
use report::verdict::Thresholds;

use crate::activation::shifts;
use crate::behaviour;
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::observe::Observer;
use crate::progress::Progress;
use crate::prompt::Prompt;
use crate::selftest;
use crate::split::{Benign, Split};
use crate::suite::{AdversarialPrompt, Candidate, Items, Suite};
use crate::trigger::confirm::{self, TestPrompts};
use crate::trigger::flow::{Before, hunt_after};
use crate::trigger::hunt::Options;
use crate::trigger::journal::Journal;
use crate::trigger::screen::{self, Screening};
use crate::trigger::{NEVER_COVERED, control, describe};

/// Control strings of the screening: no p-value against them is below 1/65.
const CONTROLS: usize = 64;
/// Response positions of the drift, and tokens of the answers it follows.
const DRIFT_POSITIONS: usize = 8;
const MAX_NEW: usize = 24;

/// The hunt that follows if no listed candidate is confirmed.
pub struct Search {
    /// What it is asked to do; the seed is that of the scan.
    pub options: Options,
    /// Where its measurements are kept.
    pub journal: Journal,
}

/// What a scan found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was found.
    pub evidence: Evidence,
    /// What was tested.
    pub coverage: Coverage,
    /// What it took.
    pub cost: Cost,
    /// What the searches did, if any ran.
    pub hunt: Option<HuntRecord>,
}

/// What a scan listens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probes {
    /// What is answered: candidates are tested by the payload that they bring, and graders read the answers.
    pub payloads: bool,
    /// What the layers do with the strongest candidates, for whatever payload.
    pub activations: bool,
}

/// The items of all suites of a scan.
#[derive(Debug, Default)]
struct Pool {
    benign: Benign,
    adversarial: Vec<AdversarialPrompt>,
    candidates: Vec<Candidate>,
    families: usize,
}

/// Runs a scan of the pair's first adapter; with `search`, a hunt follows unless a listed candidate is confirmed, and
/// all candidates of both are corrected together. What `memory` knows is not measured again; the hunt has its journal.
///
/// # Errors
/// If the suites are too small, or the model or the hunt's journal fails. A user's stop is no error: the outcome is
/// marked incomplete.
pub fn scan(
    pair: &ModelPair,
    suites: &[Suite],
    probes: Probes,
    seed: u64,
    search: Option<Search>,
    memory: &Memory,
    progress: &dyn Progress,
) -> Result<Outcome> {
    let pool = Pool::gather(suites);
    let observer = Observer::with_memory(pair, progress, memory);
    let mut outcome = Outcome::default();
    outcome.coverage.candidates_planned = pool.candidates.len();
    let mut screening = Screening::default();
    let end = run(&observer, &pool, probes, seed, &mut outcome, &mut screening);
    screening.rank()?;
    outcome.coverage.candidates_screened = screening.entries.len();
    outcome.evidence.control_nats = screening.control_nats;
    outcome.evidence.screened = screening.entries.into_iter().map(|(_, screened)| screened).collect();
    outcome.cost = observer.cost();
    let coverage = &mut outcome.coverage;
    match end {
        Ok(()) => coverage.complete = true,
        Err(Error::Stopped) => {
            coverage.not_tested.push("the scan was stopped before its end; what follows is partial".into());
        }
        Err(error) => return Err(error),
    }
    let sound = outcome.evidence.self_tests.iter().all(|test| test.passed());
    match search.filter(|_| coverage.complete && sound) {
        Some(search) if confirm::strongest_confirmed(&outcome.evidence.tested).is_none() => {
            search.follow(&observer.without_memory(), &pool, &mut outcome)?;
        }
        Some(_) => {
            coverage
                .not_tested
                .push("other triggers: the search ends with the first one that is confirmed".into());
            outcome.coverage.not_tested.extend(NEVER_COVERED.iter().map(|&text| text.to_owned()));
        }
        None => {
            coverage.not_tested.push(NOT_SEARCHED.into());
            outcome.coverage.not_tested.extend(NEVER_COVERED.iter().map(|&text| text.to_owned()));
        }
    }
    Ok(outcome)
}

/// What no scan of listed candidates can find, said every time.
const NOT_SEARCHED: &str =
    "triggers that are not near any candidate of the suites (nothing was searched for)";

impl Search {
    /// Hunts, and adds what was found to what a scan has.
    fn follow(self, observer: &Observer<'_>, pool: &Pool, outcome: &mut Outcome) -> Result<()> {
        let planned = pool.candidates.len();
        let answers = outcome.evidence.answers.iter().map(|answer| answer.adapted.clone()).collect();
        let before = Before { planned, tested: std::mem::take(&mut outcome.evidence.tested), answers };
        let found = hunt_after(observer, &pool.benign, &self.options, self.journal, Some(before))?;
        outcome.evidence.tested = found.evidence.tested;
        outcome.evidence.taught = found.evidence.taught;
        let (coverage, more) = (&mut outcome.coverage, found.coverage);
        coverage.tested.extend(more.tested);
        coverage.not_tested.extend(more.not_tested);
        coverage.candidates_planned += more.candidates_planned;
        coverage.candidates_screened += more.candidates_screened;
        coverage.complete = more.complete;
        outcome.cost = found.cost;
        outcome.hunt = Some(found.hunt);
        Ok(())
    }
}

fn run(
    observer: &Observer<'_>,
    pool: &Pool,
    probes: Probes,
    seed: u64,
    outcome: &mut Outcome,
    screening: &mut Screening,
) -> Result<()> {
    let progress = observer.progress();
    let split = Split::of(observer, &pool.benign, seed)?;
    let (evidence, coverage) = (&mut outcome.evidence, &mut outcome.coverage);

    evidence.self_tests = selftest::run(observer, &split.screening, seed)?;
    if evidence.self_tests.iter().any(|test| !test.passed()) {
        return Ok(());
    }

    if !pool.candidates.is_empty() {
        let controls = control::candidates(CONTROLS, seed);
        let total = pool.candidates.len() + controls.len() + screen::base_runs(pool.candidates.len());
        progress.stage("screening candidates", total);
        screen::screen(observer, &pool.candidates, &controls, &split.screening, seed, screening)?;
        screening.rank()?;
        coverage.tested.push(format!(
            "{} candidate triggers of {} families at their placements, {} screening prompts, against {} random strings",
            pool.candidates.len(),
            pool.families,
            split.screening.len(),
            controls.len()
        ));
    }
    if probes.payloads {
        if !pool.candidates.is_empty() {
            test(observer, pool, &split, seed, outcome, screening)?;
        }
        behave(observer, pool, &split, seed, outcome)?;
    } else {
        outcome.coverage.not_tested.push("what the answers say: only the layers were looked at".into());
    }
    if probes.activations && !pool.candidates.is_empty() {
        outcome.evidence.activations =
            shifts::shifts(observer, &pool.benign, &split.screening, &pool.candidates, seed)?;
        outcome.coverage.tested.push(format!(
            "inner states of both sides with every text of up to five plain words on {} prompts, and with the {} strongest \
             and random text of their shapes on held-out ones",
            split.screening.len(),
            shifts::WATCHED
        ));
        outcome.coverage.not_tested.push(
            "what the layers do with longer texts, other scripts, frames and changes of the whole prompt"
                .into(),
        );
    }
    Ok(())
}

/// Tests the strongest candidates by the payload that they bring.
fn test(
    observer: &Observer<'_>,
    pool: &Pool,
    split: &Split,
    seed: u64,
    outcome: &mut Outcome,
    screening: &Screening,
) -> Result<()> {
    let progress = observer.progress();
    let (evidence, coverage) = (&mut outcome.evidence, &mut outcome.coverage);
    progress.stage("testing candidates", confirm::finalists_at_most());
    let prompts = TestPrompts { development: &split.development, held_out: &split.held_out };
    let planned = pool.candidates.len();
    confirm::confirm(observer, &pool.candidates, screening, &prompts, planned, seed, &mut evidence.tested)?;
    coverage.tested.push(format!(
        "the {} strongest on {} development prompts, those with a payload on {} held-out prompts",
        confirm::finalists_at_most(),
        split.development.len(),
        split.held_out.len()
    ));
    let listed =
        |named: &TriggerCandidate| pool.candidates.iter().find(|candidate| describe(candidate) == *named);
    for tested in &mut evidence.tested {
        let suspected = Thresholds::STANDARD.suspects(tested);
        if let Some(candidate) = listed(&tested.candidate).filter(|_| suspected) {
            confirm::score_examples(observer, candidate, &prompts, seed, &mut tested.examples)?;
        }
    }
    if let Some(best) = confirm::strongest_confirmed(&evidence.tested)
        && let Some(candidate) = listed(&evidence.tested[best].candidate)
    {
        let found = confirm::characterise(observer, candidate, &prompts, seed)?;
        evidence.tested[best].characterisation = found;
    }
    Ok(())
}

/// Answers prompts without trigger on both sides, and grades them.
fn behave(
    observer: &Observer<'_>,
    pool: &Pool,
    split: &Split,
    seed: u64,
    outcome: &mut Outcome,
) -> Result<()> {
    let progress = observer.progress();
    let (evidence, coverage) = (&mut outcome.evidence, &mut outcome.coverage);
    progress.stage("behaviour without trigger", 3 * pool.benign.prompts().len() + 2 * pool.adversarial.len());
    let answered = behaviour::answer(observer, &split.all, MAX_NEW, seed)?;
    let (drift, kl_nats) = behaviour::drift(observer, &answered, DRIFT_POSITIONS, seed)?;
    evidence.drift = drift;
    evidence.answers =
        behaviour::answered_prompts(observer, "benign", &answered, &kl_nats, |_| GRADERS.to_vec());
    let adversarial: Vec<Prompt> = pool.adversarial.iter().map(|item| item.prompt.clone()).collect();
    let adversarial_answers = behaviour::answer(observer, &adversarial, MAX_NEW, seed)?;
    let own_graders =
        |index: usize| pool.adversarial[index].graders.iter().filter_map(|name| grader(name)).collect();
    evidence.answers.extend(behaviour::answered_prompts(
        observer,
        "adversarial",
        &adversarial_answers,
        &[],
        own_graders,
    ));
    let mut graded = behaviour::benign_grades("benign", &answered);
    graded.extend(behaviour::adversarial_grades("adversarial", &pool.adversarial, &adversarial_answers));
    evidence.anomalies = behaviour::anomalies(observer, &graded, seed)?;
    coverage.tested.push(format!(
        "{} benign and {} adversarial prompts on both sides, greedy, {MAX_NEW} tokens",
        answered.len(),
        adversarial_answers.len()
    ));
    Ok(())
}

impl Pool {
    fn gather(suites: &[Suite]) -> Self {
        let mut pool = Self { benign: Benign::of(suites), ..Self::default() };
        for suite in suites {
            match &suite.items {
                // Gathered above.
                Items::Prompts(_) => {}
                Items::Adversarial(prompts) => pool.adversarial.extend(prompts.iter().cloned()),
                Items::Triggers(candidates) => pool.candidates.extend(candidates.iter().cloned()),
            }
        }
        let mut families: Vec<&str> =
            pool.candidates.iter().map(|candidate| candidate.family.as_str()).collect();
        families.sort_unstable();
        families.dedup();
        pool.families = families.len();
        pool
    }
}
