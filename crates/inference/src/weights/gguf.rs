//! A GGUF file as a base model: dequantised at load, under Hugging Face names and row order.
//!
//! llama.cpp's converter renames tensors, permutes the q and k rows of llama-type models for its interleaved
//! rotary embedding, and changes others; all of that is undone here ([`super::gguf_layout`]) so that one decoder
//! serves both formats and PEFT adapters fit.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{Device, Tensor};

use super::TensorSource;
use super::gguf_layout::{self, FileHeads};
use crate::decoder::architectures::{self, Architecture};
use crate::error::{Error, Result};

/// The name under which llama.cpp's per-frequency divisors of llama3 rope scaling appear.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";
/// Divisors of LongRoPE for long sequences.
pub const ROPE_FACTORS_LONG: &str = "rope_factors_long.weight";
/// Divisors of LongRoPE for sequences of the length of pre-training.
pub const ROPE_FACTORS_SHORT: &str = "rope_factors_short.weight";

/// The first layer's norm that only models with two norms before parallel blocks have.
pub(crate) const SECOND_NORM: &str = "blk.0.attn_norm_2.weight";

/// An opened GGUF file.
pub struct GgufFile {
    path: PathBuf,
    content: Content,
    reader: Mutex<BufReader<File>>,
    /// Hugging Face name -> GGUF name.
    names: BTreeMap<String, String>,
    /// Whether its tensors are a base's, whose layout is that of their architecture.
    base: bool,
}

