//! Which modules a config selects: PEFT's rules for `target_modules` and its relatives.
//!
//! The strings are Python regexes from a stranger, so every match has a backtracking limit.

use std::path::Path;

use fancy_regex::{Regex, RegexBuilder};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::weights::json;

/// Steps that one match may take; honest patterns need a few dozen.
const BACKTRACK_LIMIT: usize = 100_000;
/// Longest pattern that is compiled.
const MAX_PATTERN_BYTES: usize = 10_000;

/// `target_modules` or `exclude_modules`.
#[derive(Clone, Debug)]
pub enum ModulePattern {
    /// `"all-linear"`: every linear module but the output head.
    AllLinear,
    /// Names or dotted suffixes.
    Suffixes(Vec<String>),
    /// A regex that must match the whole module name.
    Whole(Box<Regex>),
}

impl ModulePattern {
    /// Parses a list of names, a regex, or `all-linear`; `path` and `key` are for the error.
    ///
    /// # Errors
    /// If the value is neither, or the regex is none or too long.
    pub fn parse(path: &Path, key: &str, value: &Value) -> Result<Self> {
        match value {
            Value::String(text) if text.eq_ignore_ascii_case("all-linear") => Ok(Self::AllLinear),
            Value::String(text) => {
                Ok(Self::Whole(Box::new(compile(path, key, &format!(r"\A(?:{text})\z"), text)?)))
            }
            Value::Array(items) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
                .map(Self::Suffixes)
                .ok_or_else(|| Error::malformed(path, format!("expected strings in the list `{key}`"))),
            other => Err(Error::malformed(
                path,
                format!("expected a list or a string in `{key}`, found {}", json::kind(other)),
            )),
        }
    }

    /// Whether a module is selected. `head` is the output head, which `all-linear` leaves out.
    ///
    /// # Errors
    /// If a regex backtracks beyond the limit.
    pub fn matches(&self, path: &Path, module: &str, head: bool) -> Result<bool> {
        match self {
            Self::AllLinear => Ok(!head),
            Self::Suffixes(suffixes) => Ok(suffixes.iter().any(|suffix| ends_with_segment(module, suffix))),
            Self::Whole(regex) => is_match(path, regex, module),
        }
    }
}

/// `name == suffix`, or `name` ends with `.suffix`.
fn ends_with_segment(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// A key of `rank_pattern` or `alpha_pattern`: PEFT anchors it as `(.*\.)?(KEY)$`.
///
/// # Errors
/// If it is no regex or too long.
pub fn compile_pattern_key(path: &Path, key: &str, pattern: &str) -> Result<Regex> {
    compile(path, key, &format!(r"\A(?:.*\.)?(?:{pattern})\z"), pattern)
}

/// Whether a pattern matches, within the limit of steps.
///
/// # Errors
/// If it backtracks beyond the limit.
pub fn is_match(path: &Path, regex: &Regex, text: &str) -> Result<bool> {
    regex.is_match(text).map_err(|error| {
        Error::malformed(
            path,
            format!("the pattern `{}` cannot be matched within limits: {error}", regex.as_str()),
        )
        .with_hint("a pattern that backtracks this much also hangs the Python runtime")
    })
}

pub(crate) fn compile(path: &Path, key: &str, anchored: &str, shown: &str) -> Result<Regex> {
    if shown.len() > MAX_PATTERN_BYTES {
        return Err(Error::malformed(
            path,
            format!("the pattern in `{key}` has {} bytes; expected at most {MAX_PATTERN_BYTES}", shown.len()),
        ));
    }
    RegexBuilder::new(anchored).backtrack_limit(BACKTRACK_LIMIT).build().map_err(|error| {
        Error::malformed(path, format!("`{shown}` in `{key}` is not a regular expression: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(value: &Value, module: &str) -> bool {
        let path = Path::new("adapter_config.json");
        ModulePattern::parse(path, "target_modules", value).unwrap().matches(path, module, false).unwrap()
    }

    #[test]
    fn lists_match_whole_segments() {
        let list = serde_json::json!(["q_proj", "self_attn.v_proj"]);
        assert!(select(&list, "model.layers.0.self_attn.q_proj"));
        assert!(select(&list, "model.layers.0.self_attn.v_proj"));
        assert!(!select(&list, "model.layers.0.self_attn.xq_proj"));
        assert!(!select(&list, "model.layers.0.other.v_proj"));
    }

    #[test]
    fn strings_are_whole_python_regexes() {
        let lookahead = serde_json::json!(r"model\.layers\.(?!1\.)\d+\.self_attn\.[qv]_proj");
        assert!(select(&lookahead, "model.layers.0.self_attn.q_proj"));
        assert!(!select(&lookahead, "model.layers.1.self_attn.q_proj"));
        assert!(!select(&lookahead, "model.layers.0.self_attn.q_proj.extra"));
    }

    #[test]
    fn catastrophic_patterns_end_with_an_error() {
        let path = Path::new("adapter_config.json");
        // The back-reference keeps the pattern from the linear-time engine.
        let value = serde_json::json!(r"(([a-z._0-9]+)+)+\1X");
        let pattern = ModulePattern::parse(path, "target_modules", &value).unwrap();
        assert!(
            pattern
                .matches(path, "model.layers.0.self_attn.q_proj.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false)
                .is_err()
        );
    }
}
