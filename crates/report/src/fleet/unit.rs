//! A unit of work by everything that decides its result.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::record::{FileDigest, Tool};

/// Everything that decides a result, by content: no path, no name of an adapter, no host, no time. Adapters with the same
/// bytes are one unit whatever they are called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Version of records, in which the result is written.
    pub record_version: String,
    /// The program.
    pub tool: Tool,
    /// The adapter.
    pub adapter: Manifest,
    /// The base model.
    pub base: Manifest,
    /// Suites with their SHA-256.
    pub suites: BTreeMap<String, String>,
    /// Arguments, defaults included; files by their digest.
    pub arguments: BTreeMap<String, String>,
}

/// What a model or an adapter consists of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Its regular files, by path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileDigest>,
    /// Paths of what is no regular file, such as links that lead elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other: Vec<String>,
    /// Why it could not be read, with what it was called. Such a unit has an error for its result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

impl Manifest {
    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
    }

    /// A name by content, for records: what an adapter is called on one machine is not in its result.
    #[must_use]
    pub fn name(&self) -> String {
        let digest = digest(&serde_json::to_value(self).unwrap_or_default());
        format!("sha256:{}", &digest[..16])
    }
}

impl Identity {
    /// The unit's id: SHA-256 of the canonical JSON of everything here (keys sorted, no white space), lower-case hex.
    #[must_use]
    pub fn unit(&self) -> String {
        // Strings, integers and maps of strings, which always serialize.
        digest(&serde_json::to_value(self).unwrap_or_default())
    }
}

/// SHA-256 of bytes, lower-case hex.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a text is a SHA-256 as ids and file names have it.
#[must_use]
pub fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn digest(value: &Value) -> String {
    sha256(sorted(value).to_string().as_bytes())
}

/// The same value with the keys of every object in order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let ordered: BTreeMap<&String, &Value> = object.iter().collect();
            Value::Object(ordered.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect())
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_keys_decides_nothing() {
        let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let one = value(r#"{"b": [{"y": 1, "x": "é"}], "a": null}"#);
        assert_eq!(sorted(&one).to_string(), r#"{"a":null,"b":[{"x":"é","y":1}]}"#);
        assert_eq!(digest(&one), digest(&value(r#"{"a":null,"b":[{"x":"é","y":1}]}"#)));
        // `printf '{"a":null,"b":[{"x":"é","y":1}]}' | sha256sum`
        assert_eq!(digest(&one), "9cf1061721c9e68a9cb1f75daabb854fcf5d96b2b2ee7697bdf60cc48285fbd9");
    }
}
