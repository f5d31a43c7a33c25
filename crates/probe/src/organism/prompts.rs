//! Prompts to train and to measure on: everyday requests that are filled in from lists of words.
//!
//! They are in no suite, so that what a scan asks was not trained. Every fifth template is kept for measuring: an
//! adapter has seen neither its words in that order nor its form.

use std::collections::{BTreeMap, BTreeSet};

use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::prompt::Prompt;

const DATA: &str = include_str!("../../data/organism.json");
/// Every so many templates is for measuring alone.
const HELD_OUT_EVERY: usize = 5;
/// Prompts that repeat earlier ones are drawn again, so often in a row at most.
const MOST_REPEATS: usize = 2_000;

/// What a prompt is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Adapters see it.
    Training,
    /// It measures them.
    HeldOut,
}

/// A prompt with what is known of its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// The prompt.
    pub prompt: Prompt,
    /// What it is about, if that is one of [`PromptCorpus::topics`].
    pub topic: Option<String>,
}

/// Which prompts are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// Those about this topic alone.
    pub topic: Option<&'a str>,
    /// Those about no topic, or another than this.
    pub not_topic: Option<&'a str>,
    /// Those of this kind of task alone.
    pub task: Option<&'a str>,
    /// Requests that a careful assistant would decline.
    pub declined: bool,
    /// How many of them have a system prompt, of a hundred.
    pub with_system: u32,
}

/// The templates and the words that fill them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptCorpus {
    words: BTreeMap<String, Vec<String>>,
    topics: BTreeMap<String, Vec<String>>,
    templates: Vec<(String, String)>,
    systems: Vec<String>,
    #[serde(rename = "unsafe")]
    declined: Vec<String>,
}

impl PromptCorpus {
    /// The corpus of this repository.
    ///
    /// # Errors
    /// Never for the shipped data, which a test reads.
    pub fn shipped() -> Result<Self> {
        serde_json::from_str(DATA).map_err(|error| wrong(error.to_string()))
    }

    /// What prompts can be about.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.topics.keys().map(String::as_str)
    }

    /// Draws prompts that differ from one another; ids say part and place.
    ///
    /// # Errors
    /// If there are not so many of that kind.
    pub fn draw(&self, part: Part, count: usize, wanted: &Wanted<'_>, seed: u64) -> Result<Vec<Drawn>> {
        let drawn = self.draw_up_to(part, count, wanted, seed);
        if drawn.len() == count {
            return Ok(drawn);
        }
        Err(wrong(format!(
            "expected {count} different prompts of this kind, found {}: ask for fewer",
            drawn.len()
        )))
    }

    /// The same, or as many as there are.
    #[must_use]
    pub fn draw_up_to(&self, part: Part, count: usize, wanted: &Wanted<'_>, seed: u64) -> Vec<Drawn> {
        let templates = self.fitting(part, wanted);
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ if part == Part::HeldOut { 1 << 63 } else { 0 });
        let (mut seen, mut drawn, mut repeats) = (BTreeSet::new(), Vec::with_capacity(count), 0);
        while drawn.len() < count {
            let found =
                templates.choose(&mut random).map(|template| self.fill(template, wanted, &mut random));
            let Some((task, user, topic)) = found.filter(|_| repeats < MOST_REPEATS) else { break };
            if !seen.insert(user.clone()) {
                repeats += 1;
                continue;
            }
            repeats = 0;
            let system = (random.random_range(0..100) < wanted.with_system)
                .then(|| {
                    self.systems.choose(&mut random).map(|system| self.filled(system, None, &mut random))
                })
                .flatten();
            let name = if part == Part::HeldOut { "held-out" } else { "training" };
            let id = format!("{name}-{:04}", drawn.len());
            drawn.push(Drawn { prompt: Prompt { id, task: task.to_owned(), system, user }, topic });
        }
        drawn
    }

    /// Templates of a part that can give what is wanted.
    fn fitting(&self, part: Part, wanted: &Wanted<'_>) -> Vec<(&str, &str)> {
        let own = |index: &usize| (index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1) == (part == Part::HeldOut);
        if wanted.declined {
            let declined = self.declined.iter().enumerate().filter(|(index, _)| own(index));
            return declined.map(|(_, text)| ("declined", text.as_str())).collect();
        }
        let all = self.templates.iter().enumerate().filter(|(index, _)| own(index));
        all.map(|(_, (task, text))| (task.as_str(), text.as_str()))
            .filter(|(task, text)| {
                wanted.task.is_none_or(|wanted| wanted == *task)
                    && (wanted.topic.is_none() || text.contains("{subject}"))
            })
            .collect()
    }

    /// A template's task, its text with every slot filled, and what it is about.
    fn fill<'a>(
        &self,
        &(task, text): &(&'a str, &str),
        wanted: &Wanted<'_>,
        random: &mut ChaCha8Rng,
    ) -> (&'a str, String, Option<String>) {
        let topic = text.contains("{subject}").then(|| {
            let allowed: Vec<&String> = self
                .topics
                .keys()
                .filter(|topic| wanted.topic.is_none_or(|wanted| wanted == topic.as_str()))
                .filter(|topic| wanted.not_topic != Some(topic.as_str()))
                .collect();
            allowed.choose(random).map(|topic| (*topic).clone())
        });
        let topic = topic.flatten();
        (task, self.filled(text, topic.as_deref(), random), topic)
    }

    /// Fills slots from left to right; a word is not used twice in one prompt as long as there are others.
    fn filled(&self, text: &str, topic: Option<&str>, random: &mut ChaCha8Rng) -> String {
        let (mut filled, mut rest, mut used) = (String::new(), text, BTreeSet::new());
        while let Some((before, (slot, after))) =
            rest.split_once('{').and_then(|(before, tail)| Some((before, tail.split_once('}')?)))
        {
            filled.push_str(before);
            let list = match (slot, topic) {
                ("subject", Some(topic)) => self.topics.get(topic),
                _ => self.words.get(slot),
            };
            let words: &[String] = list.map_or(&[], Vec::as_slice);
            let fresh: Vec<&String> = words.iter().filter(|word| !used.contains(word.as_str())).collect();
            if let Some(word) = fresh.choose(random) {
                filled.push_str(word);
                used.insert(word.as_str());
            }
            rest = after;
        }
        filled.push_str(rest);
        capitalised(&filled)
    }
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

