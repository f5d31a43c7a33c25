//! Tensors of another container under PEFT's names and in its orientation.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::decoder::architectures::Architecture;
use crate::error::{Error, Result};
use crate::weights::TensorSource;
use crate::weights::gguf_layout::{self, FileHeads};

/// One tensor.
pub(super) struct Entry {
    /// Its name in the container.
    pub(super) stored: String,
    pub(super) transposed: bool,
    /// Rows that the converter of llama.cpp may have put in another order.
    pub(super) rows: Option<Rows>,
}

/// The rows of a module of llama.cpp.
pub(super) struct Rows {
    pub(super) architecture: &'static Architecture,
    pub(super) module: String,
    pub(super) heads: FileHeads,
}

/// A source under other names.
pub(super) struct Renamed<S> {
    pub(super) under: S,
    pub(super) entries: BTreeMap<String, Entry>,
}

impl<S: TensorSource> TensorSource for Renamed<S> {
    fn origin(&self) -> &Path {
        self.under.origin()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let entry = self.entries.get(name)?;
        let mut shape = self.under.shape(&entry.stored)?;
        if entry.transposed {
            shape.reverse();
        }
        Some(shape)
    }

    fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        let entry = self.entries.get(name);
        let entry =
            entry.ok_or_else(|| Error::malformed(self.origin(), format!("tensor `{name}` is missing")))?;
        let mut tensor = self.under.load(&entry.stored, device)?;
        if entry.transposed {
            tensor = tensor.t()?.contiguous()?;
        }
        match &entry.rows {
            Some(Rows { architecture, module, heads }) => {
                gguf_layout::restore_rows(architecture, module, tensor, *heads).map_err(|error| {
                    Error::malformed(self.origin(), format!("tensor `{}`: {error}", entry.stored))
                })
            }
            None => Ok(tensor),
        }
    }

    fn names(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }
}
