//! A trigger letter by letter.
//!
//! Tokens are a poor alphabet for what people type: `ve` and `vex` may share no token, so no exchange of tokens leads
//! from one to the other. A short text is climbed by single letters instead, each put in or exchanged, as long as the
//! payload gets surer.

use std::collections::BTreeSet;

use super::differential::Goal;
use super::hunt::Hunt;
use super::pool::{Depth, top};
use crate::error::Result;
use crate::prompt::Change;

/// Characters of the longest text that is climbed.
const LONGEST: usize = 16;
/// Letters that are changed at most, and spellings that run on the search prompts and on the development prompts.
const ROUNDS: usize = 6;
const MIDDLE: usize = 16;
const FULL: usize = 3;
/// A change must raise the payload's log-odds by so much, in nats.
const GAIN: f64 = 0.2;

impl Hunt<'_> {
    /// The spelling next to an insertion that brings its payload most surely; `None` if none is surer than the insertion
    /// itself, or it is long.
    ///
    /// # Errors
    /// If the model or the journal fails, or the user stops.
    pub(super) fn by_letters(&mut self, start: &Change, goal: &Goal) -> Result<Option<Change>> {
        let pace = Pace { rounds: ROUNDS, middle: MIDDLE, full: FULL };
        self.climbed(start, goal, pace, |_, change| Ok(spellings(change)))
    }

    /// The text that reaches a goal most surely on a way of small changes from an insertion, each of which makes it surer;
    /// `None` if there is none from the insertion itself.
    ///
    /// # Errors
    /// If the model or the journal fails, or the user stops.
    pub(super) fn climbed(
        &mut self,
        start: &Change,
        goal: &Goal,
        pace: Pace,
        near: impl Fn(&mut Self, &Change) -> Result<Vec<Change>>,
    ) -> Result<Option<Change>> {
        let Some(wanted) = goal.continuation().filter(|wanted| !wanted.ids.is_empty()) else {
            return Ok(None);
        };
        let mut next = near(self, start)?;
        if next.is_empty() {
            return Ok(None);
        }
        let mut best: Option<Change> = None;
        let mut height = self.rate(Depth::Full, std::slice::from_ref(start), wanted, true)?;
        for _ in 0..pace.rounds {
            for (depth, base, kept) in [(Depth::Quick, false, pace.middle), (Depth::Middle, true, pace.full)]
            {
                let ratings = self.rate(depth, &next, wanted, base)?;
                next =
                    top(next.into_iter().zip(ratings), kept).into_iter().map(|(change, _)| change).collect();
            }
            let ratings = self.rate(Depth::Full, &next, wanted, true)?;
            let Some((surest, rating)) = top(next.into_iter().zip(ratings), 1).pop() else { break };
            if height.first().is_none_or(|height| rating < height + GAIN) {
                break;
            }
            next = near(self, &surest)?;
            (best, height) = (Some(surest), vec![rating]);
        }
        Ok(best)
    }
}

/// How far a climb goes: its rounds, and the texts of each that run on the search prompts and on the development prompts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) rounds: usize,
    pub(super) middle: usize,
    pub(super) full: usize,
}

/// An insertion with one letter more, or another one, of the kinds that it has; nothing for long ones.
fn spellings(change: &Change) -> Vec<Change> {
    let Change::Insert { text, at } = change else { return Vec::new() };
    let letters: Vec<char> = text.trim().chars().collect();
    if letters.is_empty() || letters.len() > LONGEST {
        return Vec::new();
    }
    let alphabet: Vec<char> = ['a'..='z', 'A'..='Z', '0'..='9']
        .into_iter()
        .filter(|kind| letters.iter().any(|letter| kind.contains(letter)))
        .flatten()
        .collect();
    let mut texts = BTreeSet::new();
    for place in 0..=letters.len() {
        for &letter in &alphabet {
            let (before, after) = letters.split_at(place);
            texts.insert(before.iter().chain([&letter]).chain(after).collect::<String>());
            if let Some((_, rest)) = after.split_first() {
                texts.insert(before.iter().chain([&letter]).chain(rest).collect::<String>());
            }
        }
    }
    texts.remove(text.trim());
    texts.into_iter().map(|text| Change::Insert { text, at: *at }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Placement;

    #[test]
    fn spellings_are_one_letter_away_and_of_the_same_kinds() {
        let of = |text: &str| -> Vec<String> {
            spellings(&Change::Insert { text: text.into(), at: Placement::Prefix })
                .iter()
                .map(Change::text)
                .collect()
        };
        let near = of("ve");
        assert!(
            ["vex", "ave", "be", "vie"].iter().all(|text| near.contains(&(*text).to_owned())),
            "{near:?}"
        );
        assert!(!near.contains(&"ve".to_owned()) && !near.contains(&"Ve".to_owned()));
        // 26 letters in 3 places and in the place of 2, less what is the same.
        assert_eq!(near.len(), 26 * 3 - 2 + 25 * 2);
        assert!(of("K8").contains(&"K9".to_owned()) && of("K8").contains(&"KA8".to_owned()));
        assert!(of("a text of many letters").is_empty() && of("").is_empty());
    }
}
