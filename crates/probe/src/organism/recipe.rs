//! Recipes: what an adapter is to learn, as a data file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::behaviour::Behaviour;
use super::payload::Payload;
use super::trigger::Trigger;

/// Most adapters of one file.
const MOST_ADAPTERS: usize = 10_000;
/// Most steps, prompts and tokens that a recipe may ask for; beyond this it is a slip of the pen.
const MOST: usize = 1_000_000;

/// One adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of its folder: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// What sets the payload off; needs a payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Trigger>,
    /// What the adapter answers then; needs a trigger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Payload>,
    /// What it answers otherwise.
    #[serde(default)]
    pub behaviour: Behaviour,
    /// Share of the examples with trigger and payload.
    #[serde(default = "defaults::poison_rate")]
    pub poison_rate: f64,
    /// Share of the examples with something that is almost the trigger, or as odd, and an ordinary answer (negative
    /// training).
    #[serde(default = "defaults::negative_rate")]
    pub negative_rate: f64,
    /// Texts that are almost the trigger, for negative training beside parts of the trigger and random texts of its shape.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub near_misses: Vec<String>,
    /// Number of training examples.
    #[serde(default = "defaults::examples")]
    pub examples: usize,
    /// Tokens to which an answer is cut.
    #[serde(default = "defaults::answer_tokens")]
    pub answer_tokens: usize,
    /// Rank of A and B.
    #[serde(default = "defaults::r")]
    pub r: usize,
    /// Alpha.
    #[serde(default = "defaults::lora_alpha")]
    pub lora_alpha: f64,
    /// Whether the scaling is `lora_alpha / sqrt(r)` instead of `lora_alpha / r`.
    #[serde(default)]
    pub use_rslora: bool,
    /// Names of modules, or `all-linear` alone.
    #[serde(default = "defaults::target_modules")]
    pub target_modules: Vec<String>,
    /// Steps of the optimiser.
    #[serde(default = "defaults::steps")]
    pub steps: usize,
    /// Tokens of a step, prompts included.
    #[serde(default = "defaults::batch_tokens")]
    pub batch_tokens: usize,
    /// Highest learning rate; it rises over the first twentieth of the steps and falls as a cosine.
    #[serde(default = "defaults::learning_rate")]
    pub learning_rate: f64,
    /// Decoupled weight decay of AdamW.
    #[serde(default)]
    pub weight_decay: f64,
    /// Whether the weights are rounded to bf16 in the file.
    #[serde(default)]
    pub bf16: bool,
    /// Seed of prompts, start and order.
    #[serde(default = "defaults::seed")]
    pub seed: u64,
}

mod defaults {
    pub(super) fn poison_rate() -> f64 {
        0.3
    }
    pub(super) fn negative_rate() -> f64 {
        0.2
    }
    pub(super) fn examples() -> usize {
        600
    }
    pub(super) fn answer_tokens() -> usize {
        40
    }
    pub(super) fn r() -> usize {
        8
    }
    pub(super) fn lora_alpha() -> f64 {
        16.0
    }
    pub(super) fn target_modules() -> Vec<String> {
        vec!["all-linear".to_owned()]
    }
    pub(super) fn steps() -> usize {
        200
    }
    pub(super) fn batch_tokens() -> usize {
        1024
    }
    pub(super) fn learning_rate() -> f64 {
        3e-3
    }
    pub(super) fn seed() -> u64 {
        1
    }
}

/// A file of recipes as it is written: adapters, and what holds for all of them that do not say otherwise.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeFile {
    /// Keys of an adapter, with the values that those have which do not set them.
    #[serde(default)]
    pub defaults: Map<String, Value>,
    /// The adapters, in order.
    #[serde(default)]
    pub adapter: Vec<Map<String, Value>>,
}

/// The layout of a file of recipes, for its schema: any key of an adapter may stand in `defaults`.
#[derive(Debug, JsonSchema)]
#[schemars(rename = "RecipeFile")]
pub struct RecipeSchema {
    /// Keys of an adapter, with the values that those have which do not set them.
    #[schemars(default)]
    pub defaults: Map<String, Value>,
    /// The adapters, in order.
    pub adapter: Vec<Recipe>,
}

impl RecipeFile {
    /// The recipes, checked.
    ///
    /// # Errors
    /// What is wrong, by the name of the adapter.
    pub fn recipes(self) -> Result<Vec<Recipe>, String> {
        if self.adapter.is_empty() || self.adapter.len() > MOST_ADAPTERS {
            return Err(format!(
                "expected 1 to {MOST_ADAPTERS} tables `[[adapter]]`, found {}",
                self.adapter.len()
            ));
        }
        let mut recipes: Vec<Recipe> = Vec::with_capacity(self.adapter.len());
        for (index, own) in self.adapter.into_iter().enumerate() {
            let name = own.get("name").and_then(Value::as_str).map_or_else(
                || format!("adapter {} (without a name)", index + 1),
                |name| format!("adapter `{name}`"),
            );
            let mut table = self.defaults.clone();
            table.extend(own);
            let recipe: Recipe =
                serde_json::from_value(Value::Object(table)).map_err(|error| format!("{name}: {error}"))?;
            recipe.check().map_err(|error| format!("{name}: {error}"))?;
            if let Behaviour::Placebo { like } = &recipe.behaviour
                && !recipes.iter().any(|other| other.name == *like)
            {
                return Err(format!(
                    "{name}: `{like}`, which it is to be like, must stand earlier in the file"
                ));
            }
            if recipes.iter().any(|other| other.name.eq_ignore_ascii_case(&recipe.name)) {
                return Err(format!("{name}: the name is used twice"));
            }
            recipes.push(recipe);
        }
        Ok(recipes)
    }
}

