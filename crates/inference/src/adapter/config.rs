//! `adapter_config.json`: every key is honoured, inert, or refused by name.

use std::path::Path;

use fancy_regex::Regex;
use serde_json::{Map, Value};

use super::target::{self, ModulePattern};
use crate::decoder::site::Site;
use crate::error::{Error, Result};
use crate::weights::json;

/// What is done with a key.
enum Treatment {
    /// Read below.
    Honoured,
    /// No effect on inference.
    Inert,
    /// Changes what is computed and is not implemented: refused unless its value is neutral.
    Refused,
}

/// Every key of PEFT's `LoraConfig` (0.21) and of older versions.
const KEYS: &[(&str, Treatment)] = &[
    ("peft_type", Treatment::Honoured),
    ("task_type", Treatment::Honoured),
    ("r", Treatment::Honoured),
    ("lora_alpha", Treatment::Honoured),
    ("use_rslora", Treatment::Honoured),
    ("rank_pattern", Treatment::Honoured),
    ("alpha_pattern", Treatment::Honoured),
    ("target_modules", Treatment::Honoured),
    ("exclude_modules", Treatment::Honoured),
    ("layers_to_transform", Treatment::Honoured),
    ("layers_pattern", Treatment::Honoured),
    ("init_lora_weights", Treatment::Honoured),
    ("bias", Treatment::Honoured),
    ("base_model_name_or_path", Treatment::Honoured),
    ("revision", Treatment::Inert),
    ("peft_version", Treatment::Inert),
    ("auto_mapping", Treatment::Inert),
    ("inference_mode", Treatment::Inert),
    ("lora_dropout", Treatment::Inert),
    // PEFT sets it to what the layer type needs, whatever the file says.
    ("fan_in_fan_out", Treatment::Inert),
    ("loftq_config", Treatment::Inert),
    ("eva_config", Treatment::Inert),
    ("corda_config", Treatment::Inert),
    ("lora_ga_config", Treatment::Inert),
    ("velora_config", Treatment::Inert),
    ("megatron_config", Treatment::Inert),
    ("megatron_core", Treatment::Inert),
    ("runtime_config", Treatment::Inert),
    ("qalora_group_size", Treatment::Inert),
    ("ensure_weight_tying", Treatment::Inert),
    ("modules_to_save", Treatment::Refused),
    ("use_dora", Treatment::Refused),
    ("lora_bias", Treatment::Refused),
    ("trainable_token_indices", Treatment::Refused),
    ("target_parameters", Treatment::Refused),
    ("layer_replication", Treatment::Refused),
    ("alora_invocation_tokens", Treatment::Refused),
    ("alora_invocation_string", Treatment::Refused),
    ("kasa_config", Treatment::Refused),
    ("use_bdlora", Treatment::Refused),
    ("use_qalora", Treatment::Refused),
    ("monteclora_config", Treatment::Refused),
    ("arrow_config", Treatment::Refused),
    ("enable_lora", Treatment::Refused),
];

/// Whether PEFT has a key of this name, or had it once.
#[must_use]
pub fn is_known_key(key: &str) -> bool {
    KEYS.iter().any(|(name, _)| *name == key)
}

/// Initialisations after which the saved factors are plain LoRA on the pristine base.
const PLAIN_INITS: &[&str] = &["gaussian", "orthogonal", "eva", "mica", "lora_ga"];

const MAX_RANK: u64 = 1 << 16;

/// A LoRA configuration whose every effect is implemented.
#[derive(Clone, Debug)]
pub struct AdapterConfig {
    /// Default rank.
    pub r: usize,
    /// Default alpha.
    pub lora_alpha: f64,
    /// Scaling by `1/sqrt(r)` instead of `1/r`.
    pub use_rslora: bool,
    /// What the adapter says that it was trained on.
    pub base_model: Option<String>,
    /// What the user should know though nothing failed.
    pub notes: Vec<String>,
    rank_pattern: Vec<(Regex, usize)>,
    alpha_pattern: Vec<(Regex, f64)>,
    target: ModulePattern,
    exclude: Option<ModulePattern>,
    layers: Option<Layers>,
}

/// `layers_to_transform`: only modules of these layers.
#[derive(Clone, Debug)]
struct Layers {
    indices: Vec<u64>,
    patterns: Vec<Regex>,
}

impl AdapterConfig {
    /// Parses a config file.
    ///
    /// # Errors
    /// If it is absent or malformed, or a key asks for something that is not implemented.
    pub fn from_file(path: &Path) -> Result<Self> {
        let object = json::read_object(path)?;
        let fields = Fields { path, object: &object };
        fields.refuse_unimplemented()?;
        fields.parse()
    }

