//! `adapter_config.json`: every key is honoured, inert, or refused by name.

mod fields;
pub(crate) mod keys;
mod selection;

use std::path::Path;

use fancy_regex::Regex;
use serde_json::{Map, Value};

use super::target::ModulePattern;
use super::types::{self, PeftType};
use crate::error::{Error, Result};

use fields::{Fields, is_neutral, shorten};
pub use keys::is_known_key;
use keys::{COMMON, Treatment};

/// Initialisations after which the saved factors are plain LoRA on the pristine base.
const PLAIN_INITS: &[&str] = &["gaussian", "orthogonal", "eva", "mica", "lora_ga"];

/// What PEFT does to the base's weights at targeted modules when it loads the adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Residual {
    /// Nothing.
    Whole,
    /// The `r` largest singular triplets are taken out (PiSSA).
    WithoutPrincipal,
    /// The first `r` columns of its QR decomposition are taken out, times the branch's factor (OLoRA).
    WithoutColumns,
    /// The `r` smallest singular triplets are taken out (KaSA).
    WithoutMinor,
}

/// Which biases of the base are stored with the adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Biases {
    None,
    All,
    OfTargets,
}

/// A configuration whose every effect is implemented.
#[derive(Clone, Debug)]
pub struct AdapterConfig {
    pub(crate) kind: &'static dyn PeftType,
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
    /// Names of modules of which the adapter holds whole copies.
    pub(crate) modules_to_save: Vec<String>,
    pub(crate) use_dora: bool,
    pub(crate) lora_bias: bool,
    pub(crate) biases: Biases,
    pub(crate) residual: Residual,
    /// The base's layers that the adapter runs on, in its order, where they are not simply all.
    pub(crate) replication: Option<Vec<usize>>,
    /// Rows of embeddings that are replaced, by module name.
    pub(crate) token_indices: Vec<(String, Vec<u32>)>,
    pub(crate) ensure_weight_tying: bool,
    /// Modules of IA3 whose input is scaled, not their output.
    pub(crate) feedforward: Option<ModulePattern>,
    /// Names or dotted suffixes of parameters that are adapted by themselves.
    pub(crate) target_parameters: Vec<String>,
    /// Tokens from whose last occurrence on the adapter acts; everywhere if there are none.
    pub(crate) invocation: Vec<u32>,
    /// Embeddings before every context: their number, and how many copies of them the file has.
    pub(crate) virtual_tokens: [usize; 2],
}

/// `layers_to_transform`: only modules of these layers.
#[derive(Clone, Debug)]
struct Layers {
    indices: Vec<u64>,
    patterns: Vec<Regex>,
}

impl AdapterConfig {
    /// Parses the object of a config file for a base of this `model_type`; `path` is for errors.
    ///
    /// # Errors
    /// If it is malformed, or a key asks for something that is not implemented.
    pub fn from_object(path: &Path, object: &Map<String, Value>, model_type: &str) -> Result<Self> {
        Fields { path, object, model_type }.parse()
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
        Fields { path: Path::new("an adapter in memory"), object: &object, model_type: "" }.parse()
    }

    /// The config of a whole checkpoint, which has none.
    pub(crate) fn of_checkpoint() -> Result<Self> {
        let targets = Value::Array(Vec::new());
        let fields = [("peft_type", Value::from("LORA")), ("target_modules", targets)];
        let object = fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Fields { path: Path::new("a merged checkpoint"), object: &object, model_type: "" }.parse()
    }

    /// The rank at a module: the first matching key of `rank_pattern` in file order, else `r`.
    #[must_use]
    pub fn rank(&self, module: &str) -> usize {
        first_match(&self.rank_pattern, module).unwrap_or(self.r)
    }

    /// Alpha at a module: the first matching key of `alpha_pattern` in file order, else `lora_alpha`.
    pub(crate) fn alpha(&self, module: &str) -> f64 {
        first_match(&self.alpha_pattern, module).unwrap_or(self.lora_alpha)
    }

    /// The factor of the branch at a module.
    #[must_use]
    pub fn scaling(&self, module: &str) -> f64 {
        let alpha = self.alpha(module);
        let rank = self.rank(module) as f64;
        if self.use_rslora { alpha / rank.sqrt() } else { alpha / rank }
    }

