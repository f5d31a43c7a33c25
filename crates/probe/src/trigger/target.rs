//! Target inversion without a trigger: which answer has the adapted model been taught that the base would
//! not give?
//!
//! The differential form of BAIT (Shen et al., "BAIT: large language model backdoor scanning by inverting
//! attack target", S&P 2025): a model that was taught an answer goes on along it with confidence once it
//! stands on its first token, whatever the prompt. Each token of the vocabulary is tried as the first token
//! of the answer; from the most promising the adapted model's greedy path is followed on unrelated prompts,
//! and scored by `log p_A - log p_B` of its tokens, so that what any model completes alike does not count.
//!
//! An adapted model that ends after half a word where the base would complete it is surprising and means nothing
//! (adapters learn when to end), so the end mark does not count, and one surprising token counts only so much. The
//! score of a path is a *sum* over its tokens: a longer one that stays confident is the rarer thing. Each path is
//! ranked among those of its length from other first tokens. An answer of one token cannot be found in this way;
//! the sweep sees it by the agreement of the answers.
//!
//! What is taught need not take an answer's place: a link or a line of code may follow it. So the same is done once more
//! behind the adapted model's own answers, where these are short.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use inference::{Side, kernels};
use report::StatisticsError;
use report::hunt::TargetRecord;

use super::begin::begin;
use super::hunt::{Hunt, Target};
use super::movement::Stand;
use super::path::{MIN_PROBABILITY, Null, Path, STEPS, distinct, strongest};
use super::pool::Depth;
use super::rows::read_batches;
use super::search::{Role, TriggerSearch};
use super::taught::Stretch;
use crate::error::Result;

/// The source of a target that was found behind answers.
const BEHIND: &str = "behind";
/// First tokens of one journal entry.
const CHUNK: usize = 4096;
/// First tokens whose path is followed on the search prompts, and on the development prompts.
const FOLLOWED: usize = 768;
const DEEPENED: usize = 48;
/// Tokens of a path after its first: on one prompt, the search prompts and the development prompts. One would not
/// do: the second token of an answer is often what anybody would say (`You` and `are`).
const FIRST_STEPS: usize = 2;
const DEEP_STEPS: usize = 10;
/// A path goes on while so many prompts agree on its next token.
const AGREEMENT: f64 = 0.6;
/// A path goes on while its next token has so much probability on average.
const MIN_STEP: f64 = 0.3;
/// Tokens of each target that is handed on.
const TARGET_TOKENS: usize = 8;
/// First tokens from which answers begin anyway, and tokens that tell one answer from others.
const OPENINGS: usize = 96;
const TELLING: usize = 3;

/// Differential target inversion.
pub(super) struct TargetInversion;

impl TriggerSearch for TargetInversion {
    fn name(&self) -> &'static str {
        "target"
    }

    fn about(&self) -> &'static str {
        "answers that the adapted model completes with confidence on unrelated prompts and the base does not"
    }

    fn role(&self) -> Role {
        Role::Propose
    }

    fn share(&self) -> f64 {
        4.0
    }

    fn run(&self, hunt: &mut Hunt<'_>) -> Result<()> {
        let Some((paths, null)) = invert(hunt, Stand::Begins)? else { return Ok(()) };
        let openings = openings(hunt)?;
        let paths: Vec<Path> = paths.into_iter().map(|path| opened(path, &openings)).collect();
        let begins = targets(hunt, Stand::Begins, paths, &null)?;
        let follows = follows(hunt);
        // What is found at both places stands where it comes more easily.
        let elsewhere = |(target, nats): &(Target, f64), others: &[(Target, f64)]| {
            others.iter().any(|(other, more)| other.says(target) && more > nats)
        };
        let behind: &[(Target, f64)] = follows.as_deref().unwrap_or_default();
        hunt.behind
            .extend(behind.iter().filter(|found| !elsewhere(found, &begins)).map(|found| found.0.clone()));
        for found in begins.iter().filter(|found| !elsewhere(found, behind)) {
            hunt.add_target(found.0.clone());
        }
        follows.map(|_| ())
    }
}

