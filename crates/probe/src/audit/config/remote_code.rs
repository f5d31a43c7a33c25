//! CFG: configurations that make a loader import and run code.

use report::audit::{Finding, Rule, Severity};
use serde_json::Value;

use super::known::is_known_tokenizer;
use crate::audit::Check;
use crate::audit::encoded;
use crate::audit::file::File;
use crate::audit::findings::Findings;
use crate::audit::json::visit::{Path, visit};
use crate::audit::json::{is_loaded, is_off, is_vocabulary};

const LOCAL_CODE: Rule = Rule {
    id: "CFG-001",
    severity: Severity::High,
    cwe: 829,
    title: "The configuration names code of the repository (`auto_map`)",
    help: "`auto_map` tells transformers which Python file of the repository to import. With `trust_remote_code=True` that file runs on the machine of whoever loads the model. A LoRA adapter needs no code.",
    remediation: "Do not set `trust_remote_code`. Remove `auto_map`, or read the Python files it names.",
    gap: false,
};
const OTHER_CODE: Rule = Rule {
    id: "CFG-002",
    severity: Severity::Critical,
    cwe: 829,
    title: "The configuration names code of another repository",
    help: "`auto_map` with `--` fetches Python from another repository, at whatever state that is then. Its owner can change it after every review.",
    remediation: "Do not set `trust_remote_code`. Remove `auto_map`.",
    gap: false,
};
const ATTENTION: Rule = Rule {
    id: "CFG-007",
    severity: Severity::Critical,
    cwe: 829,
    title: "An attention implementation out of a repository",
    help: "transformers fetches and runs kernels when `_attn_implementation_internal`, `attn_implementation` or a kernel setting names a repository; in versions 4.56.0 to 5.2 without asking (CVE-2026-4372).",
    remediation: "Remove the key. Use a transformers that is not affected.",
    gap: false,
};
const TOKENIZER_CLASS: Rule = Rule {
    id: "CFG-015",
    severity: Severity::Medium,
    cwe: 829,
    title: "A tokenizer or processor class that transformers does not have",
    help: "The class can only come from code of a repository, so somebody will ask for `trust_remote_code`; or it is a spelling of another class that some tool accepts.",
    remediation: "Use the tokenizer of the base.",
    gap: false,
};
const PIPELINE: Rule = Rule {
    id: "CFG-017",
    severity: Severity::High,
    cwe: 829,
    title: "A pipeline out of the repository's code",
    help: "`custom_pipelines` and the like name a Python file that transformers or diffusers import when a pipeline is made.",
    remediation: "Remove the key, or read the file it names.",
    gap: false,
};
const TRUST: Rule = Rule {
    id: "CFG-018",
    severity: Severity::High,
    cwe: 829,
    title: "A configuration that trusts code for its reader",
    help: "`trust_remote_code: true` in a file of the repository: tools that hand a file's settings on to the loader run the repository's code without the user's consent.",
    remediation: "Remove the key. Whether to trust code is the reader's decision, not the file's.",
    gap: false,
};
const IMPORT: Rule = Rule {
    id: "CFG-020",
    severity: Severity::High,
    cwe: 470,
    title: "A value that names something to import",
    help: "The value is a class or function by its Python path, which a loader imports by name: a command, an evaluation, or a class outside of the library that reads the file.",
    remediation: "Remove the value, or find out who reads it.",
    gap: false,
};
const CODE: Rule = Rule {
    id: "CFG-023",
    severity: Severity::High,
    cwe: 94,
    title: "Code in a configuration value",
    help: "The value is a piece of a program. Some tool evaluates it, or it is carried along for one that does.",
    remediation: "Remove the value, or find out who reads it.",
    gap: false,
};
const ENCODED: Rule = Rule {
    id: "CFG-024",
    severity: Severity::High,
    cwe: 506,
    title: "An encoded program or pickle in a value",
    help: "The value is base64 or hex of a pickle, a program or an archive with one, hidden from whoever looks at files by their names.",
    remediation: "Do not decode and load it. Remove the value.",
    gap: false,
};

