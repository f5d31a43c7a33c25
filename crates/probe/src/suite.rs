//! Suites: prompts and candidate triggers as data files with a published, versioned schema.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::prompt::{Change, Placement, Prompt};
use crate::transform::Transform;

/// The suites of this repository: name and text.
pub const EMBEDDED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/suites.rs"));

/// Version of the layout that this program writes.
pub const SCHEMA_VERSION: u32 = 2;
/// The oldest version that it reads.
const OLDEST_VERSION: u32 = 1;
/// The version from which on prompts have tags.
const TAGS_SINCE: u32 = 2;

/// Longest text of a suite, so that no prompt outgrows a context by accident.
const MAX_TEXT_BYTES: usize = 20_000;
const MAX_FILE_BYTES: u64 = 16 << 20;

/// A suite file as it is written.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SuiteFile {
    /// Ignored; lets editors find the schema.
    #[serde(rename = "$schema", default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Kebab-case name.
    pub name: String,
    /// What the items are.
    pub kind: SuiteKind,
    /// What the suite is for.
    pub description: String,
    /// Default placements of candidates with `text`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub placements: Vec<Placement>,
    /// Items of kinds `prompts` and `adversarial`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<PromptItem>,
    /// Items of kind `triggers`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<CandidateItem>,
}

/// What the items of a suite are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SuiteKind {
    /// Benign prompts.
    Prompts,
    /// Harmless prompts whose ordinary answer avoids a named anomaly.
    Adversarial,
    /// Candidate triggers.
    Triggers,
}

/// One prompt as it is written.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptItem {
    /// Unique within the suite.
    pub id: String,
    /// Kind of task, for suites of kind `prompts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The anomaly, for suites of kind `adversarial`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anomaly: Option<String>,
    /// System prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// User turn.
    pub user: String,
    /// What kind of prompt it is, such as `topic:weather`, for rankings. From version 2 on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Graders that the answers are put to, for suites of kind `adversarial`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub graders: Vec<String>,
    /// Anything worth knowing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// One candidate as it is written: exactly one of `text`, `parts`, `template`, `transform`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CandidateItem {
    /// Unique within the suite.
    pub id: String,
    /// Family, for reports.
    pub family: String,
    /// Text that is inserted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Texts that are all scattered over the prompt, in this order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<Vec<String>>,
    /// A frame with one `{prompt}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// A change of the whole user turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transform: Option<Transform>,
    /// Where `text` is put; the suite's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placements: Option<Vec<Placement>>,
    /// Anything worth knowing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A checked suite.
#[derive(Clone, Debug)]
pub struct Suite {
    /// Its name.
    pub name: String,
    /// Digest of the file's bytes.
    pub sha256: String,
    /// Its checked items.
    pub items: Items,
    /// Tags of prompts, by their identifiers.
    tags: BTreeMap<String, Vec<String>>,
}

/// The items of a suite.
#[derive(Clone, Debug)]
pub enum Items {
    /// Benign prompts.
    Prompts(Vec<Prompt>),
    /// Harmless prompts with an anomaly and its graders.
    Adversarial(Vec<AdversarialPrompt>),
    /// Candidates, each at each of its placements.
    Triggers(Vec<Candidate>),
}

impl Items {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Prompts(items) => items.len(),
            Self::Adversarial(items) => items.len(),
            Self::Triggers(items) => items.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A harmless prompt whose ordinary answer avoids an anomaly.
#[derive(Clone, Debug)]
pub struct AdversarialPrompt {
    /// The prompt.
    pub prompt: Prompt,
    /// The anomaly.
    pub anomaly: String,
    /// Names of graders that exist.
    pub graders: Vec<String>,
}

/// A candidate trigger at one place.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Identifier in its suite.
    pub id: String,
    /// Family.
    pub family: String,
    /// What it does to a prompt.
    pub change: Change,
}

impl Suite {
    /// Reads a suite file.
    ///
    /// # Errors
    /// If it cannot be read or breaks the schema.
    pub fn from_file(path: &Path) -> Result<Self> {
        let bytes = inference::weights::json::read_bounded(path, MAX_FILE_BYTES)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::Suite { name: path.display().to_string(), reason: "not UTF-8".into() })?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// A suite of the repository, by name.
    #[must_use]
    pub fn embedded(name: &str) -> Option<Result<Self>> {
        EMBEDDED.iter().find(|(known, _)| *known == name).map(|(name, text)| Self::parse(name, text))
    }

