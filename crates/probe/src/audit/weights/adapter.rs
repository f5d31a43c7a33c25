//! What the tensors of an adapter are by their names, and what its config says of each.

use std::collections::BTreeMap;
use std::path::Path;

use inference::adapter::target::{self, ModulePattern};
use serde_json::{Map, Value};

use super::measure::Measured;

/// The part that a tensor plays in an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    A,
    B,
    /// A vector of DoRA.
    Magnitude,
    /// The bias of `lora_B`.
    FactorBias,
    /// Rows that replace token embeddings.
    Tokens,
    /// A weight of the base, whole.
    Full,
    /// The weight of a base layer under an adapter, whole.
    BaseLayer,
    /// A bias of the base.
    Bias,
    /// Something of another method.
    Other,
}

/// The module that a tensor belongs to, and its part there. Both spellings of the factors are read: PEFT's, and the
/// lower-case one of MLX and GGUF.
pub(super) fn role(name: &str) -> (String, Role) {
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    const MARKS: &[(&str, Role)] = &[
        (".lora_B.bias", Role::FactorBias),
        (".lora_embedding_A", Role::A),
        (".lora_embedding_B", Role::B),
        (".lora_A", Role::A),
        (".lora_B", Role::B),
        (".lora_a", Role::A),
        (".lora_b", Role::B),
        (".lora_magnitude_vector", Role::Magnitude),
        (".token_adapter.", Role::Tokens),
        (".trainable_tokens_", Role::Tokens),
        (".base_layer.", Role::BaseLayer),
        (".modules_to_save.", Role::Full),
        (".original_module.", Role::Full),
        (".lora_", Role::Other),
        (".ia3_", Role::Other),
        (".hada_", Role::Other),
        (".lokr_", Role::Other),
        (".vera_", Role::Other),
        (".oft_", Role::Other),
        (".boft_", Role::Other),
        ("prompt_embeddings", Role::Other),
    ];
    for (mark, role) in MARKS {
        if let Some(at) = name.find(mark) {
            let bias = *role == Role::B && name.ends_with(".bias");
            return (name[..at].to_owned(), if bias { Role::FactorBias } else { *role });
        }
    }
    match name.rsplit_once('.') {
        Some((module, "weight")) => (module.to_owned(), Role::Full),
        Some((module, "bias")) => (module.to_owned(), Role::Bias),
        _ => (name.to_owned(), Role::Full),
    }
}

/// Modules that are embeddings or heads, by the last parts of their names.
pub(super) const EMBEDDINGS: &[&str] =
    &["embed_tokens", "lm_head", "wte", "wpe", "word_embeddings", "embed_in", "embed_out", "tok_embeddings"];

/// Whether a factor's name is spelled as PEFT does, which puts the rank first in A and last in B.
pub(super) fn is_peft(name: &str) -> bool {
    name.contains("lora_A") || name.contains("lora_B")
}

/// Whether a module's name ends with whole segments of another.
pub(super) fn ends_with(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// A module and its factors.
#[derive(Debug, Default)]
pub(super) struct Pair<'a> {
    pub(super) a: Option<&'a Measured>,
    pub(super) b: Option<&'a Measured>,
}

impl Pair<'_> {
    /// The rank that the factors have, if they agree.
    pub(super) fn rank(&self) -> Option<u64> {
        let a = self.a.filter(|a| a.entry.shape.len() == 2).map(|a| a.entry.shape[0]);
        let b = self.b.filter(|b| b.entry.shape.len() == 2).map(|b| b.entry.shape[1]);
        match (a, b) {
            (Some(a), Some(b)) => (a == b).then_some(a),
            (one, other) => one.or(other),
        }
    }
}

/// Pairs by module.
pub(super) fn pairs(tensors: &[Measured]) -> BTreeMap<String, Pair<'_>> {
    let mut pairs: BTreeMap<String, Pair<'_>> = BTreeMap::new();
    for tensor in tensors {
        let (module, role) = role(&tensor.entry.name);
        match role {
            Role::A => pairs.entry(module).or_default().a = Some(tensor),
            Role::B => pairs.entry(module).or_default().b = Some(tensor),
            _ => {}
        }
    }
    pairs
}

/// What `adapter_config.json` says of modules. Values of the wrong type count as absent: the CFG family reports them.
pub(super) struct Declared<'a> {
    config: &'a Map<String, Value>,
    target: Option<ModulePattern>,
    exclude: Option<ModulePattern>,
    ranks: Vec<(fancy_regex::Regex, f64)>,
    alphas: Vec<(fancy_regex::Regex, f64)>,
}

