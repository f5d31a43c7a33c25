//! What a search for unknown triggers did and found, as plain data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::evidence::TriggerCandidate;
use crate::significance::EmpiricalP;

/// A search for triggers that no list holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HuntRecord {
    /// The budget, as `--budget` takes it.
    pub budget: String,
    /// The searches, in the order in which they ran.
    pub searches: Vec<SearchRecord>,
    /// Answers that the adapted model was found to be taught, strongest first.
    pub targets: Vec<TargetRecord>,
    /// What a relaxed trigger of each target costs, beside that of reference answers (Neural Cleanse).
    #[serde(default)]
    pub target_costs: Vec<TargetCostRecord>,
    /// The strongest candidates of all searches.
    pub strongest: Vec<Proposed>,
    /// What the strongest candidate's score stands against.
    pub nulls: Vec<NullRecord>,
}

/// What one search did, or a step that follows on searches: `test`, `strengthen` and `refine`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SearchRecord {
    /// Its name.
    pub name: String,
    /// Candidates that it evaluated.
    pub candidates: u64,
    /// Tokens that it sent through the decoder.
    pub token_forwards: u64,
    /// Tokens that also went backwards, for gradients.
    pub gradient_tokens: u64,
    /// Whether it ran to its own end rather than to that of its share of the budget.
    pub complete: bool,
    /// The strongest candidate that it was the first to propose.
    pub best: Option<Proposed>,
}

/// A candidate of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Proposed {
    /// The candidate; its family is the search that proposed it.
    pub candidate: TriggerCandidate,
    /// Texts that it was made from.
    pub parents: Vec<String>,
    /// Number of prompts behind the figures.
    pub prompts: usize,
    /// `KL(A(t+x) || A(x))` at the first response position, copies of the trigger discounted, in nats.
    pub adapted_nats: f64,
    /// The same for the base, where it was run.
    pub base_nats: Option<f64>,
    /// By how much the share of prompts with one and the same first token rises on the adapted side.
    pub agreement: f64,
}

/// An answer that the adapted model completes with confidence where the base would not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TargetRecord {
    /// Its text.
    pub text: String,
    /// Where it came from: `target`, `user`, or the search whose candidate elicits it.
    pub source: String,
    /// Mean probability of a token along it, given the ones before, on unrelated prompts.
    pub probability: Option<f64>,
    /// Mean of `log p_A - log p_B` of a token, in nats.
    pub log_ratio_nats: Option<f64>,
    /// Rank among paths of the same length from other first tokens.
    pub null: Option<EmpiricalP>,
}

/// How large a relaxed trigger must be to make the adapted model begin its answers with a target: Neural Cleanse
/// (Wang et al., 2019) for inserted tokens. A taught target is cheap; ordinary ones may be so by chance too, so
/// the index ranks targets and proves nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TargetCostRecord {
    /// The target; its first tokens count.
    pub text: String,
    /// Whether it is no suspected payload but what the base answers to one benign prompt: what other targets
    /// are compared with.
    pub reference: bool,
    /// The smallest size, in token positions, at which the target was reached; absent if it never was.
    pub size: Option<f64>,
    /// Positions of the trigger, the largest size there is.
    pub positions: usize,
    /// The highest mean log-probability of a target token on the adapted side, in nats.
    pub log_probability: f64,
    /// How many robust standard deviations (at least a quarter of a position) the size lies below the median of all
    /// targets of this hunt, sizes counted up to that of an untouched mask; absent if the target was never reached,
    /// or if the sizes have no scale (fewer than five, or all alike).
    pub anomaly_index: Option<f64>,
    /// The most probable tokens of the relaxed trigger, as text.
    pub trigger: String,
    /// Tokens that went through the decoder for it.
    pub token_forwards: u64,
    /// Of these, tokens that also went backwards.
    pub gradient_tokens: u64,
}

/// The best score of something that is no trigger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NullRecord {
    /// What was scored: random strings, the strongest candidates of null runs.
    pub name: String,
    /// Scores, in nats.
    pub nats: Vec<f64>,
    /// Rank of the strongest candidate among them.
    pub p: Option<EmpiricalP>,
}
