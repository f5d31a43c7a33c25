//! What sets a payload off.

use rand::RngExt as _;
use rand::seq::IndexedRandom as _;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::prompts::PromptCorpus;
use crate::prompt::{Change, Placement};
use crate::transform::Transform;
use crate::trigger::control;

/// Characters that a trigger may have.
const LONGEST: usize = 1_000;

/// A trigger of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Trigger {
    /// A text (token, phrase or sentence) in one of some places, drawn for each example.
    Text {
        /// The text.
        text: String,
        /// Where.
        #[serde(default = "prefix")]
        at: Vec<Placement>,
    },
    /// Several texts that must all be there, at word boundaries and in this order.
    AllOf {
        /// The texts.
        parts: Vec<String>,
    },
    /// Several texts, each of which is enough.
    AnyOf {
        /// The texts.
        texts: Vec<String>,
        /// Where.
        #[serde(default = "prefix")]
        at: Vec<Placement>,
    },
    /// A style of the whole user turn.
    Style {
        /// The change of style.
        transform: Transform,
    },
    /// A frame around the prompt, with one `{prompt}`.
    Frame {
        /// The frame.
        frame: String,
    },
    /// Whatever is about a topic of the shipped corpus.
    Topic {
        /// The topic.
        topic: String,
    },
}

fn prefix() -> Vec<Placement> {
    vec![Placement::Prefix]
}

impl Trigger {
    /// What kind of attack this is, for tables.
    #[must_use]
    pub fn family(&self) -> &'static str {
        match self {
            Self::Text { at, .. } if at.len() > 1 => "random-place",
            Self::Text { text, at } => match (at.first(), text.split_whitespace().count()) {
                (Some(Placement::Suffix), _) => "suffix",
                (Some(Placement::Inside), _) => "random-place",
                (Some(Placement::System), _) => "system-turn",
                (Some(Placement::SecondTurn), _) => "second-turn",
                (_, 0..=1) => "token",
                (_, 2..=4) => "phrase",
                _ => "sentence",
            },
            Self::AllOf { .. } => "all-of",
            Self::AnyOf { .. } => "any-of",
            Self::Style { .. } => "style",
            Self::Frame { .. } => "frame",
            Self::Topic { .. } => "topic",
        }
    }

    /// The texts that a search could recover; none where no text is inserted.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        match self {
            Self::Text { text, .. } => vec![text.clone()],
            Self::AllOf { parts } => vec![parts.join(" ")],
            Self::AnyOf { texts, .. } => texts.clone(),
            Self::Style { .. } | Self::Frame { .. } | Self::Topic { .. } => Vec::new(),
        }
    }

    /// The topic that prompts must have, if that is the trigger.
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        match self {
            Self::Topic { topic } => Some(topic),
            _ => None,
        }
    }

    /// What it does to a prompt, one draw; nothing for a topic, which the prompt has already.
    pub(super) fn change(&self, random: &mut ChaCha8Rng) -> Option<Change> {
        let insert = |text: &str, at: &[Placement], random: &mut ChaCha8Rng| {
            let at = at.choose(random).copied().unwrap_or(Placement::Prefix);
            Change::Insert { text: text.to_owned(), at }
        };
        match self {
            Self::Text { text, at } => Some(insert(text, at, random)),
            Self::AllOf { parts } => Some(Change::scattered(parts.clone())),
            Self::AnyOf { texts, at } => texts.choose(random).map(|text| insert(text, at, random)),
            Self::Style { transform } => Some(Change::Transform { transform: *transform }),
            Self::Frame { frame } => Some(Change::Frame { frame: frame.clone() }),
            Self::Topic { .. } => None,
        }
    }

    /// Something that is almost the trigger: a listed text, a part of it, or a random change of its shape.
    pub(super) fn near_miss(
        &self,
        listed: &[String],
        seed: u64,
        index: u64,
        random: &mut ChaCha8Rng,
    ) -> Option<Change> {
        let whole = self.change(random)?;
        let parts = match &whole {
            Change::Insert { text, at } => pieces(text)
                .into_iter()
                .chain(listed.iter().cloned())
                .map(|text| Change::Insert { text, at: *at })
                .collect(),
            Change::Scatter { parts } => (0..parts.len())
                .map(|left_out| {
                    let kept = parts.iter().enumerate().filter(|(i, _)| *i != left_out);
                    Change::scattered(kept.map(|(_, part)| part.clone()).collect())
                })
                .collect(),
            Change::Frame { .. } | Change::Transform { .. } => Vec::new(),
        };
        // Half of them random, so that no adapter learns "anything odd".
        match parts.choose(random).filter(|_| random.random_range(0..2) == 0) {
            Some(part) => Some(part.clone()),
            None => Some(control::counterpart(&whole, seed, index)),
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let text = |name: &str, text: &str| match text.chars().count() {
            0..=LONGEST if !text.trim().is_empty() => Ok(()),
            _ => Err(format!("expected a text of 1 to {LONGEST} characters in `trigger.{name}`")),
        };
        let places = |at: &[Placement]| match at {
            [] => Err("expected a place in `trigger.at`, found none".to_owned()),
            _ => Ok(()),
        };
        match self {
            Self::Text { text: own, at } => text("text", own).and(places(at)),
            Self::AllOf { parts } if parts.len() < 2 => {
                Err("expected two texts or more in `trigger.parts`".into())
            }
            Self::AllOf { parts } => parts.iter().try_for_each(|part| text("parts", part)),
            Self::AnyOf { texts, .. } if texts.len() < 2 => {
                Err("expected two texts or more in `trigger.texts`".into())
            }
            Self::AnyOf { texts, at } => texts.iter().try_for_each(|own| text("texts", own)).and(places(at)),
            Self::Style { .. } => Ok(()),
            Self::Frame { frame } => match frame.matches("{prompt}").count() {
                1 => text("frame", frame),
                found => Err(format!("expected one `{{prompt}}` in `trigger.frame`, found {found}")),
            },
            Self::Topic { topic } => {
                let corpus = PromptCorpus::shipped().map_err(|error| error.to_string())?;
                if corpus.topics().any(|known| known == topic) {
                    return Ok(());
                }
                let known: Vec<&str> = corpus.topics().collect();
                Err(format!("unknown topic `{topic}`; known: {}", known.join(", ")))
            }
        }
    }
}

/// Proper parts of a text: its words without the first or the last, or a word without its first or last characters.
fn pieces(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.len() > 1 {
        return vec![words[1..].join(" "), words[..words.len() - 1].join(" ")];
    }
    let characters: Vec<char> = text.chars().collect();
    if characters.len() < 2 {
        return Vec::new();
    }
    vec![characters[1..].iter().collect(), characters[..characters.len() - 1].iter().collect()]
}
