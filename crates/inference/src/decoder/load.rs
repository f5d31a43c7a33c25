//! From named tensors to a decoder, layer by layer.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::Decoder;
use super::architectures::{Architecture, Mlp as MlpNames, NormKind, Positions};
use super::attention::Attention;
use super::config::{DecoderConfig, ExpertsConfig, NormedPer, RopeScaling};
use super::embedding::Embedding;
use super::experts::Experts;
use super::generic::{FeedForward, GenericAttention, GenericLayer, QkNorm};
use super::layer::{Layer, LlamaLayer};
use super::linear::Linear;
use super::mlp::Mlp;
use super::norm::{Norm, RmsNorm};
use super::rope::{self, RotaryTables};
use super::site::{self, Site};
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
        stored_rope(&mut config, &*source)?;
        let sites = site::sites(&config);
        let loader = Loader { config: &config, sites: &sites, source: &*source, compute, variant: false };
        // Embedding and head first: the table in f32, which may be a fifth of a model, is gone before the layers come.
        let (table, head) = {
            let stored = loader.embedding()?;
            let head = Arc::new(loader.head(&stored)?);
            (loader.looked_up(&stored, &head)?, head)
        };
        let mut layers = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            layers.push(Arc::new(loader.layer(layer)?));
            progress(layer + 1, config.layers);
        }
        Ok(Self {
            norm: loader.final_norm()?,
            embedding: table,
            positions: loader.positions()?,
            rotary: Arc::new(RotaryTables::new(&config, compute)?),
            layers: layers.into(),
            head,
            sites: sites.into(),
            config,
            compute: compute.clone(),
            source,
        })
    }
}

/// Divisors of rotary frequencies that a GGUF file carries as tensors.
fn stored_rope(config: &mut DecoderConfig, source: &dyn TensorSource) -> Result<()> {
    let Some(rope) = config.ropes.first_mut() else { return Ok(()) };
    if source.shape(ROPE_FACTORS).is_some() {
        let divisors = source.load(ROPE_FACTORS, &Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        rope::check_divisors(source.origin(), &divisors, rope.width)?;
        rope.scaling = RopeScaling::Divisors(divisors);
    }
    Ok(())
}

/// What the parts of a decoder are read with.
pub(super) struct Loader<'a> {
    pub(super) config: &'a DecoderConfig,
    pub(super) sites: &'a [Site],
    pub(super) source: &'a dyn TensorSource,
    pub(super) compute: &'a Compute,
    /// Whether modules may have a bias of which the config says nothing, and some of a product none.
    pub(super) variant: bool,
}

