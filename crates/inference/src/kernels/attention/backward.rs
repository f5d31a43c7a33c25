//! Attention, backwards: the weights are computed again, nothing is saved between the passes.

use super::cache::Segment;
use super::forward::{FRONT, ScoreBoard, grown};
use super::product::{Extent, Left, Right, Sums, multiply, pack_columns, row_vectors};
use super::softmax::{bend, exponentials, slopes};
use super::{Attention, OP, Operands, Span};
use crate::kernels::rows::{Rows, SharedPlaces, build_shared, with_rows};
use crate::kernels::simd::{LANES, Simd};
use crate::kernels::threads::threads;
use crate::kernels::tier::Vectorized;
use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;
use std::ops::Range;

/// Rows whose weights are held at a time.
const BLOCK_ROWS: usize = 32;

/// The gradients of queries, keys and values side by side, `[m, (heads + 2 * kv_heads) * head_dim]`.
pub(super) fn run(op: &Attention, q: &Tensor, k: &Tensor, v: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let data = with_rows(OP, q, |q| {
        with_rows(OP, k, |k| {
            with_rows(OP, v, |v| with_rows(OP, grad, |grad| gradients(op, Operands { q, k, v }, grad)))
        })
    })?;
    let (rows, q_width) = q.dims2()?;
    Tensor::from_vec(data, (rows, q_width + 2 * k.dim(1)?), &Device::Cpu)
}

fn gradients(op: &Attention, operands: Operands<'_>, grad: Rows<'_>) -> Result<Vec<f32>> {
    let Operands { q, k, .. } = operands;
    if (grad.count, grad.width) != (q.count, q.width) {
        bail!(
            "{OP}: expected {} gradient rows of {}, found {} of {}",
            q.count,
            q.width,
            grad.count,
            grad.width
        );
    }
    let width = q.width + 2 * k.width;
    // SAFETY: the spans cover all rows, and `run_tasks` writes every head of each of the three gradients.
    Ok(unsafe {
        build_shared(q.count * width, |places| {
            run_tasks(op, operands, grad, Gradients { places, width, q_width: q.width, kv_width: k.width });
        })
    })
}

/// Where the gradients go: queries, keys and values side by side in rows of `width`.
#[derive(Clone, Copy)]
struct Gradients {
    places: SharedPlaces<f32>,
    width: usize,
    q_width: usize,
    kv_width: usize,
}

impl Gradients {
    /// Writes padded rows to some columns, counted from `offset`, of the rows from `first` on.
    #[inline(always)]
    fn write(&self, from: &[f32], padded: usize, first: usize, offset: usize, columns: &Range<usize>) {
        for (i, from) in from.chunks_exact(padded).enumerate() {
            let start = (first + i) * self.width + offset + columns.start;
            // SAFETY: within the result; only this task has these rows and columns, and the reference ends here.
            let to = unsafe { self.places.get(start, columns.len()) };
            for (to, &x) in to.iter_mut().zip(from) {
                to.write(x);
            }
        }
    }
}

/// One task for each span and key-value head, which alone adds to that head's gradients.
fn run_tasks(op: &Attention, operands: Operands<'_>, grad: Rows<'_>, out: Gradients) {
    let tasks: Vec<(&Span, usize)> = op
        .spans
        .iter()
        .filter(|span| span.len > 0)
        .flat_map(|span| (0..op.shape.kv_heads).map(move |kv_head| (span, kv_head)))
        .collect();
    let work = |scratch: &mut Scratch, (span, kv_head): (&Span, usize)| {
        op.tier.run(Task { op, operands, grad, span, kv_head, out, scratch });
    };
    if threads() == 1 {
        let mut scratch = Scratch::default();
        tasks.into_iter().for_each(|task| work(&mut scratch, task));
    } else {
        tasks.into_par_iter().for_each_init(Scratch::default, work);
    }
}

/// Memory that tasks use one after the other.
#[derive(Default)]
struct Scratch {
    key_rows: Vec<f32>,
    value_rows: Vec<f32>,
    key_blocks: Vec<f32>,
    value_blocks: Vec<f32>,
    queries: Vec<f32>,
    grads: Vec<f32>,
    weights: Vec<f32>,
    weight_grads: Vec<f32>,
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

/// A span, for the query heads of one key-value head.
struct Task<'a, 's> {
    op: &'a Attention,
    operands: Operands<'a>,
    grad: Rows<'a>,
    span: &'a Span,
    kv_head: usize,
    out: Gradients,
    scratch: &'s mut Scratch,
}

impl Vectorized for Task<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn vectorized<S: Simd>(self, s: S) {
        let Self { op, operands, grad, span, kv_head, out, scratch } = self;
        let (head_dim, group) = (op.shape.head_dim, op.shape.group());
        let padded = row_vectors(head_dim) * LANES;
        let past = span.past_len();
        let seen = op.shape.visible(past).start..past + span.len;
        let blocks_len = seen.len().div_ceil(LANES) * head_dim * LANES;

