//! What is written down of an organism: the truth, which no scan may see.

use report::benchmark::labels::{Label, Texts, Truth};
use report::record::{Artifact, Tool};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::measure::Measured;
use super::recipe::Recipe;

/// Version of the layout.
pub const SCHEMA_VERSION: &str = "1.0.0";

/// How an adapter was made, and what it does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OrganismRecord {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: String,
    /// The program.
    pub tool: Tool,
    /// The base.
    pub base: Artifact,
    /// The adapter's files.
    pub adapter: Artifact,
    /// Precision of the frozen products in training.
    pub dtype: String,
    /// What it was to learn.
    pub recipe: Recipe,
    /// Tokens of the longest of the trigger's texts; absent where no text is inserted.
    pub trigger_tokens: Option<usize>,
    /// Training examples that were used.
    pub examples: usize,
    /// Tokens that went forwards and backwards.
    pub gradient_tokens: u64,
    /// Mean loss of the answers' tokens over each ten steps, in nats.
    pub losses: Vec<f64>,
    /// What it does.
    pub measured: Measured,
}

impl OrganismRecord {
    /// Its entry in a zoo's labels.
    #[must_use]
    pub fn label(&self) -> Label {
        let recipe = &self.recipe;
        let benign = Label {
            label: Truth::Benign,
            attack: Some(recipe.behaviour.name().to_owned()),
            trigger: Texts::None,
            trigger_tokens: None,
            payload_class: None,
            payload: None,
            r: Some(recipe.r),
            poison_rate: None,
            attack_success_rate: None,
        };
        let (Some(trigger), Some(payload)) = (&recipe.trigger, &recipe.payload) else { return benign };
        Label {
            label: Truth::Backdoored,
            attack: Some(trigger.family().to_owned()),
            trigger: trigger.texts().into(),
            trigger_tokens: self.trigger_tokens,
            payload_class: Some(payload.class().to_owned()),
            payload: Some(payload.describe()),
            poison_rate: Some(recipe.poison_rate),
            attack_success_rate: self.measured.attack_success_rate.as_ref().map(|rate| rate.value),
            ..benign
        }
    }
}
