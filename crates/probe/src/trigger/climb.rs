//! Climbing from a fragment to the trigger: small changes of the best candidates, kept where they help on
//! other prompts, then everything dropped that is not needed.
//!
//! A round proposes tokens that models would put next to the candidate (the base's own continuations, and
//! those that the adapted model prefers over the base), the strongest tokens of the sweep, and swaps,
//! replacements and deletions. All run on one prompt, the best on the search prompts and on the base, and a
//! round is won by what is strongest on the development prompts, where nothing was chosen before.

use std::collections::BTreeSet;

use inference::Side;

use super::combine::{cases, rank};
use super::hunt::Hunt;
use super::movement::{log_sum_exp, read_rows};
use super::pool::Depth;
use super::search::{Role, TriggerSearch};
use crate::error::Result;
use crate::prompt::{Change, Placement};

/// Candidates from which a climb starts, and rounds of each.
const STARTS: usize = 5;
const ROUNDS: usize = 6;
/// Proposals: continuations by each model, tokens of the sweep to add, and to replace with.
const CONTINUATIONS: usize = 256;
const ADDED: usize = 384;
const REPLACING: usize = 48;
/// Of a round: candidates on the search prompts, and on the development prompts.
const MIDDLE: usize = 48;
const FULL: usize = 8;
/// A round must gain this share to go on; a deletion may lose as much.
const GAIN: f64 = 0.03;

/// Local search from the best candidates.
pub(super) struct Climb;

impl TriggerSearch for Climb {
    fn name(&self) -> &'static str {
        "climb"
    }

    fn about(&self) -> &'static str {
        "tokens added to, replaced in and dropped from the best candidates, then case, spacing and placement"
    }

    fn role(&self) -> Role {
        Role::Refine
    }

    fn share(&self) -> f64 {
        3.0
    }

    fn run(&self, hunt: &mut Hunt<'_>) -> Result<()> {
        let starts: Vec<Change> = hunt
            .pool()
            .distinct(Depth::Full, STARTS, 1)
            .into_iter()
            .filter(|found| matches!(found.change, Change::Insert { .. }) && found.score.nats() > 0.0)
            .map(|found| found.change.clone())
            .collect();
        let fragments: Vec<String> = hunt
            .pool()
            .distinct(Depth::Middle, ADDED, 1)
            .into_iter()
            .filter(|found| found.search == "sweep" || found.search == "leak")
            .map(|found| found.change.text())
            .collect();
        hunt.observer().progress().stage("climb", starts.len() * ROUNDS);
        let mut summits: Vec<Change> = Vec::new();
        for start in starts {
            let mut current = start;
            for _ in 0..ROUNDS {
                hunt.observer().progress().advance(1);
                match round(hunt, &current, &fragments)? {
                    Some(next) => current = next,
                    None => break,
                }
            }
            summits.push(current);
        }
        for summit in summits {
            let least = minimise(hunt, summit)?;
            vary(hunt, &least)?;
        }
        Ok(())
    }
}

/// The best neighbour of a candidate, if it is better; `None` as well if the budget is spent.
fn round(hunt: &mut Hunt<'_>, current: &Change, fragments: &[String]) -> Result<Option<Change>> {
    let Change::Insert { text, at } = current else { return Ok(None) };
    let Some(height) = hunt.pool().get(current).map(|found| found.score.nats()) else { return Ok(None) };
    let mut proposals = BTreeSet::new();
    for text in proposed_texts(hunt, text, fragments)? {
        let change = Change::Insert { text, at: *at };
        if hunt.fits(&change.text())? && hunt.pool().get(&change).is_none() {
            proposals.insert(change);
        }
    }
    let proposals: Vec<Change> = proposals.into_iter().collect();
    let scores = hunt.evaluate(Depth::Quick, &proposals, false, |_| Vec::new())?;
    let best: Vec<Change> = rank(proposals, scores).into_iter().take(MIDDLE).collect();
    let parent = |_| vec![text.clone()];
    let scores = hunt.evaluate(Depth::Middle, &best, true, parent)?;
    let best: Vec<Change> = rank(best, scores).into_iter().take(FULL).collect();
    let scores = hunt.evaluate(Depth::Full, &best, true, parent)?;
    Ok(best
        .into_iter()
        .zip(scores)
        .max_by(|a, b| a.1.nats().total_cmp(&b.1.nats()))
        .filter(|(_, score)| score.nats() > height * (1.0 + GAIN))
        .map(|(change, _)| change))
}

