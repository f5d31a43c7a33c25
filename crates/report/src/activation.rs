//! What the layers do with a trigger and without it, as plain data.

pub mod dose;
pub mod monitor;
pub mod ranking;
mod text;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::dose::{Attention, Dose};
use self::ranking::Ranking;
use crate::estimate::Estimate;
use crate::evidence::{SelfTest, TriggerCandidate};
use crate::format::FormatError;
use crate::record::{Cost, Settings, Subject, Tool};

/// Version of the layout; a reader refuses another major.
pub const SCHEMA_VERSION: &str = "1.2.0";

/// Name of the combination among the detectors.
pub const COMBINATION: &str = "combination";

/// An analysis of activations. It has no verdict: a separation says that the layers tell prompts apart, not why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ActivationReport {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: String,
    /// The program.
    pub tool: Tool,
    /// What was analysed.
    pub subject: Subject,
    /// How it was run.
    pub settings: Settings,
    /// Runs that must agree; with a failed one nothing else was measured.
    pub self_tests: Vec<SelfTest>,
    /// What was measured; absent if a self-test failed.
    pub analysis: Option<Analysis>,
    /// What it took, in units that do not depend on the machine.
    pub cost: Cost,
    /// What the user should know though nothing failed.
    pub notes: Vec<String>,
}

/// Detectors fitted on benign prompts, and what they say of held-out ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Analysis {
    /// Benign prompts on which the detectors were fitted.
    pub fitted: usize,
    /// Other benign prompts, against whose scores p-values are ranked.
    pub calibrated: usize,
    /// Identifiers of the held-out prompts, in the order of every list of scores.
    pub held_out: Vec<String>,
    /// A prompt is flagged by a p-value of at most this.
    pub level: f64,
    /// The detectors, the combination last.
    pub detectors: Vec<DetectorRecord>,
    /// Tokens that the adapter promotes on the held-out prompts, by layer: what it is about.
    #[serde(default)]
    pub lens: Vec<LayerTokens>,
    /// The candidates, in the order in which they were given.
    pub candidates: Vec<CandidateRecord>,
    /// Prompts of a broad set by how much the adapter does to them, if they were asked for.
    #[serde(default)]
    pub ranking: Option<Ranking>,
}

/// A detector on the held-out prompts as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DetectorRecord {
    /// Its name.
    pub name: String,
    /// What it measures.
    pub about: String,
    /// Share of held-out benign prompts that are flagged: the false-positive rate.
    pub flagged: Estimate,
    /// Scores and p-values of the held-out prompts.
    pub scores: Scores,
    /// Mean over held-out prompts by layer, in the detector's own unit; empty for the combination.
    pub layers: Vec<f64>,
}

/// Scores in the order of the held-out prompts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Scores {
    /// The larger, the less like the benign prompts.
    pub scores: Vec<f64>,
    /// Ranks among the calibration prompts.
    pub p_values: Vec<f64>,
}

/// A candidate on the held-out prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CandidateRecord {
    /// The candidate.
    pub candidate: TriggerCandidate,
    /// The text of its control: random words of its shape at its place.
    pub control: String,
    /// By detector.
    pub separations: Vec<Separation>,
    /// Tokens that the adapter promotes with the candidate beyond those without it, by layer.
    #[serde(default)]
    pub lens: Vec<LayerTokens>,
    /// How its payload depends on the adapter's scale and layers; absent where that was not asked for.
    #[serde(default)]
    pub dose: Option<Dose>,
    /// How much the answer attends to it; absent where that was not asked for, and where it has no place of its own tokens
    /// with others before and behind, as without a template.
    #[serde(default)]
    pub attention: Option<Attention>,
}

/// What a layer promotes, strongest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LayerTokens {
    /// The layer, counted from 0.
    pub layer: usize,
    /// Read off the mean difference of the residual streams (activation-difference lens): logits.
    pub difference: Vec<PromotedToken>,
    /// Read off the mean streams of both sides (logit lens): contributions to KL(adapted || base), nats.
    pub logit: Vec<PromotedToken>,
}

/// A token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PromotedToken {
    /// As text.
    pub text: String,
    /// By how much.
    pub value: f64,
}

/// How well a detector tells prompts with a candidate from others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Separation {
    /// Name of the detector.
    pub detector: String,
    /// Area under the ROC curve, against the same prompts without it.
    pub auc: Option<Estimate>,
    /// That of the control, against the same prompts without it: what any text does.
    pub control_auc: Option<Estimate>,
    /// Area under the ROC curve, against the same prompts with the control.
    pub auc_over_control: Option<Estimate>,
    /// Share of prompts that are flagged with the candidate.
    pub flagged: Estimate,
    /// Share of prompts that are flagged with the control.
    pub control_flagged: Estimate,
    /// Scores and p-values with the candidate.
    pub scores: Scores,
    /// Mean over prompts with the candidate by layer, in the detector's own unit; empty for the combination.
    pub layers: Vec<f64>,
    /// The same with the control.
    #[serde(default)]
    pub control_layers: Vec<f64>,
}

impl ActivationReport {
    /// The report for a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        text::text(self)
    }

    /// The report as one HTML file that works offline, with its profiles and curves as plots.
    ///
    /// # Errors
    /// If the page cannot be written.
    pub fn html(&self) -> Result<String, FormatError> {
        crate::format::html::activation::page(self)
    }
}
