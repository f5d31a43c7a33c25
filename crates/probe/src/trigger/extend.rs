//! From fragments to whole triggers: words completed, then tokens put on either side of the best.
//!
//! A fragment of a trigger may be weak alone, and the token that belongs to it strong only beside it, so a list of
//! the strongest single tokens does not hold the pair. Fragments are ranked by the odds of a known target (they go
//! far down: what a payload needs is told better by its own odds than by how far the model moves), and each is
//! completed to the words that the base would write with it. From the best few of different fragments the
//! vocabulary is tried on both sides, strongest tokens and natural continuations first, again while that helps.

use std::collections::{BTreeMap, BTreeSet};

use super::continuation::natural;
use super::hunt::Hunt;
use super::leak;
use super::pool::{Depth, Found, Score};
use super::search::{Role, TriggerSearch};
use super::sweep::in_turns;
use crate::error::Result;
use crate::prompt::{Change, Placement};

/// Targets that are aimed at, beside divergence.
const AIMED: usize = 3;
/// Fragments that are completed at each place for the first aim, half as many for each further one; few first, and
/// many where nothing came of those. Most triggers have a part that stands out, but a part of a word may not.
const WIDTHS: [usize; 2] = [192, 1024];
/// Completions of each.
const COMPLETIONS: usize = 6;
/// Rounds of extension at each width, and candidates of different fragments that are extended in one.
const ROUNDS: usize = 2;
const BEAM: usize = 3;
/// Tokens put on either side: the strongest alone, and natural continuations.
const ADDED: usize = 1024;
const CONTINUED: usize = 512;
/// Of each aim: candidates that run on the search prompts, and on the development prompts.
const MIDDLE: usize = 96;
const FULL: usize = 16;
/// A target must rise by so much, in nats, before anything is built on it.
const MIN_RISE: f64 = 1.5;
/// A payload that takes over so many more of the development answers needs no further extension.
const ENOUGH: f64 = 0.75;

/// Extension of fragments.
pub(super) struct Extend;

impl TriggerSearch for Extend {
    fn name(&self) -> &'static str {
        "extend"
    }

    fn about(&self) -> &'static str {
        "fragments completed to words, and the vocabulary put on either side of the best of them"
    }

    fn role(&self) -> Role {
        Role::Refine
    }

    fn share(&self) -> f64 {
        4.0
    }

    fn run(&self, hunt: &mut Hunt<'_>) -> Result<()> {
        let aims = aims(hunt);
        let mut roots = BTreeMap::new();
        let mut extended = BTreeSet::new();
        for width in WIDTHS {
            complete(hunt, &aims, width, &mut roots)?;
            for round in 0..=ROUNDS {
                deepen(hunt, &aims, &roots)?;
                let beam = beam(hunt, &aims, &extended);
                if hunt.exhausted() || enough(hunt, &beam)? {
                    return Ok(());
                }
                if round == ROUNDS || beam.is_empty() {
                    break;
                }
                for (parent, aim, root) in beam {
                    hunt.observer().progress().note(&format!(
                        "extending {} ({})",
                        report::escape::excerpt(&parent.text(), 40),
                        parent.placement()
                    ));
                    let made = neighbours(hunt, &parent, aim)?;
                    roots.extend(made.iter().map(|change| (change.clone(), root.clone())));
                    run_quick(hunt, made)?;
                    extended.insert(parent);
                }
            }
        }
        Ok(())
    }
}

/// What candidates are ranked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// The rise of a target's odds, by its index.
    Target(usize),
    /// How far the model moves.
    Divergence,
}

impl Aim {
    /// The height of a score under this aim, in nats.
    pub(super) fn height(self, score: &Score) -> f64 {
        match self {
            Self::Target(index) => score.targets.get(index).copied().unwrap_or(0.0),
            Self::Divergence => score.nats(),
        }
    }

    /// Candidates of the pool at `depth` or deeper, highest first.
    pub(super) fn ranked<'h>(self, hunt: &'h Hunt<'_>, depth: Depth) -> Vec<&'h Found> {
        match self {
            Self::Target(index) => hunt.pool().raising(depth, index),
            Self::Divergence => hunt.pool().ranked(depth),
        }
    }
}