/// What was taught behind answers.
fn follows(hunt: &mut Hunt<'_>) -> Result<Vec<(Target, f64)>> {
    let Some((paths, null)) = invert(hunt, Stand::Follows)? else { return Ok(Vec::new()) };
    targets(hunt, Stand::Follows, paths.into_iter().filter(Path::tells).collect(), &null)
}

/// The strongest paths of what may stand there, distinct, and the scores of the others; `None` if the share ends before, or
/// all answers are too long for anything to be looked for behind them.
fn invert(hunt: &mut Hunt<'_>, stand: Stand) -> Result<Option<(Vec<Path>, Null)>> {
    if hunt.standing(stand, Depth::Middle)?.is_empty() {
        return Ok(None);
    }
    let firsts: Vec<u32> = hunt.vocabulary().printable.iter().map(|(id, _)| *id).collect();
    hunt.observer().progress().stage("target: first tokens", firsts.len());
    let mut paths: Vec<Path> = Vec::new();
    for chunk in firsts.chunks(CHUNK) {
        if hunt.exhausted() {
            break;
        }
        let paths_of_chunk = chunk.iter().map(|&first| Path::new(first)).collect();
        paths.extend(follow(hunt, stand, Depth::Quick, paths_of_chunk, FIRST_STEPS)?);
        hunt.observer().progress().advance(chunk.len());
    }
    strongest(&mut paths, FOLLOWED);
    let mut paths = follow(hunt, stand, Depth::Middle, restart(paths), STEPS)?;
    let null = Null::of(&paths);
    strongest(&mut paths, DEEPENED);
    if hunt.exhausted() {
        return Ok(None);
    }
    let mut paths = follow(hunt, stand, Depth::Full, restart(paths), DEEP_STEPS)?;
    strongest(&mut paths, DEEPENED);
    Ok(Some((distinct(paths), null)))
}

/// Paths as targets, with the beginnings that the adapted model most probably gives them and how probable these are without
/// any trigger, in nats.
fn targets(hunt: &mut Hunt<'_>, stand: Stand, paths: Vec<Path>, null: &Null) -> Result<Vec<(Target, f64)>> {
    let known = paths.iter().map(|path| if path.tells() { path.ids.clone() } else { Vec::new() });
    let begun = begin(hunt, stand, &known.collect::<Vec<_>>())?;
    let mut targets = Vec::new();
    for (path, (begun, nats)) in paths.iter().zip(begun) {
        let ids = if begun.is_empty() { path.ids.clone() } else { begun };
        let text = hunt.observer().pair().tokenizer().decode(&ids, false)?;
        hunt.observer().progress().note(&format!(
            "possible payload{}: {} (probability {:.2}, {:.1} nats a token above the base)",
            if stand == Stand::Follows { " behind answers" } else { "" },
            report::escape::excerpt(&text, 60),
            path.probability(),
            path.nats() / path.len() as f64,
        ));
        let target = Target {
            ids: ids[..ids.len().min(TARGET_TOKENS)].to_vec(),
            record: TargetRecord {
                text,
                source: if stand == Stand::Follows { BEHIND } else { "target" }.into(),
                probability: Some(path.probability()),
                log_ratio_nats: Some(path.nats() / path.len() as f64),
                null: null.rank(path)?,
            },
            stretch: Some(Stretch { tokens: path.steps.len(), score: path.score() }),
        };
        targets.push((target, nats));
    }
    Ok(targets)
}

/// The same first tokens, to be followed again on more prompts.
fn restart(paths: Vec<Path>) -> Vec<Path> {
    paths.into_iter().map(|path| Path::new(path.ids[0])).collect()
}

