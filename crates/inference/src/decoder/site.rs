//! The linear modules of a decoder, by the names that adapters use.

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
}

/// The seven linear modules of a layer, in site order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
}

pub(crate) const SLOTS: [(Slot, &str); 7] = [
    (Slot::Q, "self_attn.q_proj"),
    (Slot::K, "self_attn.k_proj"),
    (Slot::V, "self_attn.v_proj"),
    (Slot::O, "self_attn.o_proj"),
    (Slot::Gate, "mlp.gate_proj"),
    (Slot::Up, "mlp.up_proj"),
    (Slot::Down, "mlp.down_proj"),
];

/// The products of a layer: neighbouring slots with one input.
pub(crate) const PROJECTIONS: [&[Slot]; 4] =
    [&[Slot::Q, Slot::K, Slot::V], &[Slot::O], &[Slot::Gate, Slot::Up], &[Slot::Down]];

/// All sites of a decoder: seven a layer, then the head.
#[must_use]
pub fn sites(config: &DecoderConfig) -> Vec<Site> {
    let mut sites = Vec::with_capacity(config.layers * SLOTS.len() + 1);
    for layer in 0..config.layers {
        for (index, slots) in PROJECTIONS.iter().enumerate() {
            let mut column = 0;
            for &slot in *slots {
                let (inputs, outputs) = match slot {
                    Slot::Q => (config.hidden_size, config.q_width()),
                    Slot::K | Slot::V => (config.hidden_size, config.kv_width()),
                    Slot::O => (config.q_width(), config.hidden_size),
                    Slot::Gate | Slot::Up => (config.hidden_size, config.intermediate_size),
                    Slot::Down => (config.intermediate_size, config.hidden_size),
                };
                sites.push(Site {
                    name: format!("model.layers.{layer}.{}", SLOTS[slot as usize].1),
                    inputs,
                    outputs,
                    head: false,
                    projection: layer * PROJECTIONS.len() + index,
                    column,
                });
                column += outputs;
            }
        }
    }
    sites.push(Site {
        name: "lm_head".to_owned(),
        inputs: config.hidden_size,
        outputs: config.vocab_size,
        head: true,
        projection: config.layers * PROJECTIONS.len(),
        column: 0,
    });
    sites
}
