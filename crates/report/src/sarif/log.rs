//! The objects of a SARIF log.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::escape::escape;
use crate::record::FileDigest;

/// A whole file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Log {
    /// Where the schema is.
    #[serde(rename = "$schema")]
    pub schema: &'static str,
    /// Always `2.1.0`.
    pub version: &'static str,
    /// One or more runs.
    pub runs: Vec<Run>,
}

/// One run of one tool.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// The tool.
    pub tool: Tool,
    /// Which of several runs of one tool it is, from one time to the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub automation_details: Option<AutomationDetails>,
    /// How it ended.
    pub invocations: Vec<Invocation>,
    /// The files that were looked at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
    /// What was found.
    pub results: Vec<SarifResult>,
    /// In which unit a region counts characters.
    pub column_kind: ColumnKind,
    /// Whatever else there is to say.
    #[serde(skip_serializing_if = "Properties::is_empty")]
    pub properties: Properties,
}

/// Which of several runs of one tool a run is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AutomationDetails {
    /// A name with `/`, the same from one time to the next.
    pub id: String,
}

/// In which unit a region counts characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ColumnKind {
    /// As Rust's `char` counts.
    #[default]
    UnicodeCodePoints,
}

/// The tool of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tool {
    /// The program itself; there are no plug-ins.
    pub driver: Driver,
}

/// The program and its rules.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Driver {
    /// Name.
    pub name: String,
    /// Version, which is a semantic one.
    pub semantic_version: String,
    /// Every rule that a result refers to.
    pub rules: Vec<Descriptor>,
}

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Stable id, the same as on the command line.
    pub id: String,
    /// Name for programs, in PascalCase.
    pub name: String,
    /// One sentence.
    pub short_description: Message,
    /// What it means and why it matters.
    pub full_description: Message,
    /// What to do, as text and Markdown.
    pub help: Message,
    /// How bad a finding of it usually is.
    pub default_configuration: Configuration,
    /// Tags, and GitHub's `security-severity`.
    #[serde(skip_serializing_if = "Properties::is_empty")]
    pub properties: Properties,
}

/// How bad a finding of a rule usually is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Configuration {
    /// The level.
    pub level: Level,
}

/// A property bag with the keys that GitHub reads.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Properties {
    /// Tags.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// From 0.0 to 10.0, as text: above 9 critical, 7 high, 4 medium, else low.
    #[serde(rename = "security-severity", skip_serializing_if = "Option::is_none")]
    pub security_severity: Option<String>,
    /// How sure: `very-high`, `high`, `medium` or `low`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<String>,
    /// Anything else.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl Properties {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How bad a result is, mildest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Not a matter of good or bad.
    None,
    /// Worth knowing.
    Note,
    /// Somebody should look.
    #[default]
    Warning,
    /// It is wrong.
    Error,
}

/// A text. What is in it is shown to people: escape what came from elsewhere ([`crate::escape::escape`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Plain text.
    pub text: String,
    /// The same as Markdown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub markdown: Option<String>,
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Self { text, markdown: None }
    }
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Invocation {
    /// Whether everything planned was done. An incomplete run is not a successful one.
    pub execution_successful: bool,
    /// Exit code.
    pub exit_code: u8,
    /// What could not be done, and what was left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_execution_notifications: Vec<Notification>,
}

/// Something about the run itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Notification {
    /// How bad.
    pub level: Level,
    /// What.
    pub message: Message,
}

/// A file that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Artifact {
    /// Where it is.
    pub location: ArtifactLocation,
    /// Its size in bytes.
    pub length: u64,
    /// Its digests.
    pub hashes: Hashes,
}

impl From<&FileDigest> for Artifact {
    fn from(file: &FileDigest) -> Self {
        Self {
            location: ArtifactLocation::of_path(&file.name),
            length: file.bytes,
            hashes: Hashes { sha256: escape(&file.sha256) },
        }
    }
}

/// Digests of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Hashes {
    /// SHA-256, lower-case hex.
    #[serde(rename = "sha-256")]
    pub sha256: String,
}

/// Where a file is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ArtifactLocation {
    /// A relative reference: [`ArtifactLocation::of_path`] makes one.
    pub uri: String,
}

impl ArtifactLocation {
    /// The URI reference of a relative path with `/`. Everything but letters, digits and `-._~/` is percent-encoded.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        let mut uri = String::with_capacity(path.len());
        for byte in path.trim_start_matches('/').bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                    uri.push(char::from(byte));
                }
                _ => uri.push_str(&format!("%{byte:02X}")),
            }
        }
        Self { uri }
    }
}

/// One thing that was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SarifResult {
    /// Id of its rule.
    pub rule_id: String,
    /// Where its rule stands among the driver's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_index: Option<usize>,
    /// How bad it is here.
    pub level: Level,
    /// What was found.
    pub message: Message,
    /// Where. GitHub shows only results with a file.
    pub locations: Vec<Location>,
    /// What makes it the same result in the next run.
    pub partial_fingerprints: Fingerprints,
    /// Why it does not count; empty if it does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub suppressions: Vec<Suppression>,
    /// The numbers behind it.
    #[serde(skip_serializing_if = "Properties::is_empty")]
    pub properties: Properties,
}

/// What makes a result the same one in the next run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fingerprints {
    /// [`Fingerprints::of`]; the number is the version of that function.
    #[serde(rename = "triggerfish/v1")]
    pub own: String,
}

impl Fingerprints {
    /// A digest of what identifies a result, such as its rule, file and content hash. The length of each part counts,
    /// so that no two lists of parts are alike.
    #[must_use]
    pub fn of(parts: &[&str]) -> Self {
        use sha2::{Digest as _, Sha256};
        let mut digest = Sha256::new();
        for part in parts {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part.as_bytes());
        }
        let own = digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Self { own }
    }
}

/// Where a result is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Location {
    /// In which file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub physical_location: Option<PhysicalLocation>,
    /// Where in a tensor, a JSON document, a prompt.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logical_locations: Vec<LogicalLocation>,
}

impl Location {
    /// In a file; `line` is counted from 1, and 1 where lines mean nothing: GitHub wants one.
    #[must_use]
    pub fn in_file(path: &str, line: Option<u32>) -> Self {
        Self {
            physical_location: Some(PhysicalLocation {
                artifact_location: ArtifactLocation::of_path(path),
                region: Region { start_line: line.unwrap_or(1).max(1) },
            }),
            logical_locations: Vec::new(),
        }
    }

    /// Also at a place that has a name but no line.
    #[must_use]
    pub fn at(mut self, kind: &str, name: impl Into<String>) -> Self {
        self.logical_locations
            .push(LogicalLocation { fully_qualified_name: name.into(), kind: kind.to_owned() });
        self
    }
}

/// A file and a line in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PhysicalLocation {
    /// The file.
    pub artifact_location: ArtifactLocation,
    /// The line.
    pub region: Region,
}

/// A line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Region {
    /// Counted from 1.
    pub start_line: u32,
}

/// A place with a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogicalLocation {
    /// The whole name.
    pub fully_qualified_name: String,
    /// What it names, such as `tensor`, `object` or `trigger`.
    pub kind: String,
}

/// Why a result does not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Suppression {
    /// Where that is written down.
    pub kind: SuppressionKind,
    /// The user's reason.
    pub justification: String,
}

/// Where a suppression is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum SuppressionKind {
    /// In the file itself.
    InSource,
    /// In a configuration or a baseline.
    External,
}
