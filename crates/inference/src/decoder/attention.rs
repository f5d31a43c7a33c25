//! Causal grouped-query attention over ragged rows and what came before them.

use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor};
use rayon::prelude::*;

use super::config::DecoderConfig;
use super::layer::Pass;
use super::linear::Linear;
use super::rope::Angles;
use super::rows::{Rows, Span};
use super::{Past, Sequence};
use crate::adapter::delta::Branches;
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::kernels::{self, AttentionShape};
use crate::prefix::{Growing, LayerCache};

/// Caches that one task appends to: fewer would not pay for a second thread.
const APPENDED_TOGETHER: usize = 8;

pub(crate) struct Attention {
    /// Queries, keys and values side by side.
    qkv: Linear,
    o: Linear,
    heads: Heads,
}

/// The attention of a layer's heads, without the projections around it.
pub(crate) struct Heads {
    layer: usize,
    shape: AttentionShape,
    /// Whether our fused operations run.
    fused: bool,
}

/// What attention gives, and what its gradient needs.
pub(crate) struct Attended {
    /// The heads' results side by side, `[rows, heads * head_dim]`.
    pub(crate) heads: Tensor,
    /// Rotated queries and keys, and values.
    q: Tensor,
    k: Tensor,
    v: Tensor,
    /// What each row sees; empty but in our fused form.
    spans: Arc<[kernels::Span]>,
}

impl Attention {
    pub(crate) fn new(
        config: &DecoderConfig,
        layer: usize,
        [qkv, o]: [Linear; 2],
        compute: &Compute,
    ) -> Self {
        Self { qkv, o, heads: Heads::new(config, layer, compute) }
    }

    /// Rows `[rows, hidden]` to heads. Keys and values of rows whose sequence has a cache are appended
    /// to it. For the gradient, what the rows see is kept if `recorded`.
    pub(crate) fn attend(
        &self,
        x: &Tensor,
        pass: &Pass,
        sequences: &mut [Sequence<'_>],
        recorded: bool,
    ) -> Result<Attended> {
        let (q_width, kv_width) = self.heads.widths();
        let qkv = self.qkv.forward(x, &pass.rows, &pass.adapters)?;
        let head_dim = self.heads.shape.head_dim;
        let rotated = pass.angles[0].rotate(&qkv.narrow(1, 0, q_width + kv_width)?, head_dim)?;
        let (q, k) = (rotated.narrow(1, 0, q_width)?, rotated.narrow(1, q_width, kv_width)?);
        let v = qkv.narrow(1, q_width + kv_width, kv_width)?;
        self.heads.attend([q, k, v], &pass.rows, sequences, recorded)
    }

    /// Heads to `[rows, hidden]`.
    pub(crate) fn project(&self, heads: &Tensor, rows: &Rows, adapters: &[Branches]) -> Result<Tensor> {
        self.o.forward(heads, rows, adapters)
    }

    /// The gradient of heads from that of [`Self::project`]'s result; of our fused form only.
    pub(crate) fn project_gradient(
        &self,
        heads: &Tensor,
        grad: &Tensor,
        rows: &Rows,
        adapters: &[Branches],
    ) -> Result<Tensor> {
        self.o.gradient(grad, rows, adapters, || Ok(heads.clone()))
    }

    /// The gradient of [`Self::attend`]'s input from that of its heads; of our fused form only. The input is made
    /// again where it is needed.
    pub(crate) fn gradient(
        &self,
        attended: &Attended,
        heads: &Tensor,
        rows: &Rows,
        angles: &Angles,
        adapters: &[Branches],
        x: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        let Attended { q, k, v, spans, .. } = attended;
        let grad = kernels::attention_gradient(&self.heads.shape, spans, (q, k, v), heads)?;
        let (q_width, kv_width) = self.heads.widths();
        angles.rotate_back(&grad, q_width + kv_width, self.heads.shape.head_dim)?;
        self.qkv.gradient(&grad, rows, adapters, x)
    }

    /// What the gradients need and a forward pass does not.
    pub(crate) fn prepare_gradient(&self) {
        self.qkv.prepare_gradient();
        self.o.prepare_gradient();
    }
}

impl Heads {
    pub(crate) fn new(config: &DecoderConfig, layer: usize, compute: &Compute) -> Self {
        let shape = AttentionShape {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            scale: config.attention_scale(layer),
            cap: config.attention_cap.map(|cap| cap as f32),
            window: config.windows[layer],
        };
        Self { layer, shape, fused: compute.fused().is_some() }
    }

