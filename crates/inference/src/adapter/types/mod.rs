//! The kinds of PEFT adapters, and the table of all that are implemented.

mod adalora;
mod embedding;
mod hadamard;
mod ia3;
mod kronecker;
mod lora;
mod norm_tuning;
pub(super) mod parameters;
mod prompt_tuning;
mod vera;

use std::fmt;

use candle_core::Tensor;

use super::change::Change;
use super::config::keys::Treatment;
use super::contents::Contents;
use crate::decoder::site::Site;
use crate::error::Result;

/// One `peft_type`.
pub(crate) trait PeftType: Sync {
    /// Its name in `adapter_config.json`.
    fn name(&self) -> &'static str;

    /// Its keys of `adapter_config.json`, beside the common ones.
    fn keys(&self) -> &'static [&'static [(&'static str, Treatment)]];

    /// The tensors that it keeps at modules.
    fn parts(&self) -> &'static [&'static str];

    /// Whether its `rank_pattern` holds no ranks, which the shapes of its tensors tell.
    fn ranks_are_of_tensors(&self) -> bool {
        false
    }

    /// What `target_modules` is where the file does not say, by the base's `model_type`, in PEFT; `None` where PEFT asks
    /// for it.
    fn default_targets(&self, model_type: &str) -> Option<&'static [&'static str]> {
        known_targets(ATTENTION, model_type)
    }

    /// Whether it has `target_modules`.
    fn has_targets(&self) -> bool {
        true
    }

    /// Adds what it does at the targeted sites, one flag a site.
    ///
    /// # Errors
    /// If a tensor is absent, does not fit, or is not finite.
    fn apply(&self, contents: &Contents<'_>, targeted: &[bool], change: &mut Change<'_>) -> Result<()>;

    /// Whether it changes modules that are neither linear nor the embedding.
    fn changes(&self, _module: &str) -> bool {
        false
    }
}

/// PEFT's default `target_modules` of most types.
const ATTENTION: &[(&[&str], &[&str])] = &[
    (
        &["llama", "mistral", "mixtral", "stablelm", "gemma", "gemma2", "gemma3_text", "qwen2", "qwen3"],
        &["q_proj", "v_proj"],
    ),
    (&["gpt2"], &["c_attn"]),
    (&["gpt_neox", "falcon"], &["query_key_value"]),
    (&["phi"], &["q_proj", "v_proj", "fc1", "fc2"]),
];

/// The modules that a table has for a `model_type`.
fn known_targets(
    table: &[(&[&str], &'static [&'static str])],
    model_type: &str,
) -> Option<&'static [&'static str]> {
    table.iter().find(|(types, _)| types.contains(&model_type)).map(|(_, modules)| *modules)
}

impl fmt::Debug for dyn PeftType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Every type that is implemented.
pub(crate) const TYPES: &[&dyn PeftType] = &[
    &lora::Lora,
    &adalora::AdaLora,
    &hadamard::LoHa,
    &kronecker::LoKr,
    &ia3::Ia3,
    &vera::Vera,
    &norm_tuning::NormTuning,
    &prompt_tuning::PromptTuning,
];

pub(crate) fn by_name(name: &str) -> Option<&'static dyn PeftType> {
    TYPES.iter().copied().find(|kind| kind.name() == name)
}

/// The names, for messages.
pub(crate) fn names() -> Vec<&'static str> {
    TYPES.iter().map(|kind| kind.name()).collect()
}

/// The targeted sites for which the file has tensors, with their indices; a note for each of the others.
fn present<'s>(
    contents: &Contents<'_>,
    targeted: &[bool],
    change: &mut Change<'s>,
) -> Vec<(usize, &'s Site)> {
    let modules = contents.modules();
    let (mut found, mut absent) = (Vec::new(), Vec::new());
    for (index, site) in change.base.sites().iter().enumerate().filter(|(index, _)| targeted[*index]) {
        if modules.contains(site.name.as_str()) {
            found.push((index, site));
        } else {
            absent.push(format!("`{}` is targeted, but the file has no tensors for it", site.name));
        }
    }
    change.notes.extend(absent);
    found
}

/// Adds a dense matrix `[outputs, inputs]` to a site's weight.
fn add_dense(change: &mut Change<'_>, site: &Site, delta: &Tensor) -> Result<()> {
    let sum = (change.weight(site)? + delta)?;
    change.set_weight(site, &sum)
}
