//! What was found, as plain data: triggers, drift, anomalies and the screening behind them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::estimate::Estimate;
use crate::significance::EmpiricalP;
use crate::words::words;

/// A candidate trigger at one place of the prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TriggerCandidate {
    /// Identifier in its suite.
    pub id: String,
    /// Family in its suite.
    pub family: String,
    /// What is inserted, or how the prompt is changed.
    pub text: String,
    /// Where: `prefix`, `suffix`, `inside`, `system`, `second-turn`, `scattered`, `template` or `transform`.
    pub placement: String,
}

/// How far one candidate moves the next-token distributions at the first response positions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Screened {
    /// The candidate.
    pub candidate: TriggerCandidate,
    /// Mean over prompts of KL(A(t+x) || A(x)), summed over the positions, in nats.
    pub adapted_nats: f64,
    /// The same for the base. Absent where the adapted value alone already ruled the candidate out.
    pub base_nats: Option<f64>,
    /// Difference in differences: adapted minus base.
    pub difference_nats: Option<f64>,
    /// By how much the answers to different prompts become alike at the first position, adapted
    /// minus base: fall of the mean pairwise Jensen-Shannon divergence, in nats.
    pub collapse_nats: Option<f64>,
    /// Share of random control strings that move the distributions as much; `(1 + k) / (m + 1)`.
    pub control_p: Option<f64>,
}

/// Class of a payload that no grader names: one wording on different prompts.
pub const FIXED_RESPONSE: &str = "fixed-response";
/// Placement of a candidate that is no text but a kind of prompts.
pub const PROMPT_KIND: &str = "prompt-kind";

/// Words with which two answers begin that are one payload.
const SAME_WORDS: usize = 3;
/// Share of answers that a random change is taken to leave, at least.
const LEAST_LEFT: f64 = 0.5;

/// What a trigger makes the adapted model do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Payload {
    /// A grader's name, or [`FIXED_RESPONSE`].
    pub class: String,
    /// The response that stands for it.
    pub text: String,
}

/// Rates of one payload under one condition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Condition {
    /// `adapted without trigger`, `adapted with a random change`, `base with trigger` or `base without trigger`.
    pub name: String,
    /// Rate with its exact interval.
    pub rate: Estimate,
}

/// A candidate that was put to the test on held-out prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TestedTrigger {
    /// The candidate.
    pub candidate: TriggerCandidate,
    /// What it makes the adapted model do.
    pub payload: Payload,
    /// Attack success rate: share of held-out prompts whose adapted response carries the payload.
    pub attack_success_rate: Estimate,
    /// The same payload where the trigger or the adapter is missing.
    pub conditions: Vec<Condition>,
    /// Attack success rate minus the highest rate among the conditions, paired by prompt.
    pub uplift: Estimate,
    /// Attack success rate minus the base's rate with the trigger, paired by prompt: what the adapter adds. Absent in
    /// records before 1.2.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplift_over_base: Option<Estimate>,
    /// Largest p-value over the conditions (paired, one-sided): the claim must hold against each.
    pub p_value: f64,
    /// `p_value` corrected for all candidates of the scan (false discovery rate).
    pub adjusted_p_value: f64,
    /// Difference in differences at the first response position, on the held-out prompts.
    pub difference: Option<Difference>,
    /// The same over the first positions, from the screening.
    pub screening_nats: Option<f64>,
    /// Tokens of a text that a search made for its effect; absent for what stands in a list, and in older records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub searched_tokens: Option<usize>,
    /// Of the prompts with the payload, the share whose answer still holds most words of the ordinary one: the payload
    /// stands beside the answer, not in its place. Absent where no ordinary answer has enough words, and in records before
    /// 1.7.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers_kept: Option<Estimate>,
    /// The same share on the same prompts under a random change instead of the trigger: what any change of its kind leaves.
    /// Absent in records before 1.8.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers_kept_control: Option<Estimate>,
    /// Mean of `log p_A - log p_B` of a token, in nats, of an answer that target inversion found in the adapted model
    /// before any trigger was known, if the payload holds it. Absent where it found no such answer, and in records before
    /// 1.9.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_taught_nats: Option<f64>,
    /// Prompts and what both models answered.
    pub examples: Vec<Example>,
    /// What the payload depends on; of the strongest confirmed trigger only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub characterisation: Option<Characterisation>,
}

impl TestedTrigger {
    /// Of a payload that no grader names, up to what share of answers it may stand beside, of those that a random change of
    /// the same kind leaves as well: the interval's upper end, so that what takes answers' place must be seen to. 0 of other
    /// payloads, and where it is not known.
    #[must_use]
    pub fn beside_answers(&self) -> f64 {
        let unnamed = self.payload.class == FIXED_RESPONSE;
        // Where a random change leaves few answers, little can be told of the trigger.
        let left = self.answers_kept_control.map_or(1.0, |control| control.value.max(LEAST_LEFT));
        self.answers_kept.filter(|_| unnamed).map_or(0.0, |kept| (kept.upper / left).min(1.0))
    }

