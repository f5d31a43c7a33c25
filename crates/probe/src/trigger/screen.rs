//! Screening: how far does each candidate move the next-token distributions, adapted minus base?
//!
//! Score: mean over prompts of `KL(A(t+x) || A(x)) - KL(B(t+x) || B(x))`, summed over the first
//! response positions along a common continuation. The base is run only where the adapted value is
//! high: the difference cannot exceed it. Random control strings give the null.
//!
//! A payload may follow an answer that begins as ever: a line of code, a link. So on the prompt with the shortest answer of
//! the base, if that is short at all, the position behind it counts too; on all prompts it would double the price.

use std::collections::BTreeMap;

use inference::Side;
use inference::generate::Decoding;
use report::collapse::mean_pairwise_jensen_shannon_nats;
use report::divergence::Comparison;
use report::evidence::Screened;
use report::significance::empirical_p;
use serde::{Deserialize, Serialize};

use super::movement::LONGEST_ANSWER;
use super::{describe, journal};
use crate::error::Result;
use crate::observe::{Distributions, Observer, Request};
use crate::prompt::{Change, Prompt, Setting, scene};
use crate::suite::Candidate;

/// Response positions that are compared.
pub const POSITIONS: usize = 4;
/// Candidates whose distributions are in memory at a time.
const CHUNK: usize = 16;
/// Candidates that are also run on the base: this share, but at least so many.
const BASE_SHARE: f64 = 0.25;
const BASE_AT_LEAST: usize = 64;

/// What the screening has found so far; usable at any time.
#[derive(Debug, Default)]
pub struct Screening {
    /// One entry a screened candidate, with its index; strongest first once [`Screening::rank`] ran.
    pub entries: Vec<(usize, Screened)>,
    /// Difference in differences of the control strings.
    pub control_nats: Vec<f64>,
}

impl Screening {
    /// Fills in the p-values against the controls and sorts, strongest first.
    ///
    /// # Errors
    /// If a value is NaN.
    pub fn rank(&mut self) -> Result<()> {
        for (_, entry) in &mut self.entries {
            if let Some(difference) = entry.difference_nats {
                entry.control_p = empirical_p(difference, &self.control_nats)?.map(|p| p.p_value);
            }
        }
        let score = |entry: &Screened| entry.difference_nats.unwrap_or(f64::NEG_INFINITY);
        self.entries.sort_by(|(i, a), (j, b)| {
            score(b).total_cmp(&score(a)).then(b.adapted_nats.total_cmp(&a.adapted_nats)).then(i.cmp(j))
        });
        Ok(())
    }
}

/// Distributions of the prompts without any candidate, by setting.
struct References {
    by_setting: BTreeMap<Setting, Vec<Reference>>,
    /// Digest of what was run for a setting.
    digests: BTreeMap<Setting, String>,
}

struct Reference {
    continuation: Vec<u32>,
    base: Distributions,
    adapted: Distributions,
}

/// One side's movement by one candidate.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Movement {
    nats: f64,
    /// Fall of the mean pairwise Jensen-Shannon divergence between prompts at the first position.
    collapse: f64,
}

