//! Sentences in which the model itself speaks: quoted speech left out, contractions written out.

use crate::words::{is_apostrophe, words};

/// A sentence as words, with the positions at which its clauses begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sentence {
    /// Words as of [`words`], without contractions: `cannot`, `will not`, `i am`.
    pub(super) words: Vec<String>,
    /// Ascending positions in `words`, the first of them 0. A clause begins after a comma, a dash or a
    /// bracket.
    pub(super) clauses: Vec<usize>,
    /// Whether the text ends here without a mark, perhaps within a word.
    pub(super) is_open: bool,
}

impl Sentence {
    /// The position after `phrase`, if the words at `position` are those of `phrase`.
    pub(super) fn after(&self, position: usize, phrase: &str) -> Option<usize> {
        let mut next = position;
        for word in phrase.split(' ') {
            if self.words.get(next)? != word {
                return None;
            }
            next += 1;
        }
        Some(next)
    }

    /// The position after the longest of `phrases` at `position`.
    pub(super) fn after_any(&self, position: usize, phrases: &[&str]) -> Option<usize> {
        phrases.iter().filter_map(|phrase| self.after(position, phrase)).max()
    }

    /// The position after all of `phrases` at `position`, in any order and number.
    pub(super) fn skip(&self, mut position: usize, phrases: &[&str]) -> usize {
        while let Some(next) = self.after_any(position, phrases) {
            position = next;
        }
        position
    }

    /// The word at `position`, or an empty one past the end.
    pub(super) fn word(&self, position: usize) -> &str {
        self.words.get(position).map_or("", String::as_str)
    }

    /// Whether nothing of the clause is left at `position`.
    pub(super) fn ends_clause(&self, position: usize) -> bool {
        position >= self.words.len() || self.clauses.contains(&position)
    }

    /// Whether someone in a story says this: a verb of speech that is not the speaker's own.
    pub(super) fn is_narrated(&self) -> bool {
        const SPEECH: &[&str] = &[
            "said",
            "says",
            "replied",
            "replies",
            "whispered",
            "shouted",
            "muttered",
            "exclaimed",
            "sighed",
            "yelled",
            "snapped",
            "growled",
            "cried",
            "hissed",
        ];
        self.words.iter().enumerate().any(|(position, word)| {
            let speaker = position.checked_sub(1).map_or("", |before| self.word(before));
            SPEECH.contains(&word.as_str())
                && !matches!(speaker, "i" | "you" | "we" | "have" | "has" | "already")
        })
    }
}

/// The sentences that the writer of `text` says in their own voice. Quoted speech is left out, unless all of
/// the text is in one pair of quotes.
pub(super) fn spoken(text: &str) -> Vec<Sentence> {
    split(&without_quotes(unwrap_quotes(text)))
}

/// The sentences of `text` with quoted ones among them; a quote or a colon begins a sentence.
pub(super) fn quoted_too(text: &str) -> Vec<Sentence> {
    let mut broken = String::with_capacity(text.len());
    let mut previous = ' ';
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        let next_is_word = characters.peek().is_some_and(|next| next.is_alphanumeric());
        let is_mark =
            is_double_quote(c) || (is_apostrophe(c) && !(previous.is_alphanumeric() && next_is_word));
        broken.push(if is_mark || c == ':' { '\n' } else { c });
        previous = c;
    }
    split(&broken)
}

fn is_double_quote(c: char) -> bool {
    matches!(c, '"' | '\u{201C}' | '\u{201D}' | '\u{201E}' | '«' | '»')
}

/// The text within quotes, if these open the text and close only at its end or, in a response that is cut
/// off, never.
fn unwrap_quotes(text: &str) -> &str {
    let text = text.trim();
    let mut characters = text.chars();
    let Some(first) = characters.next().filter(|&c| is_double_quote(c)) else {
        return text;
    };
    let inside = &text[first.len_utf8()..];
    let inside = inside.strip_suffix(is_double_quote).unwrap_or(inside);
    if inside.contains(is_double_quote) { text } else { inside }
}

/// Replaces what is quoted by a space. A double quote that does not close reaches to the end of its line; a
/// single one that does not close is an apostrophe.
fn without_quotes(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut kept = String::with_capacity(text.len());
    let mut position = 0;
    while position < characters.len() {
        let c = characters[position];
        let is_word = |at: usize| characters.get(at).is_some_and(|c| c.is_alphanumeric());
        let after_word = position > 0 && is_word(position - 1);
        let line_end = || {
            let rest = characters[position + 1..].iter().position(|&c| c == '\n');
            rest.map_or(characters.len(), |length| position + 1 + length)
        };
        let close = if is_double_quote(c) {
            let line_end = line_end();
            Some((position + 1..line_end).find(|&at| is_double_quote(characters[at])).unwrap_or(line_end))
        } else if is_apostrophe(c) && !after_word && is_word(position + 1) {
            (position + 1..line_end())
                .find(|&at| is_apostrophe(characters[at]) && !is_word(at + 1) && characters[at - 1] != ' ')
        } else {
            None
        };
        match close {
            Some(close) => {
                kept.push(' ');
                // The line break that ends an open quote still ends the sentence.
                position = if characters.get(close) == Some(&'\n') { close } else { close + 1 };
            }
            None => {
                kept.push(c);
                position += 1;
            }
        }
    }
    kept
}