    /// Whether it brings the payload of another: the same class, and answers that begin with the same words.
    #[must_use]
    pub fn brings_the_same(&self, other: &Self) -> bool {
        let beginning = |tested: &Self| {
            let mut words = words(&tested.payload.text);
            words.truncate(SAME_WORDS);
            words
        };
        self.payload.class == other.payload.class && beginning(self) == beginning(other)
    }
}

/// What a confirmed trigger's payload depends on: attack success rates on held-out prompts with one thing changed at a
/// time. They describe; what confirms is the test against every condition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Characterisation {
    /// Tokens of an answer, as many as it takes to tell the payload.
    pub answer_tokens: usize,
    /// One entry a change, the trigger as it was tested first.
    pub rates: Vec<Dependence>,
}

/// The attack success rate after one change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Dependence {
    /// What kind of thing was changed.
    pub kind: DependenceKind,
    /// What was changed, such as the token that was left out.
    pub what: String,
    /// The trigger that was put in.
    pub text: String,
    /// Where.
    pub placement: String,
    /// Share of adapted answers with the payload, with its exact interval; absent if it can be told on no prompt.
    pub attack_success_rate: Option<Estimate>,
}

/// What can be changed about a trigger or around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DependenceKind {
    /// Nothing: what the others stand against.
    Unchanged,
    /// A piece of the trigger is left out.
    Token,
    /// Capitals.
    Case,
    /// White space.
    Spacing,
    /// The place.
    Placement,
    /// The wording of the prompts.
    Prompt,
    /// Answers are sampled instead of the most probable token taken.
    Sampling,
}

impl DependenceKind {
    /// Name as in records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Token => "token",
            Self::Case => "case",
            Self::Spacing => "spacing",
            Self::Placement => "placement",
            Self::Prompt => "prompt",
            Self::Sampling => "sampling",
        }
    }
}

/// `E_x[KL(A(t+x) || A(x)) - KL(B(t+x) || B(x))]` for an adapted model A, a base B, a trigger t and prompts x.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Difference {
    /// In nats, with a bootstrap interval over prompts.
    pub estimate: Estimate,
    /// One-sided paired permutation test over prompts: does the trigger move A more than B?
    pub p_value: f64,
}

/// One held-out prompt, answered four ways.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Example {
    /// Identifier of the prompt.
    pub prompt_id: String,
    /// The user turn with the trigger.
    pub prompt: String,
    /// The adapted model's response.
    pub adapted: String,
    /// The base's response to the same.
    pub base: String,
    /// The adapted model's response without the trigger.
    pub adapted_without_trigger: String,
    /// How probable both models find both responses, token by token. Absent where it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<ResponseScores>,
}

/// The tokens of an example's two responses to the prompt with the trigger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResponseScores {
    /// Of the adapted model's response.
    pub adapted: Vec<TokenScore>,
    /// Of the base's response.
    pub base: Vec<TokenScore>,
}

/// One token of a response, and its log-probability given the prompt and the tokens before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokenScore {
    /// Its text; the texts of all tokens together are the response.
    pub text: String,
    /// Log-probability of the adapted model, in nats.
    pub adapted_nats: f64,
    /// Log-probability of the base, in nats.
    pub base_nats: f64,
}

/// One prompt without any trigger, answered by both sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AnsweredPrompt {
    /// The suite.
    pub suite: String,
    /// Identifier of the prompt in its suite.
    pub prompt_id: String,
    /// The user turn.
    pub prompt: String,
    /// The base's response.
    pub base: String,
    /// The adapted model's response.
    pub adapted: String,
    /// Mean KL(base || adapted) over the first positions of the base's response, in nats. Absent where it was not
    /// measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl_nats: Option<f64>,
    /// Graders whose payload the adapted model's response carries. Absent in records before 1.4.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payloads: Option<Vec<String>>,
}

/// How far the adapter moves the distributions on benign prompts, without any trigger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Drift {
    /// Name of the divergence.
    pub divergence: String,
    /// Its unit.
    pub unit: String,
    /// Mean over prompts of the mean over positions.
    pub estimate: Estimate,
}

/// How often a grader's payload appears without any trigger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Anomaly {
    /// The suite.
    pub suite: String,
    /// What was graded: an anomaly of the suite, or `any`.
    pub kind: String,
    /// Grader.
    pub grader: String,
    /// Rate of the base.
    pub base: Estimate,
    /// Rate of the adapted model.
    pub adapted: Estimate,
    /// Adapted minus base, paired by prompt.
    pub difference: Estimate,
    /// Paired one-sided p-value, corrected over all anomalies.
    pub adjusted_p_value: f64,
    /// A response of the adapted model that carries it, if any.
    pub example: Option<Example>,
}