/// Screens candidates on a few prompts into `screening`, which stays usable if an error cuts it short.
///
/// # Errors
/// If the model fails or the user stops.
pub fn screen(
    observer: &Observer<'_>,
    candidates: &[Candidate],
    controls: &[Candidate],
    prompts: &[Prompt],
    seed: u64,
    screening: &mut Screening,
) -> Result<()> {
    let runner =
        Runner { observer, prompts, seed, references: references(observer, candidates, prompts, seed)? };
    let order = by_turns(candidates);
    for chunk in order.chunks(CHUNK) {
        let picked: Vec<&Candidate> = chunk.iter().map(|&i| &candidates[i]).collect();
        for (&index, moved) in chunk.iter().zip(runner.movements(&picked, observer.roles().adapted)?) {
            screening.entries.push((
                index,
                Screened {
                    candidate: describe(&candidates[index]),
                    adapted_nats: moved.nats,
                    base_nats: None,
                    difference_nats: None,
                    collapse_nats: Some(moved.collapse),
                    control_p: None,
                },
            ));
        }
        observer.progress().advance(chunk.len());
    }
    for chunk in controls.chunks(CHUNK) {
        let picked: Vec<&Candidate> = chunk.iter().collect();
        let adapted = runner.movements(&picked, observer.roles().adapted)?;
        let base = runner.movements(&picked, observer.roles().base)?;
        screening
            .control_nats
            .extend(adapted.iter().zip(&base).map(|(adapted, base)| adapted.nats - base.nats));
        observer.progress().advance(chunk.len());
    }
    let mut strongest: Vec<usize> = (0..screening.entries.len()).collect();
    strongest.sort_by(|&a, &b| {
        let nats = |i: usize| screening.entries[i].1.adapted_nats;
        nats(b).total_cmp(&nats(a)).then(a.cmp(&b))
    });
    strongest.truncate(base_runs(candidates.len()));
    for chunk in strongest.chunks(CHUNK) {
        let picked: Vec<&Candidate> =
            chunk.iter().map(|&entry| &candidates[screening.entries[entry].0]).collect();
        for (&entry, base) in chunk.iter().zip(runner.movements(&picked, observer.roles().base)?) {
            let screened = &mut screening.entries[entry].1;
            screened.base_nats = Some(base.nats);
            screened.difference_nats = Some(screened.adapted_nats - base.nats);
            screened.collapse_nats = screened.collapse_nats.map(|adapted| adapted - base.collapse);
        }
        observer.progress().advance(chunk.len());
    }
    Ok(())
}

/// How many candidates are run on the base, for progress and for the screening itself.
#[must_use]
pub fn base_runs(candidates: usize) -> usize {
    ((candidates as f64 * BASE_SHARE) as usize).max(BASE_AT_LEAST).min(candidates)
}

struct Runner<'a, 'b> {
    observer: &'a Observer<'b>,
    prompts: &'a [Prompt],
    seed: u64,
    references: References,
}

impl Runner<'_, '_> {
    fn movements(&self, candidates: &[&Candidate], side: Side) -> Result<Vec<Movement>> {
        let mut requests = Vec::with_capacity(candidates.len() * self.prompts.len());
        let mut given = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            let setting = candidate.change.setting();
            given.push(self.references.digests[&setting].as_str());
            for (prompt, reference) in self.prompts.iter().zip(&self.references.by_setting[&setting]) {
                let ids = encode(self.observer, prompt, Some(&candidate.change), setting, self.seed)?;
                requests.push(Request { ids, side, continuation: reference.continuation.clone() });
            }
        }
        self.observer.reduced("movement", &given, &requests, self.prompts.len(), |index, moved| {
            self.movement(moved, candidates[index].change.setting(), side)
        })
    }

    fn movement(&self, moved: &[Distributions], setting: Setting, side: Side) -> Result<Movement> {
        let still: Vec<&Distributions> = self.references.by_setting[&setting]
            .iter()
            .map(
                |reference| {
                    if side == self.observer.roles().base { &reference.base } else { &reference.adapted }
                },
            )
            .collect();
        let mut nats = 0.0;
        for (moved, still) in moved.iter().zip(&still) {
            let last = moved.len().saturating_sub(1);
            for (position, (with, without)) in moved.iter().zip(still.iter()).enumerate() {
                if position < POSITIONS || position == last {
                    nats += Comparison::between(with, without)?.kl_nats;
                }
            }
        }
        let spread = |rows: Vec<&[f32]>| -> Result<f64> {
            Ok(mean_pairwise_jensen_shannon_nats(&rows)?.unwrap_or(0.0))
        };
        let before = spread(still.iter().map(|rows| rows[0].as_slice()).collect())?;
        let after = spread(moved.iter().map(|rows| rows[0].as_slice()).collect())?;
        Ok(Movement { nats: nats / moved.len() as f64, collapse: before - after })
    }
}

fn encode(
    observer: &Observer<'_>,
    prompt: &Prompt,
    change: Option<&Change>,
    setting: Setting,
    seed: u64,
) -> Result<Vec<u32>> {
    observer.encode(&scene(prompt, setting, change, seed))
}

