//! Reading small JSON files from strangers: regular files only, bounded size, UTF-8, an object.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Configs of real models and adapters are a few KiB; a tokenizer reaches some MiB.
const MAX_BYTES: u64 = 64 << 20;

/// Reads a whole regular file of at most `limit` bytes.
///
/// # Errors
/// If it is absent, not a regular file (a FIFO would hang the reader), or too long.
pub fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
    if !metadata.is_file() {
        return Err(Error::malformed(path, "expected a regular file"));
    }
    if metadata.len() > limit {
        return Err(Error::malformed(
            path,
            format!("expected at most {limit} bytes, found {}", metadata.len()),
        ));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    let file = File::open(path).map_err(Error::io(path))?;
    file.take(limit).read_to_end(&mut bytes).map_err(Error::io(path))?;
    Ok(bytes)
}

/// Reads a text file in UTF-8.
///
/// # Errors
/// As [`read_bounded`], and if the bytes are not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read_bounded(path, MAX_BYTES)?).map_err(|error| {
        Error::malformed(path, format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to()))
            .with_hint("save the file as UTF-8 without a byte-order mark")
    })
}

/// Reads a JSON object, keeping the order of its keys.
///
/// # Errors
/// As [`read_text`], and if the text is not JSON, nests deeper than serde_json's limit of 128, or
/// is not an object.
pub fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let text = read_text(path)?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(Error::malformed(path, format!("expected a JSON object, found {}", kind(&other)))),
        Err(error) => Err(Error::malformed(path, format!("not valid JSON: {error}"))),
    }
}

/// The JSON type of a value, as users call it.
#[must_use]
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
