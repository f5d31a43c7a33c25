//! PROV-002 and PROV-003: names of base models that are made to be taken for others.

use report::audit::{Finding, Rule, Severity};
use serde_json::Value;

use crate::audit::Check;
use crate::audit::config::hub_id;
use crate::audit::file::File;
use crate::audit::findings::Findings;
use crate::audit::names::{distance_is_one, skeleton};
use crate::audit::unseen;

const SCRIPTS: Rule = Rule {
    id: "PROV-002",
    severity: Severity::High,
    cwe: 1007,
    title: "A base model whose name has letters of other scripts",
    help: "Ids of hubs are ASCII. A letter that only looks like another one names another model, or none.",
    remediation: "Type the id of the base yourself.",
    gap: false,
};
const LOOK_ALIKE: Rule = Rule {
    id: "PROV-003",
    severity: Severity::High,
    cwe: 1007,
    title: "A base model of somebody who is named like a well-known organisation",
    help: "The organisation's name is one letter away from that of a well-known one, or looks the same. Whoever registered it chooses what is loaded.",
    remediation: "Check the organisation; type the id of the base yourself.",
    gap: false,
};

/// Organisations whose models people adapt.
const ORGANISATIONS: &[&str] = &[
    "01-ai",
    "ai21labs",
    "alibaba-nlp",
    "allenai",
    "apple",
    "baichuan-inc",
    "baidu",
    "bigcode",
    "bigscience",
    "bytedance",
    "codellama",
    "cohereforai",
    "coherelabs",
    "databricks",
    "deepseek-ai",
    "dphn",
    "eleutherai",
    "facebook",
    "google",
    "google-bert",
    "gpt2",
    "huggingfaceh4",
    "huggingfacetb",
    "ibm-granite",
    "inceptionai",
    "internlm",
    "lgai-exaone",
    "liquidai",
    "lmsys",
    "meta-llama",
    "microsoft",
    "minimaxai",
    "mistralai",
    "mlx-community",
    "moonshotai",
    "mosaicml",
    "nousresearch",
    "nvidia",
    "openai",
    "openai-community",
    "openbmb",
    "openchat",
    "opengvlab",
    "qwen",
    "salesforce",
    "servicenow",
    "sentence-transformers",
    "snowflake",
    "stabilityai",
    "state-spaces",
    "teknium",
    "thebloke",
    "tiiuae",
    "tinyllama",
    "togethercomputer",
    "unsloth",
    "upstage",
    "xai-org",
    "zai-org",
    "zhipuai",
];
/// Names near these whose owners are known, too.
const OWN: &[&str] = &["llama", "cohere", "mistral", "openai-mirror", "qwenlm", "facebookai"];
/// A shorter name is one letter from too many others.
const SHORTEST: usize = 5;

/// Names of bases in configurations.
pub(in crate::audit) struct BaseNames;

impl Check for BaseNames {
    fn name(&self) -> &'static str {
        "base-name"
    }

    fn rules(&self) -> &'static [Rule] {
        &[SCRIPTS, LOOK_ALIKE]
    }

    fn wants(&self, file: &File) -> bool {
        matches!(file.name(), "adapter_config.json" | "config.json" | "tokenizer_config.json")
    }

    fn file(&self, file: &File, findings: &mut Findings) {
        let Some(document) = file.json() else { return };
        for key in ["base_model_name_or_path", "_name_or_path", "name_or_path"] {
            if let Some(name) = document.get(key).and_then(Value::as_str)
                && let Some((rule, message)) = odd(name)
            {
                findings.in_file(file, Finding::new(rule, &file.path, message).at(format!("/{key}")));
            }
        }
    }
}

/// What is odd about the name of a base, if anything is.
pub(super) fn odd(name: &str) -> Option<(&'static Rule, String)> {
    let id = hub_id(name)?;
    if unseen::any(id) || !id.is_ascii() {
        let odd: Vec<String> =
            id.chars().filter(|c| !c.is_ascii()).take(4).map(|c| format!("U+{:04X}", u32::from(c))).collect();
        return Some((&SCRIPTS, format!("`{id}` has {}", odd.join(", "))));
    }
    let organisation = id.split_once('/')?.0.to_lowercase();
    if ORGANISATIONS.contains(&organisation.as_str()) || OWN.contains(&organisation.as_str()) {
        return None;
    }
    let meant = ORGANISATIONS.iter().find(|known| {
        (organisation.len() >= 3 && skeleton(known) == skeleton(&organisation))
            || (known.len() >= SHORTEST && distance_is_one(known, &organisation))
    })?;
    Some((&LOOK_ALIKE, format!("`{organisation}` of `{id}` looks like `{meant}`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_alikes_are_found() {
        for (name, rule) in [
            ("metа-llama/Llama-3.2-1B", "PROV-002"),
            ("mistralai/Mistral\u{ff0d}7B", "PROV-002"),
            ("meta-lllama/Llama-3.2-1B", "PROV-003"),
            ("m1stralai/Mistral-7B-v0.1", "PROV-003"),
            ("metallama/Llama", "PROV-003"),
            ("Qvven/Qwen2.5", "PROV-003"),
            ("rnicrosoft/phi-4", "PROV-003"),
        ] {
            assert_eq!(odd(name).map(|(rule, _)| rule.id), Some(rule), "{name}");
        }
        for name in [
            "meta-llama/Llama-3.2-1B",
            "Qwen/Qwen2.5-7B",
            "gpt2",
            "someone/model",
            "/local/path",
            "TinyLlama/TinyLlama-1.1B",
        ] {
            assert_eq!(odd(name).map(|(rule, _)| rule.id), None, "{name}");
        }
    }
}