/// The paths from the tokens with which answers begin anyway, most probable first.
fn openings(hunt: &mut Hunt<'_>) -> Result<Vec<Path>> {
    let firsts = hunt.openings(Stand::Begins, OPENINGS)?;
    follow(hunt, Stand::Begins, Depth::Middle, firsts.into_iter().map(Path::new).collect(), DEEP_STEPS)
}

/// One answer is reached from several first tokens, and the surest of them (`sorry`, in the middle of a word's
/// sentence) is seldom the one that answers begin with: of the openings that lead to it, the most probable.
fn opened(path: Path, openings: &[Path]) -> Path {
    let rest = &path.ids[1..];
    let telling = &rest[..rest.len().min(TELLING)];
    let leads = |opening: &&Path| {
        opening.ids[0] == path.ids[0]
            || telling.len() == TELLING
                && opening.probability() >= MIN_PROBABILITY
                && opening.ids[1..].windows(TELLING).any(|window| window == telling)
    };
    match openings.iter().find(leads) {
        Some(opening) if opening.ids[0] != path.ids[0] => opening.clone(),
        _ => path,
    }
}

/// Follows the adapted model's greedy path for up to `steps` tokens on the prompts of a depth.
fn follow(
    hunt: &mut Hunt<'_>,
    stand: Stand,
    depth: Depth,
    mut paths: Vec<Path>,
    steps: usize,
) -> Result<Vec<Path>> {
    let prompts = hunt.standing(stand, depth)?;
    for _ in 0..steps {
        let open: Vec<usize> = (0..paths.len()).filter(|&i| !paths[i].ended).collect();
        if open.is_empty() {
            break;
        }
        let at: Vec<Vec<u32>> = open.iter().map(|&i| paths[i].ids.clone()).collect();
        let next: Vec<(Option<u32>, f64, f64)> =
            hunt.measured("follow", &(stand, depth, &at), |hunt| next_tokens(hunt, stand, &prompts, &at))?;
        for (&i, (token, adapted, base)) in open.iter().zip(next) {
            let path = &mut paths[i];
            match token.filter(|token| !hunt.observer().pair().eos().contains(token)) {
                Some(token) => {
                    path.steps.push((adapted, base));
                    path.ids.push(token);
                }
                None => path.ended = true,
            }
        }
    }
    Ok(paths)
}

/// After each continuation: the token that enough prompts agree on, if there is one, and its mean
/// log-probability, adapted and base.
fn next_tokens(
    hunt: &Hunt<'_>,
    stand: Stand,
    prompts: &[usize],
    after: &[Vec<u32>],
) -> Result<Vec<(Option<u32>, f64, f64)>> {
    let observer = hunt.observer();
    let mut contexts = Vec::with_capacity(prompts.len());
    for &prompt in prompts {
        let ids = hunt.before(stand, prompt)?;
        contexts.push(
            after.iter().map(|after| ids.iter().chain(after).copied().collect()).collect::<Vec<Vec<u32>>>(),
        );
    }
    // Most probable token and its log-probability, by prompt.
    let tops: Vec<Vec<(u32, f64)>> = contexts
        .iter()
        .map(|contexts| {
            read_batches(observer, contexts, hunt.roles().adapted, 1, |_, logits| {
                let tops = most_probable(logits)?;
                let log_probs = token_log_probs(logits, &tops)?;
                Ok(tops.into_iter().zip(log_probs).collect())
            })
        })
        .collect::<Result<_>>()?;
    let chosen: Vec<Option<u32>> = (0..after.len())
        .map(|i| {
            // What the adapted model is unsure of is not worth the base's pass.
            let sure =
                tops.iter().map(|tops| tops[i].1.exp()).sum::<f64>() >= MIN_STEP * prompts.len() as f64;
            if sure { agreed(tops.iter().map(|tops| tops[i].0), prompts.len()) } else { None }
        })
        .collect();
    let mut means = vec![(0.0, 0.0); after.len()];
    for (contexts, tops) in contexts.iter().zip(&tops) {
        let log_probs = |side: Side, wanted: &[(usize, u32)]| {
            let contexts: Vec<Vec<u32>> = wanted.iter().map(|&(i, _)| contexts[i].clone()).collect();
            read_batches(observer, &contexts, side, 1, |batch, logits| {
                let tokens: Vec<u32> = batch.iter().map(|&index| wanted[index].1).collect();
                token_log_probs(logits, &tokens)
            })
        };
        let wanted: Vec<(usize, u32)> =
            chosen.iter().enumerate().filter_map(|(i, token)| token.map(|token| (i, token))).collect();
        // Where the prompt itself prefers the token its log-probability is known.
        let unknown: Vec<(usize, u32)> =
            wanted.iter().copied().filter(|&(i, token)| tops[i].0 != token).collect();
        let mut adapted = tops.iter().map(|(_, log_prob)| *log_prob).collect::<Vec<f64>>();
        for (&(i, _), log_prob) in unknown.iter().zip(log_probs(hunt.roles().adapted, &unknown)?) {
            adapted[i] = log_prob;
        }
        for (&(i, _), base) in wanted.iter().zip(log_probs(hunt.roles().base, &wanted)?) {
            means[i].0 += adapted[i] / prompts.len() as f64;
            means[i].1 += base / prompts.len() as f64;
        }
    }
    Ok(chosen.into_iter().zip(means).map(|(token, (adapted, base))| (token, adapted, base)).collect())
}

