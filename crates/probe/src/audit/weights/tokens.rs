//! Embeddings of single tokens, and which tokens these are.

use std::collections::BTreeMap;

use report::audit::{Finding, Severity};
use serde_json::Value;

use super::adapter::{self, Declared, Role};
use super::{Subject, TOKENS};
use crate::audit::findings::Findings;
use crate::audit::repository::Repository;

/// Tokens that are named in a message.
const SHOWN: usize = 8;

/// Reports replaced token embeddings with the tokens' texts, as far as the repository has them.
pub(super) fn check(
    subject: &Subject<'_>,
    declared: &Declared<'_>,
    repository: &Repository,
    findings: &mut Findings,
) {
    let Some(tensor) =
        subject.tensors.iter().find(|tensor| adapter::role(&tensor.entry.name).1 == Role::Tokens)
    else {
        return;
    };
    let ids = indices(declared.value("trainable_token_indices"));
    let names = names(subject, repository);
    let texts: Vec<String> = ids
        .iter()
        .take(SHOWN)
        .map(|id| names.get(id).map_or_else(|| format!("token {id}"), |(text, _)| format!("`{text}`")))
        .collect();
    let special = !ids.is_empty() && ids.iter().all(|id| names.get(id).is_some_and(|(_, special)| *special));
    let more = if ids.len() > SHOWN { " and more" } else { "" };
    let message = format!(
        "{} rows replace embeddings: {}{more}",
        tensor.entry.shape.first().copied().unwrap_or(0),
        if texts.is_empty() {
            "the config does not say of which tokens".to_owned()
        } else {
            texts.join(", ")
        }
    );
    let severity = if special { Severity::Low } else { TOKENS.severity };
    let finding = Finding::new(&TOKENS, &subject.file.path, message).severity(severity);
    findings.in_file(subject.file, finding.at(&tensor.entry.name));
}

/// A list of ids, or a list for each embedding module.
fn indices(value: Option<&Value>) -> Vec<u64> {
    match value {
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_u64).collect(),
        Some(Value::Object(map)) => map.values().flat_map(|value| indices(Some(value))).collect(),
        _ => Vec::new(),
    }
}

/// Texts of tokens, and whether they are special, from the tokenizer beside the adapter.
fn names(subject: &Subject<'_>, repository: &Repository) -> BTreeMap<u64, (String, bool)> {
    let mut names = BTreeMap::new();
    if let Some(tokenizer) =
        repository.beside(subject.file, "tokenizer.json").and_then(crate::audit::file::File::json)
    {
        if let Some(vocabulary) = tokenizer.pointer("/model/vocab").and_then(Value::as_object) {
            for (text, id) in vocabulary {
                if let Some(id) = id.as_u64() {
                    names.insert(id, (text.clone(), false));
                }
            }
        }
        for token in tokenizer.pointer("/added_tokens").and_then(Value::as_array).into_iter().flatten() {
            if let (Some(id), Some(text)) = (token["id"].as_u64(), token["content"].as_str()) {
                names.insert(id, (text.to_owned(), token["special"].as_bool().unwrap_or(false)));
            }
        }
    }
    let config =
        repository.beside(subject.file, "tokenizer_config.json").and_then(crate::audit::file::File::json);
    let added = config.and_then(|config| config["added_tokens_decoder"].as_object());
    for (id, token) in added.into_iter().flatten() {
        if let (Ok(id), Some(text)) = (id.parse(), token["content"].as_str()) {
            names.insert(id, (text.to_owned(), token["special"].as_bool().unwrap_or(false)));
        }
    }
    names
}