    /// The PEFT type, such as `LORA`.
    #[must_use]
    pub fn peft_type(&self) -> &'static str {
        self.kind.name()
    }

    /// Whether the adapter changes a module by its type's tensors. `head` says that `all-linear` leaves it out, as the
    /// output head.
    pub(crate) fn targets(&self, module: &str, head: bool, path: &Path) -> Result<bool> {
        self.targeted_by(&self.target, module, head, path)
    }

    /// The same by another pattern than its `target_modules`.
    fn targeted_by(&self, target: &ModulePattern, module: &str, head: bool, path: &Path) -> Result<bool> {
        let excluded = match &self.exclude {
            Some(pattern) => pattern.matches(path, module, head)?,
            None => false,
        };
        Ok(!excluded
            && !self.saves(module)
            && target.matches(path, module, head)?
            && self.layers.as_ref().map_or(Ok(true), |layers| layers.contain(path, module))?)
    }

    /// Whether the adapter holds a whole copy of a module, or of one around it.
    pub(crate) fn saves(&self, module: &str) -> bool {
        self.modules_to_save.iter().any(|name| {
            let mut rest = module;
            loop {
                if rest == name || rest.strip_prefix(name.as_str()).is_some_and(|r| r.starts_with('.')) {
                    return true;
                }
                match rest.split_once('.') {
                    Some((_, inner)) => rest = inner,
                    None => return false,
                }
            }
        })
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

impl Fields<'_> {
    fn kind(&self) -> Result<&'static dyn PeftType> {
        match self.object.get("peft_type").and_then(Value::as_str) {
            Some(name) => types::by_name(name).ok_or_else(|| {
                Error::unsupported(
                    self.path,
                    format!("peft_type `{name}`; supported: {}", types::names().join(", ")),
                )
                .with_hint("this kind of adapter is not supported yet; it was not scanned")
            }),
            None => Err(self.wrong("peft_type", "a string")),
        }
    }

    /// Refuses keys with effect, known or not, unless their value is neutral.
    fn refuse_unimplemented(&self, kind: &dyn PeftType) -> Result<()> {
        for (key, value) in self.object {
            let mut tables = kind.keys().iter().copied().chain([COMMON]).flatten();
            let treatment = tables.find(|(name, _)| name == key).map(|(_, treatment)| treatment);
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
        match self.object.get("task_type") {
            None | Some(Value::Null) => Ok(()),
            Some(task) if task == "CAUSAL_LM" => Ok(()),
            Some(_) => Err(self.unimplemented("task_type")),
        }
    }

    /// `alora_invocation_tokens`, where what the adapter does can begin in the middle of a context.
    fn invocation(&self) -> Result<Vec<u32>> {
        const KEY: &str = "alora_invocation_tokens";
        let Some(value) = self.present(KEY) else { return Ok(Vec::new()) };
        let tokens: Vec<u32> = value
            .as_array()
            .and_then(|items| {
                items.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
            })
            .ok_or_else(|| self.wrong(KEY, "token indices"))?;
        if tokens.is_empty() {
            return Ok(tokens);
        }
        let beside = ["use_dora", "lora_bias", "kasa_config", "target_parameters"];
        let other = beside.into_iter().find(|key| self.present(key).is_some_and(|value| !is_neutral(value)));
        let plain = self.residual(&mut Vec::new())? == Residual::Whole;
        match other.or(if plain { None } else { Some("init_lora_weights") }) {
            Some(key) => Err(Error::unsupported(self.path, format!("`{KEY}` together with `{key}`"))
                .with_hint("it was not scanned")),
            // PEFT looks for the tokens in models for causal language modelling alone.
            None if self.object.get("task_type").is_none_or(|task| task != "CAUSAL_LM") => {
                Err(Error::unsupported(self.path, format!("`{KEY}` without task_type CAUSAL_LM"))
                    .with_hint("PEFT never switches such an adapter on; it was not scanned"))
            }
            None => Ok(tokens),
        }
    }

    /// `num_virtual_tokens`, and `num_transformer_submodules`, which is 1 of a decoder.
    fn virtual_tokens(&self) -> Result<[usize; 2]> {
        let count = |key: &str, default: u64| match self.present(key) {
            None => Ok(default as usize),
            Some(value) => self.rank_value(key, value),
        };
        Ok([count("num_virtual_tokens", 0)?, count("num_transformer_submodules", 1)?])
    }

    fn residual(&self, notes: &mut Vec<String>) -> Result<Residual> {
        if self.present("kasa_config").is_some() {
            return Ok(Residual::WithoutMinor);
        }
        match self.present("init_lora_weights") {
            None | Some(Value::Bool(_)) => Ok(Residual::Whole),
            Some(Value::String(name)) if PLAIN_INITS.contains(&name.as_str()) => Ok(Residual::Whole),
            Some(Value::String(name)) if name == "pissa" => Ok(Residual::WithoutPrincipal),
            Some(Value::String(name)) if name.starts_with("pissa_niter_") => {
                notes.push(format!(
                    "init_lora_weights `{name}`: PEFT takes another random part of the base out at every load; the exact part was taken out here"
                ));
                Ok(Residual::WithoutPrincipal)
            }
            Some(Value::String(name)) if name == "olora" => Ok(Residual::WithoutColumns),
            Some(_) => Err(self.unimplemented("init_lora_weights")),
        }
    }

    fn biases(&self) -> Result<Biases> {
        match self.present("bias").map(Value::as_str) {
            None | Some(Some("none")) => Ok(Biases::None),
            Some(Some("all")) => Ok(Biases::All),
            Some(Some(name)) if name == "lora_only" || name == "vera_only" => Ok(Biases::OfTargets),
            Some(_) => Err(self.unimplemented("bias")),
        }
    }

    fn target(&self, kind: &dyn PeftType, notes: &mut Vec<String>) -> Result<ModulePattern> {
        match self.present("target_modules") {
            None if !kind.has_targets() => Ok(ModulePattern::Suffixes(Vec::new())),
            // PEFT asks for targets only if there are none of either kind.
            None if kind.default_targets(self.model_type).is_none()
                && self.present("target_parameters").is_some_and(|value| !is_neutral(value)) =>
            {
                Ok(ModulePattern::Suffixes(Vec::new()))
            }
            None => {
                let default = kind.default_targets(self.model_type).ok_or_else(|| {
                    Error::unsupported(
                        self.path,
                        format!(
                            "target_modules is absent, and PEFT has no default of {} for `{}`",
                            kind.name(),
                            self.model_type
                        ),
                    )
                })?;
                notes.push(format!(
                    "target_modules is absent; PEFT's default for this architecture ({}) was used",
                    default.join(", ")
                ));
                Ok(ModulePattern::Suffixes(default.iter().map(|&name| name.to_owned()).collect()))
            }
            Some(value) => ModulePattern::parse(self.path, "target_modules", value),
        }
    }

    fn parse(&self) -> Result<AdapterConfig> {
        let kind = self.kind()?;
        self.refuse_unimplemented(kind)?;
        let mut notes = Vec::new();
        let rank = |key: &str, default: u64| {
            self.rank_value(key, self.present(key).unwrap_or(&Value::from(default)))
        };
        let alpha = |key: &str, default: u64| {
            self.alpha_value(key, self.present(key).unwrap_or(&Value::from(default)))
        };
        let pattern =
            |key: &str| self.present(key).map(|v| ModulePattern::parse(self.path, key, v)).transpose();
        Ok(AdapterConfig {
            kind,
            r: rank("r", 8)?,
            lora_alpha: match self.present("alpha") {
                Some(_) => alpha("alpha", 8)?,
                None => alpha("lora_alpha", 8)?,
            },
            use_rslora: self.flag("use_rslora")?,
            base_model: self.object.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned),
            rank_pattern: if kind.ranks_are_of_tensors() {
                Vec::new()
            } else {
                self.pattern("rank_pattern", |value| self.rank_value("rank_pattern", value))?
            },
            alpha_pattern: self.pattern("alpha_pattern", |value| self.alpha_value("alpha_pattern", value))?,
            target: self.target(kind, &mut notes)?,
            exclude: pattern("exclude_modules")?,
            layers: self.layers()?,
            modules_to_save: self.names("modules_to_save")?,
            use_dora: self.flag("use_dora")?,
            lora_bias: self.flag("lora_bias")?,
            biases: self.biases()?,
            residual: self.residual(&mut notes)?,
            replication: self.replication()?,
            token_indices: self.token_indices()?,
            ensure_weight_tying: self.flag("ensure_weight_tying")?,
            feedforward: pattern("feedforward_modules")?,
            target_parameters: self.names("target_parameters")?,
            invocation: self.invocation()?,
            virtual_tokens: self.virtual_tokens()?,
            notes,
        })
    }
}
