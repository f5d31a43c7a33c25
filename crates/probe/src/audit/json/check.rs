//! JSON: documents that parsers read differently, or not at all.

use report::audit::{Finding, Rule, Severity};
use serde_json::Value;

use super::reader::{self, FaultKind};
use super::{is_loaded, is_vocabulary};
use crate::audit::Check;
use crate::audit::file::File;
use crate::audit::findings::Findings;
use crate::audit::kind::Kind;

const DUPLICATE: Rule = Rule {
    id: "JSON-001",
    severity: Severity::High,
    cwe: 436,
    title: "A key stands twice in one object",
    help: "Parsers differ in which value they take, so a reviewer and a loader can see different files. Writers of JSON never do this.",
    remediation: "Find out which value is meant, and who wrote the other one.",
    gap: false,
};
const DEEP: Rule = Rule {
    id: "JSON-002",
    severity: Severity::High,
    cwe: 674,
    title: "JSON nested too deeply",
    help: "No configuration nests so deep; recursive parsers overflow their stack. What lies deeper was not read.",
    remediation: "Do not load the file.",
    gap: true,
};
const LARGE: Rule = Rule {
    id: "JSON-003",
    severity: Severity::Medium,
    cwe: 770,
    title: "A configuration file that is far too large",
    help: "Configurations of models are some kilobytes. A large one fills memory, slows loaders down, or carries something else.",
    remediation: "Look at what the file holds, and ask the author.",
    gap: false,
};
const NOT_UTF8: Rule = Rule {
    id: "JSON-004",
    severity: Severity::Medium,
    cwe: 838,
    title: "JSON that is not UTF-8",
    help: "JSON files are UTF-8. Some parsers guess other encodings, others refuse, others replace bytes, so they read different values. The content was not checked.",
    remediation: "Save the file as UTF-8 and audit again.",
    gap: true,
};
const WRONG_TYPE: Rule = Rule {
    id: "JSON-005",
    severity: Severity::Medium,
    cwe: 1287,
    title: "A configuration of the wrong type",
    help: "The loader of this file expects an object, or for some files a list. Its checks did not apply.",
    remediation: "Ask the author for the file as the training library writes it.",
    gap: true,
};
const NON_FINITE: Rule = Rule {
    id: "JSON-006",
    severity: Severity::Medium,
    cwe: 1287,
    title: "NaN, infinity, or a number beyond all range",
    help: "JSON has no such numbers. Python takes them, other parsers refuse, and what a loader computes with them is undefined. Logs of trainers hold NaN where training diverged, which is harmless.",
    remediation: "Ask the author for a file with finite numbers.",
    gap: false,
};
const TRAILING: Rule = Rule {
    id: "JSON-007",
    severity: Severity::High,
    cwe: 436,
    title: "Something follows the JSON document",
    help: "Parsers that stop at the end of the first document read another file than those that refuse or look on.",
    remediation: "Look at what follows, and remove it.",
    gap: false,
};
const MALFORMED: Rule = Rule {
    id: "JSON-008",
    severity: Severity::Medium,
    cwe: 20,
    title: "Not JSON",
    help: "The file is named as JSON and cannot be parsed, so its content was not checked. Lenient parsers may read it all the same.",
    remediation: "Repair or remove the file.",
    gap: true,
};
const SURROGATE: Rule = Rule {
    id: "JSON-009",
    severity: Severity::Low,
    cwe: 176,
    title: "Half of a surrogate pair in a string",
    help: "The escape stands for no character. Parsers refuse it, keep it or replace it, so they read different strings.",
    remediation: "Ask the author what the string should be.",
    gap: false,
};

/// A configuration that a person could read is smaller.
const CONFIG_BYTES: u64 = 1 << 20;
/// `config.json` of a classifier has all its labels; a tokenizer's config all its added tokens.
const LONG_CONFIG_BYTES: u64 = 8 << 20;
/// The largest published vocabularies take 35 MB.
const VOCABULARY_BYTES: u64 = 64 << 20;

