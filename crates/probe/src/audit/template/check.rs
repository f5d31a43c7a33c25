//! Where chat templates stand: in files of their own, in JSON, several under names.

use std::path::Path;

use report::audit::{Finding, Rule};
use serde_json::Value;

use super::{DISAGREE, OTHER, RULES, examine};
use crate::audit::Check;
use crate::audit::file::File;
use crate::audit::findings::Findings;
use crate::audit::json::visit::visit;
use crate::audit::json::{is_vocabulary, reader};
use crate::audit::repository::Repository;

/// Every chat template but those inside GGUF files.
pub(in crate::audit) struct Templates;

impl Check for Templates {
    fn name(&self) -> &'static str {
        "chat-template"
    }

    fn rules(&self) -> &'static [Rule] {
        RULES
    }

    fn wants(&self, file: &File) -> bool {
        matches!(file.extension().as_str(), "jinja" | "jinja2" | "j2" | "json")
            && file.text().is_some()
            && !is_vocabulary(file.name())
    }

    fn file(&self, file: &File, findings: &mut Findings) {
        if file.extension() != "json" {
            if let Some(text) = file.text() {
                examine(file, "", text, findings);
            }
            return;
        }
        let Some(document) = file.json() else { return };
        for (pointer, source) in templates(document) {
            examine(file, &pointer, source, findings);
        }
    }

    fn repository(&self, repository: &Repository, findings: &mut Findings) {
        for config in repository.named("tokenizer_config.json") {
            let places: Vec<(&File, String)> =
                ["chat_template.jinja", "chat_template.json", "processor_config.json"]
                    .iter()
                    .filter_map(|name| repository.beside(config, name))
                    .chain([config])
                    .filter_map(|file| Some((file, default_template(file)?)))
                    .collect();
            if let [(first, template), rest @ ..] = places.as_slice() {
                for (file, _) in rest.iter().filter(|(_, other)| normal(other) != normal(template)) {
                    let message = format!("its template is another one than that of `{}`", first.path);
                    findings.in_file(file, Finding::new(&DISAGREE, &file.path, message));
                }
            }
        }
        let Some(base) = repository.base.and_then(base_template) else { return };
        for name in ["chat_template.jinja", "tokenizer_config.json"] {
            for file in repository.named(name) {
                if default_template(file).is_some_and(|template| normal(&template) != normal(&base)) {
                    let message = "its template is another one than the base's";
                    findings.in_file(file, Finding::new(&OTHER, &file.path, message));
                }
            }
        }
    }
}

/// All templates of a JSON document, with where they stand.
fn templates(document: &Value) -> Vec<(String, &str)> {
    let mut found = Vec::new();
    visit(document, &mut |path, value| {
        if let Value::String(source) = value {
            let own = path.key() == "chat_template" || path.key() == "default_chat_template";
            let named = path.passes("chat_template") && !matches!(path.key(), "name");
            if own || named {
                found.push((path.pointer(), source.as_str()));
            }
        }
    });
    found
}

/// The template that a loader takes from a file if nobody names one.
fn default_template(file: &File) -> Option<String> {
    let text = file.text()?;
    if file.extension() == "jinja" {
        return Some(text.to_owned());
    }
    of_config(file.json()?)
}

fn of_config(document: &Value) -> Option<String> {
    match document.get("chat_template")? {
        Value::String(source) => Some(source.clone()),
        Value::Array(named) => named
            .iter()
            .find(|one| one.get("name").and_then(Value::as_str) == Some("default"))
            .and_then(|one| one.get("template")?.as_str().map(str::to_owned)),
        Value::Object(named) => named.get("default")?.as_str().map(str::to_owned),
        _ => None,
    }
}

/// The template of a base model's directory. Only what the user named is read here.
fn base_template(base: &Path) -> Option<String> {
    let read = |name: &str| inference::weights::json::read_text(&base.join(name)).ok();
    read("chat_template.jinja").or_else(|| of_config(&reader::read(&read("tokenizer_config.json")?).value?))
}

/// Blanks around lines, which some writers change.
fn normal(template: &str) -> String {
    template.trim().replace("\r\n", "\n")
}
