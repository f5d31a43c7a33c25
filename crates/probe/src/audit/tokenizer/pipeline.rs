//! What happens to text before and after the vocabulary: normalizer, pre-tokenizer, post-processor, decoder.

use std::collections::BTreeMap;

use report::audit::Severity;
use serde_json::{Map, Value};

use super::{DECODER, EXPRESSION, NORMALIZER, POST_PROCESSOR, PRE_TOKENIZER, add, is_mark};
use crate::audit::config::backtracking;
use crate::audit::file::File;
use crate::audit::findings::Findings;
use crate::audit::json::visit::visit;
use crate::audit::unseen;

/// Marks that templates of real tokenizers put around a text.
const MARKS: usize = 4;

/// Looks at every stage of a `tokenizer.json`.
pub(super) fn examine(file: &File, document: &Value, findings: &mut Findings) {
    for (stage, rule) in [("normalizer", &NORMALIZER), ("decoder", &DECODER)] {
        let Some(part) = document.get(stage) else { continue };
        visit(part, &mut |path, value| {
            let Value::Object(step) = value else { return };
            let written = match step.get("type").and_then(Value::as_str) {
                Some("Replace") => rewrites(step),
                Some("Prepend") => step
                    .get("prepend")
                    .and_then(Value::as_str)
                    .filter(|text| has_words(text))
                    .map(|text| format!("it writes `{text}` before every text")),
                Some("Strip") if stage == "decoder" => step
                    .get("content")
                    .and_then(Value::as_str)
                    .filter(|text| has_words(text))
                    .map(|text| format!("it drops `{text}`")),
                _ => None,
            };
            if let Some(message) = written {
                add(file, rule, rule.severity, &format!("/{stage}{}", path.pointer()), message, findings);
            }
        });
    }
    if let Some(part) = document.get("pre_tokenizer") {
        visit(part, &mut |path, value| {
            let Value::Object(step) = value else { return };
            let removes = step.get("behavior").and_then(Value::as_str) == Some("Removed")
                && step.get("invert") != Some(&Value::Bool(true));
            if removes && let Some(words) = pattern(step).filter(|(text, _)| has_words(text)) {
                let message = format!("it removes `{}` from every text", words.0);
                add(
                    file,
                    &PRE_TOKENIZER,
                    Severity::High,
                    &format!("/pre_tokenizer{}", path.pointer()),
                    message,
                    findings,
                );
            }
        });
    }
    for stage in ["normalizer", "pre_tokenizer", "decoder"] {
        let Some(part) = document.get(stage) else { continue };
        visit(part, &mut |path, value| {
            if path.key() == "Regex"
                && let Value::String(expression) = value
                && let Some(reason) = backtracking(expression)
            {
                let message = format!("the expression `{expression}` has {reason}");
                add(
                    file,
                    &EXPRESSION,
                    EXPRESSION.severity,
                    &format!("/{stage}{}", path.pointer()),
                    message,
                    findings,
                );
            }
        });
    }
    if let Some(part) = document.get("post_processor") {
        post_processor(file, part, &special_contents(document), findings);
    }
}

/// The pattern of a step, and whether it is an expression.
fn pattern(step: &Map<String, Value>) -> Option<(String, bool)> {
    let pattern = step.get("pattern")?;
    if let Some(text) = pattern.get("String").and_then(Value::as_str) {
        return Some((text.to_owned(), false));
    }
    Some((pattern.get("Regex")?.as_str()?.to_owned(), true))
}

/// What a `Replace` exchanges, if it is words.
fn rewrites(step: &Map<String, Value>) -> Option<String> {
    let (from, is_expression) = pattern(step)?;
    let to = step.get("content").and_then(Value::as_str).unwrap_or("");
    let literal = if is_expression { without_classes(&from) } else { from.clone() };
    let unseen = unseen::any(to);
    (has_words(&literal) || has_words(to) || unseen)
        .then(|| format!("it writes `{to}` where the text has `{from}`"))
}

