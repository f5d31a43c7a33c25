//! Decoders made of another: with some tensors replaced, or with its layers in another order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::Decoder;
use super::architectures::Positions;
use super::config::DecoderConfig;
use super::layer::Layer;
use super::load::{Loader, stored_name};
use crate::error::{Error, Result};
use crate::weights::TensorSource;

impl Decoder {
    /// The decoder with other tensors in the place of its own or beside them (a bias that it does not have); what is
    /// not replaced is shared. A tied head and the embedding are two tensors here, each replaced by its own name.
    ///
    /// # Errors
    /// If a tensor belongs to no part of the decoder, or has another shape than its place.
    pub(crate) fn variant(&self, replaced: &BTreeMap<String, Tensor>) -> Result<Self> {
        let overlay = Overlay { under: &*self.source, replaced };
        let (config, compute) = (&self.config, &self.compute);
        let loader = Loader { config, sites: &self.sites, source: &overlay, compute, variant: true };
        let mut variant = Self {
            config: config.clone(),
            sites: self.sites.clone(),
            embedding: self.embedding.clone(),
            layers: self.layers.clone(),
            positions: self.positions.clone(),
            norm: self.norm.clone(),
            head: self.head.clone(),
            rotary: self.rotary.clone(),
            compute: compute.clone(),
            source: self.source.clone(),
        };
        let mut layers: Vec<Arc<Layer>> = self.layers.to_vec();
        let mut touched = BTreeSet::new();
        for name in replaced.keys() {
            match part_of(name, config) {
                Some(Part::Embedding) => variant.embedding = loader.table(&loader.embedding()?)?,
                Some(Part::Positions) => variant.positions = loader.positions()?,
                Some(Part::Norm) => variant.norm = loader.final_norm()?,
                Some(Part::Head) => {
                    // A tied head whose bias alone is replaced has the embedding for its weight all the same.
                    let own = loader.has(&self.head_name());
                    variant.head = Arc::new(if own {
                        loader.linear(&self.sites[self.sites.len() - 1..], config.head_bias)?
                    } else {
                        loader.head(&loader.embedding()?)?
                    });
                }
                Some(Part::Layer(layer)) => {
                    if touched.insert(layer) {
                        layers[layer] = Arc::new(loader.layer(layer)?);
                    }
                }
                None => {
                    return Err(Error::Request(format!("the decoder has no place for a tensor `{name}`")));
                }
            }
        }
        variant.layers = layers.into();
        Ok(variant)
    }

    /// A decoder whose layers are these of this one, in this order, each with weights and adapter sites of its own.
    ///
    /// # Errors
    /// If a layer does not exist, or there are more than a decoder may have.
    pub(crate) fn restacked(&self, layers: &[usize]) -> Result<Self> {
        let config = self.config.restacked(layers)?;
        let prefix = format!("{}.", self.config.architecture.names.layers);
        let source = Restacked { under: self.source.clone(), prefix, layers: layers.to_vec() };
        Self::load(config, Arc::new(source), &self.compute, &|_, _| {})
    }

    /// The tensors of the base that it was loaded from.
    pub(crate) fn source(&self) -> &dyn TensorSource {
        &*self.source
    }

    /// The name that the source has for a tensor: ours, or that of older checkpoints.
    pub(crate) fn stored_name(&self, name: &str) -> String {
        stored_name(self.config.architecture, &*self.source, name)
    }

    /// Whether a tensor of this name is part of the decoder, or a buffer beside one.
    pub(crate) fn has_place(&self, name: &str) -> bool {
        part_of(name, &self.config).is_some()
    }

    /// The name that we have for a tensor of a checkpoint, which may be an older one.
    pub(crate) fn canonical_name(&self, stored: &str) -> String {
        if part_of(stored, &self.config).is_none() {
            for (ours, theirs) in self.config.architecture.older {
                let renamed = stored.strip_prefix(theirs).map(|rest| format!("{ours}{rest}"));
                if let Some(known) = renamed.filter(|name| part_of(name, &self.config).is_some()) {
                    return known;
                }
            }
        }
        stored.to_owned()
    }

    /// The input embedding's tensor.
    pub(crate) fn embedding_name(&self) -> String {
        format!("{}.weight", self.config.architecture.names.embedding)
    }

    /// The output head's; where it is tied, a base has none.
    pub(crate) fn head_name(&self) -> String {
        format!("{}.weight", self.config.architecture.names.head)
    }
}

/// What a tensor belongs to.
enum Part {
    Embedding,
    Positions,
    Layer(usize),
    Norm,
    Head,
}

fn part_of(name: &str, config: &DecoderConfig) -> Option<Part> {
    let names = &config.architecture.names;
    let within = |module: &str| name.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'));
    if let Some(rest) = name.strip_prefix(names.layers).and_then(|rest| rest.strip_prefix('.')) {
        let layer = rest.split('.').next()?.parse().ok()?;
        return (layer < config.layers).then_some(Part::Layer(layer));
    }
    let table = match config.architecture.positions {
        Positions::Learned(table) => Some(table),
        _ => None,
    };
    [
        (Some(names.embedding), Part::Embedding),
        (table, Part::Positions),
        (Some(names.norm), Part::Norm),
        (Some(names.head), Part::Head),
    ]
    .into_iter()
    .find_map(|(module, part)| module.filter(|module| within(module)).map(|_| part))
}

/// The layers of a source in another order, under the names of their new places.
struct Restacked {
    under: Arc<dyn TensorSource>,
    /// What the names of layers' tensors begin with.
    prefix: String,
    layers: Vec<usize>,
}

impl Restacked {
    /// The name in the source below.
    fn below(&self, name: &str) -> Option<String> {
        let Some(rest) = name.strip_prefix(&self.prefix) else { return Some(name.to_owned()) };
        let (layer, part) = rest.split_once('.')?;
        let layer = self.layers.get(layer.parse::<usize>().ok()?)?;
        Some(format!("{}{layer}.{part}", self.prefix))
    }
}

impl TensorSource for Restacked {
    fn origin(&self) -> &Path {
        self.under.origin()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.under.shape(&self.below(name)?)
    }

    fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        match self.below(name) {
            Some(below) => self.under.load(&below, device),
            None => Err(Error::malformed(self.origin(), format!("tensor `{name}` is missing"))),
        }
    }

    fn names(&self) -> Vec<String> {
        let all = self.under.names();
        let (of_layers, others): (Vec<_>, Vec<_>) =
            all.iter().partition(|name| name.starts_with(&self.prefix));
        let mut names: Vec<String> = others.into_iter().cloned().collect();
        for (place, layer) in self.layers.iter().enumerate() {
            let prefix = format!("{}{layer}.", self.prefix);
            let parts = of_layers.iter().filter_map(|name| name.strip_prefix(&prefix));
            names.extend(parts.map(|part| format!("{}{place}.{part}", self.prefix)));
        }
        names.sort();
        names
    }
}

/// Tensors over those of another source.
struct Overlay<'a> {
    under: &'a dyn TensorSource,
    replaced: &'a BTreeMap<String, Tensor>,
}

impl TensorSource for Overlay<'_> {
    fn origin(&self) -> &Path {
        self.under.origin()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let own = self.replaced.get(name).map(|tensor| tensor.dims().to_vec());
        own.or_else(|| self.under.shape(name))
    }

    fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        match self.replaced.get(name) {
            Some(own) => Ok(own.to_device(device)?),
            None => self.under.load(name, device),
        }
    }

    fn names(&self) -> Vec<String> {
        let mut names = self.under.names();
        names.extend(self.replaced.keys().cloned());
        names.sort();
        names.dedup();
        names
    }
}
