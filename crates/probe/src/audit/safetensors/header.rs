//! The header of a safetensors file, read more strictly than loaders do: everything that is wrong is listed, and what
//! can be used is kept.

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

use crate::audit::limits;

/// A tensor as the header describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its name.
    pub(crate) name: String,
    /// Its element type.
    pub(crate) dtype: &'static Dtype,
    /// Its shape.
    pub(crate) shape: Vec<u64>,
    /// Its bytes, relative to the start of the data.
    pub(crate) start: u64,
    /// End of these.
    pub(crate) end: u64,
}

/// An element type of the format.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Dtype {
    pub(crate) name: &'static str,
    pub(crate) bits: u64,
}

/// Every element type of the reference implementation (safetensors 0.8).
const DTYPES: &[Dtype] = &[
    Dtype { name: "BOOL", bits: 8 },
    Dtype { name: "F4", bits: 4 },
    Dtype { name: "F6_E2M3", bits: 6 },
    Dtype { name: "F6_E3M2", bits: 6 },
    Dtype { name: "U8", bits: 8 },
    Dtype { name: "I8", bits: 8 },
    Dtype { name: "F8_E5M2", bits: 8 },
    Dtype { name: "F8_E4M3", bits: 8 },
    Dtype { name: "F8_E5M2FNUZ", bits: 8 },
    Dtype { name: "F8_E4M3FNUZ", bits: 8 },
    Dtype { name: "F8_E8M0", bits: 8 },
    Dtype { name: "I16", bits: 16 },
    Dtype { name: "U16", bits: 16 },
    Dtype { name: "F16", bits: 16 },
    Dtype { name: "BF16", bits: 16 },
    Dtype { name: "I32", bits: 32 },
    Dtype { name: "U32", bits: 32 },
    Dtype { name: "F32", bits: 32 },
    Dtype { name: "C64", bits: 64 },
    Dtype { name: "F64", bits: 64 },
    Dtype { name: "I64", bits: 64 },
    Dtype { name: "U64", bits: 64 },
];

/// What is wrong with a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Its length does not fit the file or the format's limit.
    Length(String),
    /// The header is longer than what is parsed.
    NotInMemory,
    /// It is no JSON object as the format wants it.
    Syntax(String),
    /// One name twice.
    Duplicate(String),
    /// A shape or offsets that cannot be.
    Layout { tensor: String, what: String },
    /// An element type that the format does not have.
    Dtype { tensor: String, dtype: String },
    /// Metadata that is no text.
    Metadata { key: String, what: String },
}

/// A header.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Header {
    /// Tensors by the start of their data.
    pub(crate) entries: Vec<Entry>,
    /// `__metadata__`, texts only.
    pub(crate) metadata: Vec<(String, String)>,
    /// Where the data begins in the file.
    pub(crate) data_start: u64,
    /// Bytes of data in the file.
    pub(crate) data_bytes: u64,
    /// What is wrong.
    pub(crate) faults: Vec<Fault>,
}

/// An object with its keys in order, twice where they stand twice.
struct Pairs(Vec<(String, Value)>);

/// Reads the header of a file of `size` bytes, of which `bytes` may be the head.
pub(crate) fn read(bytes: &[u8], size: u64) -> Header {
    let mut header = Header::default();
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        header.faults.push(Fault::Length(format!("expected at least 8 bytes, found {size}")));
        return header;
    };
    let length = u64::from_le_bytes(*length);
    let available = size.saturating_sub(8);
    if length > limits::SAFETENSORS_HEADER_BYTES || length > available {
        let expected = available.min(limits::SAFETENSORS_HEADER_BYTES);
        header.faults.push(Fault::Length(format!(
            "expected a header of at most {expected} bytes, found a length of {length}"
        )));
        return header;
    }
    header.data_start = 8 + length;
    header.data_bytes = size - header.data_start;
    let parsed = rest.get(..length as usize).filter(|_| length <= limits::SAFETENSORS_PARSED_BYTES);
    let Some(text) = parsed else {
        header.faults.push(Fault::NotInMemory);
        return header;
    };
    if text.first() != Some(&b'{') {
        header.faults.push(Fault::Syntax("expected it to begin with `{`".into()));
    }
    match serde_json::from_slice::<Pairs>(text) {
        Ok(pairs) => header.take(pairs),
        Err(error) => header.faults.push(Fault::Syntax(format!("expected a JSON object: {error}"))),
    }
    header.entries.sort_by(|a, b| (a.start, a.end, &a.name).cmp(&(b.start, b.end, &b.name)));
    header
}

impl Header {
    fn take(&mut self, pairs: Pairs) {
        let mut names = std::collections::BTreeSet::new();
        for (name, value) in pairs.0 {
            if !names.insert(name.clone()) {
                self.faults.push(Fault::Duplicate(name.clone()));
            }
            if name == "__metadata__" {
                self.take_metadata(value);
            } else {
                match entry(&name, &value) {
                    Ok(entry) => self.entries.push(entry),
                    Err(fault) => self.faults.push(fault),
                }
            }
        }
    }

    fn take_metadata(&mut self, value: Value) {
        let Value::Object(map) = value else {
            let what = format!("expected an object, found {}", kind_name(&value));
            self.faults.push(Fault::Metadata { key: "__metadata__".into(), what });
            return;
        };
        for (key, value) in map {
            match value {
                Value::String(text) => self.metadata.push((key, text)),
                other => {
                    let what = format!("expected text, found {}", kind_name(&other));
                    self.faults.push(Fault::Metadata { key, what });
                }
            }
        }
    }
}

fn kind_name(value: &Value) -> &'static str {
    inference::weights::json::kind(value)
}

fn entry(name: &str, value: &Value) -> Result<Entry, Fault> {
    let layout = |what: &str| Fault::Layout { tensor: name.to_owned(), what: what.to_owned() };
    let object =
        value.as_object().ok_or_else(|| layout("expected an object with dtype, shape and offsets"))?;
    let dtype = object.get("dtype").and_then(Value::as_str).ok_or_else(|| layout("expected a dtype"))?;
    let dtype = DTYPES
        .iter()
        .find(|known| known.name == dtype)
        .ok_or_else(|| Fault::Dtype { tensor: name.to_owned(), dtype: dtype.to_owned() })?;
    let naturals =
        |key: &str| -> Option<Vec<u64>> { object.get(key)?.as_array()?.iter().map(Value::as_u64).collect() };
    let shape = naturals("shape").ok_or_else(|| layout("expected a shape of non-negative integers"))?;
    let offsets =
        naturals("data_offsets").ok_or_else(|| layout("expected two non-negative integers as offsets"))?;
    let [start, end] = offsets[..] else {
        return Err(layout("expected two offsets"));
    };
    if object.len() > 3 {
        return Err(layout("it has more keys than dtype, shape and data_offsets"));
    }
    if start > end {
        return Err(layout("its data ends before it starts"));
    }
    let bits = shape
        .iter()
        .try_fold(1u64, |product, side| product.checked_mul(*side))
        .and_then(|count| count.checked_mul(dtype.bits))
        .ok_or_else(|| layout("its shape has more elements than can be counted"))?;
    if bits.div_ceil(8) != end - start {
        let what = format!(
            "expected {} bytes for {} of shape {shape:?}, found {}",
            bits.div_ceil(8),
            dtype.name,
            end - start
        );
        return Err(layout(&what));
    }
    Ok(Entry { name: name.to_owned(), dtype, shape, start, end })
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Pairs;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}
