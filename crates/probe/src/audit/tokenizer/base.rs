//! What differs from the base's tokenizer.

use std::collections::BTreeSet;

use report::audit::Severity;
use serde_json::Value;

use super::special::{names, role};
use super::{
    ADDED, DECODER, MERGES, NORMALIZER, POST_PROCESSOR, PRE_TOKENIZER, SPECIAL, VOCABULARY, add, is_mark,
};
use crate::audit::file::File;
use crate::audit::findings::Findings;

/// Names that a message gives.
const NAMED: usize = 6;

/// Compares a `tokenizer.json` with the base's.
pub(super) fn compare(file: &File, ours: &Value, base: &Value, findings: &mut Findings) {
    vocabulary(file, ours, base, findings);
    let stages = [
        ("normalizer", &NORMALIZER),
        ("pre_tokenizer", &PRE_TOKENIZER),
        ("post_processor", &POST_PROCESSOR),
        ("decoder", &DECODER),
    ];
    for (stage, rule) in stages {
        let (mine, theirs) =
            (ours.get(stage).unwrap_or(&Value::Null), base.get(stage).unwrap_or(&Value::Null));
        if !agrees(mine, theirs) {
            let message = format!("the {} differs from the base's", stage.replace('_', "-"));
            add(file, rule, Severity::Medium, &format!("/{stage}"), message, findings);
        }
    }
    let (mine, theirs) = (merges(ours), merges(base));
    if mine != theirs {
        let missing = theirs.difference(&mine).count();
        let new = mine.difference(&theirs).count();
        let message = format!("{missing} merges of the base are missing, {new} are new");
        add(file, &MERGES, MERGES.severity, "/model/merges", message, findings);
    }
}

/// Whether two stages do the same. Newer versions write more fields, so what only one of them has does not count.
fn agrees(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Object(left), Value::Object(right)) => {
            left.iter().all(|(key, value)| right.get(key).is_none_or(|other| agrees(value, other)))
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| agrees(left, right))
        }
        _ => left == right,
    }
}

fn vocabulary(file: &File, ours: &Value, base: &Value, findings: &mut Findings) {
    let (mine, theirs) = (names(ours), names(base));
    if mine.is_empty() || theirs.is_empty() {
        return;
    }
    let mut changed = Vec::new();
    let mut missing = 0;
    for (id, token) in &theirs {
        match mine.get(id) {
            Some(other) if other == token => {}
            Some(other) => changed.push(format!("{id}: `{token}` is `{other}`")),
            None => missing += 1,
        }
    }
    if !changed.is_empty() {
        let named = changed.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
        let message = format!("{} ids of the base stand for other tokens: {named}", changed.len());
        add(file, &VOCABULARY, VOCABULARY.severity, "/model/vocab", message, findings);
    }
    if missing > 0 {
        let message = format!("{missing} tokens of the base are missing");
        add(file, &VOCABULARY, Severity::Medium, "/model/vocab", message, findings);
    }
    let new: Vec<&String> =
        mine.iter().filter(|(id, _)| !theirs.contains_key(id)).map(|(_, token)| token).collect();
    if !new.is_empty() {
        let named = new.iter().take(NAMED).map(|token| format!("`{token}`")).collect::<Vec<_>>().join(", ");
        add(
            file,
            &ADDED,
            Severity::Low,
            "/added_tokens",
            format!("{} tokens that the base does not have: {named}", new.len()),
            findings,
        );
    }
}

/// Merges in one form: older files have a text, newer ones a pair.
fn merges(tokenizer: &Value) -> BTreeSet<String> {
    let merges = tokenizer.pointer("/model/merges").and_then(Value::as_array).into_iter().flatten();
    merges
        .filter_map(|merge| match merge {
            Value::String(pair) => Some(pair.clone()),
            Value::Array(pair) => Some(pair.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")),
            _ => None,
        })
        .collect()
}

/// Compares the marks of beginning and end with the base's.
pub(super) fn compare_config(file: &File, ours: &Value, base: &Value, findings: &mut Findings) {
    for name in ["bos_token", "eos_token"] {
        let (Some(mine), Some(theirs)) = (role(ours, name), role(base, name)) else { continue };
        if mine != theirs {
            // Chat training often makes the end of a turn the end of the text.
            let severity = if is_mark(mine) { Severity::Low } else { Severity::High };
            let message = format!("`{name}` is `{mine}`, the base's is `{theirs}`");
            add(file, &SPECIAL, severity, &format!("/{name}"), message, findings);
        }
    }
}
