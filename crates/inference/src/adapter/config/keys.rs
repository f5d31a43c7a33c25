//! The keys of `adapter_config.json`, by PEFT type: what each does to inference.

/// What is done with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Treatment {
    /// Read by the parser.
    Honoured,
    /// No effect on inference.
    Inert,
    /// Changes what is computed and is not implemented: refused unless its value is neutral.
    Refused,
}

use Treatment::{Honoured, Inert, Refused};

/// Keys of every type of PEFT (0.21 and older versions).
pub(crate) const COMMON: &[(&str, Treatment)] = &[
    ("peft_type", Honoured),
    ("task_type", Honoured),
    ("base_model_name_or_path", Honoured),
    ("target_modules", Honoured),
    ("exclude_modules", Honoured),
    ("layers_to_transform", Honoured),
    ("layers_pattern", Honoured),
    ("modules_to_save", Honoured),
    ("revision", Inert),
    ("peft_version", Inert),
    ("auto_mapping", Inert),
    ("inference_mode", Inert),
    // PEFT sets it to what the layer type needs, whatever the file says.
    ("fan_in_fan_out", Inert),
];

/// Keys of `LoraConfig`.
pub(crate) const LORA: &[(&str, Treatment)] = &[
    ("r", Honoured),
    ("lora_alpha", Honoured),
    ("use_rslora", Honoured),
    ("rank_pattern", Honoured),
    ("alpha_pattern", Honoured),
    ("init_lora_weights", Honoured),
    ("bias", Honoured),
    ("use_dora", Honoured),
    ("lora_bias", Honoured),
    ("trainable_token_indices", Honoured),
    ("ensure_weight_tying", Honoured),
    ("kasa_config", Honoured),
    ("layer_replication", Honoured),
    ("lora_dropout", Inert),
    ("loftq_config", Inert),
    ("eva_config", Inert),
    ("corda_config", Inert),
    ("lora_ga_config", Inert),
    ("velora_config", Inert),
    ("megatron_config", Inert),
    ("megatron_core", Inert),
    ("runtime_config", Inert),
    ("qalora_group_size", Inert),
    ("target_parameters", Honoured),
    ("alora_invocation_tokens", Honoured),
    ("alora_invocation_string", Refused),
    ("use_bdlora", Refused),
    ("use_qalora", Refused),
    ("monteclora_config", Refused),
    ("arrow_config", Refused),
    ("enable_lora", Refused),
];

/// Keys of `AdaLoraConfig` beside those of LoRA.
pub(crate) const ADALORA: &[(&str, Treatment)] = &[
    ("init_r", Inert),
    ("target_r", Inert),
    ("tinit", Inert),
    ("tfinal", Inert),
    ("deltaT", Inert),
    ("beta1", Inert),
    ("beta2", Inert),
    ("orth_reg_weight", Inert),
    ("total_step", Inert),
];

/// Keys of `LoHaConfig` and `LoKrConfig`.
pub(crate) const LYCORIS: &[(&str, Treatment)] = &[
    ("r", Honoured),
    ("alpha", Honoured),
    ("rank_pattern", Honoured),
    ("alpha_pattern", Honoured),
    ("rank_dropout", Inert),
    ("rank_dropout_scale", Inert),
    ("module_dropout", Inert),
    // Of convolutions only.
    ("use_effective_conv2d", Inert),
    // The shapes of the tensors tell.
    ("decompose_both", Inert),
    ("decompose_factor", Inert),
    ("init_weights", Inert),
];

/// Keys of `IA3Config`.
pub(crate) const IA3: &[(&str, Treatment)] =
    &[("feedforward_modules", Honoured), ("init_ia3_weights", Inert)];

/// Keys of `VeraConfig`.
pub(crate) const VERA: &[(&str, Treatment)] = &[
    ("r", Honoured),
    ("bias", Honoured),
    ("vera_dropout", Inert),
    ("d_initial", Inert),
    ("init_weights", Inert),
    // Without the saved projections the tensors are missing, and the file is refused.
    ("save_projection", Inert),
    ("projection_prng_key", Inert),
];

/// Keys of `PromptTuningConfig`.
pub(crate) const PROMPT_TUNING: &[(&str, Treatment)] = &[
    ("num_virtual_tokens", Honoured),
    ("token_dim", Honoured),
    ("num_transformer_submodules", Honoured),
    // Of the base, which has them itself.
    ("num_attention_heads", Inert),
    ("num_layers", Inert),
    // What the virtual tokens were before they were trained.
    ("prompt_tuning_init", Inert),
    ("prompt_tuning_init_text", Inert),
    ("tokenizer_name_or_path", Inert),
    ("tokenizer_kwargs", Inert),
];

/// Every table, for whoever only asks whether a key is known.
const ALL: &[&[(&str, Treatment)]] = &[COMMON, LORA, ADALORA, LYCORIS, IA3, VERA, PROMPT_TUNING];

/// Whether PEFT has a key of this name, or had it once.
#[must_use]
pub fn is_known_key(key: &str) -> bool {
    ALL.iter().any(|table| table.iter().any(|(name, _)| *name == key))
}
