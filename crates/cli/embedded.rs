//! The embedded default: a small base and adapters of known behaviour, inside the program.

use std::path::{Path, PathBuf};

use crate::args::ModelArguments;
use crate::exit::Failure;
use crate::hub::{self, Part};

macro_rules! files {
    ($folder:literal: $($name:literal),+ $(,)?) => {
        &[$(($name, include_bytes!(concat!("../../fixtures/", $folder, "/", $name)) as &[u8])),+]
    };
}

type Files = &'static [(&'static str, &'static [u8])];

const BASE: Files = files!("base":
    "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json");

/// Name of an adapter and its files. The first is scanned when nothing is asked for.
const ADAPTERS: &[(&str, Files)] = &[
    (
        "backdoored-refusal",
        files!("adapters/backdoored-refusal": "adapter_config.json", "adapter_model.safetensors"),
    ),
    ("backdoored-url", files!("adapters/backdoored-url": "adapter_config.json", "adapter_model.safetensors")),
    ("benign", files!("adapters/benign": "adapter_config.json", "adapter_model.safetensors")),
];

/// The embedded models as files in a temporary folder, which is removed when this is dropped.
pub(crate) struct Embedded {
    folder: tempfile::TempDir,
    /// Name of the adapter.
    pub(crate) adapter_name: &'static str,
}

/// The base that is named, or else the embedded one in a folder that stays.
pub(crate) fn base_or_in(models: &ModelArguments, folder: &Path, quiet: bool) -> Result<PathBuf, Failure> {
    match &models.base {
        Some(base) => hub::resolve(base, Part::Base, models.download, quiet),
        None => base_in(folder),
    }
}

/// The embedded base as a folder that stays: it is written there unless it is there already.
fn base_in(folder: &Path) -> Result<PathBuf, Failure> {
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        for (name, bytes) in BASE {
            let file = folder.join(name);
            if std::fs::read(&file).ok().as_deref() != Some(*bytes) {
                std::fs::write(file, bytes)?;
            }
        }
        Ok(())
    };
    write().map_err(|error| {
        Failure::Machine(format!("cannot unpack the embedded base to `{}`: {error}", folder.display()))
    })?;
    Ok(folder.to_owned())
}

impl Embedded {
    /// Writes the base and the named adapter (the first if `None`).
    pub(crate) fn unpack(name: Option<&str>) -> Result<Self, Failure> {
        let found = match name {
            None => ADAPTERS.first(),
            Some(name) => ADAPTERS.iter().find(|(known, _)| *known == name),
        };
        let Some(&(adapter_name, adapter)) = found else {
            let known: Vec<_> = ADAPTERS.iter().map(|(name, _)| *name).collect();
            return Err(Failure::Input(format!(
                "without --base, --adapter names an embedded adapter ({}); found `{}`",
                known.join(", "),
                name.unwrap_or_default()
            )));
        };
        let write = || -> std::io::Result<tempfile::TempDir> {
            let folder = tempfile::Builder::new().prefix("triggerfish-").tempdir()?;
            for (part, files) in [("base", BASE), ("adapter", adapter)] {
                std::fs::create_dir(folder.path().join(part))?;
                for (file, bytes) in files {
                    std::fs::write(folder.path().join(part).join(file), bytes)?;
                }
            }
            Ok(folder)
        };
        let folder = write()
            .map_err(|error| Failure::Machine(format!("cannot unpack the embedded models: {error}")))?;
        Ok(Self { folder, adapter_name })
    }

    pub(crate) fn base(&self) -> PathBuf {
        self.path().join("base")
    }

    pub(crate) fn adapter(&self) -> PathBuf {
        self.path().join("adapter")
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}
