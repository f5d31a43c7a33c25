//! CFG-013: `generation_config.json` that rewrites what the model says.

use report::audit::{Finding, Rule, Severity};
use serde_json::Value;

use crate::audit::Check;
use crate::audit::file::File;
use crate::audit::findings::Findings;
use crate::audit::json::is_off;
use crate::audit::json::visit::visit;

const REWRITES: Rule = Rule {
    id: "CFG-013",
    severity: Severity::High,
    cwe: 353,
    title: "Generation settings that rewrite the output",
    help: "Forced, forbidden or favoured tokens change what the model says without touching a weight, and a scan of the weights does not see it. `custom_generate` runs code of a repository.",
    remediation: "Remove the key, or translate its token ids with the base's tokenizer and decide whether you want it.",
    gap: false,
};

/// Settings that act on certain tokens, in any configuration that transformers reads generation settings from.
const KEYS: &[&str] = &[
    "bad_words_ids",
    "begin_suppress_tokens",
    "constraints",
    "custom_generate",
    "decoder_start_token_id",
    "force_words_ids",
    "forced_bos_token_id",
    "forced_decoder_ids",
    "forced_eos_token_id",
    "sequence_bias",
    "stop_strings",
    "suppress_tokens",
    "watermarking_config",
    "exponential_decay_length_penalty",
    "logits_processor",
    "prefix_allowed_tokens_fn",
    "negative_prompt_ids",
];
/// Of these, what encoders-decoders and speech models have in harmless configurations of models.
const OF_MODELS: &[&str] = &[
    "begin_suppress_tokens",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_decoder_ids",
    "forced_eos_token_id",
    "suppress_tokens",
    "bad_words_ids",
];
/// Longer than any answer: the model would never stop, and whoever pays for it notices late.
const LONGEST_ANSWER: u64 = 10_000_000;

/// `generation_config.json` and generation settings inside `config.json`.
pub(in crate::audit) struct GenerationConfigs;

impl Check for GenerationConfigs {
    fn name(&self) -> &'static str {
        "generation-config"
    }

    fn rules(&self) -> &'static [Rule] {
        &[REWRITES]
    }

    fn wants(&self, file: &File) -> bool {
        matches!(file.name(), "generation_config.json" | "config.json" | "adapter_config.json")
    }

    fn file(&self, file: &File, findings: &mut Findings) {
        let Some(document) = file.json() else { return };
        let own = file.name() == "generation_config.json";
        let encoder_decoder = document.get("is_encoder_decoder") == Some(&Value::Bool(true));
        visit(document, &mut |path, value| {
            let key = path.key();
            if is_off(value) {
                return;
            }
            if KEYS.contains(&key) && !path.pointer().contains("/label") {
                let severity = match key {
                    "custom_generate" => Severity::Critical,
                    _ if OF_MODELS.contains(&key) && (encoder_decoder || !own) => Severity::Low,
                    "decoder_start_token_id" => Severity::Low,
                    "stop_strings" | "watermarking_config" | "constraints" => Severity::Medium,
                    _ => Severity::High,
                };
                let finding = Finding::new(&REWRITES, &file.path, format!("`{key}` is set"))
                    .at(path.pointer())
                    .evidence(value.to_string())
                    .severity(severity);
                findings.in_file(file, finding);
            }
            let endless = matches!(key, "min_length" | "min_new_tokens" | "max_new_tokens" | "num_beams")
                && value.as_f64().is_some_and(|number| number > LONGEST_ANSWER as f64);
            if endless && own {
                let message = format!("`{key}` is {value}, which no answer reaches");
                let finding = Finding::new(&REWRITES, &file.path, message)
                    .at(path.pointer())
                    .severity(Severity::Medium);
                findings.in_file(file, finding);
            }
        });
    }
}
