//! Named tensors from files, behind one boundary: bytes go in, checked tensors come out.
//!
//! [`safetensors`] parses single files strictly, [`torch`] state dicts of `torch.save` without running them, [`directory`] opens a Hugging Face model
//! directory (single or sharded), [`gguf`] a GGUF file whose names and row order it translates to
//! those of the directory. The decoder sees only [`TensorSource`].

pub mod cache;
pub mod digest;
pub mod directory;
pub mod gguf;
pub(crate) mod gguf_layout;
pub mod json;
pub mod safetensors;
pub mod torch;
mod unpickle;

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};

/// A set of named f32-convertible tensors under Hugging Face names
/// (`model.layers.0.self_attn.q_proj.weight`).
pub trait TensorSource: Send + Sync {
    /// Where the tensors come from, for error messages.
    fn origin(&self) -> &Path;
    /// The shape of a tensor, or `None` if there is no tensor of that name.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;
    /// Reads one tensor and widens it to f32 on the device.
    ///
    /// # Errors
    /// If the tensor is absent, unreadable or of a type that has no f32 form.
    fn load(&self, name: &str, device: &Device) -> Result<Tensor>;
    /// All names, sorted.
    fn names(&self) -> Vec<String>;
}

/// Reads one tensor of which every value must be finite, f32 on the CPU.
///
/// # Errors
/// As [`TensorSource::load`], or if a value is not.
pub(crate) fn load_finite(source: &dyn TensorSource, name: &str) -> Result<Tensor> {
    let tensor = source.load(name, &Device::Cpu)?.to_dtype(DType::F32)?;
    let bad = tensor.flatten_all()?.to_vec1::<f32>()?.iter().filter(|value| !value.is_finite()).count();
    if bad == 0 {
        return Ok(tensor);
    }
    Err(Error::malformed(
        source.origin(),
        format!("tensor `{name}`: {bad} of {} values are NaN or infinite", tensor.elem_count()),
    )
    .with_hint("every output of such a model is NaN, so nothing can be measured"))
}
