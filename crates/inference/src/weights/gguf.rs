//! A GGUF file as a base model: dequantised at load, under Hugging Face names and row order.
//!
//! llama.cpp's converter permutes the q and k rows of llama-type models for its interleaved
//! rotary embedding; they are un-permuted here so that one half-split decoder serves both formats
//! and PEFT adapters fit.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{Device, Tensor};

use super::TensorSource;
use crate::decoder::config::DecoderConfig;
use crate::error::{Error, Result};

/// Tensor names: GGUF part, Hugging Face part. `{}` is the layer.
const LAYER_NAMES: &[(&str, &str)] = &[
    ("attn_norm.weight", "input_layernorm.weight"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_q.bias", "self_attn.q_proj.bias"),
    ("attn_k.weight", "self_attn.k_proj.weight"),
    ("attn_k.bias", "self_attn.k_proj.bias"),
    ("attn_v.weight", "self_attn.v_proj.weight"),
    ("attn_v.bias", "self_attn.v_proj.bias"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("attn_output.bias", "self_attn.o_proj.bias"),
    ("ffn_norm.weight", "post_attention_layernorm.weight"),
    ("ffn_gate.weight", "mlp.gate_proj.weight"),
    ("ffn_gate.bias", "mlp.gate_proj.bias"),
    ("ffn_up.weight", "mlp.up_proj.weight"),
    ("ffn_up.bias", "mlp.up_proj.bias"),
    ("ffn_down.weight", "mlp.down_proj.weight"),
    ("ffn_down.bias", "mlp.down_proj.bias"),
];

const GLOBAL_NAMES: &[(&str, &str)] = &[
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
    ("rope_freqs.weight", ROPE_FACTORS),
];

/// The name under which llama.cpp's per-frequency divisors of llama3 rope scaling appear.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";

/// An opened GGUF file.
pub struct GgufFile {
    path: PathBuf,
    content: Content,
    reader: Mutex<BufReader<File>>,
    /// Hugging Face name -> GGUF name.
    names: BTreeMap<String, String>,
    /// Whether its tensors are a base's, whose q and k rows may be permuted as its metadata says.
    base: bool,
}

impl GgufFile {
    /// Opens a file and reads its metadata and tensor directory.
    ///
    /// # Errors
    /// If the file is not GGUF, or holds a tensor whose name has no counterpart.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = Self::open_adapter(path)?;
        let mut names = BTreeMap::new();
        for name in file.content.tensor_infos.keys() {
            let translated = translate(name)
                .ok_or_else(|| Error::unsupported(path, format!("unknown tensor `{name}`")))?;
            names.insert(translated, name.clone());
        }
        (file.names, file.base) = (names, true);
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
        let content = Content::read(&mut reader)
            .map_err(|error| Error::malformed(path, format!("not a readable GGUF file: {error}")))?;
        let names = content.tensor_infos.keys().map(|name| (name.clone(), name.clone())).collect();
        Ok(Self { path: path.to_owned(), content, reader: Mutex::new(reader), names, base: false })
    }

    /// `general.architecture`, such as `llama` or `qwen2`.
    ///
    /// # Errors
    /// If the key is absent or not a string.
    pub fn architecture(&self) -> Result<&str> {
        self.string("general.architecture")
            .ok_or_else(|| Error::malformed(&self.path, "metadata key `general.architecture` is missing"))
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

    /// Names of the tensors as the file has them, sorted.
    pub(crate) fn stored_names(&self) -> Vec<String> {
        self.names.values().cloned().collect()
    }

    /// The same as for a base's tensor of this name, the heads being the base's: an adapter's file does not say them.
    pub(crate) fn permuted_heads_of(&self, name: &str, base: &DecoderConfig) -> Result<Option<usize>> {
        if self.architecture()? != "llama" {
            return Ok(None);
        }
        Ok(if name.contains(".attn_q.") {
            Some(base.heads)
        } else if name.contains(".attn_k.") {
            Some(base.kv_heads)
        } else {
            None
        })
    }

    /// Number of attention heads whose rows the converter permuted in this tensor.
    fn permuted_heads(&self, name: &str) -> Result<Option<usize>> {
        let key = if name.contains(".attn_q.") {
            "attention.head_count"
        } else if name.contains(".attn_k.") {
            "attention.head_count_kv"
        } else {
            return Ok(None);
        };
        let architecture = self.architecture()?;
        if architecture != "llama" {
            return Ok(None);
        }
        let heads = self
            .integer(&format!("{architecture}.{key}"))
            .or_else(|| self.integer(&format!("{architecture}.attention.head_count")));
        heads.map(Some).ok_or_else(|| {
            Error::malformed(&self.path, format!("metadata key `{architecture}.{key}` is missing"))
        })
    }
}

impl TensorSource for GgufFile {
    fn origin(&self) -> &Path {
        &self.path
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let info = self.content.tensor_infos.get(self.names.get(name)?)?;
        Some(info.shape.dims().to_vec())
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
        let permuted = if self.base { self.permuted_heads(stored)? } else { None };
        match permuted {
            Some(heads) => unpermute(&tensor, heads)
                .map_err(|error| Error::malformed(&self.path, format!("tensor `{stored}`: {error}"))),
            None => Ok(tensor),
        }
    }

    fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }
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

pub(crate) fn translate(name: &str) -> Option<String> {
    if let Some((_, hf)) = GLOBAL_NAMES.iter().find(|(gguf, _)| *gguf == name) {
        return Some((*hf).to_owned());
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (_, hf) = LAYER_NAMES.iter().find(|(gguf, _)| *gguf == part)?;
    Some(format!("model.layers.{layer}.{hf}"))
}

/// Inverse of the converter's row order: within each head, rows alternate between the two halves
/// of the rotary pair (`[heads, d/2, 2]`); half-split order is `[heads, 2, d/2]`.
pub(crate) fn unpermute(tensor: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let shape = tensor.dims().to_vec();
    let rows = shape[0];
    if heads == 0 || !rows.is_multiple_of(2 * heads) {
        candle_core::bail!("{rows} rows do not split into {heads} heads of an even size");
    }
    let width: usize = shape[1..].iter().product();
    tensor.reshape((heads, rows / heads / 2, 2, width))?.transpose(1, 2)?.contiguous()?.reshape(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpermute_inverts_the_converter() {
        // One head of four rows: half-split rows 0 1 | 2 3 are stored interleaved as 0 2 1 3.
        let stored = Tensor::new(&[[0f32], [2.], [1.], [3.]], &Device::Cpu).unwrap();
        let rows = unpermute(&stored, 1).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(rows, [[0.], [1.], [2.], [3.]]);
        assert!(unpermute(&stored, 3).is_err());
    }

    #[test]
    fn names_translate() {
        assert_eq!(translate("blk.12.attn_q.weight").unwrap(), "model.layers.12.self_attn.q_proj.weight");
        assert_eq!(translate("token_embd.weight").unwrap(), "model.embed_tokens.weight");
        assert_eq!(translate("blk.0.attn_unknown.weight"), None);
    }
}
