//! What an adapter does to its base: low-rank branches, and tensors in the place of the base's own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};

use super::delta::LoraDelta;
use crate::decoder::Decoder;
use crate::decoder::site::Site;
use crate::error::{Error, Result};

/// A change that is being put together.
pub(crate) struct Change<'a> {
    pub(crate) base: &'a Decoder,
    /// One optional delta a site.
    pub(crate) deltas: Vec<Option<LoraDelta>>,
    /// New values of the base's tensors, f32 on the CPU, under their names in the base.
    pub(crate) replaced: BTreeMap<String, Tensor>,
    /// Embeddings `[tokens, hidden]` before every context, f32 on the CPU.
    pub(crate) virtual_tokens: Option<Tensor>,
    pub(crate) notes: Vec<String>,
}

impl<'a> Change<'a> {
    /// No change.
    pub(crate) fn of(base: &'a Decoder) -> Self {
        let deltas = base.sites().iter().map(|_| None).collect();
        Self { base, deltas, replaced: BTreeMap::new(), virtual_tokens: None, notes: Vec::new() }
    }

    /// The value of a tensor as changed so far, if the model has it.
    pub(crate) fn current(&self, name: &str) -> Result<Option<Tensor>> {
        match self.replaced.get(name) {
            Some(tensor) => Ok(Some(tensor.clone())),
            None => original(self.base, name),
        }
    }

    /// The weight `[outputs, inputs]` of a site as changed so far.
    ///
    /// # Errors
    /// If the base does not store it as a tensor of its own, as those of experts that are stacked.
    pub(crate) fn weight(&self, site: &Site) -> Result<Tensor> {
        let name = weight_of(site);
        let weight = match self.current(&name)? {
            Some(weight) => weight,
            None => {
                return Err(Error::unsupported(
                    self.base.source().origin(),
                    format!("`{}` is stored together with others, and the adapter replaces it", site.name),
                )
                .with_hint("it was not scanned"));
            }
        };
        Ok(if self.is_transposed(site) { weight.t()?.contiguous()? } else { weight })
    }

    /// Puts a weight `[outputs, inputs]` in the place of a site's.
    pub(crate) fn set_weight(&mut self, site: &Site, weight: &Tensor) -> Result<()> {
        let stored =
            if self.is_transposed(site) { weight.t()?.contiguous()? } else { weight.contiguous()? };
        self.replaced.insert(weight_of(site), stored);
        Ok(())
    }

    fn is_transposed(&self, site: &Site) -> bool {
        self.base.config().architecture.transposed && !site.head
    }

    /// Puts a tensor in the place of a parameter; one that two modules of the base share changes for both.
    pub(crate) fn overwrite(&mut self, name: &str, tensor: &Tensor) {
        let shared = [self.base.embedding_name(), self.base.head_name()];
        if self.base.config().tied && shared.iter().any(|shared| shared == name) {
            for name in shared {
                self.replaced.insert(name, tensor.clone());
            }
        } else {
            self.replaced.insert(name.to_owned(), tensor.clone());
        }
    }

    /// Adds to a site's bias, which may not exist.
    pub(crate) fn add_bias(&mut self, site: &Site, added: &Tensor) -> Result<()> {
        let name = bias_of(site);
        let sum = match self.current(&name)? {
            Some(bias) => (bias + added)?,
            None => added.clone(),
        };
        self.replaced.insert(name, sum);
        Ok(())
    }

    /// Forgets replacements that are the base's own values.
    pub(crate) fn drop_equal(&mut self) -> Result<()> {
        let mut equal = Vec::new();
        for (name, tensor) in &self.replaced {
            if let Some(own) = original(self.base, name)?
                && same(&own, tensor)?
            {
                equal.push(name.clone());
            }
        }
        for name in equal {
            self.replaced.remove(&name);
        }
        Ok(())
    }
}

/// Whether two tensors hold the same values in the same shape.
pub(crate) fn same(a: &Tensor, b: &Tensor) -> Result<bool> {
    let values = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
    Ok(a.dims() == b.dims() && values(a)? == values(b)?)
}

/// The name of a site's weight.
pub(crate) fn weight_of(site: &Site) -> String {
    format!("{}.weight", site.name)
}

/// The name of a site's bias.
pub(crate) fn bias_of(site: &Site) -> String {
    format!("{}.bias", site.name)
}

/// The base's own value of a tensor, f32 on the CPU; a tied head has that of the embedding.
pub(crate) fn original(base: &Decoder, name: &str) -> Result<Option<Tensor>> {
    let tied = base.config().tied && name == base.head_name();
    let stored = base.stored_name(&if tied { base.embedding_name() } else { name.to_owned() });
    if base.source().shape(&stored).is_none() {
        return Ok(None);
    }
    Ok(Some(base.source().load(&stored, &Device::Cpu)?.to_dtype(DType::F32)?))
}

/// The tensors that an adapter puts in the place of its base's, and the decoders with them by row scale.
pub(crate) struct Replacements {
    tensors: BTreeMap<String, Tensor>,
    decoders: Mutex<Vec<(u32, Arc<Decoder>)>>,
}

impl Replacements {
    pub(crate) fn new(tensors: BTreeMap<String, Tensor>) -> Self {
        Self { tensors, decoders: Mutex::new(Vec::new()) }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The modules that they belong to.
    pub(crate) fn modules(&self) -> BTreeSet<&str> {
        self.tensors.keys().filter_map(|name| name.rsplit_once('.')).map(|(module, _)| module).collect()
    }

    /// The base's decoder with the tensors at a scale: at 1 their own values, elsewhere on the line through those and
    /// the base's.
    pub(crate) fn decoder(&self, base: &Decoder, scale: f32) -> Result<Option<Arc<Decoder>>> {
        if self.tensors.is_empty() {
            return Ok(None);
        }
        let mut decoders = self.decoders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, decoder)) = decoders.iter().find(|(bits, _)| *bits == scale.to_bits()) {
            return Ok(Some(decoder.clone()));
        }
        let full = 1.0f32.to_bits();
        let decoder = Arc::new(if scale.to_bits() == full {
            base.variant(&self.tensors)?
        } else {
            let mut tensors = BTreeMap::new();
            for (name, new) in &self.tensors {
                let own = match original(base, name)? {
                    Some(own) => own,
                    None => new.zeros_like()?,
                };
                let moved = ((new - &own)? * f64::from(scale))?;
                tensors.insert(name.clone(), (own + moved)?);
            }
            base.variant(&tensors)?
        });
        // Of other scales than 1 one is kept: a scan uses one at a time.
        if scale.to_bits() != full {
            decoders.retain(|(bits, _)| *bits == full);
        }
        decoders.push((scale.to_bits(), decoder.clone()));
        Ok(Some(decoder))
    }
}

impl fmt::Debug for Replacements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.tensors.keys()).finish()
    }
}