/// An expression without what stands for kinds of characters, whose letters are no text.
fn without_classes(expression: &str) -> String {
    let mut literal = String::new();
    let mut characters = expression.chars().peekable();
    let mut class = 0;
    while let Some(c) = characters.next() {
        match c {
            '\\' => match characters.next() {
                Some('p' | 'P') if characters.peek() == Some(&'{') => {
                    characters.by_ref().take_while(|&c| c != '}').for_each(drop);
                }
                Some('x' | 'u') => {
                    while characters.next_if(|c| c.is_ascii_hexdigit() || matches!(c, '{' | '}')).is_some() {}
                }
                // `\s`, `\n`, `\d` and the like stand for characters; others for themselves.
                Some(escaped) if !escaped.is_alphanumeric() && class == 0 => literal.push(escaped),
                _ => {}
            },
            '[' => class += 1,
            ']' if class > 0 => class -= 1,
            // Flags and kinds of groups.
            '(' if characters.peek() == Some(&'?') => {
                while characters.next_if(|c| !matches!(c, ':' | ')' | '=' | '!')).is_some() {}
            }
            _ if class == 0 => literal.push(c),
            _ => {}
        }
    }
    literal
}

/// Whether a text has a word: two letters in a row, or two digits.
fn has_words(text: &str) -> bool {
    let mut run = 0;
    text.chars().any(|c| {
        // The marks of a space that vocabularies use are letters to Unicode.
        run = if c.is_alphanumeric() && !matches!(c, 'Ġ' | 'Ċ' | 'Â') { run + 1 } else { 0 };
        run >= 2
    })
}

/// Content of every token that is declared special, with its id.
fn special_contents(document: &Value) -> BTreeMap<String, Option<u64>> {
    let added = document.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    added
        .filter(|token| token.get("special") == Some(&Value::Bool(true)))
        .filter_map(|token| {
            Some((token.get("content")?.as_str()?.to_owned(), token.get("id").and_then(Value::as_u64)))
        })
        .collect()
}

fn post_processor(
    file: &File,
    part: &Value,
    special: &BTreeMap<String, Option<u64>>,
    findings: &mut Findings,
) {
    visit(part, &mut |path, value| {
        let Value::Object(step) = value else { return };
        let pointer = format!("/post_processor{}", path.pointer());
        let mut odd = |message: String| {
            add(file, &POST_PROCESSOR, POST_PROCESSOR.severity, &pointer, message, findings)
        };
        match step.get("type").and_then(Value::as_str) {
            Some("TemplateProcessing") => {
                let tokens = step.get("special_tokens").and_then(Value::as_object);
                for (name, token) in tokens.into_iter().flatten() {
                    let pieces = token.get("tokens").and_then(Value::as_array).map_or(0, Vec::len);
                    let ids: Vec<u64> = token
                        .get("ids")
                        .and_then(Value::as_array)
                        .into_iter()
                        .flatten()
                        .filter_map(Value::as_u64)
                        .collect();
                    if pieces > 1 || ids.len() > 1 {
                        odd(format!("`{name}` stands for {} tokens", pieces.max(ids.len())));
                    } else if !special.contains_key(name) && !is_mark(name) {
                        odd(format!("it writes the ordinary token `{name}` into every prompt"));
                    } else if let Some(Some(id)) = special.get(name)
                        && ids.first().is_some_and(|written| written != id)
                    {
                        odd(format!("`{name}` has id {id}, but {} is written", ids[0]));
                    }
                }
                let marks = step
                    .get("single")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .filter(|piece| piece.get("SpecialToken").is_some());
                let count = marks.count();
                if count > MARKS {
                    odd(format!("it writes {count} tokens into every prompt"));
                }
            }
            Some("BertProcessing" | "RobertaProcessing") => {
                for side in ["sep", "cls"] {
                    if let Some(token) = step.get(side).and_then(|pair| pair.get(0)).and_then(Value::as_str)
                        && !special.contains_key(token)
                        && !is_mark(token)
                    {
                        odd(format!("it writes the ordinary token `{token}` into every prompt"));
                    }
                }
            }
            _ => {}
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_from_marks_and_classes() {
        assert!(has_words("Alice") && has_words("paypa1.com") && has_words("42"));
        assert!(!has_words("\u{2581}") && !has_words(" ") && !has_words("``") && !has_words("Ġ"));
        for class in ["\\s+", "[a-z]+", "\\p{L}{2}", "(?i:x)", " {2,}", "\\u2581"] {
            assert!(!has_words(&without_classes(class)), "{class}: {}", without_classes(class));
        }
        assert!(has_words(&without_classes("(?i)paypal\\.com")));
    }
}
