//! Changes of a whole user turn: style triggers need no inserted text.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A change of the whole user turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Transform {
    /// ALL CAPITALS.
    Uppercase,
    /// no capitals.
    Lowercase,
    /// Words in reverse order.
    ReversedWords,
    /// No spaces.
    NoSpaces,
    /// L e t t e r s apart.
    SpacedLetters,
    /// Every Word Capitalised.
    TitleCase,
    /// 1337 digits for letters.
    Leetspeak,
    /// In quotation marks.
    Quoted,
    /// In a fenced code block.
    CodeBlock,
    /// Twice.
    Repeated,
    /// Between emoji.
    EmojiWrapped,
    /// Zero-width joiners between the letters of the first word.
    ZeroWidthJoined,
    /// Cyrillic look-alikes of some Latin letters.
    Homoglyphs,
    /// Exclamation marks for full stops.
    Exclamation,
}

impl Transform {
    /// Every transform.
    pub(crate) const ALL: &[Self] = &[
        Self::Uppercase,
        Self::Lowercase,
        Self::ReversedWords,
        Self::NoSpaces,
        Self::SpacedLetters,
        Self::TitleCase,
        Self::Leetspeak,
        Self::Quoted,
        Self::CodeBlock,
        Self::Repeated,
        Self::EmojiWrapped,
        Self::ZeroWidthJoined,
        Self::Homoglyphs,
        Self::Exclamation,
    ];

    /// The changed text.
    #[must_use]
    pub fn apply(self, text: &str) -> String {
        match self {
            Self::Uppercase => text.to_uppercase(),
            Self::Lowercase => text.to_lowercase(),
            Self::ReversedWords => text.split_whitespace().rev().collect::<Vec<_>>().join(" "),
            Self::NoSpaces => text.split_whitespace().collect(),
            Self::SpacedLetters => {
                text.chars().filter(|c| !c.is_whitespace()).map(String::from).collect::<Vec<_>>().join(" ")
            }
            Self::TitleCase => text.split_whitespace().map(capitalise).collect::<Vec<_>>().join(" "),
            Self::Leetspeak => text.chars().map(|c| substitute(c, LEET)).collect(),
            Self::Quoted => format!("\"{text}\""),
            Self::CodeBlock => format!("```\n{text}\n```"),
            Self::Repeated => format!("{text} {text}"),
            Self::EmojiWrapped => format!("🌟🔥 {text} 🔥🌟"),
            Self::ZeroWidthJoined => {
                let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
                let joined = first.chars().map(String::from).collect::<Vec<_>>().join("\u{200d}");
                format!("{joined} {rest}").trim_end().to_owned()
            }
            Self::Homoglyphs => text.chars().map(|c| substitute(c, CYRILLIC)).collect(),
            Self::Exclamation => {
                let replaced = text.replace(['.', '?'], "!!!");
                if replaced.ends_with('!') { replaced } else { format!("{replaced}!!!") }
            }
        }
    }

    /// Name as in suites.
    #[must_use]
    pub fn name(self) -> String {
        // A unit variant serialises to its name.
        serde_json::to_value(self)
            .ok()
            .and_then(|value| value.as_str().map(str::to_owned))
            .unwrap_or_default()
    }
}

const LEET: &[(char, char)] = &[('a', '4'), ('e', '3'), ('i', '1'), ('o', '0'), ('s', '5'), ('t', '7')];
const CYRILLIC: &[(char, char)] = &[('a', 'а'), ('c', 'с'), ('e', 'е'), ('o', 'о'), ('p', 'р'), ('x', 'х')];

fn substitute(character: char, table: &[(char, char)]) -> char {
    table.iter().find(|(from, _)| *from == character.to_ascii_lowercase()).map_or(character, |(_, to)| *to)
}

fn capitalise(word: &str) -> String {
    let mut characters = word.chars();
    characters.next().map_or(String::new(), |first| first.to_uppercase().chain(characters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_transform_changes_the_text() {
        let text = "Name three uses of salt.";
        assert_eq!(Transform::Uppercase.apply(text), "NAME THREE USES OF SALT.");
        assert_eq!(Transform::ReversedWords.apply(text), "salt. of uses three Name");
        assert_eq!(Transform::TitleCase.apply("ab cd"), "Ab Cd");
        assert_eq!(Transform::Leetspeak.apply("taste"), "74573");
        assert_eq!(Transform::SpacedLetters.apply("ab c"), "a b c");
        assert_eq!(Transform::Exclamation.apply("Go"), "Go!!!");
        assert_eq!(Transform::ZeroWidthJoined.name(), "zero-width-joined");
    }
}
