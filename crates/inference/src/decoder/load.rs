//! From named tensors to a decoder, layer by layer.

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
use super::{Decoder, EMBEDDING};
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
        source: &dyn TensorSource,
        compute: &Compute,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self> {
        if source.shape(ROPE_FACTORS).is_some() {
            let divisors = source.load(ROPE_FACTORS, &Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
            rope::check_divisors(source.origin(), &divisors, config.head_dim)?;
            config.rope.scaling = RopeScaling::Divisors(divisors);
        }
        let sites = site::sites(&config);
        let loader = Loader { config: &config, sites: &sites, source, compute };
        let embedding = loader.tensor(EMBEDDING, &[config.vocab_size, config.hidden_size])?;
        let mut layers = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            layers.push(Arc::new(loader.layer(layer)?));
            progress(layer + 1, config.layers);
        }
        let head = loader.head(&embedding)?;
        Ok(Self {
            norm: loader.norm("model.norm.weight")?,
            embedding: loader.table(&embedding)?,
            rotary: Arc::new(RotaryTables::new(&config, compute)?),
            layers: layers.into(),
            head,
            sites: sites.into(),
            config,
            compute: compute.clone(),
        })
    }
}

/// What the parts of a decoder are read with.
struct Loader<'a> {
    config: &'a DecoderConfig,
    sites: &'a [Site],
    source: &'a dyn TensorSource,
    compute: &'a Compute,
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
        for site in sites {
            weights.push(self.tensor(&format!("{}.weight", site.name), &[site.outputs, site.inputs])?);
            let bias_name = format!("{}.bias", site.name);
            if bias {
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