    /// The config of an adapter with these `(module, rank, scaling)` and no others, in the order of PEFT's file.
    pub(crate) fn targeting(modules: &[(&str, usize, f64)]) -> Result<Self> {
        let Some(&(_, r, scaling)) = modules.first() else {
            return Err(Error::Request("expected an adapter that changes a module, found none".into()));
        };
        let lora_alpha = scaling * r as f64;
        let (mut ranks, mut alphas) = (Map::new(), Map::new());
        for &(module, rank, scaling) in modules {
            let alpha = scaling * rank as f64;
            if rank != r {
                ranks.insert(module.to_owned(), rank.into());
            }
            if alpha.to_bits() != lora_alpha.to_bits() {
                alphas.insert(module.to_owned(), alpha.into());
            }
        }
        let targets: Vec<Value> = modules.iter().map(|&(module, ..)| module.into()).collect();
        let fields: [(&str, Value); 6] = [
            ("peft_type", "LORA".into()),
            ("r", r.into()),
            ("lora_alpha", lora_alpha.into()),
            ("rank_pattern", ranks.into()),
            ("alpha_pattern", alphas.into()),
            ("target_modules", targets.into()),
        ];
        let object = fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Fields { path: Path::new("an adapter in memory"), object: &object }.parse()
    }

    /// The rank at a module: the first matching key of `rank_pattern` in file order, else `r`.
    #[must_use]
    pub fn rank(&self, module: &str) -> usize {
        first_match(&self.rank_pattern, module).unwrap_or(self.r)
    }

    /// The factor of the branch at a module.
    #[must_use]
    pub fn scaling(&self, module: &str) -> f64 {
        let alpha = first_match(&self.alpha_pattern, module).unwrap_or(self.lora_alpha);
        let rank = self.rank(module) as f64;
        if self.use_rslora { alpha / rank.sqrt() } else { alpha / rank }
    }

    /// Which sites the adapter targets, one flag a site.
    pub(crate) fn select(&self, sites: &[Site], path: &Path) -> Result<Vec<bool>> {
        let mut any = false;
        let mut selected = Vec::with_capacity(sites.len());
        for site in sites {
            let excluded = match &self.exclude {
                Some(pattern) => pattern.matches(path, &site.name, site.head)?,
                None => false,
            };
            let hit = !excluded
                && self.target.matches(path, &site.name, site.head)?
                && self.layers.as_ref().map_or(Ok(true), |layers| layers.contain(path, &site.name))?;
            any |= hit;
            selected.push(hit);
        }
        if any {
            return Ok(selected);
        }
        Err(Error::malformed(path, "target_modules select no linear module of this base")
            .with_hint(self.base_hint()))
    }

    /// What to say when the adapter does not fit the base.
    pub(crate) fn base_hint(&self) -> String {
        match &self.base_model {
            Some(name) => {
                format!("the adapter says that it was trained on `{name}`; is that the base you gave?")
            }
            None => "the adapter does not say which base it was trained on".to_owned(),
        }
    }
}

impl Layers {
    fn contain(&self, path: &Path, module: &str) -> Result<bool> {
        for pattern in &self.patterns {
            let captures = pattern
                .captures(module)
                .map_err(|error| Error::malformed(path, format!("layers_pattern: {error}")))?;
            if let Some(index) = captures.and_then(|c| c.get(1).and_then(|m| m.as_str().parse::<u64>().ok()))
            {
                return Ok(self.indices.contains(&index));
            }
        }
        Ok(false)
    }
}

/// The regexes were tried against every site at load ([`AdapterConfig::select`] and
/// [`Fields::pattern`]), so a failed match here means "no match".
fn first_match<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    patterns.iter().find(|(regex, _)| regex.is_match(module).unwrap_or(false)).map(|(_, value)| *value)
}

struct Fields<'a> {
    path: &'a Path,
    object: &'a Map<String, Value>,
}

