//! What other runtimes make of the same files.
//!
//! PEFT goes by the configuration, vLLM by the tensors' names, llama.cpp by its converter; an adapter can be harmless
//! in one and not in another. Read in the sources of peft 0.21, vLLM (November 2026) and llama.cpp's
//! `convert_lora_to_gguf.py`; none of the two others is run here.

use std::fmt;
use std::str::FromStr;

use super::config::{AdapterConfig, Biases, Residual};
use super::contents::Contents;
use super::names::Place;
use crate::decoder::site::Site;
use crate::error::{Error, Result};

/// Whose reading of an adapter is applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Semantics {
    /// PEFT's.
    #[default]
    Peft,
    /// vLLM's.
    Vllm,
    /// llama.cpp's, by way of its converter.
    LlamaCpp,
}

/// Every reading, with its name.
pub const SEMANTICS: &[(&str, Semantics)] =
    &[("peft", Semantics::Peft), ("vllm", Semantics::Vllm), ("llamacpp", Semantics::LlamaCpp)];

impl fmt::Display for Semantics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Peft => "PEFT",
            Self::Vllm => "vLLM",
            Self::LlamaCpp => "llama.cpp",
        })
    }
}

impl FromStr for Semantics {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = SEMANTICS.iter().find(|(known, _)| *known == name).map(|(_, semantics)| *semantics);
        known.ok_or_else(|| format!("expected peft, vllm or llamacpp, found `{name}`"))
    }
}

/// What a runtime does otherwise than PEFT.
#[derive(Default)]
struct Differences {
    /// Why it does not load the adapter at all.
    refuses: Vec<String>,
    /// What it computes otherwise.
    computes: Vec<String>,
}

/// Refuses an adapter that the chosen runtime would not load; for PEFT notes where the others differ.
///
/// # Errors
/// If the runtime does not load it.
pub(super) fn check(
    semantics: Semantics,
    contents: &Contents<'_>,
    targeted: &[bool],
    sites: &[Site],
) -> Result<Vec<String>> {
    if semantics != Semantics::Peft {
        let refuses = differences(semantics, contents, targeted, sites).refuses;
        return match refuses.first() {
            Some(reason) => Err(Error::unsupported(
                contents.origin(),
                format!("{semantics} does not load this adapter: {reason}"),
            )
            .with_hint("scan it as the runtime that will serve it reads it (--semantics)")),
            None => Ok(vec![format!("applied as {semantics} reads it, not as PEFT does")]),
        };
    }
    let mut notes = Vec::new();
    for other in [Semantics::Vllm, Semantics::LlamaCpp] {
        let found = differences(other, contents, targeted, sites);
        if !found.refuses.is_empty() {
            notes.push(format!("{other} does not load this adapter: {}", found.refuses.join("; ")));
        } else if !found.computes.is_empty() {
            notes.push(format!(
                "{other} computes another model from these files: {}; scan it with --semantics {} if it is served so",
                found.computes.join("; "),
                SEMANTICS.iter().find(|(_, known)| *known == other).map_or("", |(name, _)| name)
            ));
        }
    }
    Ok(notes)
}

fn differences(
    runtime: Semantics,
    contents: &Contents<'_>,
    targeted: &[bool],
    sites: &[Site],
) -> Differences {
    let config = contents.config();
    let mut found = Differences::default();
    let refuse = |found: &mut Differences, when: bool, why: &str| {
        if when {
            found.refuses.push(why.to_owned());
        }
    };
    refuse(&mut found, config.peft_type() != "LORA", "it is no LoRA");
    refuse(&mut found, config.use_dora, "DoRA");
    refuse(&mut found, config.lora_bias, "lora_bias");
    refuse(&mut found, !config.token_indices.is_empty(), "trainable_token_indices");
    refuse(&mut found, !config.target_parameters.is_empty(), "target_parameters");
    match runtime {
        Semantics::Peft => {}
        Semantics::Vllm => {
            refuse(&mut found, !config.modules_to_save.is_empty(), "modules_to_save");
            refuse(&mut found, config.biases != Biases::None, "bias");
            let others = contents.weights.iter().any(|(_, place, _)| *place != Place::BaseLayer);
            refuse(&mut found, others, "tensors that are no factors");
        }
        Semantics::LlamaCpp => {
            let whole = |(parameter, place, _): &(String, Place, String)| {
                *place != Place::BaseLayer && !parameter.ends_with("norm.weight")
            };
            refuse(&mut found, contents.weights.iter().any(whole), "whole weights of modules");
            if contents.weights.iter().any(|(parameter, ..)| parameter.ends_with("norm.weight")) {
                found.computes.push("weights of norms are ignored".into());
            }
        }
    }
    if config.residual != Residual::Whole {
        found.computes.push("nothing is taken out of the base's weights".into());
    }
    if contents.weights.iter().any(|(_, place, _)| *place == Place::BaseLayer) {
        found.computes.push("copies of base weights are skipped".into());
    }
    let modules = contents.all_modules();
    let beyond = sites
        .iter()
        .zip(targeted)
        .filter(|(site, targeted)| !**targeted && modules.contains(site.name.as_str()));
    match beyond.count() {
        0 => {}
        n => {
            found.computes.push(format!("the factors of {n} modules that target_modules does not select act"))
        }
    }
    let scaled = |site: &&Site| {
        let other = scaling(runtime, config, &site.name, contents.rank_of(&site.name));
        (other - config.scaling(&site.name)).abs() > 1e-9 * other.abs()
    };
    let reached = sites
        .iter()
        .zip(targeted)
        .filter(|(site, targeted)| **targeted && modules.contains(site.name.as_str()));
    match reached.map(|(site, _)| site).filter(scaled).count() {
        0 => {}
        n => found.computes.push(format!("the branches of {n} modules have another factor")),
    }
    found
}

/// The factor of a branch whose factors have this rank.
pub(super) fn scaling(runtime: Semantics, config: &AdapterConfig, module: &str, rank: Option<usize>) -> f64 {
    match runtime {
        Semantics::Peft => config.scaling(module),
        // Patterns are none of its configuration.
        Semantics::Vllm => {
            let r = config.r as f64;
            config.lora_alpha / if config.use_rslora { r.sqrt() } else { r }
        }
        Semantics::LlamaCpp => match rank {
            Some(rank) if config.lora_alpha != 0.0 => config.lora_alpha / rank as f64,
            _ => 1.0,
        },
    }
}
