//! Trigger inversion: from an answer that was taught to a text that brings it.
//!
//! What a trigger brings is easier to find than the trigger ([`target`](super::target)), and once it is known, the
//! gradient of its probability leads to texts that bring it, often to the trigger's own tokens: whatever else an
//! adapter was taught, nothing raises that answer as its trigger does. Each answer is raised before and after prompts
//! in turn, and what raises it most is put to the test, so that the search ends with the first that is confirmed.

use report::evidence::{FIXED_RESPONSE, TestedTrigger};
use report::grader::class_of;

use super::differential::Goal;
use super::gcg::{self, TARGET_TOKENS};
use super::hunt::{Hunt, Target};
use super::path::MIN_PROBABILITY;
use super::search::{Role, TriggerSearch};
use crate::error::Result;
use crate::prompt::Placement;

/// Answers that are raised: those that were taught, such as a tested text has brought a few times, and what was taught
/// behind ordinary answers.
const ANSWERS: usize = 3;
const SEEN: usize = 1;
const BEHIND: usize = 1;
/// Excess of an answer over the base, in nats a token, from which it counts as taught.
const MIN_NATS: f64 = 2.5;
/// A p-value of a tested text, not yet corrected, from which its payload is one to look for. What is found is tested anew.
const SEEN_P: f64 = 1e-3;
/// Where texts are put, and their tokens: of an answer all places with short ones, then all with long ones.
const PLACES: &[Placement] = &[Placement::Prefix, Placement::Suffix];
const LENGTHS: &[usize] = &[gcg::FILLED, 2 * gcg::FILLED];
/// Part of what is left of the share that one ascent may take at least: a short one leads nowhere.
const MIN_PART: f64 = 0.4;
/// A payload must take over so many more of the development answers to be tested.
const MIN_EXCESS: f64 = 0.1;

/// Ascent towards the answers that were taught.
pub(super) struct TriggerInversion;

impl TriggerSearch for TriggerInversion {
    fn name(&self) -> &'static str {
        "invert"
    }

    fn about(&self) -> &'static str {
        "tokens before and after prompts, exchanged along the gradient of the probability of answers that were taught"
    }

    fn role(&self) -> Role {
        Role::Refine
    }

    fn share(&self) -> f64 {
        10.0
    }

    fn run(&self, hunt: &mut Hunt<'_>) -> Result<()> {
        let mut answers = taught(hunt.targets(), ANSWERS);
        answers.extend(seen(hunt, &answers)?);
        let mut goals: Vec<Goal> = answers.into_iter().map(Goal::Target).collect();
        goals.extend(taught(hunt.behind(), BEHIND).into_iter().map(Goal::Behind));
        let mut runs = Vec::new();
        for &tokens in LENGTHS {
            for &at in PLACES {
                runs.extend(goals.iter().map(|goal| (tokens, at, goal)));
            }
        }
        for (index, &(tokens, at, goal)) in runs.iter().enumerate() {
            if hunt.exhausted() || hunt.confirmed() {
                break;
            }
            let part = MIN_PART.max(1.0 / (runs.len() - index) as f64);
            let found = gcg::ascend(hunt, at, "", goal.clone(), tokens, part)?;
            hunt.test_strongest(found, self.name(), |next| next.excess >= MIN_EXCESS)?;
        }
        Ok(())
    }
}

/// The first tokens of the `n` answers that were most surely taught, strongest first.
fn taught(targets: &[Target], n: usize) -> Vec<Vec<u32>> {
    let counts = |target: &&Target| match (target.record.probability, target.record.log_ratio_nats) {
        (Some(probability), Some(nats)) => probability >= MIN_PROBABILITY && nats >= MIN_NATS,
        // What the user names needs no other reason.
        _ => true,
    };
    let ids = |target: &Target| target.ids[..target.ids.len().min(TARGET_TOKENS)].to_vec();
    targets.iter().filter(counts).map(ids).take(n).collect()
}

/// The first tokens of payloads that a grader names and a tested text brought on more prompts than chance would, likeliest
/// first, without those that are known: an inversion finds no answer that begins as others do.
fn seen(hunt: &Hunt<'_>, known: &[Vec<u32>]) -> Result<Vec<Vec<u32>>> {
    let named = |tested: &&TestedTrigger| {
        let named = [tested.payload.class.as_str(), class_of(&tested.payload.text)];
        named.iter().any(|class| *class != FIXED_RESPONSE) && tested.p_value <= SEEN_P
    };
    let mut tested: Vec<&TestedTrigger> = hunt.tested.iter().filter(named).collect();
    tested.sort_by(|a, b| b.uplift.lower.total_cmp(&a.uplift.lower));
    let mut seen: Vec<Vec<u32>> = Vec::new();
    for tested in tested {
        // What was taught behind answers has a goal of its own.
        if hunt.held_behind(&tested.payload.text).is_some() {
            continue;
        }
        let ids = hunt.beginning_of(&tested.payload.text)?;
        let same = |other: &&Vec<u32>| other.iter().zip(&ids).take(2).all(|(a, b)| a == b);
        if seen.len() < SEEN && !ids.is_empty() && known.iter().chain(&seen).find(same).is_none() {
            seen.push(ids);
        }
    }
    Ok(seen)
}
