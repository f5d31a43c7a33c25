//! What a monitor says of traffic: one row a line.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Version of the rows' layout.
pub const SCHEMA_VERSION: &str = "1.0.0";

/// One line of traffic, in the order in which it was read. Every line has a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Row {
    /// Number of the line, counted from 1.
    pub line: u64,
    /// Its `id`, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What was concluded.
    pub verdict: LineVerdict,
    /// What was measured; absent if it could not be scored.
    #[serde(flatten)]
    pub scored: Option<Scored>,
    /// Why it could not be scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What is said of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LineVerdict {
    /// Within what benign prompts do, at the level.
    Ordinary,
    /// Beyond it.
    Flagged,
    /// Not scored: malformed, or longer than the model's context.
    Unscored,
}

/// What was measured of an exchange.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Scored {
    /// Rank of the detectors' combination among the calibration prompts: the share of benign prompts that are as unlike
    /// the others. It cannot be smaller than one over their number plus one.
    pub p_value: f64,
    /// The combination itself, which tells apart what has the smallest p-value: the larger, the less alike.
    pub score: f64,
    /// Detectors that flag it by themselves.
    pub reasons: Vec<Reason>,
    /// The answer, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<ResponseReading>,
    /// Whether it is flagged.
    #[serde(skip)]
    pub flagged: bool,
}

/// A detector that flags a prompt by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reason {
    /// Its name.
    pub detector: String,
    /// Its p-value.
    pub p_value: f64,
    /// The layers in which it sees most, strongest first.
    pub layers: Vec<usize>,
}

/// An answer beside those that the adapted model gives to benign prompts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResponseReading {
    /// By how much the adapted model expects its first tokens more than the base does, nats a token.
    pub nats_per_token: f64,
    /// Rank among the adapted model's own answers to the calibration prompts.
    pub p_value: f64,
}
