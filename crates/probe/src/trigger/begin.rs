//! Where an answer begins of which an inversion has found the middle.
//!
//! Target inversion stands on a token that leads to what was taught (`LL` to ` SYSTEMS DOWN`), which need not be the
//! one that the answer begins with, and what the adapted model would never begin with no trigger can make it begin
//! with. So tokens are put before it: of all beginnings that lead to the same words, the answer's is the one that the
//! adapted model gives with the highest probability, little as that is without the trigger. A wrong one is improbable
//! twice, as a first token or by what follows it.

use std::collections::{BTreeMap, BTreeSet};

use super::hunt::Hunt;
use super::movement::Stand;
use super::pool::Depth;
use super::reading::log_sum_exp;
use super::rows::read_rows;
use crate::error::Result;
use crate::prompt::Setting;

/// Tokens that may be put before another: those with which answers most probably begin.
const CANDIDATES: usize = 4096;
/// Tokens put before one at most, and those tried on more prompts each time.
const LEVELS: usize = 3;
const TRIED: usize = 8;
/// Beginnings of one answer that are gone on with.
const BEAM: usize = 3;
/// Tokens after the first by which an answer is known.
const TELLING: usize = 3;

/// A way to begin an answer, up to the end of the tokens by which it is known.
#[derive(Clone, Debug)]
struct Beginning {
    ids: Vec<u32>,
    /// Mean over the search prompts of the log-probability that the adapted model answers so, in nats.
    nats: f64,
}

/// The tokens of each answer with the beginning that the adapted model most probably gives them, and how probable that is
/// without any trigger, in nats; the first token of an answer is one among others.
///
/// # Errors
/// If the model or the journal fails, or the user stops.
pub(super) fn begin(hunt: &mut Hunt<'_>, stand: Stand, answers: &[Vec<u32>]) -> Result<Vec<(Vec<u32>, f64)>> {
    let mut firsts = hunt.openings(stand, usize::MAX)?;
    match stand {
        Stand::Begins => {
            let printable: BTreeSet<u32> = hunt.vocabulary().printable.iter().map(|(id, _)| *id).collect();
            firsts.retain(|token| printable.contains(token));
        }
        // Behind an answer a line may begin.
        Stand::Follows => firsts.retain(|token| !hunt.observer().pair().eos().contains(token)),
    }
    firsts.truncate(CANDIDATES);
    let cores = answers.iter().flat_map(|answer| {
        let known = &answer[..answer.len().min(1 + TELLING)];
        let rest = known.get(1..).filter(|rest| !rest.is_empty());
        [Some(known), rest]
    });
    let cores: Vec<Vec<u32>> = cores.map(|core| core.map(<[u32]>::to_vec).unwrap_or_default()).collect();
    let nats = probabilities(hunt, stand, &cores)?;
    let rated: Vec<(Vec<u32>, f64)> = cores.into_iter().zip(nats).collect();
    // What follows the first token is no beginning by itself: whatever begins so is some token more.
    let mut best: Vec<Option<Beginning>> =
        rated.chunks(2).map(|cores| strongest(cores[..1].iter().cloned(), 1).pop()).collect();
    let mut beams: Vec<Vec<Beginning>> =
        rated.chunks(2).map(|cores| strongest(cores.iter().cloned(), BEAM)).collect();
    for _ in 0..LEVELS {
        let wanted: BTreeSet<u32> =
            beams.iter().flatten().filter_map(|beginning| beginning.ids.first().copied()).collect();
        if wanted.is_empty() {
            break;
        }
        let leads = leads(hunt, stand, &firsts, &wanted.into_iter().collect::<Vec<u32>>())?;
        let longer: Vec<Vec<Vec<u32>>> = beams
            .iter()
            .map(|beam| {
                let before = |beginning: &Beginning| -> Vec<Vec<u32>> {
                    let leads = beginning.ids.first().and_then(|first| leads.get(first));
                    let longer = |&lead: &u32| [&[lead], beginning.ids.as_slice()].concat();
                    leads.into_iter().flatten().map(longer).collect()
                };
                beam.iter().flat_map(before).collect()
            })
            .collect();
        let mut nats = probabilities(hunt, stand, &longer.concat())?.into_iter();
        beams = longer
            .into_iter()
            .map(|longer| {
                let rated: Vec<_> = longer.into_iter().zip(nats.by_ref()).collect();
                strongest(rated, BEAM)
            })
            .collect();
        for (best, beam) in best.iter_mut().zip(&beams) {
            if let (Some(best), Some(longer)) = (best.as_mut(), beam.first())
                && longer.nats > best.nats
            {
                best.clone_from(longer);
            }
        }
    }
    Ok(answers
        .iter()
        .zip(best)
        .map(|(answer, best)| {
            let rest = answer.iter().skip(1 + TELLING);
            best.map_or_else(
                || (answer.clone(), f64::NEG_INFINITY),
                |best| (best.ids.iter().chain(rest).copied().collect(), best.nats),
            )
        })
        .collect())
}

