//! JSON of strangers: reading it whatever is wrong with it, and the family JSON.

use serde_json::Value;

mod check;
pub(super) mod reader;
pub(super) mod visit;

pub(super) use check::JsonFiles;

/// Files that loaders of models act on, by name.
const LOADED: &[&str] = &[
    "adapter_config.json",
    "added_tokens.json",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "modules.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "vocab.json",
];

/// Whether loaders of models act on a JSON file of this name.
pub(super) fn is_loaded(name: &str) -> bool {
    LOADED.contains(&name) || name.ends_with("_config.json") || name.ends_with(".safetensors.index.json")
}

/// Whether a loaded file holds a vocabulary, whose strings are data of any kind.
pub(super) fn is_vocabulary(name: &str) -> bool {
    matches!(name, "tokenizer.json" | "vocab.json" | "added_tokens.json")
}

/// Whether a value stands for "not set".
pub(super) fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}