impl Fields<'_> {
    /// Refuses keys with effect, known or not, unless their value is neutral.
    fn refuse_unimplemented(&self) -> Result<()> {
        let peft_type = self.object.get("peft_type").and_then(Value::as_str);
        match peft_type {
            Some("LORA") => {}
            Some(other) => {
                return Err(Error::unsupported(self.path, format!("peft_type `{other}`; expected `LORA`"))
                    .with_hint("this kind of adapter is not supported yet; it was not scanned"));
            }
            None => return Err(self.wrong("peft_type", "a string")),
        }
        for (key, value) in self.object {
            let treatment = KEYS.iter().find(|(name, _)| name == key).map(|(_, treatment)| treatment);
            let unknown = treatment.is_none();
            if (unknown || matches!(treatment, Some(Treatment::Refused))) && !is_neutral(value) {
                let what = if unknown { "unknown key" } else { "key" };
                return Err(Error::unsupported(
                    self.path,
                    format!("{what} `{key}` with value {} is not implemented", shorten(value)),
                )
                .with_hint(
                    "ignoring it would scan another model than the one that runs; it was not scanned",
                ));
            }
        }
        match self.object.get("bias").map(|bias| bias.as_str()) {
            None | Some(Some("none")) => {}
            _ => return Err(self.unimplemented("bias")),
        }
        match self.object.get("task_type") {
            None | Some(Value::Null) => {}
            Some(task) if task == "CAUSAL_LM" => {}
            Some(_) => return Err(self.unimplemented("task_type")),
        }
        match self.object.get("init_lora_weights") {
            None | Some(Value::Null | Value::Bool(_)) => Ok(()),
            Some(Value::String(name)) if PLAIN_INITS.contains(&name.as_str()) => Ok(()),
            Some(_) => Err(self.unimplemented("init_lora_weights")),
        }
    }

    fn parse(&self) -> Result<AdapterConfig> {
        let mut notes = Vec::new();
        let r = self.rank_value("r", self.object.get("r").unwrap_or(&Value::from(8)))?;
        let lora_alpha =
            self.alpha_value("lora_alpha", self.object.get("lora_alpha").unwrap_or(&Value::from(8)))?;
        let target = match self.object.get("target_modules") {
            None | Some(Value::Null) => {
                notes.push("target_modules is absent; PEFT's default for this architecture (q_proj, v_proj) was used".into());
                ModulePattern::Suffixes(vec!["q_proj".into(), "v_proj".into()])
            }
            Some(value) => ModulePattern::parse(self.path, "target_modules", value)?,
        };
        let exclude = match self.object.get("exclude_modules") {
            None | Some(Value::Null) => None,
            Some(value) => Some(ModulePattern::parse(self.path, "exclude_modules", value)?),
        };
        let use_rslora = match self.object.get("use_rslora") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(flag)) => *flag,
            Some(_) => return Err(self.wrong("use_rslora", "a boolean")),
        };
        Ok(AdapterConfig {
            r,
            lora_alpha,
            use_rslora,
            base_model: self.object.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned),
            rank_pattern: self.pattern("rank_pattern", |value| self.rank_value("rank_pattern", value))?,
            alpha_pattern: self.pattern("alpha_pattern", |value| self.alpha_value("alpha_pattern", value))?,
            target,
            exclude,
            layers: self.layers()?,
            notes,
        })
    }

    fn pattern<T>(&self, key: &str, parse: impl Fn(&Value) -> Result<T>) -> Result<Vec<(Regex, T)>> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Object(map)) => map
                .iter()
                .map(|(pattern, value)| {
                    let regex = target::compile_pattern_key(self.path, key, pattern)?;
                    // A probe of a typical length brings a runaway pattern to light here.
                    target::is_match(self.path, &regex, "model.layers.10.self_attn.q_proj")?;
                    Ok((regex, parse(value)?))
                })
                .collect(),
            Some(_) => Err(self.wrong(key, "an object")),
        }
    }

    fn layers(&self) -> Result<Option<Layers>> {
        let indices = match self.object.get("layers_to_transform") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(items)) => items.iter().map(Value::as_u64).collect::<Option<Vec<_>>>(),
            Some(value) => value.as_u64().map(|index| vec![index]),
        }
        .ok_or_else(|| self.wrong("layers_to_transform", "layer indices"))?;
        let names = match self.object.get("layers_pattern") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(name)) => vec![name.clone()],
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            Some(_) => return Err(self.wrong("layers_pattern", "a name or a list of names")),
        };
        let anchored = if names.is_empty() {
            vec![r"\A.*?\.[^.]*\.(\d+)\.".to_owned()]
        } else {
            names.iter().map(|name| format!(r"\A(?:|.*?\.){name}\.(\d+)\.")).collect()
        };
        let patterns = anchored
            .iter()
            .map(|pattern| target::compile(self.path, "layers_pattern", pattern, pattern))
            .collect::<Result<Vec<_>>>()?;
        Ok(Some(Layers { indices, patterns }))
    }

    fn rank_value(&self, key: &str, value: &Value) -> Result<usize> {
        value.as_u64().filter(|&r| r > 0 && r <= MAX_RANK).and_then(|r| usize::try_from(r).ok()).ok_or_else(
            || {
                Error::malformed(
                    self.path,
                    format!("expected a positive rank in `{key}`, found {}", shorten(value)),
                )
            },
        )
    }

    fn alpha_value(&self, key: &str, value: &Value) -> Result<f64> {
        value.as_f64().filter(|alpha| alpha.is_finite()).ok_or_else(|| {
            Error::malformed(self.path, format!("expected a number in `{key}`, found {}", shorten(value)))
        })
    }

    fn wrong(&self, key: &str, expected: &str) -> Error {
        let found = self.object.get(key).map_or("nothing".to_owned(), shorten);
        Error::malformed(self.path, format!("expected {expected} in `{key}`, found {found}"))
    }

    fn unimplemented(&self, key: &str) -> Error {
        let found = self.object.get(key).map_or("nothing".to_owned(), shorten);
        Error::unsupported(self.path, format!("key `{key}` with value {found} is not implemented"))
            .with_hint("ignoring it would scan another model than the one that runs; it was not scanned")
    }
}

/// Values that mean "off".
fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty() || text == "none",
        _ => false,
    }
}

/// A value for an error message, cut to a line's length.
fn shorten(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