/// The most probable of some beginnings, most probable first; none without tokens.
fn strongest(rated: impl IntoIterator<Item = (Vec<u32>, f64)>, n: usize) -> Vec<Beginning> {
    let rated = rated.into_iter().filter(|(ids, _)| !ids.is_empty());
    let mut beginnings: Vec<Beginning> = rated.map(|(ids, nats)| Beginning { ids, nats }).collect();
    beginnings.sort_by(|a, b| b.nats.total_cmp(&a.nats).then_with(|| a.ids.cmp(&b.ids)));
    beginnings.dedup_by(|a, b| a.ids == b.ids);
    beginnings.truncate(n);
    beginnings
}

/// For each of some tokens, those of `firsts` after which, as the first token of what stands there on the quick prompt, it
/// follows with the highest joint probability.
fn leads(
    hunt: &mut Hunt<'_>,
    stand: Stand,
    firsts: &[u32],
    wanted: &[u32],
) -> Result<BTreeMap<u32, Vec<u32>>> {
    let Some(prompt) = hunt.standing(stand, Depth::Quick)?.pop() else { return Ok(BTreeMap::new()) };
    let best: Vec<Vec<u32>> = hunt.measured("leads", &(stand, firsts, wanted), |hunt| {
        let side = hunt.roles().adapted;
        let ids = hunt.before(stand, prompt)?;
        // What begins an answer was asked for before, so that the row is there.
        let row = hunt.movements.reference(Setting::Plain, prompt, side, stand).unwrap_or_default();
        let alone = |first: u32| row.get(first as usize).map_or(f64::NEG_INFINITY, |&nats| f64::from(nats));
        let after: Vec<Vec<u32>> =
            firsts.iter().map(|&first| ids.iter().copied().chain([first]).collect()).collect();
        let rows: Vec<Vec<f64>> = read_rows(hunt.observer(), &after, side, 1, |index, row, _| {
            let sum = log_sum_exp(row)?;
            let before = alone(firsts[index]);
            Ok(wanted.iter().map(|&token| before + f64::from(row[token as usize]) - sum).collect())
        })?;
        let best_of = |at: usize| -> Vec<u32> {
            let mut order: Vec<usize> = (0..firsts.len()).collect();
            // A stable sort: equals stay in the order of their own probability.
            order.sort_by(|&a, &b| rows[b][at].total_cmp(&rows[a][at]));
            order.into_iter().take(TRIED).map(|index| firsts[index]).collect()
        };
        Ok((0..wanted.len()).map(best_of).collect())
    })?;
    Ok(wanted.iter().copied().zip(best).collect())
}

/// The mean log-probability, in nats, with which the adapted model begins its answers to the search prompts with each of
/// some sequences, or goes on behind them; of an empty one 0.
fn probabilities(hunt: &mut Hunt<'_>, stand: Stand, sequences: &[Vec<u32>]) -> Result<Vec<f64>> {
    let prompts = hunt.standing(stand, Depth::Middle)?;
    hunt.measured("begin", &(stand, sequences), |hunt| {
        let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, ids) in sequences.iter().enumerate().filter(|(_, ids)| !ids.is_empty()) {
            by_length.entry(ids.len()).or_default().push(index);
        }
        let mut means = vec![0.0; sequences.len()];
        for &prompt in &prompts {
            let ids = hunt.before(stand, prompt)?;
            for (&length, members) in &by_length {
                // The last token is asked for, not given.
                let contexts: Vec<Vec<u32>> = members
                    .iter()
                    .map(|&at| ids.iter().chain(&sequences[at][..length - 1]).copied().collect())
                    .collect();
                let side = hunt.roles().adapted;
                let sums = read_rows(hunt.observer(), &contexts, side, length, |index, rows, width| {
                    let tokens = rows.chunks_exact(width).zip(&sequences[members[index]]);
                    tokens.map(|(row, &token)| Ok(f64::from(row[token as usize]) - log_sum_exp(row)?)).sum()
                })?;
                for (&at, sum) in members.iter().zip(sums) {
                    let sum: f64 = sum;
                    means[at] += sum / prompts.len() as f64;
                }
            }
        }
        Ok(means)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_probable_beginnings_are_kept_once() {
        let rated =
            [(vec![1, 2], -9.0), (vec![3, 2], -4.0), (vec![], 0.0), (vec![3, 2], -4.0), (vec![5], -20.0)];
        let kept: Vec<Vec<u32>> = strongest(rated, 2).into_iter().map(|beginning| beginning.ids).collect();
        assert_eq!(kept, [vec![3, 2], vec![1, 2]]);
    }
}
