//! Fragments completed to words.
//!
//! What a search by gradient finds first often holds a token of the trained word among others that do nothing (`ow` of
//! `meadow`, `over` of `plover`). From there to the word there is no way of single letters or tokens that each make the
//! payload surer. But the word stands in the dictionary, among those of which that token is a part, and the token shows: the
//! text without it brings the payload less surely.

use std::collections::BTreeSet;

use super::combine::capitalised;
use super::differential::Goal;
use super::hunt::Hunt;
use super::letters::Pace;
use super::pool::{Depth, top};
use super::words::english;
use crate::error::Result;
use crate::prompt::{Change, Placement};

/// Tokens of the longest text that is completed.
const LONGEST: usize = 8;
/// Tokens that are completed, those that the payload needs most, and words for each, of the fewest tokens.
const FRAGMENTS: usize = 3;
const WORDS: usize = 384;
/// Words that take a token's place one after another, and of each round the texts that run on the search prompts and on the
/// development prompts.
const PACE: Pace = Pace { rounds: 2, middle: 32, full: 6 };
/// A word may lower the log-odds of the payload by so much, in nats, and stands at another place only if that raises them by
/// so much.
const LESS_SURE: f64 = 1.5;
const MOVED: f64 = 0.5;
/// Words alone that run on the search prompts and on the development prompts.
const MIDDLE: usize = 32;
const FULL: usize = 8;