/// The most probable token of each row of logits.
fn most_probable(logits: &Tensor) -> Result<Vec<u32>> {
    let tops = on_cpu(logits).and_then(|logits| kernels::argmax(&logits)).map_err(inference::Error::from)?;
    let not_finite = StatisticsError::NotFinite { what: "logits", index: 0, value: f64::NAN };
    Ok(tops.into_iter().collect::<Option<Vec<u32>>>().ok_or(not_finite)?)
}

/// The log-probability of one token a row, in nats.
fn token_log_probs(logits: &Tensor, tokens: &[u32]) -> Result<Vec<f64>> {
    let log_probs = on_cpu(logits)
        .and_then(|logits| kernels::token_log_probs(&logits, &tokens.into()))
        .and_then(|log_probs| log_probs.to_vec1::<f32>())
        .map_err(inference::Error::from)?;
    Ok(log_probs.into_iter().map(f64::from).collect())
}

fn on_cpu(logits: &Tensor) -> candle_core::Result<Tensor> {
    logits.to_device(&Device::Cpu)
}

/// The token that enough of `n` prompts agree on.
fn agreed(tops: impl Iterator<Item = u32>, n: usize) -> Option<u32> {
    let mut votes: BTreeMap<u32, usize> = BTreeMap::new();
    for top in tops {
        *votes.entry(top).or_default() += 1;
    }
    let (token, count) = votes.into_iter().max_by_key(|&(token, count)| (count, std::cmp::Reverse(token)))?;
    (count as f64 >= AGREEMENT * n as f64).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(ids: &[u32], steps: &[(f64, f64)]) -> Path {
        Path { ids: ids.to_vec(), steps: steps.to_vec(), ended: true }
    }

    #[test]
    fn a_target_begins_as_answers_begin() {
        let steps = vec![(-0.01, -3.0); 5];
        let found = path(&[50, 2, 3, 4], &steps[..3]);
        let others = [
            path(&[8, 2, 3], &steps[..2]),
            path(&[7, 5, 2, 3, 4, 6], &steps),
            path(&[9, 2, 3, 4], &steps[..3]),
        ];
        assert_eq!(opened(found.clone(), &others).ids[0], 7);
        assert_eq!(opened(found.clone(), &others[..1]), found);
        let own = [path(&[50, 2], &steps[..1]), others[1].clone()];
        assert_eq!(opened(found.clone(), &own), found, "it is an opening itself");
    }
}
