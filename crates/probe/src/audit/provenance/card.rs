//! PROV: the model card beside the adapter's configuration, and what it tells its reader to do.

use report::audit::{Finding, Rule, Severity};
use serde_json::Value;

use super::base;
use super::front_matter::FrontMatter;
use crate::audit::Check;
use crate::audit::code::{danger, logical_lines};
use crate::audit::config::hub_id;
use crate::audit::file::File;
use crate::audit::findings::Findings;
use crate::audit::repository::Repository;

const MISMATCH: Rule = Rule {
    id: "PROV-001",
    severity: Severity::Medium,
    cwe: 345,
    title: "The card names another base model than the configuration",
    help: "One of them is wrong: the adapter is loaded on a model that it was not described for.",
    remediation: "Ask the author which base is meant.",
    gap: false,
};
const NO_LICENCE: Rule = Rule {
    id: "PROV-004",
    severity: Severity::Low,
    cwe: 1059,
    title: "No licence",
    help: "The card names no licence.",
    remediation: "Ask the author.",
    gap: false,
};
const NO_TRAINING: Rule = Rule {
    id: "PROV-005",
    severity: Severity::Low,
    cwe: 1059,
    title: "Neither training data nor training code is named",
    help: "What an adapter was trained on is what it does. Nothing here says it.",
    remediation: "Ask the author for data and code.",
    gap: false,
};
const BROKEN: Rule = Rule {
    id: "PROV-006",
    severity: Severity::Low,
    cwe: 20,
    title: "The card's front matter is no YAML",
    help: "What the author claims there could not be read.",
    remediation: "Repair the card.",
    gap: false,
};
const NO_CARD: Rule = Rule {
    id: "PROV-010",
    severity: Severity::Low,
    cwe: 1059,
    title: "No model card",
    help: "Nothing says who made the adapter, of what, and for what. Most uploads are like this.",
    remediation: "Ask the author.",
    gap: false,
};
const COMMAND: Rule = Rule {
    id: "PROV-012",
    severity: Severity::High,
    cwe: 494,
    title: "A text that asks its reader to run a dangerous command",
    help: "The text has a command that runs a download or opens the machine. Weights need none.",
    remediation: "Do not run it.",
    gap: false,
};
const PAGE: Rule = Rule {
    id: "PROV-016",
    severity: Severity::Medium,
    cwe: 79,
    title: "A card with a script",
    help: "Elements of a page that run where the card is shown without cleaning.",
    remediation: "Read the card as plain text.",
    gap: false,
};

/// Whoever mirrors models of others under their names.
const MIRRORS: &[&str] = &[
    "unsloth",
    "nousresearch",
    "mlx-community",
    "thebloke",
    "bartowski",
    "huggyllama",
    "modelscope",
    "llm-research",
];
/// What mirrors add to a name.
const SUFFIXES: &[&str] = &[
    "-bnb-4bit",
    "-unsloth",
    "-4bit",
    "-8bit",
    "-gptq",
    "-awq",
    "-gguf",
    "-hf",
    "-bf16",
    "-fp16",
    "-int4",
    "-int8",
];

/// Model cards and other Markdown.
pub(in crate::audit) struct Cards;

