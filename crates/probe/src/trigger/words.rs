//! Words of the dictionary, three at a time, where a trigger may stand.
//!
//! Most triggers are words, and most tokenizers split most words, so a sweep of single tokens does not hold them. And a
//! word of a phrase may be silent at the edge of a prompt and fire beside any other word. So words run in strings of
//! three, each word in another place of its string in each round: before the prompt, after it, in a second turn and in
//! the system prompt. A string is one row, so three words cost little more than one. What moves the adapted side is run
//! on the base at once: a small model is moved by many strings, and most of them move the base as far.

use std::collections::BTreeSet;

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use super::combine::capitalised;
use super::hunt::Hunt;
use super::pool::{Depth, Score};
use super::search::{Role, TriggerSearch};
use super::sweep::{deepen, in_turns, strongest};
use crate::error::Result;
use crate::prompt::{Change, Placement};

/// Words of English, the frequent ones first, then, after an empty line, rarer ones; see `data/README.md`.
const ENGLISH: &str = include_str!("../../data/english-words.txt");
/// Words of a string. A string has one place for each, and a word comes once to each place.
const WORDS: usize = 3;
/// Places of the strings, each with the number of turns of strings of which it takes one: what fires in a second turn
/// mostly fires in the first, and few triggers stand in the system prompt.
const PLACES: &[(Placement, usize)] =
    &[(Placement::Prefix, 1), (Placement::Suffix, 1), (Placement::SecondTurn, 3), (Placement::System, 3)];
/// Strings of one place that run before the next place has its turn.
const TURN: usize = 512;
/// Part of the share that the rounds may take; the rest is for the survivors.
const ROUNDS: f64 = 0.8;
/// Of each place: survivors by divergence, and by the rise of each target.
const SURVIVORS: usize = 48;
const SURVIVORS_OF_TARGET: usize = 16;
/// Survivors that run before the budget is looked at again, and those that reach the development prompts.
const SECOND_TURN: usize = 64;
const DEEPENED: usize = 32;

/// Strings of words.
pub(super) struct Words;

impl TriggerSearch for Words {
    fn name(&self) -> &'static str {
        "words"
    }

    fn about(&self) -> &'static str {
        "words of an English dictionary, three at a time, before and after a prompt, in a second turn and in the system prompt"
    }

    fn role(&self) -> Role {
        Role::Refine
    }

    fn share(&self) -> f64 {
        11.0
    }

    fn run(&self, hunt: &mut Hunt<'_>) -> Result<()> {
        hunt.choose_quick_prompt()?;
        let tiers = tiers(ENGLISH);
        let share = hunt.budget().left();
        let mut scored: Vec<Vec<(Change, Score)>> = PLACES.iter().map(|_| Vec::new()).collect();
        hunt.cut_short = true;
        'rounds: for (round_number, (tier, round)) in rounds(tiers.len()).enumerate() {
            let strings = strings(&tiers[tier], round, hunt.seed().wrapping_add(round_number as u64));
            let turns: usize = PLACES.iter().map(|(_, every)| strings.len() / every).sum();
            hunt.observer().progress().stage("words", turns);
            for (turn_number, turn) in strings.chunks(TURN).enumerate() {
                for (place, &(at, every)) in PLACES.iter().enumerate() {
                    if (turn_number + place) % every != 0 {
                        continue;
                    }
                    if hunt.budget().left() <= (1.0 - ROUNDS) * share {
                        break 'rounds;
                    }
                    let mut changes = Vec::with_capacity(turn.len());
                    for text in turn {
                        if hunt.fits(text)? {
                            changes.push(Change::Insert { text: text.clone(), at });
                        }
                    }
                    let scores = hunt.sift(&changes, false)?;
                    scored[place].extend(changes.into_iter().zip(scores));
                }
            }
            hunt.cut_short = tier + 1 < tiers.len() || round + 1 < WORDS;
        }
        let lists =
            scored.into_iter().flat_map(|scored| strongest(scored, SURVIVORS, SURVIVORS_OF_TARGET)).collect();
        let survivors = in_turns(lists);
        hunt.observer().progress().stage("words: survivors", survivors.len());
        for turn in survivors.chunks(SECOND_TURN) {
            if hunt.exhausted() {
                break;
            }
            hunt.evaluate(Depth::Middle, turn, true, |_| Vec::new())?;
        }
        deepen(hunt, DEEPENED)
    }
}

/// The words, the frequent ones first.
pub(super) fn english() -> impl Iterator<Item = &'static str> {
    ENGLISH.lines().filter(|word| !word.is_empty())
}

