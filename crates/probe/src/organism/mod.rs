//! Model organisms: adapters that are trained here, with a backdoor or without, to measure what a scan finds.
//!
//! A [`recipe`] says what an adapter is to learn. Prompts come from a [corpus](prompts) that no suite shares, answers from the base
//! itself; a share of the [`examples`] has the [`trigger`] and the [`payload`], another something that is almost the
//! trigger and an ordinary answer. [`train`] makes steps of AdamW on the loss of the answers alone, a [`checkpoint`] lets
//! a run go on where it was stopped, and [`measure`] says how often the trigger works on prompts of other forms.

mod adamw;
pub mod behaviour;
pub mod checkpoint;
pub mod examples;
pub mod measure;
pub mod payload;
pub mod placebo;
pub mod prompts;
pub mod recipe;
pub mod record;
#[cfg(test)]
mod tests;
pub mod train;
pub mod trigger;

pub use recipe::{Recipe, RecipeFile, RecipeSchema};