const SHARD: Rule = Rule {
    id: "CFG-025",
    severity: Severity::High,
    cwe: 22,
    title: "An index of shards that leads out of the repository",
    help: "`weight_map` names the files that a loader opens. A path or an address there makes it open another file of the machine, or fetch one.",
    remediation: "Do not load the model; ask the author for a file without paths.",
    gap: false,
};

/// Modules whose functions no configuration has a reason to name.
const POWERFUL: &[&str] = &[
    "os",
    "posix",
    "nt",
    "subprocess",
    "builtins",
    "importlib",
    "pty",
    "socket",
    "shutil",
    "runpy",
    "code",
    "ctypes",
    "pickle",
    "marshal",
    "commands",
    "webbrowser",
    "sys",
    "pip",
    "timeit",
    "cProfile",
    "multiprocessing",
];
/// Of a longer value the head is searched; its length is a finding of the JSON family.
const VALUE_BYTES: usize = 1 << 20;
/// What only stands in programs.
const PROGRAM: &[&str] = &[
    "__import__(",
    "__import__ (",
    "os.system(",
    "os.popen(",
    "subprocess.",
    "exec(",
    "eval(",
    "b64decode(",
    "__globals__",
    "__subclasses__",
    "__builtins__",
    "<script",
    "lambda:",
    "powershell",
    "/bin/sh",
    "/bin/bash",
    "curl http",
    "wget http",
    "pickle.loads",
    "importlib.",
];

/// Every JSON file that a loader acts on.
pub(in crate::audit) struct RemoteCode;

impl Check for RemoteCode {
    fn name(&self) -> &'static str {
        "remote-code"
    }

    fn rules(&self) -> &'static [Rule] {
        &[LOCAL_CODE, OTHER_CODE, ATTENTION, TOKENIZER_CLASS, PIPELINE, TRUST, IMPORT, CODE, ENCODED, SHARD]
    }

    fn wants(&self, file: &File) -> bool {
        file.extension() == "json" && !is_vocabulary(file.name())
    }

    fn file(&self, file: &File, findings: &mut Findings) {
        let Some(document) = file.json() else { return };
        let looks = Looks { file, loaded: is_loaded(file.name()) };
        let has_map = document.get("auto_map").is_some_and(|map| !map.is_null());
        visit(document, &mut |path, value| {
            match path.key() {
                "auto_map" => looks.auto_map(path, value, findings),
                "_attn_implementation_internal"
                | "_attn_implementation"
                | "attn_implementation"
                | "kernel_config"
                | "experts_implementation" => looks.attention(path, value, findings),
                "tokenizer_class" | "slow_tokenizer_class" | "fast_tokenizer_class"
                    if looks.loaded && !has_map =>
                {
                    looks.tokenizer_class(path, value, findings);
                }
                "custom_pipelines" | "custom_pipeline" if !is_off(value) => {
                    looks.add(&PIPELINE, path, "a pipeline of the repository's code", value, findings);
                }
                "trust_remote_code" if value == &Value::Bool(true) || value == "true" => {
                    let severity = if looks.loaded { Severity::High } else { Severity::Low };
                    let finding = Finding::new(&TRUST, &file.path, "`trust_remote_code` is true")
                        .at(path.pointer())
                        .severity(severity);
                    findings.in_file(file, finding);
                }
                _ => {}
            }
            if let Value::String(text) = value {
                looks.text(path, text, findings);
            }
        });
    }
}

struct Looks<'a> {
    file: &'a File,
    loaded: bool,
}

