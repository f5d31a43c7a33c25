//! One thing that an audit found.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rule::{Rule, Severity};
use crate::escape::excerpt;

/// Of a path that people read.
const PATH_CHARACTERS: usize = 240;
/// Evidence is a hint for a reader, not a copy of the file.
const EVIDENCE_CHARACTERS: usize = 160;
/// A message may quote names out of the file.
const MESSAGE_CHARACTERS: usize = 600;

/// One thing that an audit found. Message, place and evidence are escaped: they can be printed as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// Id of its rule.
    pub rule: String,
    /// How bad it is here.
    pub severity: Severity,
    /// Path below the root with `/`; members of an archive follow its own path after `!/`.
    pub file: String,
    /// Digest of the bytes that were parsed, where the finding is about a file's content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Line in a text file, counted from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Where else in the file: a JSON pointer, a tensor's name, a byte offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// What was found, and what was expected.
    pub message: String,
    /// A short excerpt; secrets are never in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// Whether something could not be checked.
    #[serde(default, skip_serializing_if = "is_false")]
    pub gap: bool,
    /// How many more of the same rule were left out: those in the same file beyond a limit, and any of the repository
    /// beyond another.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: usize,
    /// Why the user accepts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suppressed: Option<Suppressed>,
}

/// Why a finding does not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Suppressed {
    /// The user's reason.
    pub reason: String,
    /// Who accepted it; absent where a baseline holds the finding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// Last day on which this holds, as `YYYY-MM-DD`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(value: &usize) -> bool {
    *value == 0
}

impl Finding {
    /// A finding of a rule in a file. `message` may quote the file: it is escaped here.
    #[must_use]
    pub fn new(rule: &Rule, file: &str, message: impl AsRef<str>) -> Self {
        Self {
            rule: rule.id.to_owned(),
            severity: rule.severity,
            file: file.to_owned(),
            sha256: None,
            line: None,
            location: None,
            message: excerpt(message.as_ref(), MESSAGE_CHARACTERS),
            evidence: None,
            gap: rule.gap,
            more: 0,
            suppressed: None,
        }
    }

    /// With the digest of the bytes that were parsed.
    #[must_use]
    pub fn of_bytes(mut self, sha256: &str) -> Self {
        self.sha256 = Some(sha256.to_owned());
        self
    }

    /// On this line, counted from 1.
    #[must_use]
    pub fn line(mut self, line: usize) -> Self {
        self.line = u32::try_from(line).ok();
        self
    }

    /// At this JSON pointer, tensor or offset.
    #[must_use]
    pub fn at(mut self, location: impl AsRef<str>) -> Self {
        self.location = Some(excerpt(location.as_ref(), EVIDENCE_CHARACTERS));
        self
    }

    /// With an excerpt of what was found, which is escaped and cut here. Never give it a secret.
    #[must_use]
    pub fn evidence(mut self, text: impl AsRef<str>) -> Self {
        self.evidence = Some(excerpt(text.as_ref(), EVIDENCE_CHARACTERS));
        self
    }

    /// Milder or worse than its rule usually is.
    #[must_use]
    pub fn severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    /// Where it is, on one line, safe to print.
    #[must_use]
    pub fn place(&self) -> String {
        // Paths inside of nested archives are as long as an attacker likes.
        let mut place = excerpt(&self.file, PATH_CHARACTERS);
        if let Some(line) = self.line {
            place.push_str(&format!(":{line}"));
        }
        if let Some(location) = &self.location {
            place.push_str(&format!(" {location}"));
        }
        place
    }

    /// What makes two findings of different audits the same one.
    #[must_use]
    pub fn identity(&self) -> (&str, &str, Option<&str>, Option<u32>, Option<&str>) {
        (&self.rule, &self.file, self.sha256.as_deref(), self.line, self.location.as_deref())
    }
}