        let key_rows = grown(&mut scratch.key_rows, seen.len() * padded);
        let value_rows = grown(&mut scratch.value_rows, seen.len() * padded);
        gather_past(span, kv_head, &seen, padded, (key_rows, value_rows));
        let own = seen.start.max(past) - seen.start;
        let columns = kv_head * head_dim..(kv_head + 1) * head_dim;
        copy_padded(operands.k, span.start, &columns, &mut key_rows[own * padded..], padded);
        copy_padded(operands.v, span.start, &columns, &mut value_rows[own * padded..], padded);
        let key_blocks = grown(&mut scratch.key_blocks, blocks_len);
        let value_blocks = grown(&mut scratch.value_blocks, blocks_len);
        pack_columns(s, (seen.len(), head_dim), |i| &key_rows[i * padded..][..head_dim], key_blocks);
        pack_columns(s, (seen.len(), head_dim), |i| &value_rows[i * padded..][..head_dim], value_blocks);

        let (dk, dv) = (&mut scratch.dk, &mut scratch.dv);
        let [dk, dv] = [dk, dv].map(|sums| {
            let sums = grown(sums, span.len * padded);
            sums.fill(0.0);
            sums
        });
        let segment = Segment {
            start: seen.start,
            len: seen.len(),
            keys: key_blocks,
            block_stride: head_dim * LANES,
            values: key_rows,
            value_stride: padded,
        };
        let keys = Keys { segment, values: Segment { keys: value_blocks, ..segment }, past };
        for head in kv_head * group..(kv_head + 1) * group {
            let columns = head * head_dim..(head + 1) * head_dim;
            for first in (0..span.len).step_by(BLOCK_ROWS) {
                let rows = first..(first + BLOCK_ROWS).min(span.len);
                let row = span.start + first;
                let queries = grown(&mut scratch.queries, rows.len() * padded);
                let grads = grown(&mut scratch.grads, rows.len() * padded);
                copy_padded(operands.q, row, &columns, queries, padded);
                copy_padded(grad, row, &columns, grads, padded);
                let block = Block { op, keys, rows, queries, grads, padded };
                let dq = grown(&mut scratch.dq, block.rows.len() * padded);
                block.add_gradients(s, (&mut scratch.weights, &mut scratch.weight_grads), dq, dk, dv);
                out.write(dq, padded, row, 0, &columns);
            }
        }
        out.write(dk, padded, span.start, out.q_width, &columns);
        out.write(dv, padded, span.start, out.q_width + out.kv_width, &columns);
    }
}

/// Copies the past's keys and values at `seen` to rows of `padded` features.
#[inline(always)]
fn gather_past(
    span: &Span,
    kv_head: usize,
    seen: &Range<usize>,
    padded: usize,
    (key_rows, value_rows): (&mut [f32], &mut [f32]),
) {
    let mut start = 0;
    for past in &span.past {
        let segment = past.segment(kv_head, start);
        for position in segment.part(seen) {
            let to = (start + position - seen.start) * padded;
            segment.copy_key(position, &mut key_rows[to..to + padded]);
            value_rows[to..to + padded].copy_from_slice(segment.value(position, padded));
        }
        start += past.len();
    }
}

/// Copies some columns of the rows from `first` on, as many as fit, padded with zeros.
#[inline(always)]
fn copy_padded(from: Rows<'_>, first: usize, columns: &Range<usize>, to: &mut [f32], padded: usize) {
    for (i, to) in to.chunks_exact_mut(padded).enumerate() {
        to[..columns.len()].copy_from_slice(&from.row(first + i)[columns.clone()]);
        to[columns.len()..].fill(0.0);
    }
}

/// All keys and values that a span sees with one key-value head.
#[derive(Clone, Copy)]
struct Keys<'a> {
    /// The keys, in blocks and, in the place of values, as rows.
    segment: Segment<'a>,
    /// The values, in blocks in the place of keys.
    values: Segment<'a>,
    /// Position of the first key that has a gradient.
    past: usize,
}

