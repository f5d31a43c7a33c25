//! Which files of a tokenizer are looked at, alone and together.

use std::path::Path;

use report::audit::{Finding, Rule};
use serde_json::Value;

use super::{FILES, NOT_COMPARED, RULES, add, base, pipeline, sentencepiece, special, vocabulary};
use crate::audit::Check;
use crate::audit::file::File;
use crate::audit::findings::Findings;
use crate::audit::json::reader;
use crate::audit::kind::Kind;
use crate::audit::limits;
use crate::audit::repository::Repository;

/// Names that a message gives.
const NAMED: usize = 6;

/// The files of tokenizers.
pub(in crate::audit) struct Tokenizers;

impl Check for Tokenizers {
    fn name(&self) -> &'static str {
        "tokenizer"
    }

    fn rules(&self) -> &'static [Rule] {
        RULES
    }

    fn wants(&self, file: &File) -> bool {
        matches!(
            file.name(),
            "tokenizer.json" | "tokenizer_config.json" | "special_tokens_map.json" | "added_tokens.json"
        ) || is_sentencepiece(file)
    }

    fn file(&self, file: &File, findings: &mut Findings) {
        if is_sentencepiece(file) {
            return sentencepiece::examine(file, findings);
        }
        let Some(document) = file.json() else { return };
        match file.name() {
            "tokenizer.json" => {
                pipeline::examine(file, document, findings);
                vocabulary::examine(file, document, findings);
            }
            "added_tokens.json" => {
                for token in document.as_object().into_iter().flatten().map(|(token, _)| token) {
                    vocabulary::added(file, &format!("/{token}"), token, findings);
                }
            }
            _ => {
                special::examine(file, document, findings);
                let added =
                    document.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten();
                for (id, token) in added {
                    if let Some(content) = token.get("content").and_then(Value::as_str) {
                        vocabulary::added(file, &format!("/added_tokens_decoder/{id}"), content, findings);
                    }
                }
                let more =
                    document.get("additional_special_tokens").and_then(Value::as_array).into_iter().flatten();
                for content in
                    more.filter_map(|token| token.as_str().or_else(|| token.get("content")?.as_str()))
                {
                    vocabulary::added(file, "/additional_special_tokens", content, findings);
                }
            }
        }
    }

    fn repository(&self, repository: &Repository, findings: &mut Findings) {
        special::across(repository, findings);
        for tokenizer in repository.named("tokenizer.json") {
            if let (Some(document), Some(slow)) =
                (tokenizer.json(), repository.beside(tokenizer, "vocab.json"))
            {
                disagreement(document, slow, findings);
            }
        }
        pieces(repository, findings);
        let Some(folder) = repository.base else { return };
        if repository.named("tokenizer.json").next().is_none()
            && repository.named("tokenizer_config.json").next().is_none()
        {
            return;
        }
        let base_config = read(folder, "tokenizer_config.json");
        for config in repository.named("tokenizer_config.json") {
            if let (Some(document), Some(base_config)) = (config.json(), &base_config) {
                base::compare_config(config, document, base_config, findings);
            }
        }
        for tokenizer in repository.named("tokenizer.json") {
            match (tokenizer.json(), read(folder, "tokenizer.json")) {
                (Some(document), Some(base)) => base::compare(tokenizer, document, &base, findings),
                (None, _) => {
                    not_compared(tokenizer, "the file was not kept in memory or is no JSON", findings)
                }
                (_, None) => not_compared(
                    tokenizer,
                    "expected `tokenizer.json` in the base's folder, found none",
                    findings,
                ),
            }
        }
    }
}

/// Whether a file is a SentencePiece model by its name, and nothing else by its content.
fn is_sentencepiece(file: &File) -> bool {
    file.name() == "tokenizer.model" && matches!(file.kind, Kind::Binary | Kind::Text)
}

/// SentencePiece models beside the `tokenizer.json` of their folder and the base's model.
fn pieces(repository: &Repository, findings: &mut Findings) {
    for file in repository.named("tokenizer.model").filter(|file| is_sentencepiece(file)) {
        let Some(model) = sentencepiece::read(&file.bytes) else { continue };
        if let Some(fast) = repository.beside(file, "tokenizer.json").and_then(File::json) {
            sentencepiece::disagreement(file, &model, fast, findings);
        }
        let Some(folder) = repository.base else { continue };
        let path = folder.join("tokenizer.model");
        if !path.exists() {
            // A base in the form of transformers 5 has `tokenizer.json` only, which the comparison above reads.
            continue;
        }
        let bytes =
            inference::weights::json::read_bounded(&path, limits::TOKENIZER_BYTES).unwrap_or_default();
        match sentencepiece::read(&bytes) {
            Some(base) => sentencepiece::compare(file, &model, &base, findings),
            None => not_compared(file, "the base's `tokenizer.model` cannot be read", findings),
        }
    }
}

fn not_compared(file: &File, why: &str, findings: &mut Findings) {
    findings.in_file(file, Finding::new(&NOT_COMPARED, &file.path, why));
}

/// A JSON file of the base, which the user named.
fn read(folder: &Path, name: &str) -> Option<Value> {
    reader::read(&inference::weights::json::read_text(&folder.join(name)).ok()?).value
}

/// Compares `vocab.json`, which slow tokenizers read, with `tokenizer.json`.
fn disagreement(tokenizer: &Value, slow: &File, findings: &mut Findings) {
    let (Some(fast), Some(Value::Object(vocabulary))) = (tokenizer.pointer("/model/vocab"), slow.json())
    else {
        return;
    };
    let differ: Vec<String> = vocabulary
        .iter()
        .filter(|(token, id)| fast.get(token.as_str()).is_some_and(|other| other != *id))
        .take(NAMED + 1)
        .map(|(token, _)| format!("`{token}`"))
        .collect();
    if !differ.is_empty() {
        let more = if differ.len() > NAMED { " and more" } else { "" };
        let named = differ.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
        let message = format!("tokenizer.json has other ids for {named}{more}");
        add(slow, &FILES, FILES.severity, "", message, findings);
    }
}