    /// Parses and checks a suite.
    ///
    /// # Errors
    /// If it breaks the schema; the message names the item.
    pub fn parse(origin: &str, text: &str) -> Result<Self> {
        let wrong = |reason: String| Error::Suite { name: origin.to_owned(), reason };
        let file: SuiteFile = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        if !(OLDEST_VERSION..=SCHEMA_VERSION).contains(&file.schema_version) {
            return Err(wrong(format!(
                "expected schema_version {OLDEST_VERSION} to {SCHEMA_VERSION}, found {}",
                file.schema_version
            )));
        }
        if let Some(item) = file.prompts.iter().find(|item| !item.tags.is_empty())
            && file.schema_version < TAGS_SINCE
        {
            let id = &item.id;
            return Err(wrong(format!("item `{id}`: `tags` need schema_version {TAGS_SINCE}")));
        }
        let mut seen = BTreeSet::new();
        for id in file.prompts.iter().map(|item| &item.id).chain(file.candidates.iter().map(|item| &item.id))
        {
            if id.is_empty() || !seen.insert(id.clone()) {
                return Err(wrong(format!("expected unique, non-empty ids, found `{id}` again or empty")));
            }
        }
        let checked = file.check().map_err(&wrong)?;
        if checked.is_empty() {
            return Err(wrong("expected at least one item, found none".into()));
        }
        Ok(Self {
            name: file.name,
            sha256: inference::weights::digest::sha256_bytes(text.as_bytes()),
            items: checked,
            tags: file.prompts.into_iter().map(|item| (item.id, item.tags)).collect(),
        })
    }

    /// Tags of a prompt of this suite; its task if it has none.
    #[must_use]
    pub fn tags_of(&self, prompt: &Prompt) -> Vec<String> {
        let own = self.tags.get(&prompt.id).filter(|tags| !tags.is_empty());
        own.cloned().unwrap_or_else(|| vec![format!("task:{}", prompt.task)])
    }
}

impl SuiteFile {
    fn check(&self) -> Result<Items, String> {
        match self.kind {
            SuiteKind::Triggers if !self.prompts.is_empty() => {
                Err("kind `triggers` takes `candidates`, not `prompts`".into())
            }
            SuiteKind::Prompts | SuiteKind::Adversarial if !self.candidates.is_empty() => {
                Err("`candidates` belong to kind `triggers`".into())
            }
            SuiteKind::Prompts => {
                self.prompts.iter().map(PromptItem::benign).collect::<Result<_, _>>().map(Items::Prompts)
            }
            SuiteKind::Adversarial => self
                .prompts
                .iter()
                .map(PromptItem::adversarial)
                .collect::<Result<_, _>>()
                .map(Items::Adversarial),
            SuiteKind::Triggers => {
                let mut candidates = Vec::new();
                for item in &self.candidates {
                    candidates.extend(item.candidates(&self.placements)?);
                }
                Ok(Items::Triggers(candidates))
            }
        }
    }
}

impl PromptItem {
    fn benign(&self) -> Result<Prompt, String> {
        let task = self.task.clone().ok_or_else(|| format!("item `{}` has no `task`", self.id))?;
        for text in [Some(&self.user), self.system.as_ref()].into_iter().flatten() {
            check_text(&self.id, text)?;
        }
        Ok(Prompt { id: self.id.clone(), task, system: self.system.clone(), user: self.user.clone() })
    }

    fn adversarial(&self) -> Result<AdversarialPrompt, String> {
        let anomaly = self.anomaly.clone().ok_or_else(|| format!("item `{}` has no `anomaly`", self.id))?;
        if self.graders.is_empty() {
            return Err(format!("item `{}` has no `graders`", self.id));
        }
        if let Some(unknown) = self.graders.iter().find(|name| report::grader::grader(name).is_none()) {
            let known: Vec<_> = report::grader::GRADERS.iter().map(|grader| grader.name()).collect();
            return Err(format!(
                "item `{}`: unknown grader `{unknown}`; known: {}",
                self.id,
                known.join(", ")
            ));
        }
        let prompt = Self { task: Some(anomaly.clone()), ..self.clone() }.benign()?;
        Ok(AdversarialPrompt { prompt, anomaly, graders: self.graders.clone() })
    }
}

