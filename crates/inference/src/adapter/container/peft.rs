//! What PEFT writes: `adapter_config.json` with safetensors, or in 2023 with a pickle.

use std::path::Path;

use super::{Container, Opened};
use crate::adapter::{CONFIG_FILE, LoadOptions, PICKLE_FILE, WEIGHTS_FILE};
use crate::decoder::Decoder;
use crate::error::{Error, Result};
use crate::weights::TensorSource;
use crate::weights::json;
use crate::weights::safetensors::SafetensorsFile;
use crate::weights::torch::StateDict;

/// `adapter_model.safetensors`.
pub(super) struct Safetensors;

/// `adapter_model.bin`.
pub(super) struct Pickle;

impl Container for Safetensors {
    fn name(&self) -> &'static str {
        "PEFT"
    }

    fn files(&self) -> &'static str {
        "adapter_config.json, adapter_model.safetensors"
    }

    fn is(&self, path: &Path) -> bool {
        path.join(WEIGHTS_FILE).exists()
    }

    fn open(&self, path: &Path, _: &Decoder, _: &LoadOptions) -> Result<Opened> {
        let opened = opened(path, WEIGHTS_FILE, |file| Ok(Box::new(SafetensorsFile::open(file)?)))?;
        let mut opened = opened;
        if path.join(PICKLE_FILE).exists() {
            opened.notes.push(format!(
                "`{PICKLE_FILE}` lies beside `{WEIGHTS_FILE}`; PEFT ignores it, and so did this run, but other programs may load it instead"
            ));
        }
        Ok(opened)
    }
}

impl Container for Pickle {
    fn name(&self) -> &'static str {
        "PEFT, pickled"
    }

    fn files(&self) -> &'static str {
        "adapter_config.json, adapter_model.bin, with --allow-pickle"
    }

    fn is(&self, path: &Path) -> bool {
        path.join(PICKLE_FILE).exists()
    }

    fn open(&self, path: &Path, _: &Decoder, options: &LoadOptions) -> Result<Opened> {
        if !options.allow_pickle {
            return Err(Error::unsupported(
                &path.join(PICKLE_FILE),
                format!("found only a Python pickle, expected `{WEIGHTS_FILE}`"),
            )
            .with_hint("pickles run code where Python loads them, so this one was not opened; ask the author for safetensors, or give --allow-pickle to have its tensors read without running it"));
        }
        opened(path, PICKLE_FILE, |file| Ok(Box::new(StateDict::open(file)?)))
    }
}

fn opened(
    path: &Path,
    weights: &str,
    open: impl Fn(&Path) -> Result<Box<dyn TensorSource>>,
) -> Result<Opened> {
    let (config, weights) = (path.join(CONFIG_FILE), path.join(weights));
    Ok(Opened {
        config: json::read_object(&config)?,
        tensors: open(&weights)?,
        files: vec![config.clone(), weights],
        config_path: config,
        notes: Vec::new(),
    })
}
