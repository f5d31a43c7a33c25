//! Typed access to the object of `adapter_config.json`, with errors that name the key.

use std::path::Path;

use fancy_regex::Regex;
use serde_json::{Map, Value};

use super::Layers;
use crate::adapter::target;
use crate::error::{Error, Result};

const MAX_RANK: u64 = 1 << 16;

pub(super) struct Fields<'a> {
    pub(super) path: &'a Path,
    pub(super) object: &'a Map<String, Value>,
    /// The base's `model_type`.
    pub(super) model_type: &'a str,
}

impl Fields<'_> {
    /// The value of a key, unless it is absent or null.
    pub(super) fn present(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn flag(&self, key: &str) -> Result<bool> {
        match self.present(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.wrong(key, "a boolean")),
        }
    }

    /// A list of names; empty if it is absent.
    pub(super) fn names(&self, key: &str) -> Result<Vec<String>> {
        let Some(value) = self.present(key) else { return Ok(Vec::new()) };
        let names = match value {
            Value::String(name) => Some(vec![name.clone()]),
            Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            _ => None,
        };
        names.ok_or_else(|| self.wrong(key, "a list of names"))
    }

    pub(super) fn pattern<T>(
        &self,
        key: &str,
        parse: impl Fn(&Value) -> Result<T>,
    ) -> Result<Vec<(Regex, T)>> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Object(map)) => map
                .iter()
                .map(|(pattern, value)| {
                    let regex = target::compile_pattern_key(self.path, key, pattern)?;
                    // A probe of a typical length brings a runaway pattern to light here.
                    target::is_match(self.path, &regex, "model.layers.10.self_attn.q_proj")?;
                    Ok((regex, parse(value)?))
                })
                .collect(),
            Some(_) => Err(self.wrong(key, "an object")),
        }
    }

    pub(super) fn layers(&self) -> Result<Option<Layers>> {
        let indices = match self.object.get("layers_to_transform") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(items)) => items.iter().map(Value::as_u64).collect::<Option<Vec<_>>>(),
            Some(value) => value.as_u64().map(|index| vec![index]),
        }
        .ok_or_else(|| self.wrong("layers_to_transform", "layer indices"))?;
        let names = self.names("layers_pattern")?;
        let anchored = if names.is_empty() {
            vec![r"\A.*?\.[^.]*\.(\d+)\.".to_owned()]
        } else {
            names.iter().map(|name| format!(r"\A(?:|.*?\.){name}\.(\d+)\.")).collect()
        };
        let patterns = anchored
            .iter()
            .map(|pattern| target::compile(self.path, "layers_pattern", pattern, pattern))
            .collect::<Result<Vec<_>>>()?;
        Ok(Some(Layers { indices, patterns }))
    }

    /// `trainable_token_indices`: a list for the input embedding, or lists by module; by module name.
    pub(super) fn token_indices(&self) -> Result<Vec<(String, Vec<u32>)>> {
        const KEY: &str = "trainable_token_indices";
        let list = |value: &Value| -> Result<Vec<u32>> {
            let ids = value.as_array().and_then(|items| {
                items.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
            });
            ids.ok_or_else(|| self.wrong(KEY, "token indices"))
        };
        match self.present(KEY) {
            None => Ok(Vec::new()),
            Some(Value::Object(map)) => {
                map.iter().map(|(module, value)| Ok((module.clone(), list(value)?))).collect()
            }
            Some(value) => Ok(vec![("embed_tokens".to_owned(), list(value)?)]),
        }
    }

    /// `layer_replication`: ranges of layers, one after the other; the layers in their new order.
    pub(super) fn replication(&self) -> Result<Option<Vec<usize>>> {
        const KEY: &str = "layer_replication";
        // More than any decoder may have, so that a range cannot be made into a list of absurd length.
        const MOST: usize = 1 << 12;
        let Some(value) = self.present(KEY) else { return Ok(None) };
        let wrong = || self.wrong(KEY, "pairs of layer indices");
        let mut layers = Vec::new();
        for range in value.as_array().ok_or_else(wrong)? {
            let ends: Option<Vec<usize>> = range.as_array().and_then(|ends| {
                ends.iter().map(|end| end.as_u64().and_then(|end| usize::try_from(end).ok())).collect()
            });
            match ends.as_deref() {
                Some(&[start, end]) if start < end && end - start <= MOST && layers.len() <= MOST => {
                    layers.extend(start..end);
                }
                _ => return Err(wrong()),
            }
        }
        Ok(if layers.is_empty() { None } else { Some(layers) })
    }

    pub(super) fn rank_value(&self, key: &str, value: &Value) -> Result<usize> {
        value.as_u64().filter(|&r| r > 0 && r <= MAX_RANK).and_then(|r| usize::try_from(r).ok()).ok_or_else(
            || {
                Error::malformed(
                    self.path,
                    format!("expected a positive rank in `{key}`, found {}", shorten(value)),
                )
            },
        )
    }

    pub(super) fn alpha_value(&self, key: &str, value: &Value) -> Result<f64> {
        value.as_f64().filter(|alpha| alpha.is_finite()).ok_or_else(|| {
            Error::malformed(self.path, format!("expected a number in `{key}`, found {}", shorten(value)))
        })
    }

    pub(super) fn wrong(&self, key: &str, expected: &str) -> Error {
        let found = self.object.get(key).map_or("nothing".to_owned(), shorten);
        Error::malformed(self.path, format!("expected {expected} in `{key}`, found {found}"))
    }

    pub(super) fn unimplemented(&self, key: &str) -> Error {
        let found = self.object.get(key).map_or("nothing".to_owned(), shorten);
        Error::unsupported(self.path, format!("key `{key}` with value {found} is not implemented"))
            .with_hint("ignoring it would scan another model than the one that runs; it was not scanned")
    }
}

/// Values that mean "off".
pub(super) fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty() || text == "none",
        _ => false,
    }
}

/// A value for an error message, cut to a line's length.
pub(super) fn shorten(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
