//! Which tokens begin and end texts, by all files that say so.

use std::collections::BTreeMap;

use report::audit::Severity;
use serde_json::Value;

use super::{SPECIAL, add, is_mark, phrase};
use crate::audit::file::File;
use crate::audit::findings::Findings;
use crate::audit::repository::Repository;
use crate::audit::unseen;

const ROLES: &[&str] =
    &["bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token"];

/// The token that a configuration gives a role: a text, or an object with its content.
pub(super) fn role<'a>(document: &'a Value, role: &str) -> Option<&'a str> {
    match document.get(role)? {
        Value::String(token) => Some(token),
        Value::Object(token) => token.get("content")?.as_str(),
        _ => None,
    }
}

/// Looks at `tokenizer_config.json` or `special_tokens_map.json` alone.
pub(super) fn examine(file: &File, document: &Value, findings: &mut Findings) {
    for name in ROLES {
        let Some(token) = role(document, name) else { continue };
        // Padding is masked, so words there do nothing.
        let decides = matches!(*name, "bos_token" | "eos_token");
        let word = !is_mark(token) && token.chars().filter(|c| c.is_alphabetic()).count() >= 3;
        let odd = phrase(token).is_some()
            || token.starts_with(['Ġ', '▁']) && token.chars().count() > 1
            || unseen::any(token);
        // CTRL, XLM and the like end texts with a line break or a name in letters; those are short.
        if decides && (odd || (word && !matches!(token, "eop" | "sop" | "eos" | "bos"))) {
            let message = format!("`{name}` is `{token}`, which is no mark");
            add(file, &SPECIAL, SPECIAL.severity, &format!("/{name}"), message, findings);
        }
    }
}

/// Compares all files of a folder.
pub(super) fn across(repository: &Repository, findings: &mut Findings) {
    for config in repository.named("tokenizer_config.json") {
        let Some(document) = config.json() else { continue };
        if let Some(map) = repository.beside(config, "special_tokens_map.json")
            && let Some(other) = map.json()
        {
            disagreement(document, map, other, findings);
        }
    }
    for generation in repository.named("generation_config.json") {
        let Some(tokenizer) = repository.beside(generation, "tokenizer.json").and_then(File::json) else {
            continue;
        };
        let Some(document) = generation.json() else { continue };
        let names = names(tokenizer);
        for key in ["eos_token_id", "bos_token_id"] {
            let ids: Vec<u64> = match document.get(key) {
                Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).collect(),
                Some(id) => id.as_u64().into_iter().collect(),
                None => Vec::new(),
            };
            for id in ids {
                if let Some(token) =
                    names.get(&id).filter(|token| !is_mark(token) && token.chars().count() > 2)
                {
                    let message = format!("`{key}` is {id}, which is the word `{token}`");
                    add(generation, &SPECIAL, SPECIAL.severity, &format!("/{key}"), message, findings);
                }
            }
        }
    }
}

fn disagreement(document: &Value, map: &File, other: &Value, findings: &mut Findings) {
    for name in ["bos_token", "eos_token"] {
        let (ours, theirs) = (role(document, name), role(other, name));
        let (Some(theirs), true) = (theirs, ours != theirs) else { continue };
        let crossed = ROLES.iter().any(|role_name| {
            *role_name != name
                && matches!(*role_name, "bos_token" | "eos_token")
                && role(document, role_name) == Some(theirs)
        });
        let severity = if crossed { Severity::High } else { Severity::Low };
        let ours = ours.unwrap_or("nothing");
        let message = format!("`{name}` is `{theirs}` here and `{ours}` in tokenizer_config.json");
        add(map, &SPECIAL, severity, &format!("/{name}"), message, findings);
    }
}

/// Tokens of a `tokenizer.json` by id.
pub(super) fn names(tokenizer: &Value) -> BTreeMap<u64, String> {
    let mut names = BTreeMap::new();
    if let Some(Value::Object(vocabulary)) = tokenizer.pointer("/model/vocab") {
        names.extend(vocabulary.iter().filter_map(|(token, id)| Some((id.as_u64()?, token.clone()))));
    }
    let added = tokenizer.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    names.extend(
        added.filter_map(|token| {
            Some((token.get("id")?.as_u64()?, token.get("content")?.as_str()?.to_owned()))
        }),
    );
    names
}
