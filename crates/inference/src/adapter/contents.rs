//! The tensors of an adapter file, sorted by what their names mean.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Tensor;

use super::config::AdapterConfig;
use super::names::{self, Place, TensorRole};
use super::runtimes::{self, Semantics};
use crate::error::{Error, Result};
use crate::weights::{TensorSource, load_finite};

/// A tensor of a PEFT type at a module: the module, the part, whether it is the part's bias.
type Key = (String, &'static str, bool);

/// The tensors of an adapter file by their roles.
pub(crate) struct Contents<'a> {
    source: &'a dyn TensorSource,
    config: &'a AdapterConfig,
    parts: BTreeMap<Key, String>,
    /// Modules with tensors of the PEFT type, those included that were dropped.
    all: BTreeSet<String>,
    semantics: Semantics,
    shared: BTreeMap<&'static str, String>,
    /// Parameters of the base: name in the base, place, name in the file.
    pub(crate) weights: Vec<(String, Place, String)>,
}

impl<'a> Contents<'a> {
    /// Reads the names; `head` is the output head's weight in the base.
    ///
    /// # Errors
    /// If a name is of a PEFT type that is not known, or two names mean one tensor.
    pub(crate) fn read(
        source: &'a dyn TensorSource,
        config: &'a AdapterConfig,
        semantics: Semantics,
        head: &str,
    ) -> Result<Self> {
        let mut contents = Self {
            source,
            config,
            parts: BTreeMap::new(),
            all: BTreeSet::new(),
            semantics,
            shared: BTreeMap::new(),
            weights: Vec::new(),
        };
        for name in source.names() {
            let twice = match names::role(&name) {
                TensorRole::Part { module, part, bias } => {
                    if !config.kind.parts().contains(&part) {
                        return Err(contents.foreign(&name));
                    }
                    contents.parts.insert((module, part, bias), name.clone()).is_some()
                }
                TensorRole::Shared(part) => {
                    if !config.kind.parts().contains(&part) {
                        return Err(contents.foreign(&name));
                    }
                    contents.shared.insert(part, name.clone()).is_some()
                }
                TensorRole::Weight { parameter, place } => {
                    let known = |(p, at, _): &(String, Place, String)| *p == parameter && *at == place;
                    let twice = contents.weights.iter().any(known);
                    contents.weights.push((parameter, place, name.clone()));
                    twice
                }
                TensorRole::Foreign(_) => return Err(contents.foreign(&name)),
            };
            if twice {
                return Err(Error::malformed(
                    source.origin(),
                    format!("two tensors name the same matrix, `{name}` and another"),
                ));
            }
        }
        contents.all = contents.modules().into_iter().map(str::to_owned).collect();
        // The order in which PEFT's modules take them: of two names of one tied tensor, the head's comes last.
        contents.weights.sort_by_key(|(parameter, ..)| parameter == head);
        Ok(contents)
    }

    fn foreign(&self, name: &str) -> Error {
        let kind = self.config.peft_type();
        Error::unsupported(
            self.source.origin(),
            format!("tensor `{name}` is none of an adapter of type {kind} and would not be applied"),
        )
        .with_hint("this adapter is more than its configuration says; it was not scanned")
    }

    /// Modules with tensors of the PEFT type, each once, in order.
    pub(crate) fn modules(&self) -> BTreeSet<&str> {
        self.parts.keys().map(|(module, ..)| module.as_str()).collect()
    }

    /// The same, also where PEFT builds no layer for them.
    pub(crate) fn all_modules(&self) -> &BTreeSet<String> {
        &self.all
    }

    /// The rank of a module's factors in the file.
    pub(crate) fn rank_of(&self, module: &str) -> Option<usize> {
        self.shape(module, "lora_A")?.first().copied()
    }

    /// The rank that a module's factors must have: the configuration's, or where the runtime goes by the tensors their
    /// own.
    pub(crate) fn rank(&self, module: &str) -> usize {
        match self.semantics {
            Semantics::Peft => self.config.rank(module),
            _ => self.rank_of(module).unwrap_or(self.config.r),
        }
    }

    /// The factor of a module's branch.
    pub(crate) fn scaling(&self, module: &str) -> f64 {
        runtimes::scaling(self.semantics, self.config, module, self.rank_of(module))
    }

    /// Whose reading is applied.
    pub(crate) fn semantics(&self) -> Semantics {
        self.semantics
    }

    /// Forgets the tensors of a module, as PEFT does where the module has no adapter layer.
    pub(crate) fn drop_module(&mut self, module: &str) {
        self.parts.retain(|(of, ..), _| of != module);
    }

    /// Whether a module has this part.
    pub(crate) fn has(&self, module: &str, part: &'static str) -> bool {
        self.parts.contains_key(&(module.to_owned(), part, false))
    }

    /// The shape of a part.
    pub(crate) fn shape(&self, module: &str, part: &'static str) -> Option<Vec<usize>> {
        self.source.shape(self.parts.get(&(module.to_owned(), part, false))?)
    }

    /// A part of a module with this shape, f32 on the CPU; an error if it is absent.
    pub(crate) fn part(&self, module: &str, part: &'static str, shape: &[usize]) -> Result<Tensor> {
        match self.parts.get(&(module.to_owned(), part, false)) {
            Some(name) => self.tensor(name, shape),
            None => Err(Error::malformed(self.source.origin(), format!("`{module}` has no {part}"))
                .with_hint("the export is incomplete")),
        }
    }

    /// The bias of a part, if there is one.
    pub(crate) fn bias(&self, module: &str, part: &'static str, shape: &[usize]) -> Result<Option<Tensor>> {
        self.parts.get(&(module.to_owned(), part, true)).map(|name| self.tensor(name, shape)).transpose()
    }

    /// Whether a part has a bias.
    pub(crate) fn has_bias(&self, module: &str, part: &'static str) -> bool {
        self.parts.contains_key(&(module.to_owned(), part, true))
    }

    /// What all modules share; its first two dimensions must be at least these.
    pub(crate) fn shared(&self, part: &'static str, least: [usize; 2]) -> Result<Tensor> {
        let Some(name) = self.shared.get(part) else {
            return Err(Error::unsupported(
                self.source.origin(),
                format!("`{part}` was not saved with the adapter"),
            )
            .with_hint("it is drawn by torch's own random generator at load; save the adapter with `save_projection=True`"));
        };
        let shape = self.source.shape(name).unwrap_or_default();
        if !matches!(shape[..], [rows, columns] if rows >= least[0] && columns >= least[1]) {
            return Err(Error::malformed(
                self.source.origin(),
                format!("tensor `{name}`: expected a shape of at least {least:?}, found {shape:?}"),
            ));
        }
        self.tensor(name, &shape)
    }

    /// A tensor by its name in the file: of this shape, finite, f32 on the CPU.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let found = self.source.shape(name).unwrap_or_default();
        if found != shape {
            return Err(Error::malformed(
                self.source.origin(),
                format!("tensor `{name}`: expected shape {shape:?}, found {found:?}"),
            )
            .with_hint(self.config.base_hint()));
        }
        load_finite(self.source, name)
    }

    /// The file, for errors.
    pub(crate) fn origin(&self) -> &std::path::Path {
        self.source.origin()
    }

    /// The configuration.
    pub(crate) fn config(&self) -> &'a AdapterConfig {
        self.config
    }
}
