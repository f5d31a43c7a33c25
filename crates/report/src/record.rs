//! The record of a run: what was tested with what, what was found, what was concluded.
//!
//! Plain data with a published JSON Schema. The same inputs, seed, precision and device give the
//! same bytes: no time, host or absolute path is in it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::audit::RepositoryAudit;
use crate::calibration::Calibrated;
use crate::comparison::Comparison;
use crate::evidence::{Coverage, Evidence};
use crate::hunt::HuntRecord;
use crate::verdict::Judgement;

/// Version of the record's layout; a reader refuses another major.
pub const SCHEMA_VERSION: &str = "1.9.0";

/// One scan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: String,
    /// The program.
    pub tool: Tool,
    /// What was concluded.
    pub judgement: Judgement,
    /// Exit code under the run's `--fail-on`.
    pub exit_code: u8,
    /// What was tested.
    pub subject: Subject,
    /// How it was run.
    pub settings: Settings,
    /// What was tested and what was not.
    pub coverage: Coverage,
    /// What was found.
    pub evidence: Evidence,
    /// The search for unknown triggers, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hunt: Option<HuntRecord>,
    /// What the adapter's files say, before anything of it was loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<RepositoryAudit>,
    /// How it differs from an earlier run, if it was compared with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
    /// How its findings stand among those of benign adapters, if it was calibrated. Absent in records before 1.6.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibrated>,
    /// What it took, in units that do not depend on the machine.
    pub cost: Cost,
    /// What the user should know though nothing failed.
    pub notes: Vec<String>,
}

/// The program that wrote a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// The models of a scan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Subject {
    /// The base.
    pub base: Artifact,
    /// The adapter.
    pub adapter: Artifact,
    /// What the adapter says that it was trained on.
    pub declared_base: Option<String>,
    /// Number of linear modules that the adapter changes.
    pub changed_modules: usize,
}

/// A model or adapter and the files that decide what it computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Artifact {
    /// As the user named it.
    pub name: String,
    /// Files with their SHA-256.
    pub files: Vec<FileDigest>,
}

impl Artifact {
    /// Whether another has the same bytes, whatever it is called.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        let (own, others) = (self.files.iter(), other.files.iter());
        own.map(|file| &file.sha256).eq(others.map(|file| &file.sha256))
    }
}

/// A file's name, size and digest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FileDigest {
    /// File name without its directory.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
}

/// Everything that decides the result besides the models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Settings {
    /// Device.
    pub device: String,
    /// Precision of the frozen products.
    pub dtype: String,
    /// Seed of every random choice.
    pub seed: u64,
    /// Suites with their SHA-256.
    pub suites: BTreeMap<String, String>,
    /// All arguments, defaults included.
    pub arguments: BTreeMap<String, String>,
}

/// What a run took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cost {
    /// Tokens that went through the decoder, both sides together.
    pub token_forwards: u64,
    /// Of these, tokens that were generated.
    pub generated_tokens: u64,
    /// Token-forwards that shared prefixes saved.
    pub shared_tokens: u64,
    /// Tokens that also went backwards, for gradients.
    #[serde(default)]
    pub gradient_tokens: u64,
}
