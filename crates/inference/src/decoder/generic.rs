//! A layer of any architecture of the table, made of differentiable operations one after the other.
//!
//! Projections, rotations, root-mean-square norms and attention run in our fused form where there is one; candle
//! differentiates through all of them. Layers of Llama's kind have a form of their own ([`super::layer`]).

use candle_core::Tensor;

use super::activation::Activation;
use super::architectures::Fused;
use super::attention::Heads;
use super::config::DecoderConfig;
use super::experts::Experts;
use super::layer::Pass;
use super::linear::Linear;
use super::norm::Norm;
use super::rows::Rows;
use super::{Sequence, residual};
use crate::adapter::delta::Branches;
use crate::device::Compute;
use crate::error::Result;

pub(crate) struct GenericLayer {
    /// Before and after attention, before and after the feed-forward block.
    pub(crate) norms: [Option<Norm>; 4],
    pub(crate) attention: GenericAttention,
    pub(crate) mlp: FeedForward,
    /// Whether both blocks read the stream before the layer.
    pub(crate) parallel: bool,
    /// Factor of what a block adds.
    pub(crate) residual_scale: f64,
    /// Whether our fused operations run.
    pub(crate) fused: bool,
}

impl GenericLayer {
    /// Rows `[rows, hidden]` to the same, or to the picked ones.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        pass: &Pass,
        sequences: &mut [Sequence<'_>],
        picked: bool,
    ) -> Result<Tensor> {
        let pick = |rows: &Tensor| -> Result<Tensor> {
            Ok(if picked { rows.contiguous()?.index_select(&pass.picked.index, 0)? } else { rows.clone() })
        };
        let [before_attention, after_attention, before_mlp, after_mlp] = &self.norms;
        let normed = through(before_attention, x)?;
        let heads = pick(&self.attention.attend(&normed, pass, sequences)?)?;
        let stream = pick(x)?;
        let rows = pass.rows_after_attention(picked);
        let attended = self.attention.o.forward(&heads, rows, &pass.adapters)?;
        let attended = self.scaled(through(after_attention, &attended)?)?;
        if self.parallel {
            let input = match before_mlp {
                Some(norm) => norm.forward(&stream)?,
                None => pick(&normed)?,
            };
            let added = self.scaled(self.mlp.forward(&input, rows, &pass.adapters, self.fused)?)?;
            return residual(self.fused, &stream, &residual(self.fused, &attended, &added)?);
        }
        let middle = residual(self.fused, &stream, &attended)?;
        let input = through(before_mlp, &middle)?;
        let added = self.mlp.forward(&input, rows, &pass.adapters, self.fused)?;
        let added = self.scaled(through(after_mlp, &added)?)?;
        residual(self.fused, &middle, &added)
    }

    fn scaled(&self, added: Tensor) -> Result<Tensor> {
        let scale = self.residual_scale;
        Ok(if scale.to_bits() == 1f64.to_bits() { added } else { (added * scale)? })
    }
}

fn through(norm: &Option<Norm>, x: &Tensor) -> Result<Tensor> {
    match norm {
        Some(norm) => norm.forward(x),
        None => Ok(x.clone()),
    }
}

pub(crate) struct GenericAttention {
    qkv: Linear,
    o: Linear,
    norms: Option<[QkNorm; 2]>,
    /// Which rotation, if any.
    rotation: Option<usize>,
    /// Columns of the projection in the order queries, keys, values, where it has another.
    order: Option<Tensor>,
    /// Columns of queries and keys with the two features of each pair half a rotation apart, where they are
    /// neighbours.
    halves: Option<Tensor>,
    head_dim: usize,
    heads: Heads,
}

/// The norm of queries or of keys.
pub(crate) enum QkNorm {
    /// Of all heads at once.
    Projection(Norm),
    /// Of each head.
    Head(Norm),
}

impl QkNorm {
    /// Rows `[rows, heads * head_dim]` to the same.
    fn forward(&self, x: &Tensor, head_dim: usize) -> Result<Tensor> {
        match self {
            Self::Projection(norm) => norm.forward(&x.contiguous()?),
            Self::Head(norm) => {
                let (rows, width) = x.dims2()?;
                let heads = x.contiguous()?.reshape((rows, width / head_dim, head_dim))?;
                Ok(norm.forward(&heads)?.reshape((rows, width))?)
            }
        }
    }
}

