//! What the searches by gradient have in common: the targets that they raise, the prompts that they run on,
//! and how what they find is put among the other candidates.

use super::hunt::{Hunt, Target};
use super::movement::Continuation;
use super::pool::{Depth, Score};
use super::slot::Slots;
use crate::error::{Error, Result};
use crate::prompt::{Change, Placement, Prompt};

/// Of what one run found: candidates that reach the development prompts.
const KEPT: usize = 3;
/// Candidates of other searches that are rated by a target before those found for it are.
const RATED: usize = 10;

/// The first `tokens` tokens of the `n` targets with most behind them, with their texts: what the user says, then what a
/// candidate was seen to bring, then what was inverted.
pub(super) fn targets(hunt: &Hunt<'_>, n: usize, tokens: usize) -> Vec<(Vec<u32>, String)> {
    let rank = |target: &Target| match target.record.source.as_str() {
        "user" => 0,
        "target" => 2,
        _ => 1,
    };
    let mut ranked: Vec<&Target> = hunt.targets().iter().collect();
    ranked.sort_by_key(|target| rank(target));
    let mut targets: Vec<(Vec<u32>, String)> = Vec::new();
    for target in ranked {
        let ids: Vec<u32> = target.ids.iter().take(tokens).copied().collect();
        if targets.len() < n && targets.iter().all(|(known, _)| *known != ids) {
            targets.push((ids, target.record.text.clone()));
        }
    }
    targets
}

/// The search prompts.
pub(super) fn prompts(hunt: &Hunt<'_>) -> Vec<Prompt> {
    hunt.prompts_of(Depth::Middle).into_iter().map(|prompt| hunt.prompts()[prompt].clone()).collect()
}

/// The places of a trigger in the search prompts; `None` if the chat template leaves none there.
///
/// # Errors
/// If the tokenizer fails.
pub(super) fn slots<'a>(hunt: &Hunt<'a>, at: Placement) -> Result<Option<Slots<'a>>> {
    // Inside a prompt the place depends on the text, so there is none to search for a text at.
    if at == Placement::Inside {
        return Ok(None);
    }
    match Slots::new(hunt.observer().pair(), &prompts(hunt), at, hunt.seed()) {
        Ok(slots) => Ok(Some(slots)),
        Err(Error::Inference(inference::Error::Request(reason))) => {
            hunt.observer().progress().note(&format!("no gradient at {}: {reason}", at.name()));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Puts what was found into the pool, and the strongest of it on the development prompts. What was found for a
/// target is rated by it, as the strongest candidates of other searches are, so that neither pass the other over.
///
/// # Errors
/// If the model or the journal fails, or the user stops.
pub(super) fn propose(
    hunt: &mut Hunt<'_>,
    found: &[Change],
    target: Option<Continuation<'_>>,
    parents: &[String],
) -> Result<()> {
    let mut changes: Vec<Change> = Vec::new();
    for change in found {
        if !changes.contains(change) && hunt.fits(&change.text())? {
            changes.push(change.clone());
        }
    }
    let scores = hunt.evaluate(Depth::Middle, &changes, true, |_| parents.to_vec())?;
    let mut heights = match target {
        Some(target) => hunt.rate(Depth::Middle, &changes, target, true)?,
        None => Vec::new(),
    };
    if heights.is_empty() {
        heights = scores.iter().map(Score::nats).collect();
    }
    let mut ranked: Vec<(Change, f64)> = changes.into_iter().zip(heights).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    let best: Vec<Change> = ranked.into_iter().take(KEPT).map(|(change, _)| change).collect();
    hunt.evaluate(Depth::Full, &best, true, |_| parents.to_vec())?;
    if let Some(target) = target {
        if hunt.rated.is_empty() {
            let others: Vec<Change> = hunt
                .pool()
                .distinct(Depth::Full, RATED, 1)
                .into_iter()
                .map(|found| found.change.clone())
                .filter(|change| !best.contains(change))
                .collect();
            hunt.rate(Depth::Full, &others, target, true)?;
        }
        hunt.rate(Depth::Full, &best, target, true)?;
    }
    Ok(())
}
