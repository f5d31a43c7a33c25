//! The result of a unit as a file that proves itself: its name has the unit's id and the digest of its bytes, and what is
//! in it has the identity that makes the id.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SCHEMA_VERSION;
use super::unit::{Identity, is_digest, sha256};
use crate::record::Record;

/// The result of a unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UnitResult {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: String,
    /// The unit's id.
    pub unit: String,
    /// What makes the id.
    pub identity: Identity,
    /// What came out.
    pub outcome: Outcome,
}

/// What came out of a unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was scanned, or its files were so bad that they were not loaded.
    Scanned(Box<Record>),
    /// It cannot be scanned: trying again would not change that.
    Errored {
        /// What kind of reason.
        class: Class,
        /// Expected, found, what to do; without paths of a machine.
        reason: String,
    },
}

/// Why an adapter cannot be scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// It could not be read when the plan was made.
    Unreadable,
    /// Its files are not what they must be.
    Malformed,
    /// It asks for something that is not implemented.
    Unsupported,
    /// Its numbers are none.
    Numeric,
    /// A fault of the program.
    Internal,
}

impl Class {
    /// The word of reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Malformed => "malformed",
            Self::Unsupported => "unsupported",
            Self::Numeric => "numeric",
            Self::Internal => "internal",
        }
    }
}

/// Why a file in a store is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResultError {
    /// It is not what was written: cut short, or changed.
    #[error("{0}")]
    Torn(String),
    /// It is no result, or not of the unit that it is called after.
    #[error("{0}")]
    Foreign(String),
}

impl UnitResult {
    /// The result of an identity.
    #[must_use]
    pub fn of(identity: Identity, outcome: Outcome) -> Self {
        Self { schema_version: SCHEMA_VERSION.to_owned(), unit: identity.unit(), identity, outcome }
    }

    /// Name and bytes of its file.
    ///
    /// # Errors
    /// Never with what a scan can give.
    pub fn file(&self) -> Result<(String, Vec<u8>), serde_json::Error> {
        let mut bytes = serde_json::to_vec(self)?;
        bytes.push(b'\n');
        Ok((format!("{}.{}.json", self.unit, sha256(&bytes)), bytes))
    }
}

/// The unit in the name of a result's file.
#[must_use]
pub fn unit_of_name(name: &str) -> Option<&str> {
    parts(name).map(|(unit, _)| unit)
}

pub(super) fn parts(name: &str) -> Option<(&str, &str)> {
    let (unit, digest) = name.strip_suffix(".json")?.split_once('.')?;
    (is_digest(unit) && is_digest(digest)).then_some((unit, digest))
}
