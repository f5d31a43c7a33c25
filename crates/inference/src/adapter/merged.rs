//! A merged checkpoint as an adapter: what differs from the base is the change.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::change::{Change, Replacements, bias_of, original};
use super::config::AdapterConfig;
use super::delta::Branches;
use super::{Adapter, changed_modules};
use crate::decoder::config::DecoderConfig;
use crate::decoder::{Decoder, stored_name};
use crate::error::{Error, Result};
use crate::weights::directory::Directory;
use crate::weights::gguf::{GgufFile, ROPE_FACTORS};
use crate::weights::{TensorSource, load_finite};

impl Adapter {
    /// Loads a whole checkpoint, a model directory or a GGUF file, as the adapted side of a base of the same shape.
    ///
    /// # Errors
    /// If it is malformed, of another architecture or shape, or holds values that are not finite.
    pub fn between(path: &Path, base: &Decoder) -> Result<Self> {
        let (config, source, files) = open(path)?;
        same_shape(path, &config, base.config())?;
        let (embedding, head) = (base.embedding_name(), base.head_name());
        let mut change = Change::of(base);
        // Either may have the names of older checkpoints.
        let stored_in = |name: &str| stored_name(base.config().architecture, &*source, name);
        let canonical = |names: Vec<String>| -> Vec<String> {
            names.iter().map(|name| base.canonical_name(name)).collect()
        };
        let mut names = canonical(base.source().names());
        names.extend(canonical(source.names()).into_iter().filter(|name| *name == head));
        names
            .extend(base.sites().iter().map(bias_of).filter(|name| source.shape(&stored_in(name)).is_some()));
        names.sort();
        names.dedup();
        names.retain(|name| name != ROPE_FACTORS);
        for name in &names {
            let Some(own) = original(base, name)? else {
                change.replaced.insert(name.clone(), load_finite(&*source, &stored_in(name))?);
                continue;
            };
            // A checkpoint whose head is tied has none of its own.
            let stored = stored_in(if *name == head && config.tied { &embedding } else { name });
            if source.shape(&stored).is_none() && !used(base, name) {
                continue;
            }
            let new = load_finite(&*source, &stored).map_err(|error| {
                error.with_hint(
                    "the checkpoint must hold every weight of the base, experts stacked or apart as there",
                )
            })?;
            if new.dims() != own.dims() {
                return Err(Error::malformed(
                    source.origin(),
                    format!("tensor `{name}`: expected shape {:?}, found {:?}", own.dims(), new.dims()),
                ));
            }
            change.replaced.insert(name.clone(), new);
        }
        if base.config().tied && !change.replaced.contains_key(&head) {
            let table = load_finite(&*source, &stored_in(&embedding))?;
            change.replaced.insert(head, table);
        }
        change.drop_equal()?;
        let notes = vec![format!(
            "the adapted model is a whole checkpoint; {} of its tensors differ from the base's",
            change.replaced.len()
        )];
        let deltas = change.deltas;
        let branches = Branches::new(base.sites(), &deltas, base.compute())?;
        let replacements = Replacements::new(change.replaced);
        replacements.decoder(base, 1.0)?;
        let (config, stack, virtual_prompt) = (AdapterConfig::of_checkpoint()?, None, None);
        let modules = changed_modules(base.sites(), &deltas, &replacements);
        Ok(Self { config, files, notes, deltas, branches, replacements, stack, virtual_prompt, modules })
    }
}

/// Ends of the names of buffers that some checkpoints hold beside parameters: masks, and frequencies of rotation.
const BUFFERS: &[&str] = &[".attn.bias", ".masked_bias", ".attention.bias", ".inv_freq"];

/// Whether the decoder computes with a tensor of this name.
fn used(base: &Decoder, name: &str) -> bool {
    base.has_place(name) && !BUFFERS.iter().any(|end| name.ends_with(end))
}

type Parts = (DecoderConfig, Arc<dyn TensorSource>, Vec<PathBuf>);

fn open(path: &Path) -> Result<Parts> {
    if path.is_dir() {
        let source = Directory::open(path)?;
        let mut files = vec![path.join("config.json")];
        files.extend(source.paths());
        return Ok((DecoderConfig::from_file(&path.join("config.json"))?, Arc::new(source), files));
    }
    if !path.exists() {
        return Err(Error::malformed(path, "expected a checkpoint, found nothing")
            .with_hint("give a Hugging Face model directory or a .gguf file"));
    }
    let file = GgufFile::open(path)?;
    Ok((DecoderConfig::from_gguf(&file, path)?, Arc::new(file), vec![path.to_owned()]))
}

/// The checkpoint must compute what the base does, but for its weights.
fn same_shape(path: &Path, found: &DecoderConfig, base: &DecoderConfig) -> Result<()> {
    // Whether the head is tied, how long contexts may be and which tokens end a response may differ.
    let comparable = |config: &DecoderConfig| DecoderConfig {
        tied: false,
        eos: Vec::new(),
        max_positions: 0,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        ..config.clone()
    };
    let (expected, other) = (format!("{:#?}", comparable(base)), format!("{:#?}", comparable(found)));
    let differing = expected.lines().zip(other.lines()).find(|(a, b)| !alike(a, b));
    match differing {
        None => Ok(()),
        Some((expected, found)) => Err(Error::malformed(
            path,
            format!(
                "expected a checkpoint of the base's shape: `{}`, found `{}`",
                expected.trim(),
                found.trim()
            ),
        )
        .with_hint("the base and the merged checkpoint must be one model before and after training")),
    }
}

/// Whether two lines say the same, numbers that went through f32 included.
fn alike(a: &str, b: &str) -> bool {
    let number = |line: &str| -> Option<f64> { line.rsplit(' ').next()?.trim_end_matches(',').parse().ok() };
    a == b
        || number(a).zip(number(b)).is_some_and(|(a, b)| (a - b).abs() <= f64::from(f32::EPSILON) * a.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_through_f32_are_alike() {
        assert!(alike("    norm_eps: 1e-5,", "    norm_eps: 9.999999747378752e-6,"));
        assert!(!alike("    norm_eps: 1e-5,", "    norm_eps: 1e-6,"));
        assert!(!alike("    layers: 30,", "    layers: 31,"));
    }
}
