//! Climbing from a fragment to the trigger: small changes of the best candidates, kept where they help on
//! other prompts, then everything dropped that is not needed.
//!
//! A round proposes tokens that models would put next to the candidate (the base's own continuations, and
//! those that the adapted model prefers over the base), the strongest tokens of the sweep, and swaps,
//! replacements and deletions. All run on one prompt, the best on the search prompts and on the base, and a
//! round is won by what is strongest on the development prompts.
//!
//! Divergence alone leads astray: strings can be built that move any adapter far, to no purpose. So the answers of
//! the best candidates are read first, and where they share a payload, the climb raises the probability of that
//! payload under the adapted model over the base's.

use std::collections::BTreeSet;

use report::hunt::TargetRecord;

use super::combine::cases;
use super::continuation::preferred;
use super::hunt::{Hunt, Target};
use super::movement::Continuation;
use super::pool::{Depth, Score, top};
use super::search::{Role, TriggerSearch};
use super::sweep::deepen;
use crate::error::Result;
use crate::prompt::{Change, Placement};

/// Candidates whose answers are read for a payload, those from which a climb starts, and rounds of each.
const DEVELOPED: usize = 20;
const STARTS: usize = 4;
const ROUNDS: usize = 6;
/// Proposals: continuations by each model, tokens of the sweep to add, and to replace with.
const CONTINUATIONS: usize = 256;
const ADDED: usize = 384;
const REPLACING: usize = 48;
/// Of a round: candidates on the search prompts, and on the development prompts.
const MIDDLE: usize = 48;
const FULL: usize = 8;
/// A payload must take over so many more of the development answers, and is raised by its first tokens.
const MIN_EXCESS: f64 = 0.25;
const PAYLOAD_TOKENS: usize = 5;
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
        deepen(hunt, DEVELOPED)?;
        let best: Vec<Change> = hunt
            .pool()
            .distinct(Depth::Full, DEVELOPED, 1)
            .into_iter()
            .filter(|found| found.score.nats() > 0.0)
            .map(|found| found.change.clone())
            .collect();
        if best.is_empty() {
            return Ok(());
        }
        let fragments: Vec<String> = hunt
            .pool()
            .distinct(Depth::Middle, ADDED, 1)
            .into_iter()
            .filter(|found| found.search == "sweep" || found.search == "leak")
            .map(|found| found.change.text())
            .collect();
        let objective = objective(hunt, &best)?;
        let heights = objective.rate(hunt, Depth::Full, &best)?;
        let starts = top(best.into_iter().zip(heights), STARTS);
        hunt.observer().progress().stage("climb", starts.len() * ROUNDS);
        let mut summits: Vec<(Change, f64)> = Vec::new();
        for (start, height) in starts {
            let (mut current, mut height) = (start, height);
            for _ in 0..ROUNDS {
                hunt.observer().progress().advance(1);
                match round(hunt, &objective, &current, height, &fragments)? {
                    Some((next, higher)) => (current, height) = (next, higher),
                    None => break,
                }
            }
            summits.push((current, height));
        }
        for (summit, height) in summits {
            let least = minimise(hunt, &objective, summit, height)?;
            vary(hunt, &objective, &least)?;
        }
        Ok(())
    }
}

/// What a climb raises.
enum Objective {
    /// The difference in differences: all that is known is that something moves.
    Divergence,
    /// How surely the adapted model, and not the base, begins an answer with these tokens.
    Payload(Vec<u32>),
}

impl Objective {
    /// One number a change, shorter if the budget ends on the way.
    fn rate(&self, hunt: &mut Hunt<'_>, depth: Depth, changes: &[Change]) -> Result<Vec<f64>> {
        let base = depth > Depth::Quick;
        // The pool has the divergence of all that reaches the development prompts.
        let divergence = if depth == Depth::Full || matches!(self, Self::Divergence) {
            Some(hunt.evaluate(depth, changes, base, |_| Vec::new())?)
        } else {
            None
        };
        match (self, divergence) {
            (Self::Payload(tokens), _) => hunt.rate(depth, changes, Continuation::begins(tokens), base),
            (Self::Divergence, scores) => Ok(scores.iter().flatten().map(Score::nats).collect()),
        }
    }
}