impl GenericAttention {
    pub(crate) fn new(
        config: &DecoderConfig,
        layer: usize,
        [qkv, o]: [Linear; 2],
        norms: Option<[QkNorm; 2]>,
        compute: &Compute,
    ) -> Result<Self> {
        let columns = |order: Vec<u32>| -> Result<Tensor> {
            let count = order.len();
            Ok(Tensor::from_vec(order, count, &compute.device)?)
        };
        let order = match config.layout() {
            Fused::SideBySide => None,
            Fused::ByKeyValueHead => Some(columns(by_kind(config))?),
        };
        let rotation = config.rope_of[layer];
        let halves = match rotation {
            Some(rope) if config.is_interleaved() => Some(columns(half_split(
                config.heads + config.kv_heads,
                config.head_dim,
                config.ropes[rope].width,
            ))?),
            _ => None,
        };
        let heads = Heads::new(config, layer, compute);
        Ok(Self { qkv, o, norms, rotation, order, halves, head_dim: config.head_dim, heads })
    }

    /// Rows `[rows, hidden]` to heads `[rows, heads * head_dim]`; sequences' caches grow.
    fn attend(&self, x: &Tensor, pass: &Pass, sequences: &mut [Sequence<'_>]) -> Result<Tensor> {
        let (q_width, kv_width) = self.heads.widths();
        let mut qkv = self.qkv.forward(x, &pass.rows, &pass.adapters)?;
        if let Some(order) = &self.order {
            qkv = qkv.contiguous()?.index_select(order, 1)?;
        }
        let mut qk = qkv.narrow(1, 0, q_width + kv_width)?;
        if let Some([q_norm, k_norm]) = &self.norms {
            let q = q_norm.forward(&qk.narrow(1, 0, q_width)?, self.head_dim)?;
            let k = k_norm.forward(&qk.narrow(1, q_width, kv_width)?, self.head_dim)?;
            qk = Tensor::cat(&[q, k], 1)?;
        }
        if let Some(rotation) = self.rotation {
            if let Some(halves) = &self.halves {
                qk = qk.contiguous()?.index_select(halves, 1)?;
            }
            qk = pass.angles[rotation].rotate(&qk, self.head_dim)?;
        }
        let (q, k) = (qk.narrow(1, 0, q_width)?, qk.narrow(1, q_width, kv_width)?);
        let v = qkv.narrow(1, q_width + kv_width, kv_width)?;
        Ok(self.heads.attend([q, k, v], &pass.rows, sequences, false)?.heads)
    }
}

/// Columns of queries, keys and values where each key-value head has its own together.
fn by_kind(config: &DecoderConfig) -> Vec<u32> {
    let group = config.heads / config.kv_heads;
    let column = |kv_head: usize, place: usize| (kv_head * (group + 2) + place) * config.head_dim;
    let kinds = [0..group, group..group + 1, group + 1..group + 2];
    let mut order = Vec::with_capacity(config.q_width() + 2 * config.kv_width());
    for places in kinds {
        for kv_head in 0..config.kv_heads {
            for place in places.clone() {
                let first = column(kv_head, place);
                order.extend((first..first + config.head_dim).map(|column| column as u32));
            }
        }
    }
    order
}

/// Columns of heads with the even features of a rotation first, then the odd ones. Queries and keys are in the same
/// order, so their products are the same.
fn half_split(heads: usize, head_dim: usize, width: usize) -> Vec<u32> {
    let of_head = |head: usize| {
        let turned = (0..width).step_by(2).chain((1..width).step_by(2));
        turned.chain(width..head_dim).map(move |feature| (head * head_dim + feature) as u32)
    };
    (0..heads).flat_map(of_head).collect()
}

/// A feed-forward block.
pub(crate) enum FeedForward {
    /// `down(activation(gate(x)) * up(x))`, gate and up side by side.
    Gated { gate_up: Linear, down: Linear, activation: Activation },
    /// `down(activation(up(x)))`.
    Plain { up: Linear, down: Linear, activation: Activation },
    /// Several of the first kind, of which each row takes a few.
    Experts(Experts),
}

impl FeedForward {
    /// Rows `[rows, hidden]` to the same.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        rows: &Rows,
        adapters: &[Branches],
        fused: bool,
    ) -> Result<Tensor> {
        match self {
            Self::Gated { gate_up, down, activation } => {
                let both = gate_up.forward(x, rows, adapters)?;
                let width = both.dims()[1] / 2;
                let (gate, up) = (both.narrow(1, 0, width)?, both.narrow(1, width, width)?);
                down.forward(&activation.gated(&gate, &up, fused)?, rows, adapters)
            }
            Self::Plain { up, down, activation } => {
                down.forward(&activation.forward(&up.forward(x, rows, adapters)?)?, rows, adapters)
            }
            Self::Experts(experts) => experts.forward(x, rows, adapters, fused),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_neighbours_become_halves() {
        assert_eq!(half_split(2, 4, 4), [0, 2, 1, 3, 4, 6, 5, 7]);
        assert_eq!(half_split(1, 6, 4), [0, 2, 1, 3, 4, 5]);
    }
}