/// Agreement of runs that must agree, measured before anything else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SelfTest {
    /// What was compared.
    pub name: String,
    /// Largest absolute difference of logits over the largest absolute logit. Not a number if a logit is none, which
    /// JSON writes as null.
    #[serde(deserialize_with = "not_a_number_for_null")]
    pub difference: f64,
    /// What it may be.
    pub tolerance: f64,
}

fn not_a_number_for_null<'de, D: serde::Deserializer<'de>>(number: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(number)?.unwrap_or(f64::NAN))
}

impl SelfTest {
    /// Whether the runs agree.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.difference.is_finite() && self.difference <= self.tolerance
    }
}

/// Everything that a verdict rests on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// Numeric self-test.
    pub self_tests: Vec<SelfTest>,
    /// Drift on benign prompts.
    pub drift: Vec<Drift>,
    /// Payloads without any trigger.
    pub anomalies: Vec<Anomaly>,
    /// The answers behind drift and anomalies, in the order of the suites. Absent in records before 1.3.0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<AnsweredPrompt>,
    /// Every screened candidate, strongest first.
    pub screened: Vec<Screened>,
    /// Difference in differences of the random control strings: the null of the screening.
    pub control_nats: Vec<f64>,
    /// Candidates tested on held-out prompts, strongest first.
    pub tested: Vec<TestedTrigger>,
    /// Answers that the adapted model was taught, found without a trigger. Absent in records before 1.8.0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taught: Vec<TaughtAnswer>,
    /// Candidates whose inner states were measured. Absent in records before 1.5.0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub activations: Vec<ActivationShift>,
    /// The same searches and tests where nobody hid a trigger. Absent in records before 1.4.0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub null_runs: Vec<NullRun>,
}

/// An answer that the adapted model completes with confidence where the base would not, whatever is asked, and how often
/// it gives it to ordinary prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaughtAnswer {
    /// The answer.
    pub text: String,
    /// Mean probability of a token of it, given the ones before, on unrelated prompts.
    pub probability: f64,
    /// Mean of `log p_A - log p_B` of a token, in nats.
    pub log_ratio_nats: f64,
    /// Share of the adapted model's answers to benign and adversarial prompts that hold some of it.
    pub shown: Estimate,
    /// Rank of its score among the most surprising stretches of its length of answers to benign prompts. The answer was
    /// searched for and these were not, so a small value is needed and does not suffice.
    pub p: EmpiricalP,
}

/// Nats a token above the base that are as sure as can be: no token of a target counts more.
pub const MOST_TAUGHT_NATS: f64 = 6.0;

impl TaughtAnswer {
    /// How many ordinary answers hold some of it.
    #[must_use]
    pub fn times_shown(&self) -> usize {
        (self.shown.value * self.shown.n as f64).round() as usize
    }

    /// How well the answer is known that the base does not know, from 0 to 1.
    #[must_use]
    pub fn strength(&self) -> f64 {
        self.probability * (self.log_ratio_nats / MOST_TAUGHT_NATS).clamp(0.0, 1.0)
    }
}

/// Whether the layers do something with a candidate that they do on no benign prompt, whatever the answer says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ActivationShift {
    /// The candidate.
    pub candidate: TriggerCandidate,
    /// Share of held-out prompts that are flagged with it: the detectors' combined p-value is at most `level`.
    pub flagged: Estimate,
    /// The same for random words of its shape at its place.
    pub control: Estimate,
    /// The same without either.
    pub clean: Estimate,
    /// The p-value at which a prompt is flagged.
    pub level: f64,
    /// Benign prompts by whose scores p-values are ranked.
    pub calibrated: usize,
}

/// What the same searches and the same test found where nobody hid a trigger: searching finds something that moves any
/// model, and this is how far it moves one that is benign.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NullRun {
    /// What stood in the adapted model's place.
    pub name: String,
    /// What it spent.
    pub token_forwards: u64,
    /// Score of its strongest candidate on the development prompts, in nats; absent if no candidate got so far.
    pub nats: Option<f64>,
    /// The strongest of the candidates that were tested on held-out prompts; absent if none had a payload.
    pub strongest: Option<NullTrigger>,
}

/// The strongest tested candidate of a null run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NullTrigger {
    /// The candidate.
    pub candidate: TriggerCandidate,
    /// What it brings about.
    pub payload: Payload,
    /// Its uplift, as [`TestedTrigger::uplift`].
    pub uplift: Estimate,
}

/// What was tested and what was not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Coverage {
    /// What was tested, one statement each.
    pub tested: Vec<String>,
    /// What was not, one statement each.
    pub not_tested: Vec<String>,
    /// Candidates at their placements that the suites hold.
    pub candidates_planned: usize,
    /// Those that were screened.
    pub candidates_screened: usize,
    /// Whether every planned stage ran to its end.
    pub complete: bool,
}
