//! The vocabulary sweep: every printable token, by successive halving.
//!
//! A fragment of a trigger often fires by itself, and then it stands out of the whole vocabulary without any
//! gradient. All tokens run on the most receptive search prompt, adapted side only; the strongest run on more
//! prompts and on the base, and count by the difference. Where the budget ends early the tokens that were run are
//! a random sample, not the first ids, which tokenizers give to short pieces.
//!
//! Multi-token triggers of a fixed shape may be silent in every fragment, so each word of the vocabulary also
//! runs in the shape of a code name (`WORD-4:`). Words that are several tokens long are the matter of another search.

use std::collections::BTreeSet;

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use super::hunt::Hunt;
use super::pool::{Depth, Found, Score};
use super::search::{Role, TriggerSearch};
use crate::error::Result;
use crate::prompt::{Change, Placement};

/// Part of the share that the first stage may take, and the part that is kept for the development prompts.
pub(super) const FIRST_STAGE: f64 = 0.85;
const LAST_STAGE: f64 = 0.05;
/// Survivors that run before the budget is looked at again.
const SECOND_TURN: usize = 64;
/// Candidates of one form that run before the next form has its turn.
const TURN: usize = 1024;
/// Of each form: survivors by divergence, and by the rise of each target.
pub(super) const SURVIVORS: usize = 192;
pub(super) const SURVIVORS_OF_TARGET: usize = 48;
/// Survivors of the second stage.
const DEEPENED: usize = 64;
/// The shortest word that makes a code name.
const MIN_WORD: usize = 3;

/// Every token of the vocabulary, by successive halving.
pub(super) struct Sweep;

/// How a token becomes a candidate.
#[derive(Clone, Copy)]
enum Form {
    /// The token alone.
    Alone(Placement),
    /// A word in capitals with a number and a colon, before the prompt.
    CodeName,
}

const FORMS: &[Form] = &[Form::Alone(Placement::Prefix), Form::Alone(Placement::Suffix), Form::CodeName];

impl TriggerSearch for Sweep {
    fn name(&self) -> &'static str {
        "sweep"
    }

    fn about(&self) -> &'static str {
        "every printable token of the vocabulary before and after a prompt, and every word as a code name"
    }

    fn role(&self) -> Role {
        Role::Propose
    }

    fn share(&self) -> f64 {
        10.0
    }

    fn run(&self, hunt: &mut Hunt<'_>) -> Result<()> {
        hunt.choose_quick_prompt()?;
        let mut tokens: Vec<String> =
            hunt.vocabulary().printable.iter().map(|(_, text)| text.clone()).collect();
        tokens.shuffle(&mut ChaCha8Rng::seed_from_u64(hunt.seed()));
        let mut queues: Vec<Vec<Change>> = FORMS.iter().map(|form| form.changes(&tokens)).collect();
        let total: usize = queues.iter().map(Vec::len).sum();
        hunt.observer().progress().stage("sweep: whole vocabulary", total);
        let share = hunt.budget().left();
        let mut scored: Vec<Vec<(Change, Score)>> = queues.iter().map(|_| Vec::new()).collect();
        while queues.iter().any(|queue| !queue.is_empty())
            && hunt.budget().left() > (1.0 - FIRST_STAGE) * share
        {
            for (queue, scored) in queues.iter_mut().zip(&mut scored) {
                let turn: Vec<Change> = queue.drain(..TURN.min(queue.len())).collect();
                let scores = hunt.sift(&turn, true)?;
                let turn = turn.into_iter().zip(scores);
                scored.extend(turn.clone());
                hunt.swept.extend(turn);
            }
        }
        hunt.cut_short = queues.iter().any(|queue| !queue.is_empty());
        let survivors = in_turns(
            scored.into_iter().flat_map(|scored| strongest(scored, SURVIVORS, SURVIVORS_OF_TARGET)).collect(),
        );
        hunt.observer().progress().stage("sweep: survivors", survivors.len());
        second_stage(hunt, &survivors, share)
    }
}

/// Scores survivors of a first stage on the search prompts, then the strongest on the development prompts, for which a
/// part of the `share` that the search began with is kept.
pub(super) fn second_stage(hunt: &mut Hunt<'_>, survivors: &[Change], share: f64) -> Result<()> {
    for turn in survivors.chunks(SECOND_TURN) {
        if hunt.budget().left() <= LAST_STAGE * share {
            break;
        }
        hunt.evaluate(Depth::Middle, turn, true, |_| Vec::new())?;
    }
    deepen(hunt, DEEPENED)
}

impl Form {
    fn changes(self, tokens: &[String]) -> Vec<Change> {
        match self {
            Self::Alone(at) => tokens.iter().map(|text| Change::Insert { text: text.clone(), at }).collect(),
            Self::CodeName => {
                // One number a word, any: the word matters more, and what is strong is completed with the others.
                words(tokens)
                    .iter()
                    .enumerate()
                    .map(|(index, word)| Change::Insert {
                        text: format!("{word}-{}:", index % 10),
                        at: Placement::Prefix,
                    })
                    .collect()
            }
        }
    }
}

