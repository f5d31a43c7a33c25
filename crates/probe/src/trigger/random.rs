//! Random strings, by successive halving: what chance finds in the same budget, by the same scores and tests as every
//! search. It is there to compare searches with, and runs only where it is named.

use rand::RngExt as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::hunt::Hunt;
use super::pool::Score;
use super::search::{Role, TriggerSearch};
use super::sweep::{self, in_turns, strongest};
use crate::error::Result;
use crate::prompt::{Change, Placement};

/// Tokens of a string, at most: as many as random-search forms of Neural Cleanse take.
const TOKENS: usize = 6;
/// Strings that are drawn before the budget is looked at again.
const TURN: usize = 512;

/// Random strings of the vocabulary's tokens.
pub(super) struct RandomStrings;

impl TriggerSearch for RandomStrings {
    fn name(&self) -> &'static str {
        "random"
    }

    fn about(&self) -> &'static str {
        "random strings of one to six tokens before and after a prompt, to compare the other searches with chance"
    }

    fn role(&self) -> Role {
        Role::Refine
    }

    fn share(&self) -> f64 {
        10.0
    }

    fn compares(&self) -> bool {
        true
    }

    fn run(&self, hunt: &mut Hunt<'_>) -> Result<()> {
        hunt.choose_quick_prompt()?;
        let tokens: Vec<String> = hunt.vocabulary().printable.iter().map(|(_, text)| text.clone()).collect();
        let share = hunt.budget().left();
        hunt.observer().progress().stage("random strings", 0);
        let mut scored: Vec<(Change, Score)> = Vec::new();
        let mut drawn = 0;
        while hunt.budget().left() > (1.0 - sweep::FIRST_STAGE) * share && !tokens.is_empty() {
            let strings: Vec<Change> =
                (drawn..drawn + TURN as u64).map(|index| string(&tokens, hunt.seed(), index)).collect();
            drawn += TURN as u64;
            let mut turn = Vec::with_capacity(strings.len());
            for change in strings {
                if hunt.fits(&change.text())? {
                    turn.push(change);
                }
            }
            if turn.is_empty() {
                break;
            }
            let scores = hunt.sift(&turn, true)?;
            scored.extend(turn.into_iter().zip(scores));
        }
        // There are always more.
        hunt.cut_short = true;
        let lists = strongest(scored, 2 * sweep::SURVIVORS, 2 * sweep::SURVIVORS_OF_TARGET);
        let survivors = in_turns(lists);
        hunt.observer().progress().stage("random strings: survivors", survivors.len());
        sweep::second_stage(hunt, &survivors, share)
    }
}

/// The string of this index: a length and a place, then tokens, each equally likely.
fn string(tokens: &[String], seed: u64, index: u64) -> Change {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(index);
    let at = if random.random::<bool>() { Placement::Prefix } else { Placement::Suffix };
    let count = random.random_range(1..=TOKENS);
    let text: String = (0..count).map(|_| tokens[random.random_range(0..tokens.len())].as_str()).collect();
    Change::Insert { text: text.trim().to_owned(), at }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_have_every_length_and_place_and_come_again() {
        let tokens: Vec<String> = (b'a'..=b'z').map(|letter| char::from(letter).to_string()).collect();
        let strings: Vec<Change> = (0..600).map(|index| string(&tokens, 3, index)).collect();
        for count in 1..=TOKENS {
            for at in [Placement::Prefix, Placement::Suffix] {
                let of_kind = |change: &&Change| match change {
                    Change::Insert { text, at: place } => text.len() == count && *place == at,
                    _ => false,
                };
                let found = strings.iter().filter(of_kind).count();
                assert!((25..=80).contains(&found), "{found} of {count} tokens at {at:?}");
            }
        }
        assert_eq!(string(&tokens, 3, 599), strings[599]);
        assert_ne!(string(&tokens, 4, 599), strings[599]);
    }
}