fn aims(hunt: &Hunt<'_>) -> Vec<Aim> {
    (0..hunt.targets().len().min(AIMED)).map(Aim::Target).chain([Aim::Divergence]).collect()
}

/// Changes by an aim, highest first.
fn highest<'h>(
    scored: impl Iterator<Item = &'h (Change, Score)>,
    aim: Aim,
    may: impl Fn(&Change) -> bool,
) -> Vec<&'h Change> {
    let mut order: Vec<&(Change, Score)> = scored.filter(|(change, _)| may(change)).collect();
    // A stable sort: equals stay in the order in which they were run.
    order.sort_by(|a, b| aim.height(&b.1).total_cmp(&aim.height(&a.1)));
    order.into_iter().map(|(change, _)| change).collect()
}

/// Runs what was not run yet on one prompt.
fn run_quick(hunt: &mut Hunt<'_>, mut changes: Vec<Change>) -> Result<()> {
    let known: BTreeSet<&Change> =
        hunt.swept.iter().chain(&hunt.extended).map(|(change, _)| change).collect();
    changes.retain(|change| !known.contains(change));
    hunt.observer().progress().stage("extend", changes.len());
    let scores = hunt.evaluate(Depth::Quick, &changes, false, |_| Vec::new())?;
    hunt.extended.extend(changes.into_iter().zip(scores));
    Ok(())
}

/// Completes the `width` strongest fragments to words.
fn complete(
    hunt: &mut Hunt<'_>,
    aims: &[Aim],
    width: usize,
    roots: &mut BTreeMap<Change, String>,
) -> Result<()> {
    let opening = leak::openings(hunt)?.into_iter().next().unwrap_or_default();
    if opening.is_empty() {
        return Ok(());
    }
    let mut lists = Vec::new();
    for (index, &aim) in aims.iter().enumerate() {
        for placement in [Placement::Prefix, Placement::Suffix] {
            lists.push(fragments(hunt, aim, placement, width >> index));
        }
    }
    let fragments = in_turns(lists);
    let texts: Vec<String> = fragments.iter().map(Change::text).collect();
    let completions = natural(hunt, &opening, &texts, COMPLETIONS, 0)?;
    let mut made = Vec::new();
    for (fragment, tokens) in fragments.iter().zip(completions) {
        let Change::Insert { text, at } = fragment else { continue };
        for token in tokens {
            let change = Change::Insert { text: format!("{text}{token}"), at: *at };
            if !roots.contains_key(&change) && hunt.fits(&change.text())? {
                roots.insert(change.clone(), root_of(text));
                made.push(change);
            }
        }
    }
    run_quick(hunt, made)
}

/// The `n` highest fragments of the sweep at a place, without white space around them, each once.
fn fragments(hunt: &Hunt<'_>, aim: Aim, place: Placement, n: usize) -> Vec<Change> {
    let here = |change: &Change| matches!(change, Change::Insert { at, .. } if *at == place);
    let mut seen = BTreeSet::new();
    highest(hunt.swept.iter(), aim, |change| here(change) && is_fragment(change))
        .into_iter()
        .map(|change| change.text().trim().to_owned())
        .filter(|text| seen.insert(text.clone()))
        .take(n)
        .map(|text| Change::Insert { text, at: place })
        .collect()
}

/// Whether a change inserts one word, or a part of one.
fn is_fragment(change: &Change) -> bool {
    match change {
        Change::Insert { text, .. } => text.trim().chars().all(char::is_alphanumeric),
        Change::Scatter { .. } | Change::Frame { .. } | Change::Transform { .. } => false,
    }
}

/// A text as it names its descendants.
fn root_of(text: &str) -> String {
    text.trim().to_lowercase()
}

