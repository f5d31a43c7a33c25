//! CFG: what `adapter_config.json` makes PEFT do.

use report::audit::{Finding, Rule, Severity};
use serde_json::{Map, Value};

use super::base::{BaseName, classify};
use super::known::{ParentLibrary, is_peft_type, parent_library};
use super::regex::backtracking;
use crate::audit::Check;
use crate::audit::file::File;
use crate::audit::findings::Findings;
use crate::audit::json::is_off;
use crate::audit::json::visit::visit;

const PARENT_LIBRARY: Rule = Rule {
    id: "CFG-003",
    severity: Severity::Critical,
    cwe: 470,
    title: "PEFT imports a module that the configuration names (`auto_mapping`)",
    help: "PEFT before 0.20 imports `auto_mapping.parent_library` by name when the adapter is loaded, also from transformers' `from_pretrained` and without `trust_remote_code` (peft#3085). Only transformers, diffusers, lerobot and megatron have a reason to stand there.",
    remediation: "Do not load the adapter with PEFT before 0.20. Set `auto_mapping` to null.",
    gap: false,
};
const MEGATRON: Rule = Rule {
    id: "CFG-004",
    severity: Severity::Critical,
    cwe: 470,
    title: "PEFT imports a module that the configuration names (`megatron_core`)",
    help: "With `megatron_config` set, PEFT before 0.20 imports the module that `megatron_core` names. Only `megatron.core` has a reason to stand there.",
    remediation: "Do not load the adapter with PEFT before 0.20. Set `megatron_core` to \"megatron.core\" and `megatron_config` to null.",
    gap: false,
};
const BASE_PATH: Rule = Rule {
    id: "CFG-005",
    severity: Severity::High,
    cwe: 22,
    title: "The base model is an address or a path",
    help: "`base_model_name_or_path` should be the id of a model. An address or share makes the loader fetch what its owner serves at that moment; a path makes it read the machine's files.",
    remediation: "Load the base yourself, by an id and a commit, and give it to PEFT.",
    gap: false,
};
const CACHE: Rule = Rule {
    id: "CFG-006",
    severity: Severity::High,
    cwe: 502,
    title: "A path in the configuration that is unpickled",
    help: "`corda_config` and `lora_ga_config` name cache files that PEFT reads with `torch.load`: a pickle at that path runs code.",
    remediation: "Set the key to null; it serves training only.",
    gap: false,
};
const BACKTRACKING: Rule = Rule {
    id: "CFG-008",
    severity: Severity::High,
    cwe: 1333,
    title: "A regular expression with catastrophic backtracking",
    help: "PEFT matches the expression against the name of every module with Python's backtracking engine. Nested or overlapping repetitions take time exponential in the name's length, so loading never ends.",
    remediation: "Write the target modules as a list of names.",
    gap: false,
};
const OTHER_TYPE: Rule = Rule {
    id: "CFG-009",
    severity: Severity::Low,
    cwe: 693,
    title: "A kind of adapter that this program does not understand",
    help: "Only LoRA is understood. Adapters made of other adapters (X-LoRA, Arrow) load further repositories that were not audited.",
    remediation: "Audit the repositories it names. A clean result here says nothing about them.",
    gap: true,
};
const BOMB: Rule = Rule {
    id: "CFG-010",
    severity: Severity::High,
    cwe: 770,
    title: "A configuration that makes the model explode",
    help: "Replicated layers, ranks or lists of a size that no training writes: loading fills the memory or never ends.",
    remediation: "Do not load the adapter.",
    gap: false,
};
const UNKNOWN_KEY: Rule = Rule {
    id: "CFG-012",
    severity: Severity::Medium,
    cwe: 20,
    title: "A key that PEFT does not have",
    help: "PEFT drops keys it does not know, with a warning; another loader may act on them. Then the model that runs is not the one that was tested.",
    remediation: "Find out which tool writes the key and what it does there.",
    gap: false,
};
const UNPINNED: Rule = Rule {
    id: "CFG-014",
    severity: Severity::Low,
    cwe: 494,
    title: "The base model is not pinned to a commit",
    help: "`revision` is absent or a branch, so the base can change after this audit. Most published adapters are like this.",
    remediation: "Set `revision` to the 40-digit commit of the base, or pin the base where you load it.",
    gap: false,
};
const IMPOSSIBLE: Rule = Rule {
    id: "CFG-016",
    severity: Severity::Medium,
    cwe: 1284,
    title: "A value that no training writes",
    help: "A rank or alpha that is no positive number, or a list where a name belongs: loaders disagree about what it means.",
    remediation: "Ask the author for the configuration as PEFT writes it.",
    gap: false,
};
const ADDRESS: Rule = Rule {
    id: "CFG-019",
    severity: Severity::Medium,
    cwe: 829,
    title: "An address in an adapter's configuration",
    help: "No key of PEFT holds an address. Some loader or plug-in fetches from there or reports to it.",
    remediation: "Remove the key, or find out who reads it.",
    gap: false,
};
const INVOCATION: Rule = Rule {
    id: "CFG-021",
    severity: Severity::Medium,
    cwe: 506,
    title: "An adapter that acts behind certain tokens only",
    help: "`alora_invocation_tokens` switches the adapter on where these tokens occur: a declared trigger. Without them in the prompt, tests see the base only.",
    remediation: "Test with the invocation tokens in the prompt, and decide whether you want such a switch.",
    gap: false,
};
/// The largest published models have a few hundred layers.
const LAYERS: u64 = 1_000;
/// Rank of a full matrix of the largest models.
const RANK: f64 = 65_536.0;
/// An `all-linear` list of a large model has some thousand names.
const ELEMENTS: usize = 20_000;
/// Expressions that are analysed; no training writes more.
const PATTERNS: usize = 300;
/// Keys whose value is matched as a regular expression, or whose keys are.
const EXPRESSIONS: &[&str] = &[
    "target_modules",
    "exclude_modules",
    "layers_pattern",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "target_parameters",
];