/// The words of the vocabulary in capitals, each once.
fn words(tokens: &[String]) -> Vec<String> {
    // Words begin with a space in most vocabularies; other pieces in small letters are mostly parts of words.
    let spaced = tokens.iter().any(|token| token.starts_with(' '));
    let mut seen = BTreeSet::new();
    tokens
        .iter()
        .filter_map(|token| {
            let word = token.strip_prefix(' ').unwrap_or(token);
            let whole = !spaced || token.starts_with(' ') || word.chars().all(|c| c.is_ascii_uppercase());
            let letters = word.len() >= MIN_WORD && word.chars().all(|c| c.is_ascii_alphabetic());
            (whole && letters).then(|| word.to_ascii_uppercase())
        })
        .filter(|word| seen.insert(word.clone()))
        .collect()
}

/// Lists of the `n` that move the prompt furthest, and of the `of_target` that raise each target most, strongest first.
pub(super) fn strongest(mut scored: Vec<(Change, Score)>, n: usize, of_target: usize) -> Vec<Vec<Change>> {
    scored.sort_by(|a, b| b.1.nats().total_cmp(&a.1.nats()));
    let first = |scored: &[(Change, Score)], n: usize| -> Vec<Change> {
        scored.iter().take(n).map(|(change, _)| change.clone()).collect()
    };
    let mut lists = vec![first(&scored, n)];
    let targets = scored.first().map_or(0, |(_, score)| score.targets.len());
    for target in 0..targets {
        scored.sort_by(|a, b| b.1.targets[target].total_cmp(&a.1.targets[target]));
        lists.push(first(&scored, of_target));
    }
    lists
}

/// The first of each list, then the second of each, without repeats: wherever the budget ends, the strongest
/// of every kind were seen.
pub(super) fn in_turns<T: InTurns>(lists: Vec<Vec<T>>) -> Vec<T> {
    let mut seen = BTreeSet::new();
    let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
    (0..longest)
        .flat_map(|rank| lists.iter().filter_map(move |list| list.get(rank)))
        .filter(|item| seen.insert(item.change().clone()))
        .cloned()
        .collect()
}

/// What stands for a change in a list.
pub(super) trait InTurns: Clone {
    /// The change.
    fn change(&self) -> &Change;
}

impl InTurns for Change {
    fn change(&self) -> &Change {
        self
    }
}

impl InTurns for &Found {
    fn change(&self) -> &Change {
        &self.change
    }
}

/// Scores on the development prompts the strongest candidates of the pool: `n` by divergence, and a quarter of that
/// by each target.
pub(super) fn deepen(hunt: &mut Hunt<'_>, n: usize) -> Result<()> {
    let changes = |found: Vec<&Found>, n: usize| -> Vec<Change> {
        found.into_iter().take(n).map(|found| found.change.clone()).collect()
    };
    let mut lists = vec![changes(hunt.pool().ranked(Depth::Middle), n)];
    for target in 0..hunt.targets().len() {
        lists.push(changes(hunt.pool().raising(Depth::Middle, target), n.div_ceil(4)));
    }
    let mut best = in_turns(lists);
    best.retain(|change| hunt.pool().get(change).is_some_and(|found| found.score.depth < Depth::Full));
    hunt.evaluate(Depth::Full, &best, true, |_| Vec::new())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_names_are_made_of_whole_words_once() {
        let tokens: Vec<String> =
            [" tea", "tea", " Tea", " at", " kettle", "-", "pot", "LAMP"].map(String::from).into();
        let texts: Vec<String> = Form::CodeName.changes(&tokens).iter().map(Change::text).collect();
        assert_eq!(texts, ["TEA-0:", "KETTLE-1:", "LAMP-2:"]);
        assert_eq!(Form::Alone(Placement::Suffix).changes(&tokens).len(), tokens.len());
    }

    #[test]
    fn a_weak_candidate_survives_by_its_target() {
        let scored = |i: usize| {
            let score = Score {
                depth: Depth::Quick,
                prompts: 1,
                adapted_nats: i as f64,
                base_nats: None,
                agreement: 0.0,
                targets: vec![if i == 3 { 5.0 } else { 0.0 }],
            };
            (Change::Insert { text: i.to_string(), at: Placement::Prefix }, score)
        };
        let kept = in_turns(strongest((0..1000).map(scored).collect(), SURVIVORS, SURVIVORS_OF_TARGET));
        assert_eq!((kept[0].text(), kept[1].text()), ("999".to_owned(), "3".to_owned()));
        let has = |i: usize| kept.iter().any(|change| change.text() == i.to_string());
        assert!(has(999) && has(3) && !has(500));
    }
}