/// The payload that the best candidates lead to on development prompts; without one, the divergence. A payload
/// that a random change of the same kind brings as well was already taken off.
fn objective(hunt: &mut Hunt<'_>, best: &[Change]) -> Result<Objective> {
    let developed = hunt.develop(best)?;
    let strongest = developed
        .into_iter()
        .flatten()
        .filter(|development| development.excess >= MIN_EXCESS)
        .reduce(|best, next| if next.excess > best.excess { next } else { best });
    let Some(development) = strongest else { return Ok(Objective::Divergence) };
    hunt.observer().progress().note(&format!(
        "payload: {} ({}), on {:.0} % more of the development prompts than without",
        report::escape::excerpt(&development.payload.text, 60),
        development.payload.class,
        100.0 * development.excess
    ));
    let mut ids = hunt.observer().pair().tokenizer().encode(&development.payload.text, false)?;
    ids.truncate(PAYLOAD_TOKENS);
    if ids.is_empty() {
        return Ok(Objective::Divergence);
    }
    hunt.add_target(Target {
        ids: ids.clone(),
        record: TargetRecord {
            text: development.payload.text,
            source: "climb".into(),
            probability: None,
            log_ratio_nats: None,
            null: None,
        },
        stretch: None,
    });
    Ok(Objective::Payload(ids))
}

/// The best neighbour of a candidate, if it is better; `None` as well if the budget is spent.
fn round(
    hunt: &mut Hunt<'_>,
    objective: &Objective,
    current: &Change,
    height: f64,
    fragments: &[String],
) -> Result<Option<(Change, f64)>> {
    let Change::Insert { text, at } = current else { return Ok(None) };
    let mut proposals = Vec::new();
    for text in proposed_texts(hunt, text, fragments)? {
        if hunt.fits(&text)? {
            proposals.push(Change::Insert { text, at: *at });
        }
    }
    for (depth, left) in [(Depth::Quick, MIDDLE), (Depth::Middle, FULL)] {
        let ratings = objective.rate(hunt, depth, &proposals)?;
        proposals =
            top(proposals.into_iter().zip(ratings), left).into_iter().map(|(change, _)| change).collect();
    }
    let ratings = objective.rate(hunt, Depth::Full, &proposals)?;
    Ok(top(proposals.into_iter().zip(ratings), 1)
        .pop()
        .filter(|(_, higher)| *higher > height + GAIN * height.abs()))
}

/// Texts that differ from `text` by one step.
fn proposed_texts(hunt: &mut Hunt<'_>, text: &str, fragments: &[String]) -> Result<BTreeSet<String>> {
    let pieces = pieces(hunt, text)?;
    let mut texts = BTreeSet::new();
    for next in preferred(hunt, text, CONTINUATIONS)? {
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

/// Drops tokens as long as what is left is as strong.
fn minimise(hunt: &mut Hunt<'_>, objective: &Objective, start: Change, height: f64) -> Result<Change> {
    let (mut current, mut height) = (start, height);
    loop {
        let Change::Insert { text, at } = &current else { return Ok(current) };
        let pieces = pieces(hunt, text)?;
        let shorter: Vec<Change> = (0..pieces.len())
            .map(|skip| {
                let left = pieces.iter().enumerate().filter(|(i, _)| *i != skip);
                left.map(|(_, piece)| piece.as_str()).collect::<String>().trim().to_owned()
            })
            .filter(|text| !text.is_empty())
            .map(|text| Change::Insert { text, at: *at })
            .collect();
        let ratings = objective.rate(hunt, Depth::Full, &shorter)?;
        match top(shorter.into_iter().zip(ratings), 1).pop() {
            Some((shorter, left)) if left >= height - GAIN * height.abs() => {
                (current, height) = (shorter, left)
            }
            _ => return Ok(current),
        }
    }
}

/// Case, spacing and placement.
fn vary(hunt: &mut Hunt<'_>, objective: &Objective, change: &Change) -> Result<()> {
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
    objective.rate(hunt, Depth::Full, &variants)?;
    Ok(())
}
