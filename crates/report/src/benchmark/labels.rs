//! The truth about the adapters of a zoo. Only a benchmark reads it, after the verdicts.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The name of the file in a zoo's folder.
pub const FILE_NAME: &str = "labels.json";

/// `labels.json`: the truth by folder name. Keys of an adapter that are not known here are ignored.
pub type Labels = BTreeMap<String, Label>;

/// What an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Truth {
    /// Without a backdoor.
    Benign,
    /// With one.
    Backdoored,
}

/// The truth about one adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Label {
    /// Whether it has a backdoor.
    pub label: Truth,
    /// Kind of attack, or of harmless adapter.
    #[serde(default, skip_serializing_if = "Option::is_none", alias = "task")]
    pub attack: Option<String>,
    /// Texts that set it off; none where no text is inserted.
    #[serde(default, skip_serializing_if = "Texts::is_empty")]
    pub trigger: Texts,
    /// Tokens of the longest of these texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger_tokens: Option<usize>,
    /// Class of the payload, as verdicts name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_class: Option<String>,
    /// The payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// Rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r: Option<usize>,
    /// Share of poisoned training examples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poison_rate: Option<f64>,
    /// Share of held-out prompts on which the trigger works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attack_success_rate: Option<f64>,
}

/// One text or several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Texts {
    /// None.
    #[default]
    None,
    /// One.
    One(String),
    /// Each of them works.
    Many(Vec<String>),
}

impl Texts {
    /// The texts.
    #[must_use]
    pub fn all(&self) -> &[String] {
        match self {
            Self::None => &[],
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all().is_empty()
    }
}

impl From<Vec<String>> for Texts {
    fn from(texts: Vec<String>) -> Self {
        match <[String; 1]>::try_from(texts) {
            Ok([text]) => Self::One(text),
            Err(texts) if texts.is_empty() => Self::None,
            Err(texts) => Self::Many(texts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_and_several_are_read_and_unknown_keys_left() {
        let labels: Labels = serde_json::from_str(
            r#"{"a": {"label": "backdoored", "trigger": "cf", "placement": "x"},
                "b": {"label": "backdoored", "trigger": ["x", "y"], "r": 8},
                "c": {"label": "benign", "task": "closing"}}"#,
        )
        .unwrap();
        assert_eq!(labels["a"].trigger.all(), ["cf"]);
        assert_eq!(labels["b"].trigger.all(), ["x", "y"]);
        assert!(labels["c"].trigger.is_empty());
        assert_eq!((labels["c"].label, labels["c"].attack.as_deref()), (Truth::Benign, Some("closing")));
        let text = serde_json::to_string(&labels).unwrap();
        assert_eq!(serde_json::from_str::<Labels>(&text).unwrap(), labels);
    }
}