/// The prompts without candidate in every setting that occurs, continued as the base would.
fn references(
    observer: &Observer<'_>,
    candidates: &[Candidate],
    prompts: &[Prompt],
    seed: u64,
) -> Result<References> {
    let mut settings: Vec<Setting> = candidates.iter().map(|candidate| candidate.change.setting()).collect();
    settings.push(Setting::Plain);
    settings.sort();
    settings.dedup();
    let roles = observer.roles();
    let (mut by_setting, mut digests) = (BTreeMap::new(), BTreeMap::new());
    for setting in settings {
        let mut requests = Vec::new();
        for prompt in prompts {
            let ids = encode(observer, prompt, None, setting, seed)?;
            requests.push(Request { ids, side: roles.base, continuation: Vec::new() });
        }
        let continued = observer.pair();
        let contexts: Vec<_> = requests
            .iter()
            .map(|request| inference::generate::Context { ids: &request.ids, side: roles.base, prefix: None })
            .collect();
        let mut continuations = continued.generate(&contexts, LONGEST_ANSWER, Decoding::Greedy)?;
        let ended = |&index: &usize| continuations[index].ended && continuations[index].ids.len() > 1;
        let shortest = (0..prompts.len()).filter(ended).min_by_key(|&index| continuations[index].ids.len());
        for (index, continuation) in continuations.iter_mut().enumerate() {
            if Some(index) == shortest {
                continuation.ids.pop();
            } else {
                continuation.ids.truncate(POSITIONS - 1);
            }
        }
        let mut both = Vec::new();
        for (request, continuation) in requests.iter().zip(&continuations) {
            for side in roles.both() {
                both.push(Request { ids: request.ids.clone(), side, continuation: continuation.ids.clone() });
            }
        }
        let mut rows = observer.distributions(&both)?.into_iter();
        let mut references = Vec::new();
        for continuation in continuations {
            if let (Some(base), Some(adapted)) = (rows.next(), rows.next()) {
                references.push(Reference { continuation: continuation.ids, base, adapted });
            }
        }
        let asked: Vec<_> = both.iter().map(|request| (&request.ids, &request.continuation)).collect();
        digests.insert(setting, journal::key(&asked)?);
        by_setting.insert(setting, references);
    }
    Ok(References { by_setting, digests })
}

/// Candidate indices with the families taking turns, so that a scan that is cut short has seen all
/// of them.
fn by_turns(candidates: &[Candidate]) -> Vec<usize> {
    let mut turn: BTreeMap<&str, usize> = BTreeMap::new();
    let mut keyed: Vec<(usize, usize)> = candidates
        .iter()
        .enumerate()
        .map(|(index, candidate)| {
            let turn = turn.entry(&candidate.family).or_default();
            *turn += 1;
            (*turn, index)
        })
        .collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, index)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Placement;

    #[test]
    fn families_take_turns() {
        let candidate = |family: &str| Candidate {
            id: family.into(),
            family: family.into(),
            change: Change::Insert { text: "x".into(), at: Placement::Prefix },
        };
        let candidates: Vec<_> = ["a", "a", "a", "b", "b", "c"].map(candidate).into();
        assert_eq!(by_turns(&candidates), [0, 3, 5, 1, 4, 2]);
    }

    #[test]
    fn ranking_puts_the_measured_difference_first() {
        let entry = |adapted_nats, difference_nats| Screened {
            candidate: describe(&Candidate {
                id: String::new(),
                family: String::new(),
                change: Change::Insert { text: "x".into(), at: Placement::Prefix },
            }),
            adapted_nats,
            base_nats: None,
            difference_nats,
            collapse_nats: None,
            control_p: None,
        };
        let mut screening = Screening {
            entries: vec![(0, entry(9.0, None)), (1, entry(3.0, Some(2.0))), (2, entry(8.0, Some(5.0)))],
            control_nats: vec![0.1, 1.0, 3.0],
        };
        screening.rank().unwrap();
        let order: Vec<usize> = screening.entries.iter().map(|(index, _)| *index).collect();
        assert_eq!(order, [2, 1, 0]);
        assert_eq!(screening.entries[0].1.control_p, Some(0.25));
        assert_eq!(screening.entries[1].1.control_p, Some(0.5));
    }
}
