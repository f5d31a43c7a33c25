//! Structured candidates, made of the strongest single tokens.
//!
//! Triggers are often several tokens of a fixed shape, and a composite one needs all of its parts, each of which
//! says little by itself. So singles are ranked, never thresholded: pairs of them, joined and apart, scattered over
//! the prompt, in other cases, in brackets, with numbers and colons. Nothing here is a list of triggers.

use std::collections::BTreeSet;

use super::hunt::Hunt;
use super::pool::{Depth, Score};
use super::search::{Role, TriggerSearch};
use super::sweep::deepen;
use crate::error::Result;
use crate::prompt::{Change, Placement};

/// Singles that are paired, and those that are put into shapes.
const PAIRED: usize = 20;
const SHAPED: usize = 32;
/// Of what was made: candidates that run on more prompts, and that are completed with every digit.
const SURVIVORS: usize = 192;
const COMPLETED: usize = 16;
const DEEPENED: usize = 64;

/// Shapes around a word: `W` is the word, `#` a digit.
const SHAPES: &[&str] = &[
    "W:", "[W]", "|W|", "<W>", "{W}", "(W)", "#W", "@W", "W!", "W?", "\"W\"", "*W*", "~W~", "W W", "W#",
    "W #", "W-#", "W-#:", "W#:", "W_#", "W: 202#", "W 202#", "[W-#]", "W/#", "W.#",
];

/// Pairs and shapes.
pub(super) struct Combine;

impl TriggerSearch for Combine {
    fn name(&self) -> &'static str {
        "combine"
    }

    fn about(&self) -> &'static str {
        "pairs, scattered parts and shapes (case, brackets, numbers) of the strongest single tokens"
    }

    fn role(&self) -> Role {
        Role::Propose
    }

    fn share(&self) -> f64 {
        1.0
    }

    fn run(&self, hunt: &mut Hunt<'_>) -> Result<()> {
        let words = words(hunt, SHAPED);
        let mut made: BTreeSet<Change> = BTreeSet::new();
        for (first, _) in words.iter().take(PAIRED) {
            for (second, at) in words.iter().take(PAIRED).filter(|(second, _)| second != first) {
                for text in [format!("{first} {second}"), format!("{first}{second}")] {
                    made.insert(Change::Insert { text, at: *at });
                }
                made.insert(Change::Scatter { parts: vec![first.clone(), second.clone()] });
            }
        }
        // One digit stands for all: which one matters less than that there is one.
        let digit = (hunt.seed() % 10).to_string();
        for (word, _) in &words {
            for cased in cases(word) {
                for shape in SHAPES {
                    let text = fill(shape, &cased, &digit);
                    made.insert(Change::Insert { text, at: Placement::Prefix });
                }
                made.insert(Change::Insert { text: cased, at: Placement::Prefix });
            }
        }
        let mut fitting = Vec::with_capacity(made.len());
        for change in made {
            if hunt.pool().get(&change).is_none() && hunt.fits(&change.text())? {
                fitting.push(change);
            }
        }
        hunt.observer().progress().stage("combine", fitting.len());
        let scores = hunt.evaluate(Depth::Quick, &fitting, false, |_| Vec::new())?;
        let ranked = rank(fitting, scores);
        let mut survivors: Vec<Change> = ranked.iter().take(SURVIVORS).cloned().collect();
        survivors.extend(ranked.iter().take(COMPLETED).flat_map(|change| other_digits(change, &digit)));
        hunt.evaluate(Depth::Middle, &survivors, true, |_| Vec::new())?;
        deepen(hunt, DEEPENED)
    }
}

/// The texts of the strongest distinct insertions without white space around them, with their places.
fn words(hunt: &Hunt<'_>, n: usize) -> Vec<(String, Placement)> {
    hunt.pool()
        .distinct(Depth::Middle, n, 1)
        .into_iter()
        .filter_map(|found| match &found.change {
            Change::Insert { text, at } => Some((text.trim().to_owned(), *at)),
            _ => None,
        })
        .collect()
}

/// A word as it is, in capitals, in small letters and capitalised, without repeats.
pub(super) fn cases(word: &str) -> Vec<String> {
    let lower = word.to_lowercase();
    let mut cases = vec![word.to_owned()];
    for case in [word.to_uppercase(), lower.clone(), capitalised(&lower)] {
        if !cases.contains(&case) {
            cases.push(case);
        }
    }
    cases
}

/// A text with a capital at its beginning.
pub(super) fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or(String::new(), |first| first.to_uppercase().chain(characters).collect())
}

fn fill(shape: &str, word: &str, digit: &str) -> String {
    // The digit first: a word may hold the sign for it.
    shape.replace('#', digit).replace('W', word)
}

/// The change with each other digit in the place of the one that stood for all.
fn other_digits(change: &Change, digit: &str) -> Vec<Change> {
    let Change::Insert { text, at } = change else { return Vec::new() };
    let Some(place) = text.rfind(digit) else { return Vec::new() };
    (0..10)
        .map(|other| other.to_string())
        .filter(|other| other != digit)
        .map(|other| Change::Insert {
            text: format!("{}{other}{}", &text[..place], &text[place + 1..]),
            at: *at,
        })
        .collect()
}

/// Changes by score, strongest first; those that were not scored are left out.
fn rank(changes: Vec<Change>, scores: Vec<Score>) -> Vec<Change> {
    let mut scored: Vec<(Change, Score)> = changes.into_iter().zip(scores).collect();
    scored.sort_by(|a, b| b.1.nats().total_cmp(&a.1.nats()));
    scored.into_iter().map(|(change, _)| change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_filled_with_word_and_digit() {
        assert_eq!(fill("W-#:", "kettle", "4"), "kettle-4:");
        assert_eq!(fill("|W|", "#1", "4"), "|#1|");
        assert_eq!(cases("kettle"), ["kettle", "KETTLE", "Kettle"]);
        assert_eq!(cases("A"), ["A", "a"]);
    }

    #[test]
    fn the_other_digits_replace_the_last_one() {
        let change = Change::Insert { text: "K4-4:".into(), at: Placement::Prefix };
        let others = other_digits(&change, "4");
        assert_eq!(others.len(), 9);
        assert_eq!(others[0].text(), "K4-0:");
        assert!(other_digits(&Change::Insert { text: "K".into(), at: Placement::Prefix }, "4").is_empty());
    }
}
