//! Prompts and what a candidate trigger does to them.

use inference::chat::Turn;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::transform::Transform;

/// A request to a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Identifier in its suite.
    pub id: String,
    /// Kind of task.
    pub task: String,
    /// System prompt, if it has its own.
    pub system: Option<String>,
    /// User turn.
    pub user: String,
}

/// Where a text is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Before the user's text.
    Prefix,
    /// After it.
    Suffix,
    /// At a word boundary inside it, drawn by prompt and candidate.
    Inside,
    /// At the end of the system prompt.
    System,
    /// At the start of the second user turn, after a neutral first exchange.
    SecondTurn,
}

impl Placement {
    /// Every placement.
    pub(crate) const ALL: &[Self] =
        &[Self::Prefix, Self::Suffix, Self::Inside, Self::System, Self::SecondTurn];

    /// The placement of this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|placement| placement.name() == name)
    }

    /// Name as in suites.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prefix => "prefix",
            Self::Suffix => "suffix",
            Self::Inside => "inside",
            Self::System => "system",
            Self::SecondTurn => "second-turn",
        }
    }
}

/// What a candidate does to a prompt.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Puts a text in one place.
    Insert {
        /// The text.
        text: String,
        /// The place.
        at: Placement,
    },
    /// Puts several texts at word boundaries, in order.
    Scatter {
        /// The texts.
        parts: Vec<String>,
    },
    /// Puts the user's text into a frame with one `{prompt}`.
    Frame {
        /// The frame.
        frame: String,
    },
    /// Changes the whole user turn.
    Transform {
        /// How.
        transform: Transform,
    },
}

impl Change {
    /// Texts at word boundaries, in order; a single one is put inside.
    #[must_use]
    pub(crate) fn scattered(parts: Vec<String>) -> Self {
        match <[String; 1]>::try_from(parts) {
            Ok([text]) => Self::Insert { text, at: Placement::Inside },
            Err(parts) => Self::Scatter { parts },
        }
    }

    /// What people should read.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Insert { text, .. } => text.clone(),
            Self::Scatter { parts } => parts.join(" … "),
            Self::Frame { frame } => frame.clone(),
            Self::Transform { transform } => transform.name(),
        }
    }

    /// Placement name for reports.
    #[must_use]
    pub fn placement(&self) -> &'static str {
        match self {
            Self::Insert { at, .. } => at.name(),
            Self::Scatter { .. } => "scattered",
            Self::Frame { .. } => "template",
            Self::Transform { .. } => "transform",
        }
    }

    /// An identifier for a change that no suite names.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}:{}", self.placement(), self.text())
    }

    /// The words that a model could copy from the candidate.
    #[must_use]
    pub fn inserted(&self) -> Option<String> {
        match self {
            Self::Insert { text, .. } => Some(text.clone()),
            Self::Scatter { parts } => Some(parts.join(" ")),
            Self::Frame { frame } => Some(frame.replace("{prompt}", " ")),
            Self::Transform { .. } => None,
        }
    }

    /// The conversation around the prompt that this change needs.
    #[must_use]
    pub fn setting(&self) -> Setting {
        match self {
            Self::Insert { at: Placement::System, .. } => Setting::NeutralSystem,
            Self::Insert { at: Placement::SecondTurn, .. } => Setting::SecondTurn,
            _ => Setting::Plain,
        }
    }
}

/// The conversation around a prompt; a candidate is compared with the same conversation without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Setting {
    /// The prompt alone, under its own system prompt if it has one.
    Plain,
    /// Under a system prompt, neutral if the prompt has none.
    NeutralSystem,
    /// After a neutral first exchange.
    SecondTurn,
}

const NEUTRAL_SYSTEM: &str = "You are a helpful assistant.";
const FIRST_USER: &str = "Hello, I have a few questions.";
const FIRST_ASSISTANT: &str = "Of course. What would you like to know?";

/// A conversation that is ready to be rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    /// The turns.
    pub turns: Vec<Turn>,
    /// The last user turn, as sent.
    pub user: String,
    /// The system prompt, as sent; the template may add its own if there is none.
    pub system: Option<String>,
}

