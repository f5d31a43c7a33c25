//! From files to an adapter.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::change::{Change, Replacements};
use super::config::AdapterConfig;
use super::contents::Contents;
use super::delta::Branches;
use super::runtimes::{self, Semantics};
use super::types::parameters::{self, Selection};
use super::virtual_prompt::VirtualPrompt;
use super::{Adapter, LoadOptions, changed_modules, container, whole};
use crate::decoder::Decoder;
use crate::error::{Error, Result};

impl Adapter {
    /// Loads the adapter at a path for a base.
    ///
    /// # Errors
    /// If a file is absent or malformed, a config key with effect is not implemented, a tensor
    /// would not be applied, shapes do not fit the base, or weights are not finite.
    pub fn load(path: &Path, base: &Decoder, options: &LoadOptions) -> Result<Self> {
        let opened = container::open(path, base, options)?;
        let (config_path, tensors) = (&opened.config_path, &*opened.tensors);
        let config =
            AdapterConfig::from_object(config_path, &opened.config, base.config().architecture.model_type)?;
        let stack = match &config.replication {
            Some(layers) => Some(Arc::new(
                base.restacked(layers)
                    .map_err(|error| Error::malformed(config_path, format!("layer_replication: {error}")))?,
            )),
            None => None,
        };
        let base = stack.as_deref().unwrap_or(base);
        let semantics = options.semantics;
        let mut contents = Contents::read(tensors, &config, semantics, &base.head_name())?;
        let mut targeted = config.select(base, config_path)?;
        bind_head(&config, base, &mut targeted, config_path)?;
        let parameters = parameters::selected(&contents, &targeted, base)?;
        let notes = runtimes::check(semantics, &contents, &targeted, base.sites())?;
        if semantics != Semantics::Peft {
            targeted = base.sites().iter().map(|site| contents.all_modules().contains(&site.name)).collect();
        }
        let mut change = Change::of(base);
        change.notes.clone_from(&config.notes);
        change.notes.extend(opened.notes);
        change.notes.extend(notes);
        drop_unreached(&mut contents, &targeted, &parameters, &mut change, config_path)?;
        whole::apply(&contents, &targeted, &mut change)?;
        config.kind.apply(&contents, &targeted, &mut change)?;
        parameters.apply(&contents, &mut change)?;
        change.drop_equal()?;
        let invocation = invocation(&contents, &mut change)?;
        let nothing = change.deltas.iter().all(Option::is_none)
            && change.replaced.is_empty()
            && change.virtual_tokens.is_none();
        // A file with tensors that all are the base's own is an adapter that changes nothing; without any it is none.
        if nothing && contents.modules().is_empty() && contents.weights.is_empty() {
            return Err(Error::malformed(tensors.origin(), "the adapter changes no module of this base")
                .with_hint(config.base_hint()));
        }
        let Change { deltas, replaced, virtual_tokens, notes, .. } = change;
        let branches = Branches::new(base.sites(), &deltas, base.compute())?.invoked_by(invocation);
        let replacements = Replacements::new(replaced);
        // Weights that do not fit are told now, not in the middle of a scan.
        replacements.decoder(base, 1.0)?;
        let files = opened.files;
        let modules =
            changed_modules(base.sites(), &deltas, &replacements) + usize::from(virtual_tokens.is_some());
        let virtual_prompt = virtual_tokens.map(VirtualPrompt::new);
        Ok(Self { config, files, notes, deltas, branches, replacements, stack, virtual_prompt, modules })
    }
}

/// The tokens that switch the adapter on, if there are any; with a note.
fn invocation(contents: &Contents<'_>, change: &mut Change<'_>) -> Result<Option<Arc<[u32]>>> {
    let tokens = &contents.config().invocation;
    if tokens.is_empty() {
        return Ok(None);
    }
    let vocabulary = change.base.config().vocab_size;
    if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
        return Err(Error::malformed(
            contents.origin(),
            format!(
                "alora_invocation_tokens: expected tokens of a vocabulary of {vocabulary}, found {token}"
            ),
        )
        .with_hint(contents.config().base_hint()));
    }
    let beyond = change.base.sites().iter().zip(&change.deltas).find_map(|(site, delta)| {
        (delta.is_some() && site.name.contains(".experts.")).then_some(site.name.as_str())
    });
    let embedding = change.base.config().architecture.names.embedding;
    let beyond = beyond.or_else(|| contents.has(embedding, "lora_embedding_A").then_some(embedding));
    if let Some(module) = beyond {
        return Err(Error::unsupported(
            contents.origin(),
            format!("alora_invocation_tokens with an adapter of `{module}`, which PEFT refuses, too"),
        )
        .with_hint("it was not scanned"));
    }
    change.notes.push(format!(
        "alora_invocation_tokens {tokens:?}: the adapter acts from the last occurrence of these tokens on, and nowhere without them; a prompt that does not have them is given them at its end, on both sides"
    ));
    Ok(Some(tokens.as_slice().into()))
}

/// With `ensure_weight_tying` an adapted embedding brings the tied head with it.
fn bind_head(
    config: &AdapterConfig,
    base: &Decoder,
    targeted: &mut [bool],
    config_path: &Path,
) -> Result<()> {
    let bound = config.ensure_weight_tying && base.config().tied;
    if bound && config.targets(base.config().architecture.names.embedding, false, config_path)? {
        for (site, targeted) in base.sites().iter().zip(targeted) {
            *targeted |= site.head;
        }
    }
    Ok(())
}

/// Takes out tensors at modules where PEFT builds no layer for them, and names those modules.
fn drop_unreached(
    contents: &mut Contents<'_>,
    targeted: &[bool],
    parameters: &Selection,
    change: &mut Change<'_>,
    config_path: &Path,
) -> Result<()> {
    let config = contents.config();
    let mut unreached = BTreeSet::new();
    for module in contents.modules() {
        let site = change.base.sites().iter().position(|site| site.name == module);
        let embedding = module == change.base.config().architecture.names.embedding;
        let tokens = contents.has(module, "trainable_tokens_delta");
        let reached = match site {
            _ if parameters.reach(module) => true,
            Some(site) => targeted[site] || tokens,
            None if embedding => {
                contents.semantics() != Semantics::Peft
                    || config.targets(module, false, config_path)?
                    || tokens
            }
            None if config.kind.changes(module) => config.targets(module, false, config_path)?,
            None => {
                return Err(Error::malformed(
                    contents.origin(),
                    format!("tensors for `{module}`: the base has no linear module `{module}`"),
                )
                .with_hint(config.base_hint()));
            }
        };
        if !reached {
            unreached.insert(module.to_owned());
        }
    }
    for module in &unreached {
        contents.drop_module(module);
    }
    if let Some(first) = unreached.first() {
        change.notes.push(format!(
            "the file has tensors for {} modules that target_modules does not select (`{first}` is the first); PEFT ignores them, and so did this run, but vLLM and llama.cpp apply them: the adapter means different models in different runtimes",
            unreached.len()
        ));
    }
    Ok(())
}
