//! PEFT LoRA adapters: the hostile-input boundary.
//!
//! A directory of bytes from a stranger becomes an [`Adapter`] whose every tensor is applied, or an
//! error that names what is in the way. [`config`] decides key by key what is honoured, inert or
//! refused; [`keys`] gives every tensor name its meaning; [`target`] resolves which modules the
//! config selects; [`delta`] holds the checked factors. Training and controls make adapters in memory
//! ([`Adapter::from_deltas`]) and exchange their factors.

pub mod config;
pub mod delta;
pub mod keys;
pub(crate) mod recorder;
pub mod target;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};

use crate::decoder::site::Site;
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::weights::TensorSource as _;
use crate::weights::safetensors::SafetensorsFile;

use config::AdapterConfig;
use delta::{Branches, LoraDelta};
use keys::TensorRole;

/// File names of the PEFT layout.
pub const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";
const PICKLE_FILE: &str = "adapter_model.bin";

/// A LoRA adapter that fits its base: one optional delta a linear site.
#[derive(Debug)]
pub struct Adapter {
    /// The parsed configuration.
    pub config: AdapterConfig,
    /// The directory that it came from; none for one that was made in memory.
    pub path: Option<PathBuf>,
    /// What the user should know though the load succeeded.
    pub notes: Vec<String>,
    deltas: Vec<Option<LoraDelta>>,
    branches: Branches,
}

impl Adapter {
    /// Loads the adapter in `directory` for a base with these linear sites.
    ///
    /// # Errors
    /// If a file is absent or malformed, a config key with effect is not implemented, a tensor
    /// would not be applied, shapes do not fit the base, or weights are not finite.
    pub fn load(directory: &Path, sites: &[Site], compute: &Compute) -> Result<Self> {
        let weights = weights_file(directory)?;
        let config = AdapterConfig::from_file(&directory.join(CONFIG_FILE))?;
        let mut notes = config.notes.clone();
        let file = SafetensorsFile::open(&weights)?;
        let selected = config.select(sites, &directory.join(CONFIG_FILE))?;
        let by_name: BTreeMap<&str, usize> =
            sites.iter().enumerate().map(|(index, site)| (site.name.as_str(), index)).collect();

        let mut a: BTreeMap<usize, String> = BTreeMap::new();
        let mut b: BTreeMap<usize, String> = BTreeMap::new();
        for (name, _) in file.tensors() {
            let (side, module) = match keys::role(name) {
                TensorRole::LoraA(module) => (&mut a, module),
                TensorRole::LoraB(module) => (&mut b, module),
                TensorRole::Other(what) => {
                    return Err(Error::unsupported(
                        &weights,
                        format!("tensor `{name}` ({what}) would not be applied"),
                    )
                    .with_hint("this adapter is more than plain LoRA; it was not scanned"));
                }
            };
            let Some(&site) = by_name.get(module.as_str()) else {
                return Err(Error::malformed(
                    &weights,
                    format!("tensor `{name}`: the base has no linear module `{module}`"),
                )
                .with_hint(config.base_hint()));
            };
            if !selected[site] {
                return Err(Error::unsupported(
                    &weights,
                    format!("tensor `{name}`: target_modules of the config do not select `{module}`"),
                )
                .with_hint("PEFT ignores such a tensor while other runtimes apply it: the adapter means different models in different runtimes"));
            }
            if side.insert(site, name.to_owned()).is_some() {
                return Err(Error::malformed(
                    &weights,
                    format!("two tensors name the same matrix of `{module}`"),
                ));
            }
        }

        let mut deltas: Vec<Option<LoraDelta>> = sites.iter().map(|_| None).collect();
        for (index, site) in sites.iter().enumerate().filter(|(index, _)| selected[*index]) {
            match (a.get(&index), b.get(&index)) {
                (Some(a), Some(b)) => {
                    let pair = Pair { file: &file, a, b, site, config: &config };
                    deltas[index] = Some(pair.load()?);
                }
                (None, None) => {
                    notes.push(format!("`{}` is targeted, but the file has no tensors for it", site.name))
                }
                (found, _) => {
                    let missing = if found.is_some() { "lora_B" } else { "lora_A" };
                    return Err(Error::malformed(&weights, format!("`{}` has no {missing}", site.name))
                        .with_hint("the export is incomplete"));
                }
            }
        }
        if deltas.iter().all(Option::is_none) {
            return Err(Error::malformed(&weights, "the adapter changes no module of this base")
                .with_hint(config.base_hint()));
        }
        let branches = Branches::new(sites, &deltas, compute)?;
        Ok(Self { config, path: Some(directory.to_owned()), notes, deltas, branches })
    }

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
        Ok(Self { config, path: None, notes: Vec::new(), deltas, branches })
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
        let branches = Branches::new(sites, &deltas, compute)?;
        (self.deltas, self.branches) = (deltas, branches);
        Ok(())
    }

    /// The delta at a linear site, if the adapter has one there.
    #[must_use]
    pub fn delta(&self, site: usize) -> Option<&LoraDelta> {
        self.deltas[site].as_ref()
    }

    /// What the decoder adds to its projections.
    pub(crate) fn branches(&self) -> &Branches {
        &self.branches
    }

    /// How many linear sites the adapter changes.
    #[must_use]
    pub fn changed_sites(&self) -> usize {
        self.deltas.iter().flatten().count()
    }

    /// Whether every product B·A is exactly zero, so that the adapter cannot change anything.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.deltas.iter().flatten().all(|delta| delta.zero)
    }

    /// The files that decide what the adapter computes; none if it was made in memory.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let of = |path: &PathBuf| [CONFIG_FILE, WEIGHTS_FILE].map(|name| path.join(name)).to_vec();
        self.path.as_ref().map(of).unwrap_or_default()
    }
}