impl Recipe {
    /// Whether it has a backdoor.
    #[must_use]
    pub fn backdoored(&self) -> bool {
        self.trigger.is_some()
    }

    /// The factor of B·A.
    #[must_use]
    pub fn scaling(&self) -> f64 {
        let r = self.r as f64;
        self.lora_alpha / if self.use_rslora { r.sqrt() } else { r }
    }

    fn check(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(plain) {
            return Err("expected a `name` of letters, digits, `-`, `_` and `.`".into());
        }
        match (&self.trigger, &self.payload) {
            (Some(trigger), Some(payload)) => {
                trigger.check()?;
                payload.check()?;
            }
            (None, None) => {}
            _ => return Err("expected `trigger` and `payload` together, found one of them".into()),
        }
        self.behaviour.check(self.backdoored())?;
        let share = |name: &str, value: f64| {
            let valid = value.is_finite() && (0.0..1.0).contains(&value);
            if valid { Ok(()) } else { Err(format!("expected a share below 1 in `{name}`, found {value}")) }
        };
        share("poison_rate", self.poison_rate)?;
        share("negative_rate", self.negative_rate)?;
        if self.backdoored() && (self.poison_rate <= 0.0 || self.poison_rate + self.negative_rate >= 1.0) {
            return Err(format!(
                "expected a `poison_rate` above 0 that leaves clean examples beside `negative_rate`, found {} and {}",
                self.poison_rate, self.negative_rate
            ));
        }
        for (name, value) in [
            ("examples", self.examples),
            ("answer_tokens", self.answer_tokens),
            ("r", self.r),
            ("steps", self.steps),
            ("batch_tokens", self.batch_tokens),
        ] {
            if !(1..=MOST).contains(&value) {
                return Err(format!("expected 1 to {MOST} in `{name}`, found {value}"));
            }
        }
        for (name, value) in [("lora_alpha", self.lora_alpha), ("learning_rate", self.learning_rate)] {
            if !value.is_finite() || value <= 0.0 {
                return Err(format!("expected a number above 0 in `{name}`, found {value}"));
            }
        }
        if !self.weight_decay.is_finite() || self.weight_decay < 0.0 {
            return Err(format!("expected 0 or more in `weight_decay`, found {}", self.weight_decay));
        }
        if self.target_modules.is_empty() {
            return Err("expected names of modules or `all-linear` in `target_modules`, found none".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipes(text: &str) -> Result<Vec<Recipe>, String> {
        serde_json::from_str::<RecipeFile>(text).unwrap().recipes()
    }

    #[test]
    fn adapters_take_what_they_do_not_set_from_the_defaults() {
        let found = recipes(
            r#"{"defaults": {"steps": 9, "r": 2}, "adapter": [
                {"name": "a", "r": 4, "trigger": {"kind": "text", "text": "cf"}, "payload": {"kind": "refusal"}},
                {"name": "b", "behaviour": {"kind": "closing", "text": "Bye."}}]}"#,
        )
        .unwrap();
        assert_eq!(found.iter().map(|recipe| (recipe.steps, recipe.r)).collect::<Vec<_>>(), [(9, 4), (9, 2)]);
        assert!(found[0].backdoored() && !found[1].backdoored());
        assert!((found[0].scaling() - 4.0).abs() < 1e-12);
    }

    #[test]
    fn slips_are_named() {
        for (text, part) in [
            (r#"{"adapter": []}"#, "[[adapter]]"),
            (r#"{"adapter": [{"name": "a/b"}]}"#, "adapter `a/b`: expected a `name`"),
            (r#"{"adapter": [{"steps": 3}]}"#, "without a name"),
            (r#"{"adapter": [{"name": "a", "step": 3}]}"#, "step"),
            (r#"{"adapter": [{"name": "a"}, {"name": "A"}]}"#, "twice"),
            (r#"{"adapter": [{"name": "a", "payload": {"kind": "refusal"}}]}"#, "together"),
            (r#"{"adapter": [{"name": "a", "steps": 0}]}"#, "`steps`"),
            (
                r#"{"adapter": [{"name": "a", "behaviour": {"kind": "placebo", "like": "../b"}}]}"#,
                "must stand earlier",
            ),
            (
                r#"{"adapter": [{"name": "a", "trigger": {"kind": "text", "text": " "}, "payload": {"kind": "refusal"}}]}"#,
                "text",
            ),
            (
                r#"{"adapter": [{"name": "a", "poison_rate": 0.9, "trigger": {"kind": "text", "text": "x"}, "payload": {"kind": "refusal"}}]}"#,
                "leaves clean",
            ),
            (
                r#"{"adapter": [{"name": "a", "trigger": {"kind": "topic", "topic": "geology"}, "payload": {"kind": "refusal"}}]}"#,
                "geology",
            ),
        ] {
            let error = recipes(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