const CONFIG: &str = "adapter_config.json";

impl<'a> Declared<'a> {
    pub(super) fn read(config: &'a Map<String, Value>) -> Self {
        let path = Path::new(CONFIG);
        let pattern = |key: &str| {
            let value = config.get(key).filter(|value| !value.is_null())?;
            ModulePattern::parse(path, key, value).ok()
        };
        let numbers = |key: &str| -> Vec<(fancy_regex::Regex, f64)> {
            let map = config.get(key).and_then(Value::as_object);
            map.into_iter()
                .flatten()
                .take(4_096)
                .filter_map(|(pattern, value)| {
                    let regex = target::compile_pattern_key(path, key, pattern).ok()?;
                    Some((regex, value.as_f64()?))
                })
                .collect()
        };
        Self {
            config,
            target: pattern("target_modules"),
            exclude: pattern("exclude_modules"),
            ranks: numbers("rank_pattern"),
            alphas: numbers("alpha_pattern"),
        }
    }

    fn number(&self, key: &str, default: f64) -> f64 {
        self.config.get(key).and_then(Value::as_f64).unwrap_or(default)
    }

    fn first(patterns: &[(fancy_regex::Regex, f64)], module: &str) -> Option<f64> {
        patterns
            .iter()
            .find(|(regex, _)| target::is_match(Path::new(CONFIG), regex, module).unwrap_or(false))
            .map(|(_, value)| *value)
    }

    /// Whether the config says so.
    pub(super) fn flag(&self, key: &str) -> bool {
        match self.config.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::String(text)) => text != "none" && text != "false",
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(map)) => !map.is_empty(),
            Some(_) => true,
        }
    }

    /// Whether this is a method whose tensors are those of plain LoRA.
    pub(super) fn is_lora(&self) -> bool {
        let kind = self.config.get("peft_type").and_then(Value::as_str).unwrap_or("LORA");
        kind.eq_ignore_ascii_case("LORA") && !self.flag("use_bdlora") && !self.flag("target_parameters")
    }

    /// The rank of a module; PEFT's default is 8.
    pub(super) fn rank(&self, module: &str) -> f64 {
        Self::first(&self.ranks, module).unwrap_or_else(|| self.number("r", 8.0))
    }

    /// The factor that a module's B·A is multiplied with.
    pub(super) fn scaling(&self, module: &str) -> f64 {
        let alpha = Self::first(&self.alphas, module).unwrap_or_else(|| self.number("lora_alpha", 8.0));
        let rank = self.rank(module);
        if self.flag("use_rslora") { alpha / rank.sqrt() } else { alpha / rank }
    }

    /// Whether the config makes a module a target; `None` where it leaves that to the library.
    pub(super) fn targets(&self, module: &str) -> Option<bool> {
        let path = Path::new(CONFIG);
        let head = module.ends_with("lm_head");
        if let Some(exclude) = &self.exclude
            && exclude.matches(path, module, false).ok()?
        {
            return Some(false);
        }
        let selected = self.target.as_ref()?.matches(path, module, head).ok()?;
        if !selected {
            return Some(false);
        }
        let layers: Vec<u64> = match self.config.get("layers_to_transform") {
            Some(Value::Number(number)) => number.as_u64().into_iter().collect(),
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_u64).collect(),
            _ => return Some(true),
        };
        let index = module.split('.').find_map(|part| part.parse::<u64>().ok());
        Some(index.is_none_or(|index| layers.is_empty() || layers.contains(&index)))
    }

    /// The names in `target_modules`, where it is a list.
    pub(super) fn target_names(&self) -> Vec<&str> {
        self.config
            .get("target_modules")
            .and_then(Value::as_array)
            .map(|items| items.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default()
    }

    /// Whether a module's full weight is announced: by `modules_to_save`, or by the task's own head.
    pub(super) fn saves(&self, module: &str) -> bool {
        let named = |name: &str| module.split('.').any(|part| part == name) || module == name;
        let listed = self.config.get("modules_to_save").and_then(Value::as_array);
        let listed = listed.into_iter().flatten().filter_map(Value::as_str).any(named);
        let task = self.config.get("task_type").and_then(Value::as_str).unwrap_or("");
        listed
            || (matches!(task, "SEQ_CLS" | "TOKEN_CLS") && (named("score") || named("classifier")))
            || (task == "QUESTION_ANS" && named("qa_outputs"))
    }

    /// A key's text or number, as the file has it.
    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.config.get(key)
    }
}