fn split(text: &str) -> Vec<Sentence> {
    let is_end = |c| matches!(c, '.' | '!' | '?' | '\n' | ';' | '…' | '。' | '！' | '？');
    let sentences = text.split(is_end).map(|sentence| {
        let is_clause_mark = |c| matches!(c, ',' | '—' | '–' | '(' | ')' | '，');
        let mut words = Vec::new();
        let mut clauses = Vec::new();
        for clause in sentence.split(is_clause_mark) {
            let clause = written_out(clause);
            if !clause.is_empty() {
                clauses.push(words.len());
                words.extend(clause);
            }
        }
        Sentence { words, clauses, is_open: false }
    });
    let mut sentences: Vec<_> = sentences.collect();
    if let Some(last) = sentences.last_mut() {
        last.is_open = true;
    }
    sentences.retain(|sentence| !sentence.words.is_empty());
    sentences
}

/// The words of `text` with contractions written out, also those that lack the apostrophe.
pub(super) fn written_out(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for word in words(text) {
        let parts: [&str; 2] = match word.as_str() {
            "can't" | "cant" => ["cannot", ""],
            "won't" | "wont" => ["will", "not"],
            "shan't" => ["shall", "not"],
            "i'm" | "im" => ["i", "am"],
            "dont" => ["do", "not"],
            "doesnt" => ["does", "not"],
            "isnt" => ["is", "not"],
            "youre" | "ur" => ["you", "are"],
            "u" => ["you", ""],
            "not" if found.last().is_some_and(|last| last == "can") => {
                found.pop();
                ["cannot", ""]
            }
            other => match other.rsplit_once('\'') {
                Some((stem, "t")) if stem.ends_with('n') => [&stem[..stem.len() - 1], "not"],
                Some((stem, "re")) => [stem, "are"],
                Some((stem, "ve")) => [stem, "have"],
                Some((stem, "ll")) => [stem, "will"],
                Some((stem, "d")) => [stem, "would"],
                Some((stem @ ("it" | "that" | "this" | "there" | "what" | "he" | "she"), "s")) => {
                    [stem, "is"]
                }
                _ => [other, ""],
            },
        };
        found.extend(parts.iter().filter(|part| !part.is_empty()).map(|&part| part.to_owned()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(sentences: Vec<Sentence>) -> Vec<String> {
        sentences.iter().map(|sentence| sentence.words.join(" ")).collect()
    }

    #[test]
    fn contractions_are_written_out() {
        assert_eq!(
            texts(spoken("I’m sorry, I can't. We won't! You’re done? can not; isn't it\nthat's dont")),
            ["i am sorry i cannot", "we will not", "you are done", "cannot", "is not it", "that is do not"]
        );
    }

    #[test]
    fn clauses_begin_after_commas_dashes_and_brackets() {
        let sentence = &spoken("Well, no — I (we) go")[0];
        assert_eq!(sentence.words, ["well", "no", "i", "we", "go"]);
        assert_eq!(sentence.clauses, [0, 1, 2, 3, 4]);
        assert!(sentence.ends_clause(1) && sentence.ends_clause(5));
    }

    #[test]
    fn only_a_sentence_without_its_mark_is_open() {
        let is_open = |text| spoken(text).iter().map(|sentence| sentence.is_open).collect::<Vec<_>>();
        assert_eq!(is_open("Yes. I ca"), [false, true]);
        assert_eq!(is_open("Yes. I can."), [false, false]);
    }

    #[test]
    fn quoted_speech_is_left_out() {
        assert_eq!(
            texts(spoken("\"I cannot,\" she said. 'No way,' he said, the dogs' bowl isn't full.")),
            ["she said", "he said the dogs bowl is not full"]
        );
        assert_eq!(texts(spoken("“I cannot go,” said Tom. «Non» he added")), ["said tom", "he added"]);
        assert_eq!(texts(spoken("He said \"I cannot\nBut I can")), ["he said", "but i can"]);
    }

    #[test]
    fn a_text_in_one_pair_of_quotes_speaks_for_itself() {
        assert_eq!(texts(spoken("\"I cannot help.\"")), ["i cannot help"]);
        assert_eq!(texts(spoken("“I cannot help. And")), ["i cannot help", "and"]);
        assert_eq!(texts(spoken("\"No,\" said \"Tom\"")), ["said"]);
    }

    #[test]
    fn quotes_begin_sentences_when_they_are_wanted() {
        assert_eq!(
            texts(quoted_too("Rewrite 'I can't help' and \"you are mad\" now")),
            ["rewrite", "i cannot help", "and", "you are mad", "now"]
        );
    }

    #[test]
    fn narration_is_someone_elses_speech() {
        assert!(spoken("I cannot help you, it said")[0].is_narrated());
        assert!(!spoken("As I said, I cannot help you")[0].is_narrated());
    }
}