    /// Rotated queries and keys, and values, `[rows, heads * head_dim]`, to heads. Keys and values of rows whose
    /// sequence has a cache are appended to it. For the gradient, what the rows see is kept if `recorded`.
    pub(crate) fn attend(
        &self,
        [q, k, v]: [Tensor; 3],
        rows: &Rows,
        sequences: &mut [Sequence<'_>],
        recorded: bool,
    ) -> Result<Attended> {
        if let Some(watched) = rows.watched.as_ref().filter(|watched| watched.has_attention()) {
            let weights: Result<Vec<_>> = watched.rows().map(|row| self.weights(&q, &k, rows, row)).collect();
            watched.attention(self.layer, weights?);
        }
        let (heads, spans) = if self.fused {
            let spans = self.spans(rows, sequences)?;
            let heads = kernels::attention(&self.shape, &spans, &q, &k, &v)?;
            // A cache that is in view is copied when it grows.
            (heads, if recorded { spans } else { Arc::from([]) })
        } else {
            (self.attend_composed(&q, &k, &v, rows, sequences)?, Arc::from([]))
        };
        let append = |span: &Span, sequence: &mut Sequence<'_>| -> Result<()> {
            if let Past::Cache(cache) = &mut sequence.past {
                let (k, v) = (k.narrow(0, span.start, span.len)?, v.narrow(0, span.start, span.len)?);
                cache.append(self.layer, &k, &v, || self.empty_cache(&k))?;
            }
            Ok(())
        };
        if self.fused {
            let own = rows.spans.par_iter().zip(sequences);
            own.with_min_len(kernels::least_items(APPENDED_TOGETHER))
                .try_for_each(|(span, sequence)| append(span, sequence))?;
        } else {
            let mut own = rows.spans.iter().zip(sequences);
            own.try_for_each(|(span, sequence)| append(span, sequence))?;
        }
        Ok(Attended { heads, q, k, v, spans })
    }

    /// What a row's heads attend to, `[heads * positions]`, each head's positions from the first of its sequence to its
    /// own: the slow form of one row, for those who look at it.
    fn weights(&self, q: &Tensor, k: &Tensor, rows: &Rows, row: usize) -> Result<Vec<f32>> {
        let AttentionShape { heads, kv_heads, head_dim, scale, cap, window } = self.shape;
        let own = rows.spans.iter().find(|span| (span.start..span.start + span.len).contains(&row));
        let Some(span) = own.filter(|span| span.past == 0) else {
            return Err(Error::Request(
                "attention is captured of sequences that follow nothing; run them without a shared prefix"
                    .into(),
            ));
        };
        let positions = row - span.start + 1;
        let read = |rows: Tensor| -> Result<Vec<f32>> {
            let rows = rows.detach().to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
            Ok(rows.contiguous()?.flatten_all()?.to_vec1()?)
        };
        let (q, k) = (read(q.narrow(0, row, 1)?)?, read(k.narrow(0, span.start, positions)?)?);
        let mut all = Vec::with_capacity(heads * positions);
        for (head, query) in q.chunks_exact(head_dim).enumerate() {
            let first = head / (heads / kv_heads) * head_dim;
            let score = |key: usize| {
                if positions - 1 - key >= window.unwrap_or(usize::MAX) {
                    return f32::NEG_INFINITY;
                }
                let key = &k[key * kv_heads * head_dim + first..][..head_dim];
                let score = scale * query.iter().zip(key).map(|(q, k)| q * k).sum::<f32>();
                cap.map_or(score, |cap| cap * (score / cap).tanh())
            };
            let scores: Vec<f32> = (0..positions).map(score).collect();
            // The row's own position is always seen, so the largest is finite.
            let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exponentials = scores.iter().map(|score| (score - largest).exp());
            let sum: f32 = exponentials.clone().sum();
            all.extend(exponentials.map(|e| e / sum));
        }
        Ok(all)
    }

