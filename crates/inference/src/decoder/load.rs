//! From named tensors to a decoder, layer by layer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::attention::Attention;
use super::config::{DecoderConfig, RopeScaling};
use super::layer::Layer;
use super::linear::Linear;
use super::mlp::Mlp;
use super::norm::RmsNorm;
use super::rope::{self, RotaryTables};
use super::site::{self, PROJECTIONS, SLOTS, Site};
use super::{Decoder, EMBEDDING, NORM};
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::weights::TensorSource;
use crate::weights::gguf::ROPE_FACTORS;

impl Decoder {
    /// Loads the weights of a config. `progress` is told of each finished layer.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape than the config says.
    pub fn load(
        mut config: DecoderConfig,
        source: Arc<dyn TensorSource>,
        compute: &Compute,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self> {
        if source.shape(ROPE_FACTORS).is_some() {
            let divisors = source.load(ROPE_FACTORS, &Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
            rope::check_divisors(source.origin(), &divisors, config.head_dim)?;
            config.rope.scaling = RopeScaling::Divisors(divisors);
        }
        let sites = site::sites(&config);
        let loader = Loader { config: &config, sites: &sites, source: &*source, compute, variant: false };
        let embedding = loader.tensor(EMBEDDING, &[config.vocab_size, config.hidden_size])?;
        let mut layers = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            layers.push(Arc::new(loader.layer(layer)?));
            progress(layer + 1, config.layers);
        }
        let head = loader.head(&embedding)?;
        Ok(Self {
            norm: loader.norm(NORM)?,
            embedding: loader.table(&embedding)?,
            rotary: Arc::new(RotaryTables::new(&config, compute)?),
            layers: layers.into(),
            head: Arc::new(head),
            sites: sites.into(),
            config,
            compute: compute.clone(),
            source,
        })
    }

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
            norm: self.norm.clone(),
            head: self.head.clone(),
            rotary: self.rotary.clone(),
            compute: compute.clone(),
            source: self.source.clone(),
        };
        let mut layers: Vec<Arc<Layer>> = self.layers.to_vec();
        let mut touched = BTreeSet::new();
        for name in replaced.keys() {
            match part_of(name, config.layers) {
                Some(Part::Embedding) => {
                    let embedding = loader.tensor(EMBEDDING, &[config.vocab_size, config.hidden_size])?;
                    variant.embedding = loader.table(&embedding)?;
                }
                Some(Part::Norm) => variant.norm = loader.norm(NORM)?,
                Some(Part::Head) => {
                    variant.head = Arc::new(loader.linear(&self.sites[self.sites.len() - 1..], false)?);
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
        let source = Restacked { under: self.source.clone(), layers: layers.to_vec() };
        Self::load(config, Arc::new(source), &self.compute, &|_, _| {})
    }

    /// The tensors of the base that it was loaded from.
    pub(crate) fn source(&self) -> &dyn TensorSource {
        &*self.source
    }
}

/// What a tensor belongs to.
enum Part {
    Embedding,
    Layer(usize),
    Norm,
    Head,
}

fn part_of(name: &str, layers: usize) -> Option<Part> {
    if let Some(rest) = name.strip_prefix("model.layers.") {
        let layer = rest.split('.').next()?.parse().ok()?;
        return (layer < layers).then_some(Part::Layer(layer));
    }
    match name {
        EMBEDDING => Some(Part::Embedding),
        NORM => Some(Part::Norm),
        _ if name.starts_with("lm_head.") => Some(Part::Head),
        _ => None,
    }
}

/// The layers of a source in another order, under the names of their new places.
struct Restacked {
    under: Arc<dyn TensorSource>,
    layers: Vec<usize>,
}

const LAYERS: &str = "model.layers.";

impl Restacked {
    /// The name in the source below.
    fn below(&self, name: &str) -> Option<String> {
        let Some(rest) = name.strip_prefix(LAYERS) else { return Some(name.to_owned()) };
        let (layer, part) = rest.split_once('.')?;
        let layer = self.layers.get(layer.parse::<usize>().ok()?)?;
        Some(format!("{LAYERS}{layer}.{part}"))
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
        let (of_layers, others): (Vec<_>, Vec<_>) = all.iter().partition(|name| name.starts_with(LAYERS));
        let mut names: Vec<String> = others.into_iter().cloned().collect();
        for (place, layer) in self.layers.iter().enumerate() {
            let prefix = format!("{LAYERS}{layer}.");
            let parts = of_layers.iter().filter_map(|name| name.strip_prefix(&prefix));
            names.extend(parts.map(|part| format!("{LAYERS}{place}.{part}")));
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

/// What the parts of a decoder are read with.
struct Loader<'a> {
    config: &'a DecoderConfig,
    sites: &'a [Site],
    source: &'a dyn TensorSource,
    compute: &'a Compute,
    /// Whether modules may have a bias of which the config says nothing, and some of a product none.
    variant: bool,
}

impl Loader<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        check_shape(self.source, name, shape)?;
        self.source.load(name, &Device::Cpu)
    }

    fn norm(&self, name: &str) -> Result<RmsNorm> {
        let weight = self.tensor(name, &[self.config.hidden_size])?;
        RmsNorm::new(&weight, self.config.rms_norm_eps, self.compute)
    }

    /// Modules with one input as one product.
    fn linear(&self, sites: &[Site], bias: bool) -> Result<Linear> {
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        let found = |site: &Site| self.source.shape(&format!("{}.bias", site.name)).is_some();
        let bias = bias || self.variant && sites.iter().any(found);
        for site in sites {
            weights.push(self.tensor(&format!("{}.weight", site.name), &[site.outputs, site.inputs])?);
            let bias_name = format!("{}.bias", site.name);
            if bias && self.variant && !found(site) {
                biases.push(Tensor::zeros(site.outputs, candle_core::DType::F32, &Device::Cpu)?);
            } else if bias {
                biases.push(self.tensor(&bias_name, &[site.outputs])?);
            } else if self.source.shape(&bias_name).is_some() {
                return Err(Error::malformed(
                    self.source.origin(),
                    format!("tensor `{bias_name}` exists, but the config says that there is no such bias"),
                ));
            }
        }
        Linear::new(sites[0].projection, &weights, &biases, self.compute)
    }

    fn layer(&self, layer: usize) -> Result<Layer> {
        let config = self.config;
        let fused = self.compute.fused().is_some();
        let sites = &self.sites[layer * SLOTS.len()..(layer + 1) * SLOTS.len()];
        let [qkv, o, gate_up, down] =
            PROJECTIONS.map(|slots| &sites[slots[0] as usize..slots[0] as usize + slots.len()]);
        let attention = [self.linear(qkv, config.qkv_bias)?, self.linear(o, config.output_bias)?];
        Ok(Layer {
            input_norm: self.norm(&format!("model.layers.{layer}.input_layernorm.weight"))?,
            attention: Attention::new(config, layer, attention, self.compute),
            mlp_norm: self.norm(&format!("model.layers.{layer}.post_attention_layernorm.weight"))?,
            mlp: Mlp {
                gate_up: self.linear(gate_up, config.mlp_bias)?,
                down: self.linear(down, config.mlp_bias)?,
                fused,
            },
            fused,
        })
    }

    /// The output head; where it is tied, of the `embedding` `[vocabulary, hidden]`.
    fn head(&self, embedding: &Tensor) -> Result<Linear> {
        let site = &self.sites[self.config.layers * SLOTS.len()..];
        if self.config.tied {
            return Linear::new(site[0].projection, std::slice::from_ref(embedding), &[], self.compute);
        }
        self.linear(site, false)
    }

    /// The embedding as it is looked up in.
    fn table(&self, embedding: &Tensor) -> Result<Tensor> {
        Ok(embedding.to_dtype(self.compute.precision.dtype())?.to_device(&self.compute.device)?)
    }
}

fn check_shape(source: &dyn TensorSource, name: &str, expected: &[usize]) -> Result<()> {
    let origin: &Path = source.origin();
    match source.shape(name) {
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(Error::malformed(
            origin,
            format!("tensor `{name}`: expected shape {expected:?}, found {found:?}"),
        )),
        None => Err(Error::malformed(origin, format!("tensor `{name}` is missing"))),
    }
}
