//! What the name of a tensor in an adapter file means.

/// The part that a tensor plays.
#[derive(Debug, PartialEq, Eq)]
pub enum TensorRole {
    /// `lora_A` of a module (name as in the base model).
    LoraA(String),
    /// `lora_B` of a module.
    LoraB(String),
    /// Something that plain LoRA does not have; the text says what.
    Other(&'static str),
}

/// Known suffixes that are not plain LoRA, and what they are.
const OTHER: &[(&str, &str)] = &[
    ("lora_magnitude_vector", "DoRA magnitude"),
    ("lora_embedding_A", "embedding LoRA"),
    ("lora_embedding_B", "embedding LoRA"),
    ("lora_B.bias", "bias of lora_B"),
    ("trainable_tokens_delta", "replaced token embeddings"),
    ("base_layer.weight", "a full copy of a base weight"),
    ("base_layer.bias", "a base bias"),
    ("modules_to_save", "a full copy of a module"),
    ("lora_E", "AdaLoRA"),
    ("lora_diag", "KaSA"),
    ("prompt_embeddings", "prompt tuning"),
    ("ia3_l", "IA3"),
];

/// Reads a tensor name. Accepts PEFT's prefix `base_model.model.` or none, and the names of raw
/// state dicts in which the adapter's own name stands before `weight`.
#[must_use]
pub fn role(name: &str) -> TensorRole {
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    for (marker, matrix) in [(".lora_A.", true), (".lora_B.", false)] {
        if let Some((module, rest)) = name.split_once(marker) {
            let segments: Vec<&str> = rest.split('.').collect();
            if matches!(segments.as_slice(), ["weight"] | [_, "weight"]) {
                let module = module.to_owned();
                return if matrix { TensorRole::LoraA(module) } else { TensorRole::LoraB(module) };
            }
        }
    }
    let found = OTHER.iter().find(|(suffix, _)| name.contains(suffix));
    TensorRole::Other(found.map_or("it would replace a weight of the base, or is unknown", |(_, what)| what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_plain_lora() {
        let module = "model.layers.0.self_attn.q_proj".to_owned();
        for name in [
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
            "model.layers.0.self_attn.q_proj.lora_A.weight",
        ] {
            assert_eq!(role(name), TensorRole::LoraA(module.clone()), "{name}");
        }
    }

    #[test]
    fn everything_else_is_named() {
        for (name, what) in [
            ("base_model.model.model.layers.0.mlp.down_proj.weight", "replace a weight"),
            ("base_model.model.model.layers.0.q_proj.lora_magnitude_vector", "DoRA"),
            ("base_model.model.model.layers.0.q_proj.lora_B.bias", "bias"),
            ("base_model.model.model.embed_tokens.lora_embedding_A", "embedding"),
        ] {
            match role(name) {
                TensorRole::Other(found) => assert!(found.contains(what), "{name}: {found}"),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}