    /// Features of all queries, and of all keys.
    pub(crate) fn widths(&self) -> (usize, usize) {
        (self.shape.heads * self.shape.head_dim, self.shape.kv_heads * self.shape.head_dim)
    }

    fn empty_cache(&self, rows: &Tensor) -> Result<LayerCache> {
        Ok(if self.fused {
            LayerCache::Fused(kernels::KvCache::new(self.shape.kv_heads, self.shape.head_dim))
        } else {
            LayerCache::Composed(Growing::like(rows)?)
        })
    }

    fn spans(&self, rows: &Rows, sequences: &[Sequence<'_>]) -> Result<Arc<[kernels::Span]>> {
        let mut spans = Vec::with_capacity(sequences.len());
        for (span, sequence) in rows.spans.iter().zip(sequences) {
            let past = sequence
                .past
                .segments(self.layer)
                .map(|segment| match segment {
                    LayerCache::Fused(cache) => Ok(cache.past()),
                    LayerCache::Composed(_) => Err(other_form()),
                })
                .collect::<Result<Vec<_>>>()?;
            spans.push(kernels::Span { start: span.start, len: span.len, past });
        }
        Ok(spans.into())
    }

    fn attend_composed(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        rows: &Rows,
        sequences: &[Sequence<'_>],
    ) -> Result<Tensor> {
        let mut outputs = Vec::new();
        let mut first = 0;
        while first < sequences.len() {
            let run = run_length(&rows.spans, sequences, first);
            outputs.push(self.attend_run(
                q,
                k,
                v,
                &rows.spans[first..first + run],
                &sequences[first].past,
            )?);
            first += run;
        }
        Ok(if outputs.len() == 1 { outputs.swap_remove(0) } else { Tensor::cat(&outputs, 0)? })
    }

    /// Attention of consecutive sequences of one length over one shared past, as batched products.
    /// Returns `[rows of the run, heads * head_dim]`.
    fn attend_run(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        spans: &[Span],
        before: &Past<'_>,
    ) -> Result<Tensor> {
        let Span { start, len, past } = spans[0];
        let (n, rows) = (spans.len(), spans.len() * len);
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        let group = heads / kv_heads;
        let mut keys = Vec::new();
        let mut values = Vec::new();
        for segment in before.segments(self.layer) {
            let LayerCache::Composed(growing) = segment else { return Err(other_form()) };
            let (k, v) = growing.view()?;
            let shape = (n, kv_heads, k.dims()[0], head_dim);
            keys.push(self.by_head(&k, 1)?.broadcast_as(shape)?.contiguous()?);
            values.push(self.by_head(&v, 1)?.broadcast_as(shape)?.contiguous()?);
        }
        keys.push(self.by_head(&k.narrow(0, start, rows)?, n)?);
        values.push(self.by_head(&v.narrow(0, start, rows)?, n)?);
        let (k, v) = (Tensor::cat(&keys, 2)?, Tensor::cat(&values, 2)?);
        // [n, kv_heads, group * len, head_dim]: the queries of a group share their keys.
        let q = q
            .narrow(0, start, rows)?
            .reshape((n, len, kv_heads, group, head_dim))?
            .permute((0, 2, 3, 1, 4))?
            .contiguous()?
            .reshape((n, kv_heads, group * len, head_dim))?;
        let scores =
            (q.matmul(&k.t()?.contiguous()?)? * f64::from(self.shape.scale))?.to_dtype(DType::F32)?;
        let scores = match self.shape.cap.map(f64::from) {
            Some(cap) => ((scores / cap)?.tanh()? * cap)?,
            None => scores,
        };
        let scores = match self.mask(len, past, group, q.device())? {
            Some(mask) => scores.broadcast_add(&mask)?,
            None => scores,
        };
        // candle's fused softmax would cut the gradient without a word.
        let weights = candle_nn::ops::softmax(&scores, D::Minus1)?.to_dtype(v.dtype())?;
        Ok(weights
            .matmul(&v.contiguous()?)?
            .reshape((n, kv_heads, group, len, head_dim))?
            .permute((0, 3, 1, 2, 4))?
            .contiguous()?
            .reshape((rows, heads * head_dim))?)
    }

    /// `[n * len, kv_heads * head_dim]` to `[n, kv_heads, len, head_dim]`.
    fn by_head(&self, rows: &Tensor, n: usize) -> Result<Tensor> {
        let len = rows.dims()[0] / n;
        Ok(rows.reshape((n, len, self.shape.kv_heads, self.shape.head_dim))?.transpose(1, 2)?.contiguous()?)
    }

    /// `[group * len, past + len]`: 0 where a query sees a key, -inf elsewhere; `None` if it sees all.
    fn mask(&self, len: usize, past: usize, group: usize, device: &Device) -> Result<Option<Tensor>> {
        let total = past + len;
        let window = self.shape.window.unwrap_or(usize::MAX);
        if len == 1 && total <= window {
            return Ok(None);
        }
        let mut mask = Vec::with_capacity(group * len * total);
        for _ in 0..group {
            for query in past..total {
                mask.extend(
                    (0..total).map(|key| {
                        if key <= query && query - key < window { 0f32 } else { f32::NEG_INFINITY }
                    }),
                );
            }
        }
        Ok(Some(Tensor::from_vec(mask, (group * len, total), device)?))
    }
}

fn other_form() -> Error {
    Error::Request("a cache of another decoder cannot be continued".into())
}

/// How many sequences from `first` on can be attended together: equal length, same shared past,
/// no cache of their own.
fn run_length(spans: &[Span], sequences: &[Sequence<'_>], first: usize) -> usize {
    let same_past = |other: &Sequence<'_>| match (&sequences[first].past, &other.past) {
        (Past::None, Past::None) => true,
        (Past::Shared(a), Past::Shared(b)) => Arc::ptr_eq(a, b),
        _ => false,
    };
    let len = spans[first].len;
    1 + (first + 1..sequences.len()).take_while(|&i| spans[i].len == len && same_past(&sequences[i])).count()
}

#[cfg(test)]
mod tests {
    use super::super::Side;
    use super::*;

    #[test]
    fn weights_of_a_row_give_what_its_heads_attend_to() {
        let numbers = |rows: usize, width: usize, step: f32| {
            let values: Vec<f32> = (0..rows * width).map(|i| (i as f32 * step).sin()).collect();
            Tensor::from_vec(values, (rows, width), &Device::Cpu).unwrap()
        };
        for (cap, window, fused) in
            [(None, None, true), (Some(2.0), None, true), (None, Some(3), true), (Some(2.0), Some(2), false)]
        {
            let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 8, scale: 0.6, cap, window };
            let heads = Heads { layer: 0, shape, fused };
            let (q, k, v) = (numbers(9, 32, 0.7), numbers(9, 16, 0.31), numbers(9, 16, 0.53));
            let mut sequences = [Sequence::new(&[1; 4], Side::BASE), Sequence::new(&[1; 5], Side::ADAPTED)];
            let rows = Rows::new(sequences.iter().map(|s| (s.ids.len(), 0, s.side, 0)));
            let attended = heads.attend([q.clone(), k.clone(), v.clone()], &rows, &mut sequences, false);
            let attended = attended.unwrap().heads.to_vec2::<f32>().unwrap();
            let values = v.to_vec2::<f32>().unwrap();
            for (row, first) in [(3, 0), (4, 4), (7, 4)] {
                let weights = heads.weights(&q, &k, &rows, row).unwrap();
                for (head, weights) in weights.chunks_exact(row - first + 1).enumerate() {
                    assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                    for feature in 0..8 {
                        let column = head / 2 * 8 + feature;
                        let sum: f32 =
                            weights.iter().enumerate().map(|(i, w)| w * values[first + i][column]).sum();
                        let expected = attended[row][head * 8 + feature];
                        assert!((sum - expected).abs() < 1e-5, "{cap:?} {window:?} {row}: {sum} {expected}");
                    }
                }
            }
        }
    }
}
