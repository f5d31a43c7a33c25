//! Adapters: the hostile-input boundary.
//!
//! A directory of bytes from a stranger becomes an [`Adapter`] whose every tensor is applied or named, or an
//! error that says what is in the way. [`config`] decides key by key what is honoured, inert or
//! refused; [`names`] gives every tensor name its meaning; [`target`] resolves which modules the
//! config selects; `types` is the table of PEFT types, each of which turns tensors into a `change`: low-rank branches
//! ([`delta`]), and tensors in the place of the base's own. Training and controls make adapters in memory
//! ([`Adapter::from_deltas`]), exchange their factors, and write them down ([`save`]).

mod change;
pub mod config;
pub(crate) mod container;
mod contents;
pub mod delta;
mod load;
mod merged;
pub mod names;
pub(crate) mod recorder;
mod residual;
pub mod runtimes;
pub mod save;
pub mod target;
pub(crate) mod types;
mod virtual_prompt;
mod whole;

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Tensor;

use crate::decoder::Decoder;
use crate::decoder::site::Site;
use crate::device::Compute;
use crate::error::{Error, Result};

use change::Replacements;
use config::AdapterConfig;
pub use container::inside;
use delta::{Branches, LoraDelta};
use runtimes::Semantics;
use virtual_prompt::VirtualPrompt;

/// File names of the PEFT layout.
pub const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";
const PICKLE_FILE: &str = "adapter_model.bin";

/// How an adapter is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// Whether the tensors of a pickle are read, without running it.
    pub allow_pickle: bool,
    /// Whose reading is applied.
    pub semantics: Semantics,
}

/// An adapter that fits its base: one optional delta a linear site, and tensors that replace the base's own.
#[derive(Debug)]
pub struct Adapter {
    /// The parsed configuration.
    pub config: AdapterConfig,
    /// What the user should know though the load succeeded.
    pub notes: Vec<String>,
    deltas: Vec<Option<LoraDelta>>,
    branches: Branches,
    replacements: Replacements,
    files: Vec<PathBuf>,
    /// The layers that it runs on, where they are not the base's own.
    stack: Option<Arc<Decoder>>,
    virtual_prompt: Option<VirtualPrompt>,
    modules: usize,
}

impl Adapter {
    /// Makes an adapter in memory from one optional delta a site, such as the start of a training run or a random
    /// change for a control. Its config targets exactly these sites.
    ///
    /// # Errors
    /// If there is no delta, or one does not fit its site.
    pub fn from_deltas(deltas: Vec<Option<LoraDelta>>, sites: &[Site], compute: &Compute) -> Result<Self> {
        if deltas.len() != sites.len() {
            return Err(Error::Request(format!(
                "expected an optional delta for each of {} sites, found {}",
                sites.len(),
                deltas.len()
            )));
        }
        let mut targets = Vec::new();
        for (site, delta) in sites.iter().zip(&deltas) {
            let Some(delta) = delta else { continue };
            let (a, b) = delta.factors();
            if (a.dims()[1], b.dims()[0]) != (site.inputs, site.outputs) {
                return Err(Error::Request(format!(
                    "`{}`: expected factors of {} inputs and {} outputs, found {} and {}",
                    site.name,
                    site.inputs,
                    site.outputs,
                    a.dims()[1],
                    b.dims()[0]
                )));
            }
            targets.push((site.name.as_str(), delta.rank(), delta.scaling()));
        }
        let config = AdapterConfig::targeting(&targets)?;
        let branches = Branches::new(sites, &deltas, compute)?;
        let replacements = Replacements::new(Default::default());
        let modules = changed_modules(sites, &deltas, &replacements);
        let (files, notes) = (Vec::new(), Vec::new());
        Ok(Self {
            config,
            files,
            notes,
            deltas,
            branches,
            replacements,
            stack: None,
            virtual_prompt: None,
            modules,
        })
    }