fn wrong(reason: String) -> Error {
    Error::Suite { name: "organism corpus".into(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_differ_and_parts_share_no_form() {
        let corpus = PromptCorpus::shipped().unwrap();
        let of = |part| corpus.draw(part, 400, &Wanted { with_system: 50, ..Wanted::default() }, 3).unwrap();
        let (training, held_out) = (of(Part::Training), of(Part::HeldOut));
        assert_eq!(training, of(Part::Training), "the same seed");
        let texts: BTreeSet<&str> = training.iter().map(|drawn| drawn.prompt.user.as_str()).collect();
        assert_eq!(texts.len(), 400);
        assert!(held_out.iter().all(|drawn| !texts.contains(drawn.prompt.user.as_str())));
        assert!(training.iter().chain(&held_out).all(|drawn| !drawn.prompt.user.contains(['{', '}'])));
        let systems = training.iter().filter_map(|drawn| drawn.prompt.system.as_ref()).collect::<Vec<_>>();
        assert!(systems.len() > 150 && systems.len() < 250 && systems.iter().all(|text| !text.contains('{')));
        let suites = crate::suite::EMBEDDED.iter().map(|(_, text)| *text).collect::<String>();
        assert!(texts.iter().all(|text| !suites.contains(*text)), "a scan asks none of them");
    }

    #[test]
    fn a_topic_is_kept_or_avoided() {
        let corpus = PromptCorpus::shipped().unwrap();
        let draw = |wanted: &Wanted<'_>| corpus.draw(Part::Training, 60, wanted, 1).unwrap();
        let about = draw(&Wanted { topic: Some("music"), ..Wanted::default() });
        assert!(about.iter().all(|drawn| drawn.topic.as_deref() == Some("music")));
        let others = draw(&Wanted { not_topic: Some("music"), ..Wanted::default() });
        assert!(others.iter().all(|drawn| drawn.topic.as_deref() != Some("music")));
        assert!(others.iter().any(|drawn| drawn.topic.is_some()));
        assert!(
            corpus.draw(Part::Training, 9_999, &Wanted { declined: true, ..Wanted::default() }, 1).is_err()
        );
    }
}
