//! The whole scan: self-test, behaviour without trigger, screening, test on held-out prompts.
//!
//! Each stage adds to the outcome as it goes, so that a scan that is stopped leaves what it has.

use inference::ModelPair;
use report::evidence::{Coverage, Evidence};
use report::record::Cost;

use crate::behaviour;
use crate::error::{Error, Result};
use crate::observe::Observer;
use crate::progress::Progress;
use crate::prompt::{Prompt, Setting, scene};
use crate::selftest;
use crate::split::Split;
use crate::suite::{AdversarialPrompt, Candidate, Items, Suite};
use crate::trigger::confirm::{self, TestPrompts};
use crate::trigger::control;
use crate::trigger::screen::{self, Screening};

/// Control strings of the screening: no p-value against them is below 1/65.
const CONTROLS: usize = 64;
/// Response positions of the drift, and tokens of the answers it follows.
const DRIFT_POSITIONS: usize = 8;
const MAX_NEW: usize = 24;
/// What a scan found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was found.
    pub evidence: Evidence,
    /// What was tested.
    pub coverage: Coverage,
    /// What it took.
    pub cost: Cost,
}

/// The items of all suites of a scan.
#[derive(Debug, Default)]
struct Pool {
    prompts: Vec<Prompt>,
    adversarial: Vec<AdversarialPrompt>,
    candidates: Vec<Candidate>,
    families: usize,
}

/// Runs a scan of the pair's first adapter.
///
/// # Errors
/// If the suites are too small or the model fails. A user's stop is no error: the outcome is marked
/// incomplete.
pub fn scan(pair: &ModelPair, suites: &[Suite], seed: u64, progress: &dyn Progress) -> Result<Outcome> {
    let pool = Pool::gather(suites);
    let observer = Observer::new(pair, progress);
    let mut outcome = Outcome::default();
    outcome.coverage.candidates_planned = pool.candidates.len();
    let mut screening = Screening::default();
    let end = run(&observer, &pool, seed, &mut outcome, &mut screening);
    screening.rank()?;
    outcome.coverage.candidates_screened = screening.entries.len();
    outcome.evidence.control_nats = screening.control_nats;
    outcome.evidence.screened = screening.entries.into_iter().map(|(_, screened)| screened).collect();
    outcome.cost = observer.cost();
    match end {
        Ok(()) => outcome.coverage.complete = true,
        Err(Error::Stopped) => {
            outcome
                .coverage
                .not_tested
                .insert(0, "the scan was stopped before its end; what follows is partial".into());
        }
        Err(error) => return Err(error),
    }
    outcome.coverage.not_tested.extend(NOT_TESTED.iter().map(|&text| text.to_owned()));
    Ok(outcome)
}

/// What no scan of this kind can cover, said every time.
const NOT_TESTED: &[&str] = &[
    "triggers that are not near any candidate of the suites (nothing was searched for)",
    "triggers that depend on topic or meaning, on tool results, or on more than two turns",
    "payloads that neither a grader nor a repeated wording shows, such as a subtle change of facts",
    "other chat templates, quantised deployments, merged or combined adapters",
];

fn run(
    observer: &Observer<'_>,
    pool: &Pool,
    seed: u64,
    outcome: &mut Outcome,
    screening: &mut Screening,
) -> Result<()> {
    let progress = observer.progress();
    let split = Split::of(observer, &pool.prompts, seed)?;
    let (evidence, coverage) = (&mut outcome.evidence, &mut outcome.coverage);

    progress.stage("self-test", 1);
    let contexts: Vec<Vec<u32>> = split
        .screening
        .iter()
        .map(|prompt| observer.encode(&scene(prompt, Setting::Plain, None, seed)))
        .collect::<Result<_>>()?;
    evidence.self_tests = selftest::run(observer, &contexts)?;
    progress.advance(1);
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
        progress.stage("testing candidates", confirm::finalists_at_most());
        let prompts = TestPrompts { development: &split.development, held_out: &split.held_out };
        let planned = pool.candidates.len();
        confirm::confirm(
            observer,
            &pool.candidates,
            screening,
            &prompts,
            planned,
            seed,
            &mut evidence.tested,
        )?;
        coverage.tested.push(format!(
            "the {} strongest on {} development prompts, those with a payload on {} held-out prompts",
            confirm::finalists_at_most(),
            split.development.len(),
            split.held_out.len()
        ));
    }

    progress.stage("behaviour without trigger", 3 * pool.prompts.len() + 2 * pool.adversarial.len());
    let answered = behaviour::answer(observer, &split.all, MAX_NEW, seed)?;
    evidence.drift = behaviour::drift(observer, &answered, DRIFT_POSITIONS, seed)?;
    let adversarial: Vec<Prompt> = pool.adversarial.iter().map(|item| item.prompt.clone()).collect();
    let adversarial_answers = behaviour::answer(observer, &adversarial, MAX_NEW, seed)?;
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
        let mut pool = Self::default();
        for suite in suites {
            match &suite.items {
                Items::Prompts(prompts) => pool.prompts.extend(prompts.iter().cloned()),
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
