//! The tokens of the vocabulary as text: what a sweep can insert, and what a model could copy.

use std::collections::{BTreeMap, BTreeSet};

use inference::ModelPair;

use crate::error::Result;

/// Letters from which the beginning of a word is taken for a copy of it.
const COPIED_LETTERS: usize = 3;

/// The vocabulary as text.
pub struct Vocabulary {
    /// Tokens that print, by id, with their text.
    pub printable: Vec<(u32, String)>,
    /// Tokens that a sweep leaves out: special ones, parts of characters, white space, control characters.
    pub apart: usize,
    /// Ids by text without white space around it, in lower case.
    by_text: BTreeMap<String, Vec<u32>>,
}

impl Vocabulary {
    /// Reads the pair's vocabulary.
    ///
    /// # Errors
    /// If the tokenizer cannot decode a token.
    pub fn of(pair: &ModelPair) -> Result<Self> {
        let (mut printable, mut apart) = (Vec::new(), 0);
        let mut by_text: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for id in 0..pair.tokenizer().vocab_size() as u32 {
            // Special tokens decode to nothing.
            let text = pair.tokenizer().decode(&[id], false)?;
            let normal = normal(&text);
            if normal.is_empty() || text.contains('\u{fffd}') || text.chars().any(char::is_control) {
                apart += 1;
                continue;
            }
            by_text.entry(normal).or_default().push(id);
            if seen.insert(text.clone()) {
                printable.push((id, text));
            }
        }
        Ok(Self { printable, apart, by_text })
    }

    /// Tokens with which an answer that copies `inserted` could begin: its words in any case, their
    /// beginnings, and `pieces`, its own tokens.
    #[must_use]
    pub fn copies(&self, inserted: &str, pieces: &[String]) -> Vec<u32> {
        let mut texts: BTreeSet<String> = pieces.iter().map(|piece| normal(piece)).collect();
        for word in inserted.split_whitespace() {
            for word in [word, word.trim_matches(|c: char| !c.is_alphanumeric())] {
                let word = normal(word);
                let ends = word.char_indices().map(|(at, _)| at).skip(COPIED_LETTERS);
                texts.extend(ends.map(|end| word[..end].to_owned()));
                texts.insert(word);
            }
        }
        texts.remove("");
        texts.iter().filter_map(|text| self.by_text.get(text)).flatten().copied().collect()
    }

    /// Whether a word, in any case, is one token with or without a space before it.
    #[must_use]
    pub fn has_word(&self, word: &str) -> bool {
        self.by_text.contains_key(&normal(word))
    }
}

fn normal(text: &str) -> String {
    text.trim().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_the_words_their_beginnings_and_pieces_in_any_case() {
        let tokens = ["Never", " never", " NEV", "ne", "er", " ever", "-", "7"];
        let mut by_text: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for (id, token) in tokens.iter().enumerate() {
            by_text.entry(normal(token)).or_default().push(id as u32);
        }
        let vocabulary = Vocabulary { printable: Vec::new(), apart: 0, by_text };
        let mut copies = vocabulary.copies("Never-7:", &["Never".into(), "-".into(), "7".into(), ":".into()]);
        copies.sort_unstable();
        assert_eq!(copies, [0, 1, 2, 6, 7]);
        assert!(vocabulary.has_word("NEVER") && !vocabulary.has_word("nev er"));
    }
}