/// Every file that is named as JSON.
pub(in crate::audit) struct JsonFiles;

impl Check for JsonFiles {
    fn name(&self) -> &'static str {
        "json"
    }

    fn rules(&self) -> &'static [Rule] {
        &[DUPLICATE, DEEP, LARGE, NOT_UTF8, WRONG_TYPE, NON_FINITE, TRAILING, MALFORMED, SURROGATE]
    }

    fn wants(&self, file: &File) -> bool {
        // Under this name, pickles and the like are reported by their own families.
        matches!(file.extension().as_str(), "json" | "ipynb")
            && matches!(file.kind, Kind::Text | Kind::Binary | Kind::Empty | Kind::Zlib)
    }

    fn file(&self, file: &File, findings: &mut Findings) {
        let loaded = is_loaded(file.name());
        if let Some(most) = most_bytes(file.name()).filter(|&most| file.size > most) {
            let message = format!("expected at most {most} bytes, found {}", file.size);
            findings.in_file(file, Finding::new(&LARGE, &file.path, message));
        }
        if !file.whole {
            return;
        }
        let text = match std::str::from_utf8(&file.bytes) {
            Ok(text) if !text.contains('\0') => text,
            Ok(_) => {
                findings.in_file(file, Finding::new(&NOT_UTF8, &file.path, "NUL characters, as in UTF-16"));
                return;
            }
            Err(error) => {
                let message = format!("no UTF-8 from byte {} on", error.valid_up_to());
                findings.in_file(file, Finding::new(&NOT_UTF8, &file.path, message));
                return;
            }
        };
        let document = reader::read(text);
        for fault in &document.faults {
            let (rule, severity) = match fault.kind {
                FaultKind::Duplicate => (&DUPLICATE, if loaded { Severity::High } else { Severity::Low }),
                FaultKind::Deep => (&DEEP, Severity::High),
                FaultKind::NonFinite => (&NON_FINITE, if loaded { Severity::Medium } else { Severity::Note }),
                FaultKind::Trailing => (&TRAILING, if loaded { Severity::High } else { Severity::Low }),
                FaultKind::Malformed => (&MALFORMED, if loaded { Severity::Medium } else { Severity::Low }),
                FaultKind::Surrogate => (&SURROGATE, Severity::Low),
                // Parsers agree on it: they skip it or refuse the file.
                FaultKind::ByteOrderMark => continue,
            };
            let message = match fault.kind {
                FaultKind::Duplicate => format!("the key `{}` stands twice in one object", fault.detail),
                FaultKind::Trailing => format!("behind the document follows `{}`", fault.detail),
                _ => fault.detail.clone(),
            };
            let mut finding = Finding::new(rule, &file.path, message).line(fault.line).severity(severity);
            // What no loader reads is no gap of the audit.
            finding.gap &= loaded;
            findings.in_file(file, finding);
        }
        if let Some(value) = &document.value
            && loaded
            && let Some(found) = wrong_type(file.name(), value)
        {
            findings.in_file(file, Finding::new(&WRONG_TYPE, &file.path, found));
        }
    }
}

fn most_bytes(name: &str) -> Option<u64> {
    match name {
        _ if is_vocabulary(name) => Some(VOCABULARY_BYTES),
        "config.json" | "tokenizer_config.json" => Some(LONG_CONFIG_BYTES),
        _ if name.ends_with(".index.json") => Some(LONG_CONFIG_BYTES),
        _ if is_loaded(name) => Some(CONFIG_BYTES),
        _ => None,
    }
}

fn wrong_type(name: &str, value: &Value) -> Option<String> {
    let found = inference::weights::json::kind(value);
    let fits = match name {
        "modules.json" => value.is_array(),
        // Some tools write a list of names here.
        "added_tokens.json" => value.is_object() || value.is_array(),
        _ => value.is_object(),
    };
    let expected = if name == "modules.json" { "a list" } else { "an object" };
    (!fits).then(|| format!("expected {expected}, found {found}"))
}
