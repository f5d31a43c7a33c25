//! A strict reader of one safetensors file, and the writer of our own.
//!
//! The header is parsed by us, so that duplicate names, holes, overlaps, trailing bytes and sizes
//! beyond the file are refused before anything is allocated; the tensor types are those of the
//! reference crate. Tensors are read one at a time by offset: memory stays at one tensor, and no
//! memory map (which another process could change under us) is needed.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use ::safetensors::tensor::{Dtype, TensorInfo, TensorView};
use candle_core::{DType, Device, Tensor};
use serde::de::{Deserializer, MapAccess, Visitor};

use super::TensorSource;
use crate::error::{Error, Result};

/// The reference implementation's own cap on the header.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// A tensor to be written: its name, its shape, and its values row by row in the file's type and order.
pub type Written = (String, Vec<usize>, Vec<u8>);

/// The bytes of a file of tensors of one type, with one entry of metadata, key and value: the order of several would not
/// be the same every time.
///
/// # Errors
/// If a tensor's bytes do not fit its shape.
pub fn to_bytes(dtype: Dtype, tensors: &[Written], (key, value): (&str, String)) -> Result<Vec<u8>> {
    let refused = |error| Error::Request(format!("the tensors cannot be written: {error}"));
    let mut views = Vec::with_capacity(tensors.len());
    for (name, shape, bytes) in tensors {
        views.push((name.as_str(), TensorView::new(dtype, shape.clone(), bytes).map_err(refused)?));
    }
    ::safetensors::serialize(views, Some(HashMap::from([(key.to_owned(), value)]))).map_err(refused)
}

/// An opened safetensors file whose header has been checked against its length.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    data_start: u64,
    tensors: BTreeMap<String, TensorInfo>,
}

impl SafetensorsFile {
    /// Opens a file and checks its header.
    ///
    /// # Errors
    /// If the file is not a regular file, is another format, or its header is inconsistent.
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
        if !metadata.is_file() {
            return Err(Error::malformed(path, "expected a regular file"));
        }
        let file_bytes = metadata.len();
        let mut file = File::open(path).map_err(Error::io(path))?;
        let mut start = [0u8; 8];
        let found = read_up_to(&mut file, &mut start).map_err(Error::io(path))?;
        refuse_other_formats(path, &start[..found])?;
        if found < 8 {
            return Err(Error::malformed(
                path,
                format!("expected a safetensors header, found a file of {file_bytes} bytes"),
            ));
        }
        let header_bytes = u64::from_le_bytes(start);
        if header_bytes > MAX_HEADER_BYTES || header_bytes > file_bytes - 8 {
            return Err(Error::malformed(
                path,
                format!(
                    "header length {header_bytes} exceeds the file ({file_bytes} bytes) or the limit of {MAX_HEADER_BYTES}"
                ),
            ));
        }
        let mut header = vec![0u8; header_bytes as usize];
        file.read_exact(&mut header).map_err(Error::io(path))?;
        let tensors = parse_header(&header).map_err(|reason| Error::malformed(path, reason))?;
        let data_start = 8 + header_bytes;
        check_layout(&tensors, file_bytes - data_start).map_err(|reason| {
            Error::malformed(path, reason).with_hint("the file is damaged or was cut off; download it again")
        })?;
        Ok(Self { path: path.to_owned(), data_start, tensors })
    }

    /// Names and layouts, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// Reads one tensor in the type that it is stored in.
    ///
    /// # Errors
    /// If there is no such tensor, or its type is unknown to the tensor library.
    pub fn load_stored(&self, name: &str, device: &Device) -> Result<Tensor> {
        let info = self
            .tensors
            .get(name)
            .ok_or_else(|| Error::malformed(&self.path, format!("tensor `{name}` is missing")))?;
        let dtype = DType::try_from(info.dtype).map_err(|_| {
            Error::unsupported(
                &self.path,
                format!("tensor `{name}` has type {:?}; expected F32, F16, BF16 or F64", info.dtype),
            )
        })?;
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0u8; end - start];
        let mut file = File::open(&self.path).map_err(Error::io(&self.path))?;
        file.seek(SeekFrom::Start(self.data_start + start as u64)).map_err(Error::io(&self.path))?;
        file.read_exact(&mut bytes).map_err(Error::io(&self.path))?;
        Ok(Tensor::from_raw_buffer(&bytes, dtype, &info.shape, device)?)
    }
}

impl TensorSource for SafetensorsFile {
    fn origin(&self) -> &Path {
        &self.path
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|info| info.shape.clone())
    }

    fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        Ok(self.load_stored(name, device)?.to_dtype(DType::F32)?)
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }
}