    /// Exchanges A `[r, inputs]` and B `[outputs, r]` of every site with a delta, as after a step of an optimiser; one
    /// optional pair a site. Scalings stay. The adapter is as before if this fails.
    ///
    /// # Errors
    /// If another site than before has factors, shapes differ, or a value is not finite.
    pub fn set_factors(
        &mut self,
        factors: &[Option<(Tensor, Tensor)>],
        sites: &[Site],
        compute: &Compute,
    ) -> Result<()> {
        if factors.len() != self.deltas.len() || sites.len() != self.deltas.len() {
            return Err(Error::Request(format!(
                "expected optional factors for each of {} sites, found {} for {}",
                self.deltas.len(),
                factors.len(),
                sites.len()
            )));
        }
        let mut deltas = Vec::with_capacity(factors.len());
        for ((old, new), site) in self.deltas.iter().zip(factors).zip(sites) {
            deltas.push(match (old, new) {
                (None, None) => None,
                (Some(old), Some((a, b))) if old.dims() == [a.dims(), b.dims()] => {
                    Some(LoraDelta::new(a, b, old.scaling())?)
                }
                (old, new) => {
                    let expected = old.as_ref().map(LoraDelta::dims);
                    let found = new.as_ref().map(|(a, b)| [a.dims(), b.dims()]);
                    return Err(Error::Request(format!(
                        "`{}`: expected factors of shapes {expected:?}, found {found:?}",
                        site.name
                    )));
                }
            });
        }
        let invocation = self.branches.invocation().cloned();
        let branches = Branches::new(sites, &deltas, compute)?.invoked_by(invocation);
        (self.deltas, self.branches) = (deltas, branches);
        Ok(())
    }

    /// The same adapter with its changes in some layers only, the head being in none; the others' rows see the base.
    /// Factors are shared. `None` if the adapter is more than low-rank branches, so that its layers cannot be told apart.
    #[must_use]
    pub fn in_layers(&self, sites: &[Site], keep: impl Fn(Option<usize>) -> bool) -> Option<Self> {
        if !self.is_low_rank() || sites.len() != self.deltas.len() {
            return None;
        }
        let kept = |(delta, site): (&Option<LoraDelta>, &Site)| delta.clone().filter(|_| keep(site.layer));
        let deltas: Vec<_> = self.deltas.iter().zip(sites).map(kept).collect();
        let of_projection = |projection| sites.iter().find(|site| site.projection == projection);
        let branches =
            self.branches.kept(|projection| of_projection(projection).is_some_and(|site| keep(site.layer)));
        let replacements = Replacements::new(Default::default());
        let modules = changed_modules(sites, &deltas, &replacements);
        Some(Self {
            config: self.config.clone(),
            notes: Vec::new(),
            deltas,
            branches,
            replacements,
            files: self.files.clone(),
            stack: None,
            virtual_prompt: None,
            modules,
        })
    }

    /// Whether the adapter is low-rank branches and nothing else.
    #[must_use]
    pub fn is_low_rank(&self) -> bool {
        self.replacements.is_empty() && self.stack.is_none() && self.virtual_prompt.is_none()
    }

    /// The delta at a linear site, if the adapter has one there.
    #[must_use]
    pub fn delta(&self, site: usize) -> Option<&LoraDelta> {
        self.deltas[site].as_ref()
    }

    /// The tokens from whose last occurrence in a context on its branches act (aLoRA); `None` if they act everywhere.
    #[must_use]
    pub fn invocation_tokens(&self) -> Option<&[u32]> {
        self.branches.invocation().map(|tokens| &**tokens)
    }

    /// What the decoder adds to its projections.
    pub(crate) fn branches(&self) -> &Branches {
        &self.branches
    }

    /// What every context of its rows begins with, if anything.
    pub(crate) fn virtual_prompt(&self) -> Option<&VirtualPrompt> {
        self.virtual_prompt.as_ref()
    }

    /// The decoder that its rows run on at a scale, if it is not the base's own.
    pub(crate) fn decoder(&self, base: &Decoder, scale: f32) -> Result<Option<Arc<Decoder>>> {
        let with_replacements = self.replacements.decoder(self.stack.as_deref().unwrap_or(base), scale)?;
        Ok(with_replacements.or_else(|| self.stack.clone()))
    }

    /// How many modules the adapter changes.
    #[must_use]
    pub fn changed_modules(&self) -> usize {
        self.modules
    }

    /// Whether nothing is replaced and every product B·A is exactly zero, so that the adapter cannot change anything.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.is_low_rank() && self.deltas.iter().flatten().all(|delta| delta.zero)
    }

    /// The files that decide what the adapter computes; none if it was made in memory.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }
}

/// Modules with a delta or a replaced tensor.
fn changed_modules(sites: &[Site], deltas: &[Option<LoraDelta>], replacements: &Replacements) -> usize {
    let mut modules = replacements.modules();
    let with_delta = sites.iter().zip(deltas).filter(|(_, delta)| delta.is_some());
    modules.extend(with_delta.map(|(site, _)| site.name.as_str()));
    modules.len()
}
