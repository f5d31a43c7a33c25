//! What the name of a tensor in an adapter file means.

/// The part that a tensor plays.
#[derive(Debug, PartialEq, Eq)]
pub enum TensorRole {
    /// What a PEFT type keeps at a module.
    Part {
        /// The module, named as in the base model.
        module: String,
        /// Which tensor it is, one of [`PARTS`].
        part: &'static str,
        /// Whether it is the bias of that part.
        bias: bool,
    },
    /// What a PEFT type keeps once for all modules.
    Shared(&'static str),
    /// A parameter of the base itself.
    Weight {
        /// Its name in the base model.
        parameter: String,
        /// Which of the places that PEFT has for it.
        place: Place,
    },
    /// Something of a PEFT type that is not known.
    Foreign(String),
}

/// Where PEFT keeps a parameter of the base that stands in an adapter file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At the module itself.
    Plain,
    /// In the module under an adapter's layer.
    BaseLayer,
    /// In a module's copy (`modules_to_save`).
    Copy,
    /// In the module beside its copy.
    Original,
}

/// Tensors that PEFT types keep at a module.
pub const PARTS: &[&str] = &[
    "lora_A",
    "lora_B",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector",
    "lora_diag",
    "lora_E",
    "ranknum",
    "hada_w1_a",
    "hada_w1_b",
    "hada_w2_a",
    "hada_w2_b",
    "lokr_w1",
    "lokr_w1_a",
    "lokr_w1_b",
    "lokr_w2",
    "lokr_w2_a",
    "lokr_w2_b",
    "ia3_l",
    "vera_lambda_b",
    "vera_lambda_d",
    "ln_tuning_layers",
    "trainable_tokens_delta",
];

/// Tensors that PEFT types keep once.
const SHARED: &[&str] = &["vera_A", "vera_B", "prompt_embeddings"];

/// Beginnings of the names of tensors that belong to PEFT types which are not known.
const FOREIGN: &[&str] = &[
    "lora_",
    "hada_",
    "lokr_",
    "oft_",
    "boft_",
    "vera_",
    "randlora_",
    "fourierft_",
    "vblora_",
    "miss_",
    "hra_",
    "prompt_",
    "prefix_",
    "adaption_",
    "c3a_",
    "road_",
    "shira_",
];

const PREFIX: &str = "base_model.model.";

/// Reads a tensor name. Accepts PEFT's prefix `base_model.model.` or none, and the names of raw
/// state dicts in which the adapter's own name stands before `weight`.
#[must_use]
pub fn role(name: &str) -> TensorRole {
    let bare = name.strip_prefix(PREFIX).unwrap_or(name);
    let segments: Vec<&str> = bare.split('.').collect();
    let known = |names: &'static [&'static str], segment: &str| names.iter().copied().find(|n| *n == segment);
    for (index, segment) in segments.iter().enumerate() {
        if let Some(part) = known(PARTS, segment) {
            // The wrapper of replaced token rows is no module of the base.
            let end = if index > 0 && segments[index - 1] == "token_adapter" { index - 1 } else { index };
            let module = segments[..end].join(".");
            return match &segments[index + 1..] {
                [] | [_] | [_, "weight"] if segments.last() != Some(&"bias") => {
                    TensorRole::Part { module, part, bias: false }
                }
                ["bias"] | [_, "bias"] => TensorRole::Part { module, part, bias: true },
                _ => TensorRole::Foreign(bare.to_owned()),
            };
        }
        if let Some(part) = known(SHARED, segment) {
            return TensorRole::Shared(part);
        }
        if FOREIGN.iter().any(|start| segment.starts_with(start)) {
            return TensorRole::Foreign(bare.to_owned());
        }
    }
    weight(&segments)
}

/// A parameter of the base, without the names of PEFT's wrappers.
fn weight(segments: &[&str]) -> TensorRole {
    let mut rest = Vec::with_capacity(segments.len());
    let mut place = Place::Plain;
    let mut index = 0;
    while index < segments.len() {
        match segments[index] {
            "base_layer" => place = Place::BaseLayer,
            "original_module" => place = Place::Original,
            "modules_to_save" => {
                place = Place::Copy;
                // Raw state dicts have the adapter's name here, a word of any kind before the parameter's own.
                index += usize::from(segments.len() > index + 2);
            }
            segment => rest.push(segment),
        }
        index += 1;
    }
    TensorRole::Weight { parameter: rest.join("."), place }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str) -> (String, &'static str, bool) {
        match role(name) {
            TensorRole::Part { module, part, bias } => (module, part, bias),
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn spellings_of_plain_lora() {
        let module = "model.layers.0.self_attn.q_proj".to_owned();
        for name in [
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
            "model.layers.0.self_attn.q_proj.lora_A.weight",
        ] {
            assert_eq!(part(name), (module.clone(), "lora_A", false), "{name}");
        }
        let bias = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias";
        assert_eq!(part(bias), (module, "lora_B", true));
    }

    #[test]
    fn other_parts_have_no_weight_of_their_own() {
        for (name, expected) in [
            ("base_model.model.lm_head.lora_magnitude_vector", ("lm_head", "lora_magnitude_vector")),
            (
                "base_model.model.model.embed_tokens.lora_embedding_A",
                ("model.embed_tokens", "lora_embedding_A"),
            ),
            (
                "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta",
                ("model.embed_tokens", "trainable_tokens_delta"),
            ),
            ("base_model.model.model.norm.ln_tuning_layers.weight", ("model.norm", "ln_tuning_layers")),
        ] {
            let (module, part, bias) = part(name);
            assert_eq!((module.as_str(), part, bias), (expected.0, expected.1, false), "{name}");
        }
        assert_eq!(role("base_model.vera_A"), TensorRole::Shared("vera_A"));
    }

    #[test]
    fn parameters_of_the_base_lose_their_wrappers() {
        for (name, parameter, place) in [
            (
                "base_model.model.model.layers.0.mlp.down_proj.weight",
                "model.layers.0.mlp.down_proj.weight",
                Place::Plain,
            ),
            ("base_model.model.lm_head.base_layer.weight", "lm_head.weight", Place::BaseLayer),
            ("base_model.model.lm_head.modules_to_save.weight", "lm_head.weight", Place::Copy),
            ("base_model.model.lm_head.modules_to_save.default.weight", "lm_head.weight", Place::Copy),
            (
                "base_model.model.model.embed_tokens.original_module.weight",
                "model.embed_tokens.weight",
                Place::Original,
            ),
        ] {
            let expected = TensorRole::Weight { parameter: parameter.to_owned(), place };
            assert_eq!(role(name), expected, "{name}");
        }
        assert_eq!(role("prompt_embeddings"), TensorRole::Shared("prompt_embeddings"));
        assert!(matches!(role("prompt_encoder.x"), TensorRole::Foreign(_)));
        assert!(matches!(role("base_model.model.x.oft_R.weight"), TensorRole::Foreign(_)));
    }
}
