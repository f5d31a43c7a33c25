//! What a check looks for, as the user reads it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How bad a finding is, mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Triage information; says nothing against the repository.
    Note,
    /// Common in harmless repositories; worth knowing.
    Low,
    /// Unusual; somebody should look before the adapter is used.
    Medium,
    /// Dangerous unless explained.
    High,
    /// Runs code of a stranger, or could not be anything but an attack.
    Critical,
}

impl Severity {
    /// Every severity, mildest first.
    pub const ALL: [Self; 5] = [Self::Note, Self::Low, Self::Medium, Self::High, Self::Critical];

    /// The word that reports and the command line use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// The severity of a word.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.name() == name)
    }
}

/// What a rule id begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// The prefix of its rule ids.
    pub prefix: &'static str,
    /// What its rules look at.
    pub about: &'static str,
}

impl Family {
    /// Every family, in the order in which rules are listed.
    pub const ALL: &'static [Self] = &[
        Self { prefix: "SER", about: "serialization that runs code when it is loaded" },
        Self { prefix: "CODE", about: "programs: source, notebooks, requirements, native libraries" },
        Self { prefix: "CFG", about: "configuration that loaders act on" },
        Self { prefix: "JSON", about: "JSON that parsers read differently or not at all" },
        Self { prefix: "TPL", about: "chat templates" },
        Self { prefix: "TOK", about: "tokenizers" },
        Self { prefix: "ST", about: "the layout of safetensors files" },
        Self { prefix: "GGUF", about: "the layout of GGUF files" },
        Self { prefix: "WGT", about: "what the weights are" },
        Self { prefix: "FS", about: "files, links and archives" },
        Self { prefix: "LIM", about: "what was too large, too many or too slow to check" },
        Self { prefix: "PROV", about: "where the adapter comes from" },
        Self { prefix: "SEC", about: "secrets, and text that deceives its reader" },
    ];
}

/// One thing that a check can find. Ids are stable: a number is never given to another rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Family and number, such as `SER-001`.
    pub id: &'static str,
    /// How bad it usually is; a finding can be milder or worse where the check knows more.
    pub severity: Severity,
    /// The weakness in the Common Weakness Enumeration.
    pub cwe: u16,
    /// One line.
    pub title: &'static str,
    /// What is found, and why it matters.
    pub help: &'static str,
    /// What to do about it.
    pub remediation: &'static str,
    /// Whether a finding means that something was not checked: without any worse finding, the audit is incomplete.
    pub gap: bool,
}

impl Rule {
    /// The part of the id before the dash.
    #[must_use]
    pub fn family(&self) -> &'static str {
        self.id.split_once('-').map_or(self.id, |(family, _)| family)
    }
}
