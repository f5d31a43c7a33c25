//! The files that adapters come in, and the table of all that are read.
//!
//! Whatever a container is, what comes out is PEFT's: an object as in `adapter_config.json`, and tensors under PEFT's
//! names and in its orientation.

mod gguf;
mod mlx;
mod peft;
mod renamed;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{CONFIG_FILE, LoadOptions};
use crate::decoder::Decoder;
use crate::error::{Error, Result};
use crate::weights::TensorSource;

/// What a container holds.
pub(crate) struct Opened {
    /// The configuration, as PEFT would have written it.
    pub(crate) config: Map<String, Value>,
    /// Where the configuration stands, for errors.
    pub(crate) config_path: PathBuf,
    pub(crate) tensors: Box<dyn TensorSource>,
    /// The files that decide what the adapter computes.
    pub(crate) files: Vec<PathBuf>,
    pub(crate) notes: Vec<String>,
}

/// One kind of container.
pub(crate) trait Container: Sync {
    /// Its name for people.
    fn name(&self) -> &'static str;

    /// The files by which it is known.
    fn files(&self) -> &'static str;

    /// Whether a path looks like one.
    fn is(&self, path: &Path) -> bool;

    /// Opens it.
    ///
    /// # Errors
    /// If a file is absent, malformed, or of a form that is not read.
    fn open(&self, path: &Path, base: &Decoder, options: &LoadOptions) -> Result<Opened>;
}

/// Every container, in the order in which a path is tried.
pub(crate) const CONTAINERS: &[&dyn Container] =
    &[&mlx::Mlx, &peft::Safetensors, &gguf::GgufLora, &peft::Pickle];

/// Opens an adapter, whatever it comes in.
///
/// # Errors
/// If there is none, with what is there instead.
pub(super) fn open(path: &Path, base: &Decoder, options: &LoadOptions) -> Result<Opened> {
    if let Some(container) = CONTAINERS.iter().find(|container| container.is(path)) {
        return container.open(path, base, options);
    }
    if !path.exists() {
        return Err(Error::malformed(path, "expected an adapter, found nothing").with_hint(WANTED));
    }
    if !path.is_dir() {
        return Err(Error::malformed(path, "expected an adapter directory, found a file").with_hint(WANTED));
    }
    let inside = inside(path);
    let hint = if !inside.is_empty() {
        let names: Vec<String> = inside.iter().take(NAMED).map(|inner| inner.display().to_string()).collect();
        format!("there are {} adapters in it, such as {}; give one of them", inside.len(), names.join(", "))
    } else if path.join("config.json").exists() {
        "this looks like a full model; give it as --adapted, or the adapter's directory".to_owned()
    } else {
        WANTED.to_owned()
    };
    Err(Error::malformed(path, format!("expected `{}`, found none", super::WEIGHTS_FILE)).with_hint(hint))
}

const WANTED: &str = "give the directory that holds `adapter_config.json` and `adapter_model.safetensors`";

/// Adapters that an error names.
const NAMED: usize = 4;

/// Sub-folders, two levels deep at most, that hold an adapter, where the path itself is none; relative to it, sorted.
#[must_use]
pub fn inside(path: &Path) -> Vec<PathBuf> {
    if CONTAINERS.iter().any(|container| container.is(path)) {
        return Vec::new();
    }
    let folders = |path: &Path| -> Vec<PathBuf> {
        let mut folders: Vec<PathBuf> = std::fs::read_dir(path)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.is_dir())
            .collect();
        folders.sort();
        folders
    };
    folders(path)
        .into_iter()
        .flat_map(|folder| std::iter::once(folder.clone()).chain(folders(&folder)))
        .filter(|folder| folder.join(CONFIG_FILE).is_file())
        .filter_map(|folder| folder.strip_prefix(path).ok().map(Path::to_path_buf))
        .collect()
}