/// Names the format that the bytes really are, since a renamed pickle or a git-lfs pointer is the
/// usual reason that a "safetensors" file does not parse.
fn refuse_other_formats(path: &Path, start: &[u8]) -> Result<()> {
    if start.starts_with(b"PK\x03\x04") {
        return Err(Error::malformed(
            path,
            "found a zip archive (a PyTorch pickle checkpoint), expected safetensors",
        )
        .with_hint("pickles run code when they are loaded; ask the author for a safetensors file"));
    }
    if start.len() >= 2 && start[0] == 0x80 && (2..=5).contains(&start[1]) {
        return Err(Error::malformed(path, "found a Python pickle, expected safetensors")
            .with_hint("pickles run code when they are loaded; ask the author for a safetensors file"));
    }
    if start.starts_with(b"version ") {
        return Err(Error::malformed(path, "found a git-lfs pointer, expected the weights themselves")
            .with_hint("run `git lfs pull` in the repository"));
    }
    if start.starts_with(b"GGUF") {
        return Err(Error::malformed(path, "found a GGUF file, expected safetensors"));
    }
    Ok(())
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

/// Parses the JSON header, refusing duplicate names (which parsers resolve differently).
fn parse_header(bytes: &[u8]) -> Result<BTreeMap<String, TensorInfo>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "the header is not UTF-8".to_owned())?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let tensors = deserializer
        .deserialize_map(HeaderVisitor)
        .map_err(|error| format!("the header is not a safetensors header: {error}"))?;
    deserializer.end().map_err(|error| format!("the header has trailing content: {error}"))?;
    Ok(tensors)
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = BTreeMap<String, TensorInfo>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut tensors = BTreeMap::new();
        let mut has_metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            let duplicate = if name == "__metadata__" {
                map.next_value::<BTreeMap<String, String>>()?;
                std::mem::replace(&mut has_metadata, true)
            } else {
                let info = map.next_value::<TensorInfo>()?;
                tensors.insert(name.clone(), info).is_some()
            };
            if duplicate {
                return Err(serde::de::Error::custom(format!("duplicate entry `{name}`")));
            }
        }
        Ok(tensors)
    }
}

/// The tensors must tile the data section exactly: no hole, no overlap, nothing after the end.
fn check_layout(tensors: &BTreeMap<String, TensorInfo>, data_bytes: u64) -> Result<(), String> {
    let mut by_offset: Vec<_> = tensors.iter().collect();
    by_offset.sort_by_key(|(_, info)| info.data_offsets);
    let mut expected_start = 0usize;
    for (name, info) in by_offset {
        let (start, end) = info.data_offsets;
        if start != expected_start || end < start {
            let what = if start > expected_start { "a hole" } else { "an overlap" };
            return Err(format!(
                "{what} before tensor `{name}`: expected its data at offset {expected_start}, found {start}..{end}"
            ));
        }
        let bytes = info
            .shape
            .iter()
            .try_fold(1usize, |product, &dim| product.checked_mul(dim))
            .and_then(|elements| elements.checked_mul(info.dtype.bitsize()))
            .map(|bits| bits / 8)
            .ok_or_else(|| format!("the size of tensor `{name}` overflows (shape {:?})", info.shape))?;
        if bytes != end - start {
            return Err(format!(
                "tensor `{name}` of shape {:?} and type {:?} needs {bytes} bytes, its offsets give {}",
                info.shape,
                info.dtype,
                end - start
            ));
        }
        expected_start = end;
    }
    if expected_start as u64 != data_bytes {
        let what = if (expected_start as u64) > data_bytes { "truncated" } else { "trailing bytes" };
        return Err(format!(
            "{what}: the header describes {expected_start} bytes of data, the file has {data_bytes}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(header: &str, data: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    fn reason(header: &str, data: &[u8]) -> String {
        SafetensorsFile::open(write(header, data).path()).unwrap_err().to_string()
    }

    #[test]
    fn reads_what_the_header_says() {
        let data: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let file = write(
            r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#,
            &data,
        );
        let tensor = SafetensorsFile::open(file.path()).unwrap().load("a", &Device::Cpu).unwrap();
        assert_eq!(tensor.to_vec2::<f32>().unwrap(), [[1.0, 2.0], [3.0, 4.0]]);
    }

    #[test]
    fn every_inconsistency_has_its_own_words() {
        let tensor = |range: &str| format!(r#"{{"dtype":"F32","shape":[1],"data_offsets":{range}}}"#);
        let two = |a: &str, b: &str| format!(r#"{{"a":{},"b":{}}}"#, tensor(a), tensor(b));
        assert!(reason(&two("[0,4]", "[8,12]"), &[0; 12]).contains("a hole before tensor `b`"));
        assert!(reason(&two("[0,4]", "[2,6]"), &[0; 6]).contains("an overlap"));
        assert!(reason(&two("[0,4]", "[4,8]"), &[0; 6]).contains("truncated"));
        assert!(reason(&two("[0,4]", "[4,8]"), &[0; 9]).contains("trailing bytes"));
        let twice = format!(r#"{{"a":{},"a":{}}}"#, tensor("[0,4]"), tensor("[4,8]"));
        assert!(reason(&twice, &[0; 8]).contains("duplicate entry `a`"));
        let huge = r#"{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,4]}}"#;
        assert!(reason(huge, &[0; 4]).contains("overflows"));
        let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(50_000), "]".repeat(50_000));
        assert!(reason(&deep, &[]).contains("not a safetensors header"));
    }

    proptest::proptest! {
        /// Whatever the bytes are, the answer is a value or an error, never a panic.
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..256)) {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &bytes).unwrap();
            let _ = SafetensorsFile::open(file.path());
        }

        #[test]
        fn arbitrary_headers_never_panic(header in "\\{\"a\":\\{\"dtype\":\"F(32|16)\",\"shape\":\\[[0-9]{0,20}\\],\"data_offsets\":\\[[0-9]{1,20},[0-9]{1,20}\\]\\}\\}") {
            let _ = SafetensorsFile::open(write(&header, &[0; 8]).path());
        }
    }
}
