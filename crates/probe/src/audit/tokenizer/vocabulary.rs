//! Tokens and their ids.

use std::collections::{BTreeMap, HashMap};

use report::audit::Severity;
use serde_json::{Map, Value};

use super::{ADDED, IDS, ORDER, add, phrase};
use crate::audit::file::File;
use crate::audit::findings::Findings;
use crate::audit::phrases;
use crate::audit::unseen;

/// No published vocabulary has so many tokens.
const LARGEST_ID: u64 = 4_000_000;
/// Merges below which an order means nothing.
const MERGES: usize = 200;
/// Tokens out of order that are still an exchange; more mean another way of numbering.
const EXCHANGED: usize = 400;
/// Names that a message gives.
const NAMED: usize = 6;

/// Looks at the vocabulary, the merges and the added tokens of a `tokenizer.json`.
pub(super) fn examine(file: &File, document: &Value, findings: &mut Findings) {
    let model = document.get("model");
    if let Some(Value::Object(vocabulary)) = model.and_then(|model| model.get("vocab")) {
        ids(file, vocabulary, findings);
        if let Some(Value::Array(merges)) = model.and_then(|model| model.get("merges")) {
            order(file, vocabulary, merges, findings);
        }
    }
    let mut seen: BTreeMap<u64, &str> = BTreeMap::new();
    for (index, token) in
        document.get("added_tokens").and_then(Value::as_array).into_iter().flatten().enumerate()
    {
        let (Some(content), Some(id)) =
            (token.get("content").and_then(Value::as_str), token.get("id").and_then(Value::as_u64))
        else {
            continue;
        };
        let pointer = format!("/added_tokens/{index}");
        if let Some(other) = seen.insert(id, content).filter(|other| *other != content) {
            let message = format!("`{other}` and `{content}` have the id {id}");
            add(file, &IDS, IDS.severity, &pointer, message, findings);
        }
        if id > LARGEST_ID {
            add(file, &IDS, IDS.severity, &pointer, format!("`{content}` has the id {id}"), findings);
        }
        added(file, &pointer, content, findings);
    }
}

/// Looks at one added token.
pub(super) fn added(file: &File, pointer: &str, content: &str, findings: &mut Findings) {
    let blank = content.chars().all(char::is_whitespace);
    let message = if unseen::any(content) {
        format!("the token {:?} has characters that nobody sees", content)
    } else if mixes_scripts(content) {
        format!("the token `{content}` mixes letters that look alike")
    } else if let Some(wants) = phrases::instruction(content) {
        format!("the token `{content}` is an instruction that {}", wants.name())
    } else if content.contains("://") {
        format!("the token `{content}` is an address")
    } else if let Some(phrase) = phrase(content).filter(|_| !blank) {
        format!("the token `{phrase}` is a phrase")
    } else {
        return;
    };
    add(file, &ADDED, ADDED.severity, pointer, message, findings);
}

/// Whether a token has Latin letters and letters of a script whose letters look like them.
pub(super) fn mixes_scripts(token: &str) -> bool {
    let latin = token.chars().any(|c| c.is_ascii_alphabetic());
    let alike = token.chars().any(|c| matches!(c, '\u{370}'..='\u{3ff}' | '\u{400}'..='\u{52f}' | '\u{530}'..='\u{58f}' | '\u{ff21}'..='\u{ff5a}'));
    latin && alike
}

fn ids(file: &File, vocabulary: &Map<String, Value>, findings: &mut Findings) {
    let mut owners: HashMap<u64, &str> = HashMap::with_capacity(vocabulary.len());
    for (token, id) in vocabulary {
        let Some(id) = id.as_u64() else {
            add(file, &IDS, IDS.severity, "/model/vocab", format!("`{token}` has {id} for an id"), findings);
            continue;
        };
        if id > LARGEST_ID {
            add(file, &IDS, IDS.severity, "/model/vocab", format!("`{token}` has the id {id}"), findings);
        }
        if let Some(other) = owners.insert(id, token) {
            add(
                file,
                &IDS,
                IDS.severity,
                "/model/vocab",
                format!("`{other}` and `{token}` have the id {id}"),
                findings,
            );
        }
    }
}

/// Training numbers merged tokens in the order of their merges, in every tokenizer that BPE training or a converter
/// wrote. A pair that exchanged its ids breaks the order at two places and nowhere else.
fn order(file: &File, vocabulary: &Map<String, Value>, merges: &[Value], findings: &mut Findings) {
    let mut tokens: Vec<(String, u64)> = Vec::with_capacity(merges.len());
    for merge in merges {
        let merged = match merge {
            Value::String(pair) => pair.replacen(' ', "", 1),
            Value::Array(pair) => pair.iter().filter_map(Value::as_str).collect(),
            _ => continue,
        };
        if let Some(id) = vocabulary.get(&merged).and_then(Value::as_u64) {
            tokens.push((merged, id));
        }
    }
    if tokens.len() < MERGES {
        return;
    }
    let mut sorted: Vec<u64> = tokens.iter().map(|(_, id)| *id).collect();
    sorted.sort_unstable();
    let moved: Vec<&str> = tokens
        .iter()
        .zip(&sorted)
        .filter(|((_, id), right)| id != *right)
        .map(|((token, _), _)| token.as_str())
        .collect();
    if !moved.is_empty() && moved.len() <= EXCHANGED && moved.len() * 20 <= tokens.len() {
        let named = moved.iter().take(NAMED).map(|token| format!("`{token}`")).collect::<Vec<_>>().join(", ");
        let message = format!("{} tokens have each other's ids: {named}", moved.len());
        add(file, &ORDER, Severity::High, "/model/vocab", message, findings);
    }
}
