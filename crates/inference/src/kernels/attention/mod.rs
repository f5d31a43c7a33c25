//! Causal attention over flat rows: many ragged sequences in one matrix, without padding.

mod backward;
mod cache;
mod forward;
mod product;
mod softmax;
#[cfg(test)]
mod tests;

pub use cache::{KvCache, Past};

use super::rows::{Rows, build_shared, readable};
use super::tier::Tier;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use std::ops::Range;
use std::sync::Arc;

const OP: &str = "attention";

/// What the attention of one layer is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads, a multiple of the key-value heads.
    pub heads: usize,
    /// Key-value heads; each serves `heads / kv_heads` neighbouring query heads.
    pub kv_heads: usize,
    /// Features of a head.
    pub head_dim: usize,
    /// Factor of the scores before the softmax, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Soft cap of the scaled scores: `cap * tanh(score / cap)`, as Gemma 2 has it.
    pub cap: Option<f32>,
    /// Sliding window: a key is visible if and only if fewer than this many positions before the query.
    pub window: Option<usize>,
}

/// Consecutive rows that are consecutive positions of one sequence, after the positions of `past`.
#[derive(Clone, Debug)]
pub struct Span {
    /// First row.
    pub start: usize,
    /// Rows.
    pub len: usize,
    /// Earlier positions, in order: a shared prefix, say, then the sequence's own cache.
    pub past: Vec<Past>,
}

impl Span {
    /// Positions before the first row's.
    pub fn past_len(&self) -> usize {
        self.past.iter().map(Past::len).sum()
    }
}

/// Grouped-query attention in which each row sees the past of its span, the rows of the span before it, and itself.
///
/// `q: [m, heads * head_dim]`, `k` and `v: [m, kv_heads * head_dim]`, already rotated; the result is
/// `[m, heads * head_dim]`. The spans cover the `m` rows in order and without gaps. Gradients flow to `q`, `k` and
/// `v`; the past is constant.
///
/// For finite operands a row's result depends on the keys and values it sees alone: neither the batch, nor where its
/// span starts, nor how its past is divided changes a bit.
///
/// # Errors
/// If shapes, spans and past do not fit together, or a tensor is not `f32` on the CPU.
pub fn attention(
    shape: &AttentionShape,
    spans: &Arc<[Span]>,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
) -> Result<Tensor> {
    attention_on(Tier::detect(), shape, spans, q, k, v)
}

/// The gradients of [`attention`]'s operands side by side, `[m, (heads + 2 * kv_heads) * head_dim]`, from the
/// gradient of its result.
///
/// # Errors
/// As [`attention`], or if `grad` has another shape than the result.
pub fn attention_gradient(
    shape: &AttentionShape,
    spans: &Arc<[Span]>,
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    grad: &Tensor,
) -> Result<Tensor> {
    let op = checked(Tier::detect(), shape, spans, q, k, v)?;
    backward::run(&op, &readable(OP, q)?, &readable(OP, k)?, &readable(OP, v)?, &readable(OP, grad)?)
}

fn attention_on(
    tier: Tier,
    shape: &AttentionShape,
    spans: &Arc<[Span]>,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
) -> Result<Tensor> {
    let op = checked(tier, shape, spans, q, k, v)?;
    readable(OP, q)?.apply_op3(&readable(OP, k)?, &readable(OP, v)?, op)
}

/// The operation, if the operands fit it.
fn checked(
    tier: Tier,
    shape: &AttentionShape,
    spans: &Arc<[Span]>,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
) -> Result<Attention> {
    check_shape(shape)?;
    let rows = check_spans(shape, spans)?;
    let kv_width = shape.kv_heads * shape.head_dim;
    for (name, x, width) in
        [("queries", q, shape.heads * shape.head_dim), ("keys", k, kv_width), ("values", v, kv_width)]
    {
        if x.dims() != [rows, width] {
            bail!("{OP}: expected {name} of {:?}, found {:?}", [rows, width], x.dims());
        }
    }
    Ok(Attention { shape: *shape, spans: spans.clone(), tier })
}

fn check_shape(shape: &AttentionShape) -> Result<()> {
    let AttentionShape { heads, kv_heads, head_dim, scale, cap, window } = *shape;
    if kv_heads == 0 || head_dim == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
        bail!(
            "{OP}: expected heads in groups, found {heads} heads of {head_dim} for {kv_heads} key-value heads"
        );
    }
    if !(scale > 0.0 && scale.is_finite()) {
        bail!("{OP}: expected a positive scale, found {scale}");
    }
    if !cap.is_none_or(|cap| cap > 0.0 && cap.is_finite()) {
        bail!("{OP}: expected a positive soft cap, found {cap:?}");
    }
    if window == Some(0) {
        bail!("{OP}: expected a window of at least one position, found 0");
    }
    Ok(())
}

/// The number of rows that the spans cover.
fn check_spans(shape: &AttentionShape, spans: &[Span]) -> Result<usize> {
    let mut rows = 0;
    for span in spans {
        if span.start != rows {
            bail!("{OP}: expected a span from row {rows}, found one from {}", span.start);
        }
        if !span.past.iter().all(|past| past.fits(shape.kv_heads, shape.head_dim)) {
            bail!("{OP}: expected a past of {} heads of {}, found another", shape.kv_heads, shape.head_dim);
        }
        rows += span.len;
    }
    Ok(rows)
}

#[derive(Clone)]
struct Attention {
    shape: AttentionShape,
    spans: Arc<[Span]>,
    tier: Tier,
}

/// The operands as rows.
#[derive(Clone, Copy)]
struct Operands<'a> {
    q: Rows<'a>,
    k: Rows<'a>,
    v: Rows<'a>,
}

impl AttentionShape {
    /// Query heads of one key-value head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The positions that position `position` sees.
    fn visible(&self, position: usize) -> Range<usize> {
        let end = position + 1;
        self.window.map_or(0, |window| end.saturating_sub(window))..end
    }

    /// The positions that some position of a range that is not empty sees.
    fn visible_to_any(&self, positions: &Range<usize>) -> Range<usize> {
        self.visible(positions.start).start..positions.end
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let operands = Operands {
            q: Rows::new(OP, q, q_layout)?,
            k: Rows::new(OP, k, k_layout)?,
            v: Rows::new(OP, v, v_layout)?,
        };
        // SAFETY: the spans cover all rows and the tasks all heads, and each writes its rows and heads.
        let out = unsafe {
            build_shared(operands.q.count * operands.q.width, |out| forward::run(self, operands, out))
        };
        Ok((CpuStorage::F32(out), q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (q_width, kv_width) = (q.dim(1)?, k.dim(1)?);
        let all = backward::run(self, q, k, v, &readable(OP, grad)?)?;
        let part = |start, width| all.narrow(1, start, width).map(Some);
        Ok((part(0, q_width)?, part(q_width, kv_width)?, part(q_width + kv_width, kv_width)?))
    }
}
