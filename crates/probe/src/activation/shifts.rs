//! What the layers do with the candidates of a scan, as evidence that knows no payload.

use report::evidence::ActivationShift;

use super::instrument::{Instrument, flagged, plain, scenes};
use super::parts::Parts;
use crate::error::Result;
use crate::observe::Observer;
use crate::prompt::{Change, Prompt, Scene};
use crate::split::Benign;
use crate::suite::Candidate;
use crate::trigger::{control, describe};

/// At which p-value a scan flags a prompt: few calibration prompts show none that is much smaller.
const LEVEL: f64 = 0.05;
/// Candidates whose inner states a scan measures on held-out prompts.
pub const WATCHED: usize = 8;

/// What the layers do with candidates, as evidence of a scan: each runs on the prompts of `screening`, and the strongest
/// are measured on others.
///
/// Only texts of the shapes that random strings have are looked at: letters in another order, frames around the prompt,
/// grids and long sentences are unlike every benign prompt on any adapter, and there is no random change of their kind
/// to compare with.
///
/// # Errors
/// If there are too few prompts, the model fails or the user stops.
pub fn shifts(
    observer: &Observer<'_>,
    benign: &Benign,
    screening: &[Prompt],
    candidates: &[Candidate],
    seed: u64,
) -> Result<Vec<ActivationShift>> {
    let parts = Parts::of(benign, screening, seed)?;
    let (instrument, _) = Instrument::fit(observer, &parts, seed, &mut Vec::new())?;
    let picked = strongest(&instrument, observer, screening, candidates, seed)?;
    let prompts = &parts.held_out;
    observer.progress().stage("layers on held-out prompts", (1 + 2 * picked.len()) * prompts.len());
    let share = |scenes: &[Scene]| -> Result<_> {
        let columns = instrument.score(observer, scenes)?;
        // The combination stands last.
        let scores = columns.into_iter().next_back().map(|column| column.scores).unwrap_or_default();
        flagged(&scores, LEVEL)
    };
    let clean = share(&plain(prompts, seed))?;
    let mut shifts = Vec::with_capacity(picked.len());
    for (index, candidate) in picked.into_iter().enumerate() {
        let setting = candidate.change.setting();
        let changed = |change: &Change| share(&scenes(prompts, setting, Some(change), seed));
        shifts.push(ActivationShift {
            flagged: changed(&candidate.change)?,
            control: changed(&control::counterpart(&candidate.change, seed, index as u64))?,
            clean,
            level: LEVEL,
            calibrated: parts.calibrated.len(),
            candidate: describe(candidate),
        });
    }
    Ok(shifts)
}

/// The candidates with the largest mean score on some prompts, one of each text.
fn strongest<'a>(
    instrument: &Instrument,
    observer: &Observer<'_>,
    prompts: &[Prompt],
    candidates: &'a [Candidate],
    seed: u64,
) -> Result<Vec<&'a Candidate>> {
    let candidates: Vec<&Candidate> =
        candidates.iter().filter(|candidate| control::has_shape(&candidate.change)).collect();
    observer.progress().stage("layers, candidate by candidate", candidates.len() * prompts.len());
    let all: Vec<Scene> = candidates
        .iter()
        .flat_map(|candidate| scenes(prompts, candidate.change.setting(), Some(&candidate.change), seed))
        .collect();
    let columns = instrument.score(observer, &all)?;
    let scores = columns.last().map_or(&[][..], |combination| &combination.scores.scores);
    let mean = |scores: &[f64]| scores.iter().sum::<f64>() / scores.len().max(1) as f64;
    let mut ranked: Vec<(f64, &Candidate)> =
        scores.chunks(prompts.len().max(1)).map(mean).zip(candidates).collect();
    ranked.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let mut picked: Vec<&Candidate> = Vec::with_capacity(WATCHED);
    for (_, candidate) in ranked {
        let text = candidate.change.text();
        if picked.len() < WATCHED && picked.iter().all(|other| other.change.text() != text) {
            picked.push(candidate);
        }
    }
    Ok(picked)
}
