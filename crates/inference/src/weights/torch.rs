//! A state dict as `torch.save` writes it: a zip archive of one pickle and the raw numbers of its tensors.
//!
//! Only the pickle's description of tensors is read ([`super::unpickle`]); the numbers are read by offset, as much as a
//! tensor's shape says and the archive has, never more.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use zip::ZipArchive;

use super::TensorSource;
use super::unpickle::{Shared, Value, unpickle};
use crate::error::{Error, Result};

/// The largest pickle that is read: it holds names and shapes, not numbers.
const MAX_PICKLE_BYTES: u64 = 64 << 20;

/// An opened state dict.
pub struct StateDict {
    path: PathBuf,
    archive: Mutex<ZipArchive<BufReader<File>>>,
    tensors: BTreeMap<String, Stored>,
}

/// Where a tensor lies.
#[derive(Debug)]
struct Stored {
    entry: String,
    dtype: DType,
    shape: Vec<usize>,
    first: usize,
}

impl StateDict {
    /// Opens a file and reads what tensors it has.
    ///
    /// # Errors
    /// If it is no archive of `torch.save`, its pickle is more than a dictionary of tensors, or a tensor lies outside.
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
        if !metadata.is_file() {
            return Err(Error::malformed(path, "expected a regular file"));
        }
        let file = BufReader::new(File::open(path).map_err(Error::io(path))?);
        let broken = |reason: String| Error::malformed(path, reason);
        let mut archive = ZipArchive::new(file).map_err(|error| {
            broken(format!("expected a zip archive as torch.save writes it: {error}"))
                .with_hint("files of torch before 1.6 are bare pickles; convert them to safetensors")
        })?;
        let pickles: Vec<String> = archive
            .file_names()
            .filter_map(|name| name.ok())
            .filter(|name| name.ends_with("/data.pkl"))
            .map(|name| name.into_owned())
            .collect();
        let [pickle] = &pickles[..] else {
            return Err(broken(format!("expected one `data.pkl` in the archive, found {}", pickles.len())));
        };
        let folder = pickle.trim_end_matches("data.pkl").to_owned();
        let mut bytes = Vec::new();
        let entry = archive.by_name(pickle).map_err(|error| broken(error.to_string()))?;
        if entry.size() > MAX_PICKLE_BYTES {
            return Err(broken(format!(
                "the pickle has {} bytes; expected at most {MAX_PICKLE_BYTES}",
                entry.size()
            )));
        }
        entry.take(MAX_PICKLE_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
        let refused = |reason: String| {
            Error::unsupported(path, format!("the pickle is no plain state dict: {reason}"))
                .with_hint("it was not run; ask the author for safetensors")
        };
        let state = unpickle(&bytes).map_err(refused)?;
        let Value::Dict(entries) = &*state.value else {
            return Err(refused("expected a dictionary of tensors".into()));
        };
        let mut tensors = BTreeMap::new();
        for (key, value) in entries {
            let Value::Text(name) = &*key.value else {
                return Err(refused("a key that is no text".into()));
            };
            let stored =
                stored(value, &folder).ok_or_else(|| refused(format!("`{name}` is no contiguous tensor")))?;
            let size = archive
                .by_name(&stored.entry)
                .map_err(|_| broken(format!("tensor `{name}`: `{}` is missing", stored.entry)))?;
            // torch stores numbers as they are; what is compressed could be a bomb.
            let (held, raw) = (size.size(), size.compressed_size());
            if held != raw || stored.end().is_none_or(|end| end as u64 > held) {
                return Err(broken(format!(
                    "tensor `{name}` of shape {:?} lies outside its {held} bytes",
                    stored.shape
                )));
            }
            drop(size);
            if tensors.insert(name.clone(), stored).is_some() {
                return Err(broken(format!("two tensors have the name `{name}`")));
            }
        }
        Ok(Self { path: path.to_owned(), archive: Mutex::new(archive), tensors })
    }
}

impl Stored {
    /// The byte after its last.
    fn end(&self) -> Option<usize> {
        let elements = self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        self.first.checked_add(elements)?.checked_mul(self.dtype.size_in_bytes())
    }
}

/// Reads `_rebuild_tensor_v2(('storage', type, key, device, n), offset, size, stride, ...)`, within a parameter or not.
fn stored(value: &Shared, folder: &str) -> Option<Stored> {
    let Value::Call(callable, arguments) = &*value.value else { return None };
    let (Value::Global(name), Value::List(arguments)) = (&*callable.value, &*arguments.value) else {
        return None;
    };
    if name.ends_with("_rebuild_parameter") {
        return stored(arguments.first()?, folder);
    }
    let [storage, offset, size, stride, ..] = &arguments[..] else { return None };
    let Value::Persistent(id) = &*storage.value else { return None };
    let Value::List(id) = &*id.value else { return None };
    let (Value::Global(kind), Value::Text(key)) = (&*id.get(1)?.value, &*id.get(2)?.value) else {
        return None;
    };
    let dtype = match kind.as_str() {
        "torch FloatStorage" => DType::F32,
        "torch HalfStorage" => DType::F16,
        "torch BFloat16Storage" => DType::BF16,
        "torch DoubleStorage" => DType::F64,
        _ => return None,
    };
    let numbers = |list: &Shared| -> Option<Vec<usize>> {
        let Value::List(items) = &*list.value else { return None };
        items.iter().map(number).collect()
    };
    let (shape, stride) = (numbers(size)?, numbers(stride)?);
    let mut expected = 1usize;
    for (&length, &step) in shape.iter().zip(&stride).rev() {
        if length > 1 && step != expected {
            return None;
        }
        expected = expected.checked_mul(length)?;
    }
    (shape.len() == stride.len()).then_some(())?;
    Some(Stored { entry: format!("{folder}data/{key}"), dtype, shape, first: number(offset)? })
}

fn number(value: &Shared) -> Option<usize> {
    match &*value.value {
        Value::Int(n) => usize::try_from(*n).ok(),
        _ => None,
    }
}

impl TensorSource for StateDict {
    fn origin(&self) -> &Path {
        &self.path
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|stored| stored.shape.clone())
    }

    fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        let stored = self
            .tensors
            .get(name)
            .ok_or_else(|| Error::malformed(&self.path, format!("tensor `{name}` is missing")))?;
        let mut archive = self.archive.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = archive
            .by_name(&stored.entry)
            .map_err(|error| Error::malformed(&self.path, format!("tensor `{name}`: {error}")))?;
        let first = stored.first * stored.dtype.size_in_bytes();
        let end = stored.end().unwrap_or(first);
        let mut bytes = Vec::new();
        entry.take(end as u64).read_to_end(&mut bytes).map_err(Error::io(&self.path))?;
        if bytes.len() != end {
            return Err(Error::malformed(&self.path, format!("tensor `{name}` is cut off")));
        }
        let tensor = Tensor::from_raw_buffer(&bytes[first..], stored.dtype, &stored.shape, device)?;
        Ok(tensor.to_dtype(DType::F32)?)
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }
}