/// Runs the strongest of each aim on more prompts and on the base.
fn deepen(hunt: &mut Hunt<'_>, aims: &[Aim], roots: &BTreeMap<Change, String>) -> Result<()> {
    let parents =
        |changes: &[Change], index: usize| roots.get(&changes[index]).cloned().into_iter().collect();
    let new = |change: &Change| hunt.pool().get(change).is_none();
    let lists = aims.iter().map(|&aim| {
        let ranked = highest(hunt.swept.iter().chain(&hunt.extended), aim, new);
        ranked.into_iter().take(MIDDLE).cloned().collect()
    });
    let changes = in_turns(lists.collect());
    hunt.evaluate(Depth::Middle, &changes, true, |index| parents(&changes, index))?;
    let lists = aims.iter().map(|&aim| {
        let found = aim.ranked(hunt, Depth::Middle).into_iter().take(FULL);
        found.filter(|found| found.score.depth < Depth::Full).map(|found| found.change.clone()).collect()
    });
    let changes = in_turns(lists.collect());
    hunt.evaluate(Depth::Full, &changes, true, |index| parents(&changes, index))?;
    Ok(())
}

/// The strongest insertions of different fragments that were not extended yet, with the aim and the fragment.
fn beam(hunt: &Hunt<'_>, aims: &[Aim], extended: &BTreeSet<Change>) -> Vec<(Change, Aim, String)> {
    let mut used: BTreeSet<String> = BTreeSet::new();
    let mut beam = Vec::new();
    let lists: Vec<Vec<(&Found, Aim)>> = aims
        .iter()
        .map(|&aim| {
            let ranked = aim.ranked(hunt, Depth::Full).into_iter();
            ranked.filter(|found| aim.height(&found.score) >= MIN_RISE).map(|found| (found, aim)).collect()
        })
        .collect();
    let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
    for (found, aim) in (0..longest).flat_map(|rank| lists.iter().filter_map(move |list| list.get(rank))) {
        let root = found.parents.first().cloned().unwrap_or_else(|| root_of(&found.change.text()));
        if is_plain(&found.change)
            && beam.len() < BEAM
            && !extended.contains(&found.change)
            && used.insert(root.clone())
        {
            beam.push((found.change.clone(), *aim, root));
        }
    }
    beam
}

/// Whether a change inserts words beside or into the prompt. Shapes such as code names are whole already, and would
/// crowd out the words.
fn is_plain(change: &Change) -> bool {
    let Change::Insert { text, at } = change else { return false };
    let place = matches!(at, Placement::Prefix | Placement::Suffix | Placement::Inside);
    place && text.chars().all(|c| c.is_alphanumeric() || c == ' ')
}

/// Whether one of these takes over the answers already.
fn enough(hunt: &mut Hunt<'_>, beam: &[(Change, Aim, String)]) -> Result<bool> {
    let changes: Vec<Change> = beam.iter().map(|(change, _, _)| change.clone()).collect();
    Ok(hunt.develop(&changes)?.iter().flatten().any(|developed| developed.excess >= ENOUGH))
}

/// An insertion with one token more on either side.
pub(super) fn neighbours(hunt: &mut Hunt<'_>, parent: &Change, aim: Aim) -> Result<Vec<Change>> {
    let Change::Insert { text, at } = parent else { return Ok(Vec::new()) };
    let text = text.trim();
    let place = if *at == Placement::Suffix { Placement::Suffix } else { Placement::Prefix };
    let tokens: Vec<String> = fragments(hunt, aim, place, ADDED).iter().map(Change::text).collect();
    let opening = leak::openings(hunt)?.into_iter().next().unwrap_or_default();
    let continued = natural(hunt, &opening, &[text.to_owned()], CONTINUED, CONTINUED)?;
    let mut texts: Vec<String> =
        continued.into_iter().flatten().map(|next| format!("{text}{next}")).collect();
    for token in tokens {
        texts.extend([format!("{text}{token}"), format!("{text} {token}")]);
        texts.extend([format!("{token}{text}"), format!("{token} {text}")]);
    }
    let mut seen = BTreeSet::new();
    let mut made = Vec::with_capacity(texts.len());
    for text in texts {
        if seen.insert(text.clone()) && hunt.fits(&text)? {
            made.push(Change::Insert { text, at: *at });
        }
    }
    Ok(made)
}