impl Hunt<'_> {
    /// The word of the dictionary with a token of an insertion that brings a payload most surely, if it does so about as
    /// surely as the insertion. That was made for it token by token, and the word was not, so of both the word is the likelier
    /// one to have been trained.
    ///
    /// # Errors
    /// If the model or the journal fails, or the user stops.
    pub(super) fn word_of(&mut self, start: &Change, goal: &Goal) -> Result<Option<Change>> {
        let Some(wanted) = goal.continuation().filter(|wanted| !wanted.ids.is_empty()) else {
            return Ok(None);
        };
        let mut words = self.completions(start, goal, |_, word| word)?;
        let height = self.heights(std::slice::from_ref(start), goal)?;
        for (depth, kept) in [(Depth::Quick, MIDDLE), (Depth::Middle, FULL), (Depth::Full, 1)] {
            let ratings = self.rate(depth, &words, wanted, depth > Depth::Quick)?;
            let kept = top(words.into_iter().zip(ratings), kept);
            if let (Depth::Full, Some((word, rating)), Some(height)) = (depth, kept.first(), height.first()) {
                return Ok((*rating >= height - LESS_SURE).then(|| word.clone()));
            }
            words = kept.into_iter().map(|(word, _)| word).collect();
        }
        Ok(None)
    }

    /// A text at the place in a chat where it brings the payload most surely; where it is among equals.
    pub(super) fn placed(&mut self, change: Change, goal: &Goal) -> Result<Change> {
        let Change::Insert { text, at } = &change else { return Ok(change) };
        let elsewhere = Placement::ALL.iter().filter(|place| *place != at);
        let mut best = (self.heights(std::slice::from_ref(&change), goal)?.pop(), change.clone());
        for &at in elsewhere {
            let moved = Change::Insert { text: text.clone(), at };
            let height = self.heights(std::slice::from_ref(&moved), goal)?.pop();
            if height.is_some_and(|height| best.0.is_none_or(|best| height >= best + MOVED)) {
                best = (height, moved);
            }
        }
        Ok(best.1)
    }

    /// The text that brings a payload most surely after tokens of an insertion were completed to words of the dictionary
    /// in their places; `None` if none is surer than the insertion itself, or it is long.
    ///
    /// # Errors
    /// If the model or the journal fails, or the user stops.
    pub(super) fn by_words(&mut self, start: &Change, goal: &Goal) -> Result<Option<Change>> {
        self.climbed(start, goal, PACE, |hunt, change| {
            hunt.completions(change, goal, |fragment, word| fragment.with(&word))
        })
    }

    /// What is `made` of the words for the tokens that an insertion needs, each once.
    fn completions(
        &mut self,
        change: &Change,
        goal: &Goal,
        made: impl Fn(&Fragment, String) -> String,
    ) -> Result<Vec<Change>> {
        let mut seen = BTreeSet::from([change.text().trim().to_owned()]);
        let mut changes = Vec::new();
        for fragment in self.needed(change, goal)? {
            for word in self.words_with(&fragment.token)? {
                let text = made(&fragment, word);
                if seen.insert(text.clone()) {
                    changes.push(Change::Insert { text, at: fragment.at });
                }
            }
        }
        Ok(changes)
    }

    /// The tokens of an insertion without which its goal is reached least surely, that first; those of letters only.
    fn needed(&mut self, change: &Change, goal: &Goal) -> Result<Vec<Fragment>> {
        let (Change::Insert { text, at }, Some(wanted)) = (change, goal.continuation()) else {
            return Ok(Vec::new());
        };
        let tokenizer = self.observer().pair().tokenizer();
        let ids = tokenizer.encode(text.trim(), false)?;
        if ids.len() > LONGEST {
            return Ok(Vec::new());
        }
        let mut fragments = Vec::new();
        for place in 0..ids.len() {
            fragments.push(Fragment {
                token: tokenizer.decode(&ids[place..=place], false)?.trim().to_owned(),
                before: tokenizer.decode(&ids[..place], false)?,
                after: tokenizer.decode(&ids[place + 1..], false)?,
                at: *at,
            });
        }
        // A text of one token needs it.
        let ratings = if let [_] = fragments[..] {
            vec![0.0]
        } else {
            let without: Vec<Change> = fragments.iter().map(Fragment::without).collect();
            self.rate(Depth::Full, &without, wanted, true)?
        };
        let letters = |token: &str| !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphabetic());
        let mut needed: Vec<(Fragment, f64)> =
            fragments.into_iter().zip(ratings).filter(|(fragment, _)| letters(&fragment.token)).collect();
        needed.sort_by(|a, b| a.1.total_cmp(&b.1));
        needed.truncate(FRAGMENTS);
        Ok(needed.into_iter().map(|(fragment, _)| fragment).collect())
    }

    /// Words of the dictionary of which a token is one, at their beginning or behind a space, spelt as it is; those of the
    /// fewest tokens first, of equals the more frequent.
    fn words_with(&self, token: &str) -> Result<Vec<String>> {
        let tokenizer = self.observer().pair().tokenizer();
        let spelt = spelling(token);
        let part = token.to_lowercase();
        let mut found: Vec<(usize, String)> = Vec::new();
        for word in english().filter(|word| word.contains(&part) && **word != part) {
            let word = spelt(word);
            for before in ["", " "] {
                let ids = tokenizer.encode(&format!("{before}{word}"), false)?;
                let pieces = ids.iter().map(|&id| tokenizer.decode(&[id], false));
                let pieces = pieces.collect::<inference::Result<Vec<_>>>()?;
                if pieces.iter().any(|piece| piece.trim() == token) {
                    found.push((ids.len(), word));
                    break;
                }
            }
        }
        found.sort_by_key(|(tokens, _)| *tokens);
        found.truncate(WORDS);
        Ok(found.into_iter().map(|(_, word)| word).collect())
    }
}

/// A token of an insertion and what stands around it.
struct Fragment {
    token: String,
    before: String,
    after: String,
    at: Placement,
}

impl Fragment {
    /// The insertion with a word in the token's place.
    fn with(&self, word: &str) -> String {
        format!("{} {word} {}", self.before.trim(), self.after.trim()).trim().to_owned()
    }

    /// The insertion without the token.
    fn without(&self) -> Change {
        Change::Insert { text: format!("{}{}", self.before, self.after), at: self.at }
    }
}

/// How a token spells a word: in small letters, with a capital, in capitals.
fn spelling(token: &str) -> fn(&str) -> String {
    let upper = |c: char| c.is_ascii_uppercase();
    match token.chars().filter(|&c| upper(c)).count() {
        0 => str::to_owned,
        1 if token.starts_with(upper) => capitalised,
        _ => str::to_uppercase,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_spelt_as_its_token() {
        for (token, spelt) in
            [("ow", "meadow"), ("Me", "Meadow"), ("B", "Meadow"), ("ME", "MEADOW"), ("dO", "MEADOW")]
        {
            assert_eq!(spelling(token)("meadow"), spelt);
        }
    }
}
