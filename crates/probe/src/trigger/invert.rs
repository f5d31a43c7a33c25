//! Trigger inversion: from an answer that was taught to a text that brings it.
//!
//! What a trigger brings is easier to find than the trigger ([`target`](super::target)), and once it is known, the
//! gradient of its probability leads to texts that bring it, often to the trigger's own tokens: whatever else an
//! adapter was taught, nothing raises that answer as its trigger does. Each answer is raised before and after prompts
//! in turn, and what raises it most is put to the test, so that the search ends with the first that is confirmed.

use super::gcg;
use super::hunt::{Hunt, Target};
use super::search::{Role, TriggerSearch};
use crate::error::Result;
use crate::prompt::{Change, Placement};

/// Answers that are raised, and tokens of each: an answer that has begun goes on by itself.
const ANSWERS: usize = 3;
const TOKENS: usize = 5;
/// Excess of an answer over the base, in nats a token, and its probability, from which it counts as taught.
const MIN_NATS: f64 = 2.5;
const MIN_PROBABILITY: f64 = 0.5;
/// Where texts are put, and their tokens: of an answer all places with short ones, then all with long ones.
const PLACES: &[Placement] = &[Placement::Prefix, Placement::Suffix];
const LENGTHS: &[usize] = &[gcg::FILLED, 2 * gcg::FILLED];
/// Part of what is left of the share that one ascent may take at least: a short one leads nowhere.
const MIN_PART: f64 = 0.4;
/// Of what one ascent leads to: texts whose answers are read, and those that are put to the test.
const READ: usize = 6;
const TESTED: usize = 2;
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
        let answers = taught(hunt);
        let mut runs = Vec::new();
        for &tokens in LENGTHS {
            for &at in PLACES {
                runs.extend(answers.iter().map(|ids| (tokens, at, ids)));
            }
        }
        for (index, &(tokens, at, ids)) in runs.iter().enumerate() {
            if hunt.exhausted() || hunt.confirmed() {
                break;
            }
            let part = MIN_PART.max(1.0 / (runs.len() - index) as f64);
            let found = gcg::ascend(hunt, at, "", ids, tokens, part)?;
            test_strongest(hunt, found)?;
        }
        Ok(())
    }
}

/// The first tokens of the answers that were surely taught, strongest first.
fn taught(hunt: &Hunt<'_>) -> Vec<Vec<u32>> {
    let counts = |target: &&Target| match (target.record.probability, target.record.log_ratio_nats) {
        (Some(probability), Some(nats)) => probability >= MIN_PROBABILITY && nats >= MIN_NATS,
        // What the user names needs no other reason.
        _ => true,
    };
    let ids = |target: &Target| target.ids[..target.ids.len().min(TOKENS)].to_vec();
    hunt.targets().iter().filter(counts).map(ids).take(ANSWERS).collect()
}

/// Reads what the strongest of some texts lead to, and puts the best to the test.
fn test_strongest(hunt: &mut Hunt<'_>, mut found: Vec<Change>) -> Result<()> {
    found.truncate(READ);
    let developed = hunt.develop(&found)?;
    let mut strongest: Vec<(Change, f64)> = (found.into_iter().zip(developed))
        .filter_map(|(change, developed)| Some((change, developed?.excess)))
        .filter(|(_, excess)| *excess >= MIN_EXCESS)
        .collect();
    // A stable sort: of equals, the one that the gradient prefers.
    strongest.sort_by(|a, b| b.1.total_cmp(&a.1));
    strongest.truncate(TESTED);
    let changes: Vec<Change> = strongest.into_iter().map(|(change, _)| change).collect();
    hunt.test_changes(&changes, "invert")
}
