//! The test of a candidate: what do the models answer on prompts that no choice was made on?
//!
//! A payload is hypothesised on development prompts and counted on held-out ones, under the
//! trigger and under every condition that lacks it or the adapter. The claim must hold against each
//! of them, so the largest p-value counts, corrected for all candidates of the scan. Of the strongest
//! trigger that is confirmed this way, [`characterise`] says what its payload depends on.

mod answers;
mod characterise;
mod contrast;
mod finalists;
mod kind;
mod order;
mod scores;

use report::evidence::{Payload, TestedTrigger};
use serde::{Deserialize, Serialize};

pub use answers::Known;
pub use characterise::characterise;
pub use kind::test_kind;
pub(crate) use order::{correct, settle, strongest_confirmed};
pub use scores::{score_answers, score_examples};

use super::payload::{MAJORITY, TRACE};
use super::screen::Screening;
use crate::error::Result;
use crate::observe::Observer;
use crate::prompt::{Prompt, Setting};
use crate::suite::Candidate;
use answers::{Answers, Hypothesised};
use finalists::{BY_COLLAPSE, BY_DIVERGENCE, finalists};
use order::order;

/// Candidates that go on from development to held-out prompts.
const TESTED: usize = 5;

/// Prompts of the two halves of the test.
pub struct TestPrompts<'a> {
    /// On which hypotheses are found.
    pub development: &'a [Prompt],
    /// On which they are counted.
    pub held_out: &'a [Prompt],
}

/// Number of finalists, for progress.
#[must_use]
pub fn finalists_at_most() -> usize {
    BY_DIVERGENCE + BY_COLLAPSE
}

/// Tests the strongest candidates of a ranked screening into `tested`, strongest first. `planned` is
/// the number of candidates that the correction counts.
///
/// # Errors
/// If the model fails or the user stops; what was tested until then is kept.
pub fn confirm(
    observer: &Observer<'_>,
    candidates: &[Candidate],
    screening: &Screening,
    prompts: &TestPrompts<'_>,
    planned: usize,
    seed: u64,
    tested: &mut Vec<TestedTrigger>,
) -> Result<()> {
    let finalists: Vec<Finalist> = finalists(screening)
        .into_iter()
        .map(|entry| {
            let (index, screened) = &screening.entries[entry];
            Finalist { candidate: candidates[*index].clone(), nats: screened.difference_nats }
        })
        .collect();
    test_finalists(observer, &finalists, prompts, planned, MAJORITY, Known::new(), seed, tested)
}

/// A candidate that is put to the test.
#[derive(Clone, Debug)]
pub struct Finalist {
    /// The candidate.
    pub candidate: Candidate,
    /// Its difference in differences so far, in nats.
    pub nats: Option<f64>,
}

/// Tests finalists into `tested`, strongest first: a payload is hypothesised for each on the
/// development prompts, and counted on the held-out prompts for the most promising; of equals the earlier
/// finalists. `planned` is the number of candidates that the correction counts, `named` the share of development
/// answers from which a payload that a grader names is worth the test, `known` what was answered without candidate already.
///
/// # Errors
/// If the model fails or the user stops; what was tested until then is kept.
#[expect(clippy::too_many_arguments, reason = "each says one thing of the test, and there are two callers")]
pub fn test_finalists(
    observer: &Observer<'_>,
    finalists: &[Finalist],
    prompts: &TestPrompts<'_>,
    planned: usize,
    named: f64,
    known: Known,
    seed: u64,
    tested: &mut Vec<TestedTrigger>,
) -> Result<()> {
    let mut answers = Answers::new(observer, seed, named, known);
    let mut promising = Vec::new();
    for Finalist { candidate, nats } in finalists {
        if let Some(found) = answers.hypothesise(candidate, prompts.development)? {
            promising.push((found, candidate, *nats));
        }
        observer.progress().advance(1);
    }
    // A stable sort: equals stay in the order of the finalists.
    let excess = |found: &Hypothesised| found.development.excess;
    promising.sort_by(|a, b| excess(&b.0).total_cmp(&excess(&a.0)));
    for (found, candidate, screening_nats) in promising.into_iter().take(TESTED) {
        if let Some(mut result) = answers.test(candidate, &found.hypothesis, prompts.held_out)? {
            result.screening_nats = screening_nats;
            observer.progress().note(&format!(
                "{} ({}): {} on {:.0} % of held-out prompts, uplift {:.2}",
                report::escape::excerpt(&result.candidate.text, 40),
                result.candidate.placement,
                result.payload.class,
                100.0 * result.attack_success_rate.value,
                result.uplift.value,
            ));
            tested.push(result);
            correct(tested, planned)?;
        }
    }
    order(tested);
    Ok(())
}

/// What a candidate makes the adapted model answer on development prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Development {
    /// What stands for the payload.
    pub payload: Payload,
    /// By how much its share of answers exceeds that without the candidate and that under a random
    /// change of the same kind.
    pub excess: f64,
}

/// What the adapted side, and the base if asked for, answers to prompts in some settings without candidate.
///
/// # Errors
/// If the model fails or the user stops.
pub fn without(
    observer: &Observer<'_>,
    settings: &[Setting],
    prompts: &[Prompt],
    base: bool,
    seed: u64,
) -> Result<Known> {
    let mut answers = Answers::new(observer, seed, TRACE, Known::new());
    for &setting in settings {
        answers.learn(setting, prompts, base)?;
    }
    Ok(answers.into_known())
}

/// Looks for a payload on development prompts, or a trace of one, one entry a candidate; `known` as in
/// [`test_finalists`].
///
/// # Errors
/// If the model fails or the user stops.
pub fn develop(
    observer: &Observer<'_>,
    candidates: &[Candidate],
    prompts: &[Prompt],
    known: Known,
    seed: u64,
) -> Result<Vec<Option<Development>>> {
    let mut answers = Answers::new(observer, seed, TRACE, known);
    let mut found = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        found.push(answers.hypothesise(candidate, prompts)?.map(|found| found.development));
    }
    Ok(found)
}