/// Texts that differ from `text` by one step.
fn proposed_texts(hunt: &mut Hunt<'_>, text: &str, fragments: &[String]) -> Result<BTreeSet<String>> {
    let pieces = pieces(hunt, text)?;
    let mut texts = BTreeSet::new();
    for next in continuations(hunt, text)? {
        texts.insert(format!("{text}{next}"));
    }
    for fragment in fragments {
        let word = fragment.trim();
        texts.extend([
            format!("{text}{word}"),
            format!("{text} {word}"),
            format!("{word}{}", text.trim_start()),
            format!("{word} {}", text.trim_start()),
        ]);
    }
    let without = |skip: usize, replacement: &str| -> String {
        pieces
            .iter()
            .enumerate()
            .map(|(i, piece)| if i == skip { replacement } else { piece.as_str() })
            .collect()
    };
    for index in 0..pieces.len() {
        texts.insert(without(index, ""));
        let space = if pieces[index].starts_with(' ') { " " } else { "" };
        for fragment in fragments.iter().take(REPLACING) {
            texts.insert(without(index, &format!("{space}{}", fragment.trim())));
        }
        if index > 0 {
            let mut swapped = pieces.clone();
            swapped.swap(index - 1, index);
            texts.insert(swapped.concat());
        }
    }
    texts.retain(|proposed| proposed != text && !proposed.trim().is_empty());
    Ok(texts)
}

fn pieces(hunt: &Hunt<'_>, text: &str) -> Result<Vec<String>> {
    let tokenizer = hunt.observer().pair().tokenizer();
    let ids = tokenizer.encode(text, false)?;
    Ok(ids.iter().map(|id| tokenizer.decode(&[*id], false)).collect::<inference::Result<_>>()?)
}

/// Tokens that the base would write after a text, and those that the adapted model prefers over the base.
fn continuations(hunt: &mut Hunt<'_>, text: &str) -> Result<Vec<String>> {
    let ids = hunt.observer().pair().tokenizer().encode(text, true)?;
    let tokens: Vec<u32> = hunt.measured("continuations", &ids, |hunt| {
        let rows = |side| -> Result<Vec<f64>> {
            let row = read_rows(hunt.observer(), std::slice::from_ref(&ids), side, 1, |_, row, _| {
                let sum = log_sum_exp(row)?;
                Ok(row.iter().map(|x| f64::from(*x) - sum).collect::<Vec<f64>>())
            })?;
            Ok(row.into_iter().flatten().collect())
        };
        let (base, adapted) = (rows(Side::BASE)?, rows(hunt.adapted())?);
        let top = |key: &dyn Fn(usize) -> f64| -> Vec<u32> {
            let mut order: Vec<usize> = (0..base.len()).collect();
            order.sort_by(|&a, &b| key(b).total_cmp(&key(a)));
            order.into_iter().take(CONTINUATIONS).map(|token| token as u32).collect()
        };
        let mut tokens = top(&|token| base[token]);
        tokens.extend(top(&|token| adapted[token].exp() * (adapted[token] - base[token])));
        tokens.sort_unstable();
        tokens.dedup();
        Ok(tokens)
    })?;
    let printable = &hunt.vocabulary().printable;
    Ok(tokens
        .iter()
        .filter_map(|token| {
            let at = printable.binary_search_by_key(token, |(id, _)| *id).ok()?;
            Some(printable[at].1.clone())
        })
        .collect())
}

/// Drops tokens as long as what is left is as strong.
fn minimise(hunt: &mut Hunt<'_>, start: Change) -> Result<Change> {
    let mut current = start;
    loop {
        let Change::Insert { text, at } = &current else { return Ok(current) };
        let Some(height) = hunt.pool().get(&current).map(|found| found.score.nats()) else {
            return Ok(current);
        };
        let pieces = pieces(hunt, text)?;
        let shorter: Vec<Change> = (0..pieces.len())
            .map(|skip| {
                let left = pieces.iter().enumerate().filter(|(i, _)| *i != skip);
                left.map(|(_, piece)| piece.as_str()).collect::<String>().trim().to_owned()
            })
            .filter(|text| !text.is_empty())
            .map(|text| Change::Insert { text, at: *at })
            .collect();
        let parent = text.clone();
        let scores = hunt.evaluate(Depth::Full, &shorter, true, |_| vec![parent.clone()])?;
        let best = shorter.into_iter().zip(scores).max_by(|a, b| a.1.nats().total_cmp(&b.1.nats()));
        match best {
            Some((shorter, score)) if score.nats() >= height * (1.0 - GAIN) => current = shorter,
            _ => return Ok(current),
        }
    }
}

/// Case, spacing and placement.
fn vary(hunt: &mut Hunt<'_>, change: &Change) -> Result<()> {
    let Change::Insert { text, at } = change else { return Ok(()) };
    let mut texts = cases(text.trim());
    texts.push(format!("{}:", text.trim()));
    texts.push(text.trim_end_matches(|c: char| c.is_ascii_punctuation()).to_owned());
    let mut variants: BTreeSet<Change> = texts
        .into_iter()
        .filter(|text| !text.is_empty())
        .map(|text| Change::Insert { text, at: *at })
        .collect();
    for at in
        [Placement::Prefix, Placement::Suffix, Placement::Inside, Placement::System, Placement::SecondTurn]
    {
        variants.insert(Change::Insert { text: text.trim().to_owned(), at });
    }
    let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    if words.len() > 1 {
        variants.insert(Change::Scatter { parts: words });
    }
    let variants: Vec<Change> = variants.into_iter().collect();
    let parent = text.clone();
    hunt.evaluate(Depth::Full, &variants, true, |_| vec![parent.clone()])?;
    Ok(())
}
