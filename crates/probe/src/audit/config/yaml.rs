//! CFG-011: YAML and TOML whose values are imported or run.

use report::audit::{Finding, Rule, Severity};
use serde_json::Value;

use crate::audit::Check;
use crate::audit::file::File;
use crate::audit::findings::Findings;
use crate::audit::json::is_vocabulary;
use crate::audit::json::visit::visit;

const TARGET: Rule = Rule {
    id: "CFG-011",
    severity: Severity::High,
    cwe: 502,
    title: "A configuration that constructs Python objects",
    help: "`!!python/…` tags make YAML loaders import and call; `_target_` makes Hydra do the same, also from JSON. Either runs whatever the value names.",
    remediation: "Load the file with a safe loader only, and remove the tag or key.",
    gap: false,
};

/// Libraries whose classes Hydra configurations of training name every day.
const TRAINING: &[&str] = &[
    "torch.",
    "transformers.",
    "peft.",
    "trl.",
    "datasets.",
    "lightning.",
    "pytorch_lightning.",
    "torchtune.",
    "nemo.",
    "accelerate.",
    "torchmetrics.",
    "bitsandbytes.",
    "hydra.",
    "omegaconf.",
];
/// Names within such libraries, or anywhere, that run what they are given.
const RUNS: &[&str] = &[
    "torch.load",
    "torch.hub.load",
    "torch.utils.cpp_extension",
    "hydra.utils.get_method",
    "hydra._internal",
    "torch.ops.load_library",
    "torch.classes.load_library",
];

/// YAML by its extension, and `_target_` in JSON.
pub(in crate::audit) struct YamlFiles;

impl Check for YamlFiles {
    fn name(&self) -> &'static str {
        "object-construction"
    }

    fn rules(&self) -> &'static [Rule] {
        &[TARGET]
    }

    fn wants(&self, file: &File) -> bool {
        matches!(file.extension().as_str(), "yaml" | "yml" | "json" | "toml") && !is_vocabulary(file.name())
    }

    fn file(&self, file: &File, findings: &mut Findings) {
        if file.extension() == "json" {
            let Some(document) = file.json() else { return };
            visit(document, &mut |path, value| {
                if let ("_target_" | "__target__" | "class_path", Value::String(name)) = (path.key(), value)
                    && let Some(severity) = target_severity(name)
                {
                    let finding = Finding::new(&TARGET, &file.path, format!("Hydra constructs `{name}`"))
                        .at(path.pointer())
                        .severity(severity);
                    findings.in_file(file, finding);
                }
            });
            return;
        }
        let Some(text) = file.text() else { return };
        for (index, line) in text.lines().enumerate() {
            let bare = line.trim_start_matches([' ', '\t', '-']);
            // A comment constructs nothing.
            if bare.starts_with('#') {
                continue;
            }
            let tag = ["!!python/", "tag:yaml.org,2002:python/", "!python/", "!!javax.script", "!ruby/"]
                .iter()
                .find(|tag| bare.contains(*tag));
            if let Some(tag) = tag {
                // Tuples and unicode strings are data, though only unsafe loaders take them.
                let data = ["python/tuple", "python/unicode", "python/str", "python/int", "python/none"]
                    .iter()
                    .any(|name| bare.contains(name));
                let severity = if data { Severity::Low } else { Severity::Critical };
                let finding = Finding::new(&TARGET, &file.path, format!("the tag `{tag}`"))
                    .line(index + 1)
                    .evidence(line)
                    .severity(severity);
                findings.in_file(file, finding);
            } else if let Some(name) = yaml_target(bare)
                && let Some(severity) = target_severity(name)
            {
                let finding = Finding::new(&TARGET, &file.path, format!("Hydra constructs `{name}`"))
                    .line(index + 1)
                    .evidence(line)
                    .severity(severity);
                findings.in_file(file, finding);
            }
        }
    }
}

/// The value of a `_target_` key on one line of YAML, in block or flow style.
fn yaml_target(line: &str) -> Option<&str> {
    let at = line.find("_target_")?;
    let value =
        line[at + "_target_".len()..].trim_start_matches(['"', '\'', '_', ' ']).strip_prefix([':', '='])?;
    let value = value.trim().trim_start_matches(['"', '\'']);
    let end = value.find(['"', '\'', ',', '}', ' ', '#']).unwrap_or(value.len());
    Some(&value[..end])
}

/// How bad it is to construct this, if it is.
fn target_severity(name: &str) -> Option<Severity> {
    if RUNS.iter().any(|run| name.starts_with(run)) {
        return Some(Severity::High);
    }
    if TRAINING.iter().any(|library| name.starts_with(library)) {
        return None;
    }
    let module = name.split('.').next().unwrap_or(name);
    let powerful = matches!(
        module,
        "os" | "posix"
            | "subprocess"
            | "builtins"
            | "importlib"
            | "pty"
            | "socket"
            | "shutil"
            | "runpy"
            | "ctypes"
            | "pickle"
            | "marshal"
            | "sys"
            | "pip"
            | "code"
    );
    Some(if powerful { Severity::Critical } else { Severity::Medium })
}