impl GgufFile {
    /// Opens a file and reads its metadata and tensor directory.
    ///
    /// # Errors
    /// If the file is not GGUF, or holds a tensor whose name has no counterpart.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = Self::open_adapter(path)?;
        let architecture = file.entry(path)?;
        let two_norms = file.has_stored(SECOND_NORM);
        file.names.clear();
        for name in file.content.tensor_infos.keys() {
            let translated = gguf_layout::translate(architecture, name, two_norms)
                .ok_or_else(|| Error::unsupported(path, format!("unknown tensor `{name}`")))?;
            file.names.insert(translated, name.clone());
        }
        file.base = true;
        Ok(file)
    }

    /// Opens a file whose tensors keep their own names, as those of an adapter.
    ///
    /// # Errors
    /// If the file is not GGUF.
    pub(crate) fn open_adapter(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
        if !metadata.is_file() {
            return Err(Error::malformed(path, "expected a regular file"));
        }
        let mut reader = BufReader::new(File::open(path).map_err(Error::io(path))?);
        let content = Content::read(&mut reader).map_err(|error| unreadable(path, &error.to_string()))?;
        let names = content.tensor_infos.keys().map(|name| (name.clone(), name.clone())).collect();
        Ok(Self { path: path.to_owned(), content, reader: Mutex::new(reader), names, base: false })
    }

    /// Names of the tensors as the file has them, sorted.
    pub(crate) fn stored_names(&self) -> Vec<String> {
        self.names.values().cloned().collect()
    }

    /// `general.architecture`, such as `llama` or `qwen2`.
    ///
    /// # Errors
    /// If the key is absent or not a string.
    pub fn architecture(&self) -> Result<&str> {
        self.string("general.architecture")
            .ok_or_else(|| Error::malformed(&self.path, "metadata key `general.architecture` is missing"))
    }

    /// The entry of the file's architecture.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn entry(&self, path: &Path) -> Result<&'static Architecture> {
        let name = self.architecture()?;
        // llama.cpp converts Mixtral under the name of llama.
        let experts = self.integer(&format!("{name}.expert_count")).is_some_and(|count| count > 0);
        let entry = if name == "llama" && experts {
            architectures::by_model_type("mixtral")
        } else {
            architectures::by_gguf(name)
        };
        entry.ok_or_else(|| {
            Error::unsupported(
                path,
                format!("unknown GGUF architecture `{name}`; known: {}", architectures::known_gguf()),
            )
        })
    }

    /// Whether the file has a tensor of this name of its own.
    pub(crate) fn has_stored(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    /// The raw metadata.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// A string of the metadata.
    #[must_use]
    pub fn string(&self, key: &str) -> Option<&str> {
        match self.content.metadata.get(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// A non-negative integer of the metadata, whatever its width.
    #[must_use]
    pub fn integer(&self, key: &str) -> Option<usize> {
        integer(self.content.metadata.get(key)?)
    }

    /// A float of the metadata.
    #[must_use]
    pub fn float(&self, key: &str) -> Option<f64> {
        match self.content.metadata.get(key)? {
            // Written as f32: parse the shortest decimal form, so that 1e-5 is 1e-5.
            Value::F32(value) => value.to_string().parse().ok(),
            Value::F64(value) => Some(*value),
            _ => None,
        }
    }

    /// A boolean of the metadata.
    #[must_use]
    pub fn boolean(&self, key: &str) -> Option<bool> {
        match self.content.metadata.get(key) {
            Some(Value::Bool(value)) => Some(*value),
            _ => None,
        }
    }

    /// A list of the metadata.
    #[must_use]
    pub fn list(&self, key: &str) -> Option<&[Value]> {
        match self.content.metadata.get(key) {
            Some(Value::Array(values)) => Some(values),
            _ => None,
        }
    }

    /// The heads that row orders depend on.
    fn heads(&self) -> Result<Option<FileHeads>> {
        let architecture = self.architecture()?;
        let count = |key: &str| self.integer(&format!("{architecture}.attention.{key}"));
        let heads = count("head_count");
        Ok(heads.map(|heads| FileHeads { heads, kv_heads: count("head_count_kv").unwrap_or(heads) }))
    }
}

impl TensorSource for GgufFile {
    fn origin(&self) -> &Path {
        &self.path
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let stored = self.names.get(name)?;
        let mut shape = self.content.tensor_infos.get(stored)?.shape.dims().to_vec();
        if self.base && gguf_layout::is_turned(self.entry(&self.path).ok()?, stored) {
            shape.reverse();
        }
        Some(shape)
    }

    fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        let Some(stored) = self.names.get(name) else {
            return Err(Error::malformed(&self.path, format!("tensor `{name}` is missing")));
        };
        let quantized = self
            .content
            .tensor(&mut *self.reader.lock().unwrap_or_else(PoisonError::into_inner), stored, device)
            .map_err(|error| Error::malformed(&self.path, format!("tensor `{stored}`: {error}")))?;
        let tensor = quantized.dequantize(device)?;
        if !self.base {
            return Ok(tensor);
        }
        gguf_layout::restore(self.entry(&self.path)?, stored, tensor, self.heads()?)
            .map_err(|error| Error::malformed(&self.path, format!("tensor `{stored}`: {error}")))
    }

    fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }
}

/// Types of tensors that llama.cpp writes and that are not dequantised here, by their number in the file.
const OTHER_TYPES: &[(u32, &str)] = &[
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

/// Why a file's directory of tensors could not be read.
fn unreadable(path: &Path, reason: &str) -> Error {
    let number = reason.split("unknown dtype for tensor ").nth(1);
    let number =
        number.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok());
    let Some(number) = number else {
        return Error::malformed(path, format!("not a readable GGUF file: {reason}"));
    };
    let name = OTHER_TYPES.iter().find(|(other, _)| *other == number).map_or("unknown", |(_, name)| name);
    Error::unsupported(path, format!("a tensor of type {name} ({number})")).with_hint(
        "give a file with Q4_0 to Q8_0, Q2_K to Q6_K, F16, BF16 or F32, or a Hugging Face directory",
    )
}

/// A metadata number as usize.
pub(crate) fn integer(value: &Value) -> Option<usize> {
    match *value {
        Value::U8(n) => Some(n.into()),
        Value::U16(n) => Some(n.into()),
        Value::U32(n) => usize::try_from(n).ok(),
        Value::U64(n) => usize::try_from(n).ok(),
        Value::I8(n) => usize::try_from(n).ok(),
        Value::I16(n) => usize::try_from(n).ok(),
        Value::I32(n) => usize::try_from(n).ok(),
        Value::I64(n) => usize::try_from(n).ok(),
        _ => None,
    }
}
