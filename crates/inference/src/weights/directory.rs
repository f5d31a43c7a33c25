//! A Hugging Face model directory: `config.json` and single or sharded safetensors.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use candle_core::{Device, Tensor};
use serde_json::Value;

use super::safetensors::SafetensorsFile;
use super::{TensorSource, json};
use crate::error::{Error, Result};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The weights of a model directory; every tensor name belongs to exactly one file.
pub struct Directory {
    path: PathBuf,
    files: Vec<SafetensorsFile>,
    file_of: BTreeMap<String, usize>,
}

impl Directory {
    /// Opens the weights of a directory and checks every shard's header.
    ///
    /// # Errors
    /// If there are no safetensors weights, a shard is missing or malformed, or the index and the
    /// shards disagree.
    pub fn open(path: &Path) -> Result<Self> {
        let index = path.join(INDEX);
        let names = if path.join(SINGLE).exists() {
            vec![SINGLE.to_owned()]
        } else if index.exists() {
            shard_names(&index)?
        } else {
            return Err(Error::malformed(path, format!("expected `{SINGLE}` or `{INDEX}`, found neither"))
                .with_hint("give a directory saved with `save_pretrained(..., safe_serialization=True)`, or a GGUF file"));
        };
        let mut files = Vec::with_capacity(names.len());
        let mut file_of = BTreeMap::new();
        for name in &names {
            let file = SafetensorsFile::open(&path.join(name))?;
            for (tensor, _) in file.tensors() {
                if file_of.insert(tensor.to_owned(), files.len()).is_some() {
                    return Err(Error::malformed(
                        &path.join(name),
                        format!("tensor `{tensor}` is in more than one shard"),
                    ));
                }
            }
            files.push(file);
        }
        Ok(Self { path: path.to_owned(), files, file_of })
    }

    /// The weight files, for provenance.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.files.iter().map(|file| file.origin().to_owned()).collect()
    }
}

impl TensorSource for Directory {
    fn origin(&self) -> &Path {
        &self.path
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.files[*self.file_of.get(name)?].shape(name)
    }

    fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        match self.file_of.get(name) {
            Some(&file) => self.files[file].load(name, device),
            None => Err(Error::malformed(&self.path, format!("tensor `{name}` is missing"))),
        }
    }

    fn names(&self) -> Vec<String> {
        self.file_of.keys().cloned().collect()
    }
}

/// The distinct shard names of an index, which must be plain file names of the same directory.
fn shard_names(index: &Path) -> Result<Vec<String>> {
    let object = json::read_object(index)?;
    let Some(Value::Object(map)) = object.get("weight_map") else {
        return Err(Error::malformed(index, "expected an object `weight_map`"));
    };
    let mut names = Vec::new();
    for value in map.values() {
        let Value::String(name) = value else {
            return Err(Error::malformed(index, "expected file names in `weight_map`"));
        };
        let mut components = Path::new(name).components();
        if !matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)) {
            return Err(Error::malformed(index, format!("expected a plain file name, found `{name}`")));
        }
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    if names.is_empty() {
        return Err(Error::malformed(index, "`weight_map` names no file"));
    }
    names.sort();
    Ok(names)
}