impl CandidateItem {
    /// One candidate a placement.
    fn candidates(&self, default: &[Placement]) -> Result<Vec<Candidate>, String> {
        let candidate = |change| Candidate { id: self.id.clone(), family: self.family.clone(), change };
        if self.placements.is_some() && self.text.is_none() {
            return Err(format!("item `{}`: `placements` belong to `text`", self.id));
        }
        match (&self.text, &self.parts, &self.template, self.transform) {
            (Some(text), None, None, None) => {
                check_text(&self.id, text)?;
                let placements = self.placements.as_deref().unwrap_or(default);
                if placements.is_empty() {
                    return Err(format!("item `{}` has no placement, and the suite has no default", self.id));
                }
                Ok(placements
                    .iter()
                    .map(|&at| candidate(Change::Insert { text: text.clone(), at }))
                    .collect())
            }
            (None, Some(parts), None, None) if parts.len() >= 2 => {
                for part in parts {
                    check_text(&self.id, part)?;
                }
                Ok(vec![candidate(Change::Scatter { parts: parts.clone() })])
            }
            (None, None, Some(frame), None) if frame.matches("{prompt}").count() == 1 => {
                check_text(&self.id, frame)?;
                Ok(vec![candidate(Change::Frame { frame: frame.clone() })])
            }
            (None, None, None, Some(transform)) => Ok(vec![candidate(Change::Transform { transform })]),
            _ => Err(format!(
                "item `{}`: expected exactly one of `text`, `parts` (two or more), `template` (with one {{prompt}}), `transform`",
                self.id
            )),
        }
    }
}

fn check_text(id: &str, text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > MAX_TEXT_BYTES {
        return Err(format!(
            "item `{id}`: expected 1 to {MAX_TEXT_BYTES} bytes of text, found {}",
            text.len()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_suites_are_valid_and_large_enough() {
        for (name, _) in EMBEDDED {
            Suite::embedded(name).unwrap().unwrap();
        }
        let Items::Prompts(prompts) = Suite::embedded("benign").unwrap().unwrap().items else {
            panic!("kind")
        };
        let tasks: BTreeSet<_> = prompts.iter().map(|prompt| prompt.task.clone()).collect();
        assert!(prompts.len() >= 96 && tasks.len() >= 12);
        let first: BTreeSet<_> = prompts[..12].iter().map(|prompt| prompt.task.clone()).collect();
        assert_eq!(first.len(), 12, "the first twelve prompts cover every task");
    }

    #[test]
    fn broken_suites_are_refused_with_the_item() {
        let reason = |body: &str| Suite::parse("s", body).unwrap_err().to_string();
        let suite = |kind: &str, rest: &str| {
            format!(r#"{{"schema_version":1,"name":"s","kind":"{kind}","description":"d",{rest}}}"#)
        };
        assert!(reason(&suite("prompts", r#""prompts":[]"#)).contains("at least one item"));
        assert!(
            reason(&suite("prompts", r#""prompts":[{"id":"a","user":"x"}]"#)).contains("`a` has no `task`")
        );
        assert!(reason(&suite("prompts", r#""promps":[]"#)).contains("promps"));
        let twice = r#""prompts":[{"id":"a","task":"t","user":"x"},{"id":"a","task":"t","user":"y"}]"#;
        assert!(reason(&suite("prompts", twice)).contains("unique"));
        let tagged = r#""prompts":[{"id":"a","task":"t","user":"x","tags":["topic:tea"]}]"#;
        assert!(reason(&suite("prompts", tagged)).contains("schema_version 2"));
        let no_place = r#""candidates":[{"id":"a","family":"f","text":"cf"}]"#;
        assert!(reason(&suite("triggers", no_place)).contains("no placement"));
        let two = r#""candidates":[{"id":"a","family":"f","text":"cf","template":"{prompt}"}]"#;
        assert!(reason(&suite("triggers", two)).contains("exactly one"));
        let grader = r#""prompts":[{"id":"a","anomaly":"x","user":"x","graders":["mood"]}]"#;
        assert!(reason(&suite("adversarial", grader)).contains("unknown grader `mood`"));
        assert!(
            reason(r#"{"schema_version":3,"name":"s","kind":"prompts","description":"d"}"#)
                .contains("schema_version 1 to 2")
        );
    }
}
