//! The linear modules of a decoder, by the names that adapters use.

use super::architectures::{Mlp, Qkv};
use super::config::DecoderConfig;

/// One linear module: where a LoRA delta may sit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Module name in transformers, such as `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Width of its input.
    pub inputs: usize,
    /// Width of its output.
    pub outputs: usize,
    /// Whether it is the output head.
    pub head: bool,
    /// Index of the projection that computes it: modules with one input are one product.
    pub projection: usize,
    /// Its first column in the projection's output.
    pub column: usize,
    /// The layer that it belongs to; none for the head.
    pub layer: Option<usize>,
    /// Whether its output is added to the residual stream.
    pub writes: bool,
}

/// Sites in the making, projection by projection.
#[derive(Default)]
struct Builder {
    sites: Vec<Site>,
    projections: usize,
    layer: Option<usize>,
}

impl Builder {
    /// Modules with one input: `(name, outputs)`.
    fn projection(&mut self, inputs: usize, modules: impl IntoIterator<Item = (String, usize)>) {
        self.add(inputs, modules, false);
    }

    /// A module whose output is added to the residual stream.
    fn writer(&mut self, inputs: usize, module: (String, usize)) {
        self.add(inputs, [module], true);
    }

    fn add(&mut self, inputs: usize, modules: impl IntoIterator<Item = (String, usize)>, writes: bool) {
        let mut column = 0;
        for (name, outputs) in modules {
            let projection = self.projections;
            let layer = self.layer;
            self.sites.push(Site { name, inputs, outputs, head: false, projection, column, layer, writes });
            column += outputs;
        }
        self.projections += 1;
    }
}

/// All sites of a decoder, layer by layer, then the head.
#[must_use]
pub fn sites(config: &DecoderConfig) -> Vec<Site> {
    let names = &config.architecture.names;
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.q_width(), config.kv_width());
    let mut builder = Builder::default();
    for layer in 0..config.layers {
        builder.layer = Some(layer);
        let named = |module: &str| format!("{}.{layer}.{module}", names.layers);
        match names.qkv {
            Qkv::Split(modules) => {
                builder.projection(hidden, modules.into_iter().map(&named).zip([q, kv, kv]));
            }
            Qkv::Fused(module, _) => builder.projection(hidden, [(named(module), q + 2 * kv)]),
        }
        builder.writer(q, (named(names.output), hidden));
        if let Some(experts) = config.experts_of(layer) {
            let block = named(experts.names.block);
            builder.projection(hidden, [(format!("{block}.gate"), experts.count)]);
            for expert in 0..experts.count {
                let [gate, up, down] =
                    experts.names.names.map(|name| format!("{block}.experts.{expert}.{name}"));
                builder.projection(hidden, [(gate, experts.width), (up, experts.width)]);
                builder.writer(experts.width, (down, hidden));
            }
            continue;
        }
        let down = match names.mlp {
            Mlp::Gated([gate, up, down]) => {
                builder.projection(hidden, [(named(gate), inner), (named(up), inner)]);
                down
            }
            Mlp::GatedFused([both, down]) => {
                builder.projection(hidden, [(named(both), 2 * inner)]);
                down
            }
            Mlp::Plain([up, down]) => {
                builder.projection(hidden, [(named(up), inner)]);
                down
            }
        };
        builder.writer(inner, (named(down), hidden));
    }
    builder.layer = None;
    builder.projection(hidden, [(names.head.to_owned(), config.vocab_size)]);
    if let Some(head) = builder.sites.last_mut() {
        head.head = true;
    }
    builder.sites
}

/// The sites of one layer, in order.
pub(crate) fn of_layer<'a>(sites: &'a [Site], config: &DecoderConfig, layer: usize) -> &'a [Site] {
    let prefix = format!("{}.{layer}.", config.architecture.names.layers);
    let first = sites.iter().position(|site| site.name.starts_with(&prefix)).unwrap_or(sites.len());
    let count = sites[first..].iter().take_while(|site| site.name.starts_with(&prefix)).count();
    &sites[first..first + count]
}