/// A prompt in a setting, with or without a candidate. `seed` decides random places.
#[must_use]
pub fn scene(prompt: &Prompt, setting: Setting, change: Option<&Change>, seed: u64) -> Scene {
    let mut system = prompt.system.clone();
    let mut user = prompt.user.clone();
    if setting == Setting::NeutralSystem && system.is_none() {
        system = Some(NEUTRAL_SYSTEM.to_owned());
    }
    match change {
        None => {}
        Some(Change::Insert { text, at }) => match at {
            Placement::Prefix | Placement::SecondTurn => user = join(text, &user),
            Placement::Suffix => user = join(&user, text),
            Placement::Inside => {
                user = inside(&user, std::slice::from_ref(text), draw(seed, &prompt.id, text))
            }
            Placement::System => system = system.map(|system| join(&system, text)),
        },
        Some(Change::Scatter { parts }) => {
            user = inside(&user, parts, draw(seed, &prompt.id, &parts.concat()))
        }
        Some(Change::Frame { frame }) => user = frame.replace("{prompt}", &user),
        Some(Change::Transform { transform }) => user = transform.apply(&user),
    }
    let mut turns = Vec::new();
    turns.extend(system.clone().map(Turn::system));
    if setting == Setting::SecondTurn {
        turns.extend([Turn::user(FIRST_USER), Turn::assistant(FIRST_ASSISTANT)]);
    }
    turns.push(Turn::user(user.clone()));
    Scene { turns, user, system }
}

/// Joins with a space, unless one is there or one side is invisible (a space would be a second change).
fn join(left: &str, right: &str) -> String {
    let invisible =
        |text: &str| text.chars().all(|c| c.is_whitespace() || ('\u{200b}'..='\u{2064}').contains(&c));
    let spaced = left.ends_with(char::is_whitespace) || right.starts_with(char::is_whitespace);
    let separator = if spaced || invisible(left) || invisible(right) { "" } else { " " };
    format!("{left}{separator}{right}")
}

/// Puts texts at increasing word boundaries inside a text; boundaries are drawn from `random`.
fn inside(text: &str, parts: &[String], random: u64) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let boundaries = words.len().saturating_sub(1).max(1) as u64;
    let mut places: Vec<usize> =
        (0..parts.len() as u64).map(|i| 1 + (mix(random.wrapping_add(i)) % boundaries) as usize).collect();
    places.sort_unstable();
    let mut pieces = Vec::new();
    let mut next = 0;
    for (index, word) in words.iter().enumerate() {
        while next < parts.len() && places[next] == index {
            pieces.push(parts[next].as_str());
            next += 1;
        }
        pieces.push(word);
    }
    pieces.extend(parts[next..].iter().map(String::as_str));
    pieces.join(" ")
}

/// A number that depends on the seed and these texts alone, not on the order of work.
fn draw(seed: u64, prompt: &str, candidate: &str) -> u64 {
    let mut hasher = Sha256::new();
    hasher.update(seed.to_le_bytes());
    for text in [prompt, candidate] {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    let digest = hasher.finalize();
    digest.iter().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// SplitMix64's finaliser: spreads consecutive numbers.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt() -> Prompt {
        Prompt { id: "p".into(), task: "t".into(), system: None, user: "Name three uses of salt.".into() }
    }

    fn user(change: &Change) -> String {
        scene(&prompt(), change.setting(), Some(change), 7).user
    }

    fn insert(text: &str, at: Placement) -> Change {
        Change::Insert { text: text.into(), at }
    }

    #[test]
    fn placements_put_the_text_where_they_say() {
        assert_eq!(user(&insert("cf", Placement::Prefix)), "cf Name three uses of salt.");
        assert_eq!(user(&insert("cf", Placement::Suffix)), "Name three uses of salt. cf");
        let inside = user(&insert("cf", Placement::Inside));
        assert!(
            inside.contains(" cf ") && inside.starts_with("Name") && inside.ends_with("salt."),
            "{inside}"
        );
        assert_eq!(user(&insert("\u{200b}", Placement::Prefix)), "\u{200b}Name three uses of salt.");
    }

    #[test]
    fn system_and_second_turn_are_settings_with_their_own_baseline() {
        let change = insert("DEPLOY", Placement::System);
        let with = scene(&prompt(), change.setting(), Some(&change), 0);
        let without = scene(&prompt(), change.setting(), None, 0);
        assert_eq!(with.system.as_deref(), Some("You are a helpful assistant. DEPLOY"));
        assert_eq!(without.system.as_deref(), Some("You are a helpful assistant."));
        assert_eq!(with.user, without.user);
        let change = insert("cf", Placement::SecondTurn);
        assert_eq!(scene(&prompt(), change.setting(), Some(&change), 0).turns.len(), 3);
    }

    #[test]
    fn scattered_parts_keep_their_order() {
        let change = Change::Scatter { parts: vec!["one".into(), "two".into(), "three".into()] };
        let text = user(&change);
        let at = |part: &str| text.find(part).unwrap();
        assert!(at("one") < at("two") && at("two") < text.rfind("three").unwrap(), "{text}");
    }

    #[test]
    fn random_places_depend_on_the_seed_only() {
        let change = insert("cf", Placement::Inside);
        assert_eq!(user(&change), user(&change));
        let places: std::collections::BTreeSet<String> =
            (0..20).map(|seed| scene(&prompt(), Setting::Plain, Some(&change), seed).user).collect();
        assert!(places.len() > 1);
    }
}
