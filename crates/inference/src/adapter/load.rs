//! From a directory to an adapter.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::change::{Change, Replacements};
use super::config::AdapterConfig;
use super::contents::Contents;
use super::delta::Branches;
use super::types::EMBEDDING_MODULE;
use super::{Adapter, CONFIG_FILE, PICKLE_FILE, WEIGHTS_FILE, whole};
use crate::decoder::Decoder;
use crate::error::{Error, Result};
use crate::weights::safetensors::SafetensorsFile;

impl Adapter {
    /// Loads the adapter in `directory` for a base.
    ///
    /// # Errors
    /// If a file is absent or malformed, a config key with effect is not implemented, a tensor
    /// would not be applied, shapes do not fit the base, or weights are not finite.
    pub fn load(directory: &Path, base: &Decoder) -> Result<Self> {
        let weights = weights_file(directory)?;
        let config = AdapterConfig::from_file(&directory.join(CONFIG_FILE))?;
        let file = SafetensorsFile::open(&weights)?;
        let mut contents = Contents::read(&file, &config)?;
        let mut targeted = config.select(base.sites(), &directory.join(CONFIG_FILE))?;
        bind_head(&config, base, &mut targeted, &directory.join(CONFIG_FILE))?;
        let mut change = Change::of(base);
        change.notes.clone_from(&config.notes);
        drop_unreached(&mut contents, &targeted, &mut change, &directory.join(CONFIG_FILE))?;
        whole::apply(&contents, &targeted, &mut change)?;
        config.kind.apply(&contents, &targeted, &mut change)?;
        change.drop_equal()?;
        let nothing = change.deltas.iter().all(Option::is_none) && change.replaced.is_empty();
        // A file with tensors that all are the base's own is an adapter that changes nothing; without any it is none.
        if nothing && contents.modules().is_empty() && contents.weights.is_empty() {
            return Err(Error::malformed(&weights, "the adapter changes no module of this base")
                .with_hint(config.base_hint()));
        }
        let Change { deltas, replaced, notes, .. } = change;
        let branches = Branches::new(base.sites(), &deltas, base.compute())?;
        let replacements = Replacements::new(replaced);
        // Weights that do not fit are told now, not in the middle of a scan.
        replacements.decoder(base, 1.0)?;
        Ok(Self { config, path: Some(directory.to_owned()), notes, deltas, branches, replacements })
    }
}

/// With `ensure_weight_tying` an adapted embedding brings the tied head with it.
fn bind_head(
    config: &AdapterConfig,
    base: &Decoder,
    targeted: &mut [bool],
    config_path: &Path,
) -> Result<()> {
    let bound = config.ensure_weight_tying && base.config().tied;
    if bound && config.targets(EMBEDDING_MODULE, false, config_path)? {
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
    change: &mut Change<'_>,
    config_path: &Path,
) -> Result<()> {
    let config = contents.config();
    let mut unreached = BTreeSet::new();
    for module in contents.modules() {
        let site = change.base.sites().iter().position(|site| site.name == module);
        let embedding = module == EMBEDDING_MODULE;
        let tokens = contents.has(module, "trainable_tokens_delta");
        let reached = match site {
            Some(site) => targeted[site] || tokens,
            None if embedding => config.targets(module, false, config_path)? || tokens,
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
            "the file has tensors for {} modules that target_modules does not select (`{first}` is the first); PEFT ignores them, and so did this scan, but vLLM and llama.cpp apply them: the adapter means different models in different runtimes",
            unreached.len()
        ));
    }
    Ok(())
}

/// Finds the weights, and says what is there instead if they are not.
fn weights_file(directory: &Path) -> Result<PathBuf> {
    if !directory.is_dir() {
        let what = if directory.exists() { "found a file" } else { "found nothing" };
        return Err(Error::malformed(directory, format!("expected an adapter directory, {what}"))
            .with_hint(format!("give the directory that holds `{CONFIG_FILE}` and `{WEIGHTS_FILE}`")));
    }
    let weights = directory.join(WEIGHTS_FILE);
    if weights.exists() {
        return Ok(weights);
    }
    if directory.join(PICKLE_FILE).exists() {
        return Err(Error::unsupported(
            &directory.join(PICKLE_FILE),
            format!("found only a Python pickle, expected `{WEIGHTS_FILE}`"),
        )
        .with_hint("pickles run code when they are loaded, so this one was not opened; ask the author for safetensors"));
    }
    let hint = if directory.join("config.json").exists() {
        "this looks like a full model; give the adapter's directory"
    } else {
        "checkpoints often keep the adapter in a sub-folder such as checkpoint-500"
    };
    Err(Error::malformed(directory, format!("expected `{WEIGHTS_FILE}`, found none")).with_hint(hint))
}