impl Looks<'_> {
    fn add(&self, rule: &Rule, path: &Path, message: &str, value: &Value, findings: &mut Findings) {
        let finding =
            Finding::new(rule, &self.file.path, message).at(path.pointer()).evidence(value.to_string());
        findings.in_file(self.file, finding);
    }

    fn auto_map(&self, path: &Path, value: &Value, findings: &mut Findings) {
        let mut local = false;
        let mut remote = None;
        visit(value, &mut |_, value| {
            if let Value::String(text) = value {
                if text.contains("--") {
                    remote = Some(text.clone());
                } else {
                    local = true;
                }
            }
        });
        if let Some(reference) = remote {
            let message = format!("`auto_map` takes code from `{reference}`");
            self.add(&OTHER_CODE, path, &message, value, findings);
        }
        if local {
            self.add(&LOCAL_CODE, path, "`auto_map` imports Python of this repository", value, findings);
        }
    }

    fn attention(&self, path: &Path, value: &Value, findings: &mut Findings) {
        let mut repository = None;
        visit(value, &mut |_, value| {
            if let Value::String(text) = value
                && text.contains('/')
            {
                repository = Some(text.clone());
            }
        });
        if let Some(repository) = repository {
            let message = format!("`{}` takes a kernel from `{repository}`", path.key());
            self.add(&ATTENTION, path, &message, value, findings);
        } else if path.key() == "_attn_implementation_internal"
            && let Value::String(name) = value
        {
            let message = format!("`{}` is never written by transformers, found `{name}`", path.key());
            self.add(&ATTENTION, path, &message, value, findings);
        }
    }

    fn tokenizer_class(&self, path: &Path, value: &Value, findings: &mut Findings) {
        if let Value::String(name) = value
            && !is_known_tokenizer(name)
        {
            let message = format!("transformers has no tokenizer class `{name}`");
            self.add(&TOKENIZER_CLASS, path, &message, value, findings);
        }
    }

    /// Strings, whatever their key.
    fn text(&self, path: &Path, text: &str, findings: &mut Findings) {
        if path.passes("weight_map") {
            if text.contains("..") || text.contains("://") || text.starts_with(['/', '\\', '~']) {
                let finding =
                    Finding::new(&SHARD, &self.file.path, format!("a shard is `{text}`")).at(path.pointer());
                findings.in_file(self.file, finding);
            }
            return;
        }
        if let Some(kind) = encoded::program(text) {
            let message = format!("the value decodes to {kind}");
            let finding = Finding::new(&ENCODED, &self.file.path, message).at(path.pointer());
            findings.in_file(self.file, finding);
        }
        // Templates have a family of their own; logs and data of trainers may say anything.
        if !self.loaded || path.passes("chat_template") || self.file.name() == "chat_template.json" {
            return;
        }
        let text = &text[..text.floor_char_boundary(VALUE_BYTES)];
        let value = Value::String(text.to_owned());
        if let Some(module) = python_path(text)
            && POWERFUL.contains(&module)
        {
            let message = format!("the value names `{text}`");
            self.add(&IMPORT, path, &message, &value, findings);
        } else if self.file.name() == "modules.json"
            && path.key() == "type"
            && !text.starts_with("sentence_transformers.")
        {
            let message = format!("sentence-transformers imports `{text}`, which is not its own");
            self.add(&IMPORT, path, &message, &value, findings);
        } else if let Some(piece) = PROGRAM.iter().find(|piece| text.contains(*piece)) {
            let message = format!("the value has `{}`, as programs do", piece.trim());
            self.add(&CODE, path, &message, &value, findings);
        }
    }
}

/// The first part of a dotted Python name, if the text is one.
fn python_path(text: &str) -> Option<&str> {
    let mut parts = text.split('.');
    let first = parts.next()?;
    let name = |part: &str| {
        !part.is_empty()
            && !part.starts_with(|c: char| c.is_ascii_digit())
            && part.chars().all(|c| c.is_alphanumeric() || c == '_')
    };
    let mut more = false;
    for part in parts {
        more = true;
        if !name(part) {
            return None;
        }
    }
    (more && name(first)).then_some(first)
}