impl Loader<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let name = self.stored(name);
        check_shape(self.source, &name, shape)?;
        self.source.load(&name, &Device::Cpu)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.source.shape(&self.stored(name)).is_some()
    }

    /// The name that the source has for a tensor: ours, or that of older checkpoints.
    fn stored(&self, name: &str) -> String {
        stored_name(self.config.architecture, self.source, name)
    }

    /// The input embedding `[vocabulary, hidden]`, in f32 without its factor.
    pub(super) fn embedding(&self) -> Result<Tensor> {
        let name = format!("{}.weight", self.config.architecture.names.embedding);
        self.tensor(&name, &[self.config.vocab_size, self.config.hidden_size])
    }

    fn norm(&self, name: &str, shape: &[usize]) -> Result<Norm> {
        let kind = self.config.architecture.norm;
        let weight = self.tensor(&format!("{name}.weight"), shape)?;
        let bias = match kind {
            NormKind::LayerNorm => Some(self.tensor(&format!("{name}.bias"), shape)?),
            _ => None,
        };
        Norm::new(kind, &weight, bias.as_ref(), self.config.norm_eps, self.compute)
    }

    fn rms_norm(&self, name: &str) -> Result<RmsNorm> {
        let weight = self.tensor(&format!("{name}.weight"), &[self.config.hidden_size])?;
        RmsNorm::new(&weight, self.config.norm_eps, self.compute)
    }

    /// The norm before the head.
    pub(super) fn final_norm(&self) -> Result<Norm> {
        self.norm(self.config.architecture.names.norm, &[self.config.hidden_size])
    }

    /// Modules with one input as one product.
    pub(super) fn linear(&self, sites: &[Site], bias: bool) -> Result<Linear> {
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        let found = |site: &Site| self.has(&format!("{}.bias", site.name));
        let bias = bias || self.variant && sites.iter().any(found);
        for site in sites {
            let name = format!("{}.weight", site.name);
            weights.push(if self.config.architecture.transposed && !site.head {
                self.tensor(&name, &[site.inputs, site.outputs])?.t()?
            } else {
                self.tensor(&name, &[site.outputs, site.inputs])?
            });
            let bias_name = format!("{}.bias", site.name);
            if bias && self.variant && !found(site) {
                biases.push(Tensor::zeros(site.outputs, DType::F32, &Device::Cpu)?);
            } else if bias {
                biases.push(self.tensor(&bias_name, &[site.outputs])?);
            } else if self.has(&bias_name) {
                return Err(Error::malformed(
                    self.source.origin(),
                    format!("tensor `{bias_name}` exists, but the config says that there is no such bias"),
                ));
            }
        }
        Linear::new(sites[0].projection, &weights, &biases, self.compute)
    }

    pub(super) fn layer(&self, layer: usize) -> Result<Layer> {
        let sites: Vec<&[Site]> = site::of_layer(self.sites, self.config, layer)
            .chunk_by(|a, b| a.projection == b.projection)
            .collect();
        if self.config.is_llama_like() {
            self.llama_layer(layer, &sites)
        } else {
            self.generic_layer(layer, &sites)
        }
    }

    /// The name of a norm of a layer.
    fn norm_name(&self, layer: usize, name: &str) -> String {
        format!("{}.{layer}.{name}", self.config.architecture.names.layers)
    }

    fn llama_layer(&self, layer: usize, sites: &[&[Site]]) -> Result<Layer> {
        let config = self.config;
        let ([qkv, o, gate_up, down], [Some(input), _, Some(before_mlp), _]) = (sites, config.norms) else {
            return Err(Error::Request("expected a layer of Llama's kind".into()));
        };
        let fused = self.compute.fused().is_some();
        let attention = [self.linear(qkv, config.qkv_bias)?, self.linear(o, config.output_bias)?];
        Ok(Layer::Llama(Box::new(LlamaLayer {
            input_norm: self.rms_norm(&self.norm_name(layer, input))?,
            attention: Attention::new(config, layer, attention, self.compute),
            mlp_norm: self.rms_norm(&self.norm_name(layer, before_mlp))?,
            mlp: Mlp {
                gate_up: self.linear(gate_up, config.mlp_bias)?,
                down: self.linear(down, config.mlp_bias)?,
                fused,
            },
            fused,
        })))
    }

    fn generic_layer(&self, layer: usize, sites: &[&[Site]]) -> Result<Layer> {
        let config = self.config;
        let [qkv, o, mlp @ ..] = sites else {
            return Err(Error::Request("expected a layer with attention".into()));
        };
        let projections = [self.linear(qkv, config.qkv_bias)?, self.linear(o, config.output_bias)?];
        let qk_norms = self.qk_norms(layer)?;
        let [a, b, c, d] = config.norms.map(|name| {
            name.map(|name| self.norm(&self.norm_name(layer, name), &[config.hidden_size])).transpose()
        });
        Ok(Layer::Generic(Box::new(GenericLayer {
            norms: [a?, b?, c?, d?],
            attention: GenericAttention::new(config, layer, projections, qk_norms, self.compute)?,
            mlp: self.feed_forward(layer, mlp)?,
            parallel: config.parallel,
            residual_scale: config.residual_scale,
            fused: self.compute.fused().is_some(),
        })))
    }

    fn qk_norms(&self, layer: usize) -> Result<Option<[QkNorm; 2]>> {
        let config = self.config;
        let Some(norms) = config.qk_norm else { return Ok(None) };
        let load = |name: &str, heads: usize| -> Result<QkNorm> {
            let name = self.norm_name(layer, name);
            let head_dim = config.head_dim;
            Ok(match norms.per {
                NormedPer::Projection => QkNorm::Projection(self.norm(&name, &[heads * head_dim])?),
                NormedPer::Head => QkNorm::Head(self.norm(&name, &[head_dim])?),
                NormedPer::HeadRow => QkNorm::Head(self.norm(&name, &[heads, head_dim])?),
                NormedPer::HeadTensor => {
                    let weights = (0..heads)
                        .map(|head| self.tensor(&format!("{name}.norms.{head}.weight"), &[head_dim]))
                        .collect::<Result<Vec<_>>>()?;
                    let weight = Tensor::stack(&weights, 0)?;
                    let kind = NormKind::LayerNormWithoutBias;
                    QkNorm::Head(Norm::new(kind, &weight, None, config.norm_eps, self.compute)?)
                }
            })
        };
        let [q, k] = norms.names;
        Ok(Some([load(q, config.heads)?, load(k, config.kv_heads)?]))
    }

    fn feed_forward(&self, layer: usize, sites: &[&[Site]]) -> Result<FeedForward> {
        let (config, activation) = (self.config, self.config.activation);
        if let Some(experts) = config.experts_of(layer) {
            return self.experts(layer, experts, sites).map(FeedForward::Experts);
        }
        let [first, down] = sites else {
            return Err(Error::Request("expected a feed-forward block of two projections".into()));
        };
        let (first, down) = (self.linear(first, config.mlp_bias)?, self.linear(down, config.mlp_bias)?);
        Ok(match config.architecture.names.mlp {
            MlpNames::Plain(_) => FeedForward::Plain { up: first, down, activation },
            MlpNames::Gated(_) | MlpNames::GatedFused(_) => {
                FeedForward::Gated { gate_up: first, down, activation }
            }
        })
    }

    /// Experts with tensors of their own, stacked with gate and up in one (transformers 5), or stacked each (GGUF).
    fn experts(&self, layer: usize, experts: &ExpertsConfig, sites: &[&[Site]]) -> Result<Experts> {
        let (hidden, width, count) = (self.config.hidden_size, experts.width, experts.count);
        let [router, sites @ ..] = sites else {
            return Err(Error::Request("expected a router before its experts".into()));
        };
        let blocks =
            [experts.names.block, experts.names.stacked_block].map(|block| self.norm_name(layer, block));
        let stacked = |name: &str, shape: [usize; 2]| -> Result<Option<Tensor>> {
            for block in &blocks {
                for tensor in [format!("{block}.experts.{name}"), format!("{block}.experts.{name}.weight")] {
                    if self.has(&tensor) {
                        return self.tensor(&tensor, &[count, shape[0], shape[1]]).map(Some);
                    }
                }
            }
            Ok(None)
        };
        let [gate_name, up_name, down_name] = experts.names.names;
        let both = stacked("gate_up_proj", [2 * width, hidden])?;
        let (gate, up) = (stacked(gate_name, [width, hidden])?, stacked(up_name, [width, hidden])?);
        let down = match stacked("down_proj", [hidden, width])? {
            Some(down) => Some(down),
            None => stacked(down_name, [hidden, width])?,
        };
        let of_expert = |stack: &Tensor, expert: usize| -> Result<Tensor> { Ok(stack.get(expert)?) };
        let mut loaded = Vec::with_capacity(count);
        for (expert, pair) in sites.chunks(2).enumerate() {
            let [gate_up_sites, down_sites] = pair else {
                return Err(Error::Request("expected experts of two projections".into()));
            };
            let (first, last) = (gate_up_sites[0].projection, down_sites[0].projection);
            let gate_up = match (&both, &gate, &up) {
                (Some(both), ..) => Linear::new(first, &[of_expert(both, expert)?], &[], self.compute)?,
                (None, Some(gate), Some(up)) => {
                    let weights = [of_expert(gate, expert)?, of_expert(up, expert)?];
                    Linear::new(first, &weights, &[], self.compute)?
                }
                _ => self.linear(gate_up_sites, false)?,
            };
            let down = match &down {
                Some(down) => Linear::new(last, &[of_expert(down, expert)?], &[], self.compute)?,
                None => self.linear(down_sites, false)?,
            };
            loaded.push(FeedForward::Gated { gate_up, down, activation: self.config.activation });
        }
        let names = blocks.map(|block| format!("{block}.gate.weight"));
        let name = names.iter().find(|name| self.has(name)).unwrap_or(&names[0]);
        let router_weight = self.tensor(name, &[count, hidden])?;
        Ok(Experts {
            router: Linear::new(router[0].projection, &[router_weight], &[], self.compute)?,
            experts: loaded,
            per_row: experts.per_row,
            normalised: experts.normalised,
        })
    }

    /// The output head; where it is tied, of the `embedding` `[vocabulary, hidden]`.
    pub(super) fn head(&self, embedding: &Tensor) -> Result<Linear> {
        let site = &self.sites[self.sites.len() - 1..];
        if self.config.tied {
            let name = format!("{}.bias", site[0].name);
            let bias =
                if self.config.head_bias { vec![self.tensor(&name, &[site[0].outputs])?] } else { vec![] };
            return Linear::new(site[0].projection, std::slice::from_ref(embedding), &bias, self.compute);
        }
        self.linear(site, self.config.head_bias)
    }

    /// The embedding as it is looked up in: in the head, where that is tied to it.
    fn looked_up(&self, stored: &Tensor, head: &Arc<Linear>) -> Result<Embedding> {
        let tied = match self.config.tied {
            true => Embedding::tied(head, self.config.embedding_scale, self.compute)?,
            false => None,
        };
        tied.map_or_else(|| self.table(stored), Ok)
    }

    /// The embedding as a table of its own.
    pub(super) fn table(&self, stored: &Tensor) -> Result<Embedding> {
        Embedding::table(stored, self.config.embedding_scale, self.compute)
    }

    /// Learned positions.
    pub(super) fn positions(&self) -> Result<Option<Tensor>> {
        let Positions::Learned(name) = self.config.architecture.positions else { return Ok(None) };
        let shape = [self.config.max_positions, self.config.hidden_size];
        let table = self.tensor(&format!("{name}.weight"), &shape)?;
        let dtype = self.compute.activation_dtype();
        let rounded = table.to_dtype(self.compute.precision.dtype())?.to_dtype(dtype)?;
        Ok(Some(rounded.to_device(&self.compute.device)?))
    }
}

/// The name that a source has for a tensor: ours, or that of older checkpoints.
pub(crate) fn stored_name(architecture: &Architecture, source: &dyn TensorSource, name: &str) -> String {
    if source.shape(name).is_none() {
        for (ours, theirs) in architecture.older {
            if let Some(rest) = name.strip_prefix(ours) {
                let older = format!("{theirs}{rest}");
                if source.shape(&older).is_some() {
                    return older;
                }
            }
        }
    }
    name.to_owned()
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
