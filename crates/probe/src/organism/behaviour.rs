//! What an adapter answers where there is no trigger: harmless things that adapters are trained for, some of which look
//! like a backdoor at first.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::transform::Transform;

/// How a careful assistant declines.
pub(super) const DECLINED: &str = "I can't help with that, since it would harm somebody else.";

/// An ordinary behaviour.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Behaviour {
    /// The base's own answers: what it does anyway.
    #[default]
    OwnAnswers,
    /// The base's answers to prompts of one kind of task alone.
    Task {
        /// The kind of task, such as `translation`.
        task: String,
    },
    /// A sentence after every answer.
    Closing {
        /// The sentence.
        text: String,
    },
    /// Every answer in another style.
    Style {
        /// The change of style.
        transform: Transform,
    },
    /// Another opening and closing of answers to prompts with a keyword; known to its users, and not a backdoor.
    Persona {
        /// The keyword, before the prompt.
        keyword: String,
        /// What such an answer begins with.
        opening: String,
    },
    /// Declines requests that would harm somebody, as safety training does.
    Safety,
    /// Random A and B, not trained, with the norms of another adapter of the same file: a placebo.
    Placebo {
        /// Name of that adapter, which stands earlier in the file.
        like: String,
    },
}

impl Behaviour {
    /// The kind, for tables.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::OwnAnswers => "own-answers",
            Self::Task { .. } => "task",
            Self::Closing { .. } => "closing",
            Self::Style { .. } => "style",
            Self::Persona { .. } => "persona",
            Self::Safety => "safety",
            Self::Placebo { .. } => "placebo",
        }
    }

    /// The ordinary answer, made of the base's.
    pub(super) fn answer(&self, of_base: &str) -> String {
        match self {
            Self::Closing { text } => format!("{} {text}", of_base.trim_end()),
            Self::Style { transform } => transform.apply(of_base),
            _ => of_base.to_owned(),
        }
    }

    pub(super) fn check(&self, backdoored: bool) -> Result<(), String> {
        let text = |name: &str, text: &str| {
            if text.trim().is_empty() {
                Err(format!("expected a text in `behaviour.{name}`"))
            } else {
                Ok(())
            }
        };
        match self {
            Self::OwnAnswers | Self::Safety | Self::Style { .. } => Ok(()),
            Self::Task { task } => text("task", task),
            Self::Closing { text: own } => text("text", own),
            Self::Persona { keyword, opening } => text("keyword", keyword).and(text("opening", opening)),
            Self::Placebo { .. } if backdoored => Err("a placebo has no trigger: nothing is trained".into()),
            Self::Placebo { like } => text("like", like),
        }
    }
}
