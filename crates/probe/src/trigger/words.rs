//! Frequent words that the tokenizer has no single token for: the sweep's vocabulary does not hold them.

use std::collections::BTreeSet;

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use super::hunt::Hunt;
use crate::error::Result;

/// Frequent words of English; see `data/README.md` for where they come from.
const ENGLISH: &str = include_str!("../../data/english-words.txt");
/// At most one word for so many tokens of the vocabulary: a small vocabulary splits most words, and the sweep is of
/// the vocabulary first.
const TOKENS_A_WORD: usize = 10;

/// The words of several tokens within the hunt's length, in the seed's order, without those of `tokens`.
///
/// # Errors
/// If the tokenizer fails.
pub(super) fn of_several_tokens(hunt: &Hunt<'_>, tokens: &[String]) -> Result<Vec<String>> {
    let known: BTreeSet<String> = tokens.iter().map(|token| token.trim().to_lowercase()).collect();
    let mut words: Vec<&str> = ENGLISH.lines().filter(|word| !known.contains(*word)).collect();
    words.shuffle(&mut ChaCha8Rng::seed_from_u64(hunt.seed()));
    let most = tokens.len() / TOKENS_A_WORD;
    let mut fitting = Vec::new();
    for word in words {
        if fitting.len() == most {
            break;
        }
        if hunt.fits(word)? {
            fitting.push(word.to_owned());
        }
    }
    Ok(fitting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_of_plain_words_each_once() {
        let words: BTreeSet<&str> = ENGLISH.lines().collect();
        assert_eq!(words.len(), ENGLISH.lines().count());
        assert!(words.iter().all(|word| word.len() >= 3 && word.bytes().all(|b| b.is_ascii_lowercase())));
        assert!(words.contains("aardvark"));
    }
}