/// `adapter_config.json`, wherever it stands.
pub(in crate::audit) struct AdapterConfigs;

impl Check for AdapterConfigs {
    fn name(&self) -> &'static str {
        "adapter-config"
    }

    fn rules(&self) -> &'static [Rule] {
        &[
            PARENT_LIBRARY,
            MEGATRON,
            BASE_PATH,
            CACHE,
            BACKTRACKING,
            OTHER_TYPE,
            BOMB,
            UNKNOWN_KEY,
            UNPINNED,
            IMPOSSIBLE,
            ADDRESS,
            INVOCATION,
        ]
    }

    fn wants(&self, file: &File) -> bool {
        file.name() == "adapter_config.json"
    }

    fn file(&self, file: &File, findings: &mut Findings) {
        let Some(Value::Object(config)) = file.json() else { return };
        let mut look = Look { file, config, findings };
        look.imports();
        look.base();
        look.expressions();
        look.sizes();
        look.kind();
        look.paths_and_addresses();
        look.keys();
    }
}

struct Look<'a, 'f> {
    file: &'a File,
    config: &'a Map<String, Value>,
    findings: &'f mut Findings,
}

impl<'a> Look<'a, '_> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.config.get(key).filter(|value| !value.is_null())
    }

    fn add(&mut self, rule: &Rule, severity: Severity, pointer: &str, message: String) {
        let finding = Finding::new(rule, &self.file.path, message).at(pointer).severity(severity);
        self.findings.in_file(self.file, finding);
    }

    fn imports(&mut self) {
        if let Some(mapping) = self.get("auto_mapping") {
            let mut modules = Vec::new();
            visit(mapping, &mut |path, value| {
                if let (true, Value::String(module)) = (path.key().contains("library"), value) {
                    modules.push(module.clone());
                }
            });
            for module in modules {
                let severity = match parent_library(&module) {
                    ParentLibrary::Allowed => continue,
                    ParentLibrary::Training => Severity::Low,
                    ParentLibrary::FetchedCode => Severity::Medium,
                    ParentLibrary::Unknown => Severity::Critical,
                };
                let message = format!("PEFT before 0.20 imports `{module}` when it loads the adapter");
                self.add(&PARENT_LIBRARY, severity, "/auto_mapping/parent_library", message);
            }
        }
        if let Some(core) = self.get("megatron_core")
            && core != "megatron.core"
            && core != ""
        {
            let message = format!("PEFT before 0.20 imports {core} when `megatron_config` is set");
            self.add(&MEGATRON, MEGATRON.severity, "/megatron_core", message);
        }
    }

    fn base(&mut self) {
        let Some(Value::String(name)) = self.get("base_model_name_or_path") else { return };
        let (severity, what) = match classify(name) {
            BaseName::Hub => (None, ""),
            BaseName::Address => (Some(Severity::High), "an address"),
            BaseName::Share => (Some(Severity::High), "a share of another machine"),
            BaseName::Sensitive => (Some(Severity::High), "a folder of the system or of secrets"),
            BaseName::Traversal => (Some(Severity::Medium), "a path that climbs out of the folder"),
            BaseName::Local => (Some(Severity::Low), "a folder of the author's machine"),
        };
        if let Some(severity) = severity {
            let message = format!("expected the id of a model, found {what}: `{name}`");
            self.add(&BASE_PATH, severity, "/base_model_name_or_path", message);
            return;
        }
        let commit = |value: &Value| {
            value.as_str().is_some_and(|text| text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit()))
        };
        if !self.get("revision").is_some_and(commit) {
            let found = self.get("revision").map_or("nothing".to_owned(), Value::to_string);
            let message = format!("expected the commit of `{name}` in `revision`, found {found}");
            self.add(&UNPINNED, UNPINNED.severity, "/revision", message);
        }
    }

    fn expressions(&mut self) {
        for key in EXPRESSIONS {
            let mut patterns: Vec<(String, String)> = Vec::new();
            match self.get(key) {
                Some(Value::String(pattern)) => patterns.push((format!("/{key}"), pattern.clone())),
                Some(Value::Object(map)) => {
                    patterns.extend(map.keys().map(|pattern| (format!("/{key}/{pattern}"), pattern.clone())));
                }
                // Names of `layers_pattern` and `modules_to_save` are put into expressions.
                Some(Value::Array(items)) if matches!(*key, "layers_pattern" | "modules_to_save") => {
                    patterns.extend(items.iter().take(PATTERNS).enumerate().filter_map(|(index, item)| {
                        Some((format!("/{key}/{index}"), item.as_str()?.to_owned()))
                    }));
                }
                _ => {}
            }
            for (pointer, pattern) in patterns.into_iter().take(PATTERNS) {
                if let Some(reason) = backtracking(&pattern) {
                    let message = format!("the expression `{pattern}` has {reason}");
                    self.add(&BACKTRACKING, BACKTRACKING.severity, &pointer, message);
                }
            }
        }
    }

    fn sizes(&mut self) {
        if let Some(Value::Array(ranges)) = self.get("layer_replication") {
            let layers: u64 = ranges
                .iter()
                .map(|range| match range.as_array().map(Vec::as_slice) {
                    Some([start, end]) => {
                        end.as_u64().unwrap_or(u64::MAX).saturating_sub(start.as_u64().unwrap_or(0))
                    }
                    _ => 0,
                })
                .fold(0, u64::saturating_add);
            let (severity, what) = if layers > LAYERS {
                (Severity::High, format!("the model is rebuilt with {layers} layers"))
            } else {
                (Severity::Medium, format!("the model is rebuilt as another one, with {layers} layers"))
            };
            if !ranges.is_empty() {
                self.add(&BOMB, severity, "/layer_replication", what);
            }
        }
        for key in ["r", "lora_alpha"] {
            match self.get(key) {
                None => {}
                Some(value) => match value.as_f64() {
                    Some(number) if key == "r" && number > RANK => {
                        self.add(&BOMB, Severity::High, &format!("/{key}"), format!("a rank of {number}"));
                    }
                    Some(number) if number > 0.0 => {}
                    // An alpha of zero is a no-op, which the weights family reports.
                    Some(0.0) if key == "lora_alpha" => {}
                    _ => {
                        let message = format!("expected a positive number in `{key}`, found {value}");
                        self.add(&IMPOSSIBLE, IMPOSSIBLE.severity, &format!("/{key}"), message);
                    }
                },
            }
        }
        for (key, value) in self.config {
            let elements = match value {
                Value::Array(items) => items.len(),
                Value::Object(map) => map.len(),
                _ => 0,
            };
            if elements > ELEMENTS {
                self.add(
                    &BOMB,
                    Severity::High,
                    &format!("/{key}"),
                    format!("`{key}` has {elements} elements"),
                );
            }
        }
        for key in ["alora_invocation_tokens", "alora_invocation_string"] {
            if let Some(value) = self.get(key).filter(|value| !is_off(value)) {
                let message = format!("the adapter acts only behind {value}");
                self.add(&INVOCATION, INVOCATION.severity, &format!("/{key}"), message);
            }
        }
    }

    fn kind(&mut self) {
        let Some(kind) = self.get("peft_type").and_then(Value::as_str) else { return };
        let others: Vec<String> = ["adapters", "arrow_config", "xlora_config"]
            .iter()
            .filter_map(|key| self.get(key).filter(|value| !is_off(value)).map(Value::to_string))
            .collect();
        if let Some(named) = others.first() {
            let message = format!("the adapter loads others: {named}");
            self.add(&OTHER_TYPE, Severity::High, "/adapters", message);
        } else if !kind.eq_ignore_ascii_case("LORA") {
            let severity = if is_peft_type(kind) { OTHER_TYPE.severity } else { Severity::Medium };
            let message = format!("expected `peft_type` LORA, found `{kind}`");
            self.add(&OTHER_TYPE, severity, "/peft_type", message);
        }
    }

    fn paths_and_addresses(&mut self) {
        let mut found: Vec<(&'static Rule, String, String)> = Vec::new();
        for (key, value) in self.config {
            visit(value, &mut |path, value| {
                let Value::String(text) = value else { return };
                let pointer = format!("/{key}{}", path.pointer());
                let nested = !path.key().is_empty();
                let file_key = path.key().ends_with("_file") || path.key().ends_with("_path");
                let pickled = [".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib"]
                    .iter()
                    .any(|extension| text.to_ascii_lowercase().ends_with(extension));
                if !text.is_empty() && nested && (file_key || pickled) {
                    found.push((&CACHE, pointer, format!("PEFT reads `{text}` with torch.load")));
                } else if text.contains("://") && key != "base_model_name_or_path" {
                    found.push((&ADDRESS, pointer, format!("`{text}`")));
                }
            });
        }
        for (rule, pointer, message) in found {
            self.add(rule, rule.severity, &pointer, message);
        }
    }

    fn keys(&mut self) {
        let is_lora = self.get("peft_type").and_then(Value::as_str) == Some("LORA");
        if !is_lora {
            return;
        }
        let newer = self.get("peft_version").and_then(Value::as_str).is_some_and(is_newer_peft);
        for (key, value) in self.config {
            if is_off(value) || inference::adapter::config::is_known_key(key) || key == "adapters" {
                continue;
            }
            let severity = if newer { Severity::Low } else { UNKNOWN_KEY.severity };
            let message = format!("PEFT has no key `{key}`, found value {value}");
            self.add(&UNKNOWN_KEY, severity, &format!("/{key}"), message);
        }
    }
}

/// Whether a version of PEFT is newer than the one whose keys are known, 0.21.
fn is_newer_peft(version: &str) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) > (0, 21)
}