impl Check for Cards {
    fn name(&self) -> &'static str {
        "card"
    }

    fn rules(&self) -> &'static [Rule] {
        &[MISMATCH, NO_LICENCE, NO_TRAINING, BROKEN, NO_CARD, COMMAND, PAGE]
    }

    fn wants(&self, file: &File) -> bool {
        matches!(file.extension().as_str(), "md" | "markdown" | "rst" | "txt" | "html" | "htm")
            && file.text().is_some()
    }

    fn file(&self, file: &File, findings: &mut Findings) {
        let Some(text) = file.text() else { return };
        for (number, line) in logical_lines(text) {
            if let Some(why) = danger(line.trim_start_matches(['`', '>', '$', '#', ' '])) {
                let finding = Finding::new(&COMMAND, &file.path, format!("the command {why}"))
                    .line(number)
                    .evidence(&line);
                findings.in_file(file, finding);
            }
            let lower = line.to_lowercase();
            let script = [
                "<script",
                "javascript:",
                "onerror=",
                "onload=",
                "onclick=",
                "<object",
                "<embed",
                "srcdoc=",
                "http-equiv=\"refresh",
            ]
            .iter()
            .find(|mark| lower.contains(*mark));
            if let Some(mark) = script {
                let finding =
                    Finding::new(&PAGE, &file.path, format!("`{mark}`")).line(number).evidence(&line);
                findings.in_file(file, finding);
            }
        }
    }

    fn repository(&self, repository: &Repository, findings: &mut Findings) {
        // Checkpoints below have no cards of their own.
        let top = repository.named("adapter_config.json").min_by_key(|file| file.path.matches('/').count());
        let Some(config) = top else { return };
        let Some(card) = repository.beside(config, "README.md") else {
            findings.add(Finding::new(
                &NO_CARD,
                &config.path,
                "expected README.md in the same folder, found none",
            ));
            return;
        };
        let Some(text) = card.text() else { return };
        let (matter, body) = FrontMatter::split(text);
        let matter = matter.unwrap_or_default();
        let mut add =
            |rule: &Rule, message: String| findings.in_file(card, Finding::new(rule, &card.path, message));
        if let Some(line) = matter.broken {
            add(&BROKEN, format!("line {line} is no YAML"));
        }
        if matter.get("license").is_empty()
            && matter.get("license_name").is_empty()
            && !body.to_lowercase().contains("licen")
        {
            add(&NO_LICENCE, "expected `license` in the front matter, found none".into());
        }
        let lower = body.to_lowercase();
        let says = [
            "dataset",
            "trained on",
            "training data",
            "github.com",
            "gitlab.com",
            "fine-tuned on",
            "finetuned on",
        ];
        if matter.get("datasets").is_empty() && !says.iter().any(|word| lower.contains(word)) {
            add(
                &NO_TRAINING,
                "expected `datasets` in the front matter or a word on training, found neither".into(),
            );
        }
        let claimed = matter.get("base_model");
        for name in claimed {
            if let Some((rule, message)) = base::odd(name) {
                add(rule, message);
            }
        }
        let declared =
            config.json().and_then(|config| config.get("base_model_name_or_path")).and_then(Value::as_str);
        if let Some(declared) = declared.filter(|name| hub_id(name).is_some())
            // A folder of the author's machine, which trainers write into cards, names no model.
            && claimed.iter().any(|name| hub_id(name).is_some())
            && !claimed.iter().any(|name| is_same_model(name, declared))
        {
            add(
                &MISMATCH,
                format!("the card says `{}`, adapter_config.json says `{declared}`", claimed.join("`, `")),
            );
        }
    }
}

/// Whether two ids mean the same weights: the same name, or a mirror's.
fn is_same_model(left: &str, right: &str) -> bool {
    let parts = |id: &str| {
        let id = id.to_lowercase();
        let (owner, mut name) = match id.split_once('/') {
            Some((owner, name)) => (owner.to_owned(), name.to_owned()),
            None => (String::new(), id),
        };
        while let Some(short) = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)) {
            name = short.to_owned();
        }
        (owner, name)
    };
    let ((left_owner, left_name), (right_owner, right_name)) = (parts(left), parts(right));
    let free = |owner: &str| owner.is_empty() || MIRRORS.contains(&owner);
    // Mirrors shorten `Meta-Llama-3` to `llama-3`.
    let same = left_name == right_name
        || left_name.trim_start_matches("meta-") == right_name.trim_start_matches("meta-");
    same && (left_owner == right_owner || free(&left_owner) || free(&right_owner))
}

#[cfg(test)]
mod tests {
    use super::is_same_model;

    #[test]
    fn mirrors_are_the_same_model() {
        assert!(is_same_model("unsloth/llama-3.2-1b-instruct-bnb-4bit", "meta-llama/Llama-3.2-1B-Instruct"));
        assert!(is_same_model(
            "unsloth/Llama-3.2-1B-Instruct",
            "unsloth/llama-3.2-1b-instruct-unsloth-bnb-4bit"
        ));
        assert!(is_same_model("a/B", "a/b"));
        assert!(!is_same_model("a/b", "c/b") && !is_same_model("a/b", "a/c"));
    }
}