/// Some rows of a span for one query head; `queries` and `grads` are `[rows, padded]`.
struct Block<'a> {
    op: &'a Attention,
    keys: Keys<'a>,
    rows: Range<usize>,
    queries: &'a [f32],
    grads: &'a [f32],
    padded: usize,
}

impl Block<'_> {
    /// Computes the block's `dq`, and adds to `dk` and `dv` of the span's rows.
    ///
    /// With weights `P = softmax(scale Q K^T)` and `G` the gradient of `P V`:
    /// `dV = P^T G`, `dS = scale P (G V^T - rowsum(P (G V^T)))`, `dQ = dS K`, `dK = dS^T Q`.
    #[inline(always)]
    fn add_gradients<S: Simd>(
        &self,
        s: S,
        (weights, weight_grads): (&mut Vec<f32>, &mut Vec<f32>),
        dq: &mut [f32],
        dk: &mut [f32],
        dv: &mut [f32],
    ) {
        let Self { op, keys: Keys { segment, values, past }, rows, queries, grads, padded } = self;
        let (shape, padded, count) = (&op.shape, *padded, rows.len());
        let visible = shape.visible_to_any(&(past + rows.start..past + rows.end));
        let board = ScoreBoard::new(&visible);
        let weights = grown(weights, count * board.stride);
        let weight_grads = grown(weight_grads, count * board.stride);
        let rows_of = |data| Left { data, row: padded, step: 1 };
        board.fill(s, (rows_of(queries), count, shape.head_dim), &[*segment], &visible, weights);
        board.fill(s, (rows_of(grads), count, shape.head_dim), &[*values], &visible, weight_grads);
        for i in 0..count {
            let columns = i * board.stride + FRONT..(i + 1) * board.stride;
            let (p, dp) = (&mut weights[columns.clone()], &mut weight_grads[columns]);
            let sees = board.columns(&shape.visible(past + rows.start + i));
            let slopes = shape.cap.map(|cap| {
                bend(p, sees.clone(), shape.scale, cap);
                slopes(&p[sees.clone()], shape.scale, cap)
            });
            let sum = exponentials(s, p, 0..board.width(), sees.clone(), shape.scale);
            score_gradients(s, &mut p[..board.width()], &mut dp[..board.width()], 1.0 / sum, shape.scale);
            for (dp, slope) in dp[sees].iter_mut().zip(slopes.iter().flatten()) {
                *dp *= slope;
            }
        }

        let vectors = row_vectors(shape.head_dim);
        let of_rows = |data| Right { data, step: padded, vector: LANES };
        let at = board.column(visible.start);
        let scores = Left { data: &weight_grads[at..], row: board.stride, step: 1 };
        let key_rows = of_rows(&segment.values[(visible.start - segment.start) * padded..]);
        let extent = Extent { rows: count, depth: visible.len(), vectors };
        multiply(s, extent, scores, key_rows, (dq, padded), Sums::Fresh);

        let own = visible.start.max(*past)..visible.end;
        let at = board.column(own.start);
        let extent = Extent { rows: own.len(), depth: count, vectors };
        let sums = (own.start - past) * padded..(own.end - past) * padded;
        let turned = |data| Left { data, row: 1, step: board.stride };
        let (dk, dv) = (&mut dk[sums.clone()], &mut dv[sums]);
        multiply(s, extent, turned(&weight_grads[at..]), of_rows(queries), (dk, padded), Sums::Continued);
        multiply(s, extent, turned(&weights[at..]), of_rows(grads), (dv, padded), Sums::Continued);
    }
}

/// Turns a row of exponentials into weights, and the gradients of the weights into those of the scores before scaling.
#[inline(always)]
fn score_gradients<S: Simd>(s: S, p: &mut [f32], dp: &mut [f32], inverse_sum: f32, scale: f32) {
    let inverse_sum = s.splat(inverse_sum);
    let mut along = s.splat(0.0);
    for at in (0..p.len()).step_by(LANES) {
        let weight = s.mul(s.load_at(p, at), inverse_sum);
        s.put_at(weight, p, at);
        along = s.mul_add(weight, s.load_at(dp, at), along);
    }
    let (along, scale) = (s.splat(s.sum(along)), s.splat(scale));
    for at in (0..p.len()).step_by(LANES) {
        let centred = s.sub(s.load_at(dp, at), along);
        s.put_at(s.mul(s.mul(s.load_at(p, at), centred), scale), dp, at);
    }
}