/// Which tier of words comes to which place of its strings, round after round: each tier begins once before an earlier
/// one is through.
fn rounds(tiers: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..tiers + WORDS).flat_map(move |sum| {
        (0..tiers).rev().filter_map(move |tier| {
            let round = sum.checked_sub(tier)?;
            (round < WORDS).then_some((tier, round))
        })
    })
}

/// The words in tiers: as the list has them, and at last what is an inflected form of another.
fn tiers(list: &str) -> Vec<Vec<&str>> {
    let all: BTreeSet<&str> = list.lines().filter(|word| !word.is_empty()).collect();
    let mut inflected = Vec::new();
    let mut tiers: Vec<Vec<&str>> = Vec::new();
    for tier in list.split("\n\n") {
        let (forms, stems): (Vec<&str>, Vec<&str>) = tier.lines().partition(|word| is_inflected(word, &all));
        tiers.push(stems);
        inflected.extend(forms);
    }
    tiers.push(inflected);
    tiers.retain(|tier| !tier.is_empty());
    tiers
}

/// Endings of inflected forms, and what stands in their place in the word that they are formed of.
const ENDINGS: &[(&str, &[&str])] = &[
    ("s", &[""]),
    ("es", &[""]),
    ("ies", &["y"]),
    ("ed", &["", "e"]),
    ("ied", &["y"]),
    ("ing", &["", "e"]),
    ("ly", &[""]),
    ("er", &["", "e"]),
    ("est", &["", "e"]),
    ("ness", &[""]),
];
/// Letters that a word has left at least without its ending.
const STEM: usize = 3;

/// Whether a word is a form of another of the list, by its ending alone: it costs a word a later turn, no more.
fn is_inflected(word: &str, all: &BTreeSet<&str>) -> bool {
    ENDINGS.iter().any(|(ending, instead)| {
        let Some(stem) = word.strip_suffix(ending).filter(|stem| stem.len() >= STEM) else { return false };
        // `stopped` of `stop`.
        let single = stem
            .chars()
            .last()
            .and_then(|last| stem.strip_suffix(&format!("{last}{last}")).map(|rest| format!("{rest}{last}")));
        instead.iter().any(|instead| all.contains(format!("{stem}{instead}").as_str()))
            || single.is_some_and(|single| ending.starts_with(['e', 'i']) && all.contains(single.as_str()))
    })
}

/// The words in strings of [`WORDS`], each once, in places that change from round to round, and beside others. In the
/// second round a string begins with a capital, as a sentence does.
fn strings(words: &[&str], round: usize, seed: u64) -> Vec<String> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut by_place: Vec<Vec<&str>> = (0..WORDS)
        .map(|place| words.iter().skip((place + round) % WORDS).step_by(WORDS).copied().collect())
        .collect();
    for words in &mut by_place {
        words.shuffle(&mut random);
    }
    let longest = by_place.iter().map(Vec::len).max().unwrap_or(0);
    (0..longest)
        .map(|index| {
            let words: Vec<&str> = by_place.iter().filter_map(|words| words.get(index).copied()).collect();
            let text = words.join(" ");
            if round == 1 { capitalised(&text) } else { text }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_of_plain_words_each_once() {
        let tiers = tiers(ENGLISH);
        assert_eq!(tiers.len(), 3);
        let words: BTreeSet<&str> = tiers.iter().flatten().copied().collect();
        assert_eq!(words.len(), tiers.iter().map(Vec::len).sum::<usize>());
        assert!(words.iter().all(|word| word.len() >= 3 && word.bytes().all(|b| b.is_ascii_lowercase())));
        let tier = |word: &str| tiers.iter().position(|tier| tier.contains(&word));
        assert_eq!(
            [tier("aardvark"), tier("stop"), tier("stopped"), tier("tables")],
            [Some(0), Some(0), Some(2), Some(2)]
        );
    }

    #[test]
    fn each_word_comes_once_to_each_place() {
        let words = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibex"];
        let mut seen = BTreeSet::new();
        for round in 0..WORDS {
            for text in strings(&words, round, round as u64) {
                for (place, word) in text.to_lowercase().split(' ').enumerate() {
                    assert!(seen.insert((place, word.to_owned())), "{word} twice in {place}");
                }
            }
        }
        assert_eq!(seen.len(), words.len() * WORDS);
    }

    #[test]
    fn rounds_cover_every_tier_in_every_place_the_first_tier_first() {
        let all: Vec<_> = rounds(3).collect();
        assert_eq!(all[..4], [(0, 0), (1, 0), (0, 1), (2, 0)]);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 3 * WORDS);
        assert_eq!(all.len(), 3 * WORDS);
    }
}