/// Finds the weights, and says what is there instead if they are not.
fn weights_file(directory: &Path) -> Result<PathBuf> {
    if !directory.is_dir() {
        let what = if directory.exists() { "found a file" } else { "found nothing" };
        return Err(Error::malformed(directory, format!("expected an adapter directory, {what}"))
            .with_hint(format!("give the directory that holds `{CONFIG_FILE}` and `{WEIGHTS_FILE}`")));
    }
    let weights = directory.join(WEIGHTS_FILE);
    if weights.exists() {
        return Ok(weights);
    }
    if directory.join(PICKLE_FILE).exists() {
        return Err(Error::unsupported(
            &directory.join(PICKLE_FILE),
            format!("found only a Python pickle, expected `{WEIGHTS_FILE}`"),
        )
        .with_hint("pickles run code when they are loaded, so this one was not opened; ask the author for safetensors"));
    }
    let hint = if directory.join("config.json").exists() {
        "this looks like a full model; give the adapter's directory"
    } else {
        "checkpoints often keep the adapter in a sub-folder such as checkpoint-500"
    };
    Err(Error::malformed(directory, format!("expected `{WEIGHTS_FILE}`, found none")).with_hint(hint))
}

/// The two tensors of one site, about to be checked.
struct Pair<'a> {
    file: &'a SafetensorsFile,
    a: &'a str,
    b: &'a str,
    site: &'a Site,
    config: &'a AdapterConfig,
}

impl Pair<'_> {
    fn load(&self) -> Result<LoraDelta> {
        let rank = self.config.rank(&self.site.name);
        self.check_shape(self.a, &[rank, self.site.inputs])?;
        self.check_shape(self.b, &[self.site.outputs, rank])?;
        let (a, b) = (self.finite(self.a)?, self.finite(self.b)?);
        LoraDelta::new(&a, &b, self.config.scaling(&self.site.name))
    }

    fn check_shape(&self, name: &str, expected: &[usize]) -> Result<()> {
        let found = self.file.shape(name).unwrap_or_default();
        if found == expected {
            return Ok(());
        }
        Err(Error::malformed(
            self.file.origin(),
            format!("tensor `{name}`: expected shape {expected:?}, found {found:?}"),
        )
        .with_hint(self.config.base_hint()))
    }

    fn finite(&self, name: &str) -> Result<Tensor> {
        let tensor = self.file.load(name, &candle_core::Device::Cpu)?.to_dtype(DType::F32)?;
        let bad = tensor.flatten_all()?.to_vec1::<f32>()?.iter().filter(|value| !value.is_finite()).count();
        if bad == 0 {
            return Ok(tensor);
        }
        Err(Error::malformed(
            self.file.origin(),
            format!("tensor `{name}`: {bad} of {} values are NaN or infinite", tensor.elem_count()),
        )
        .with_hint("every output of such a model is NaN, so nothing can be measured"))
    }
}
