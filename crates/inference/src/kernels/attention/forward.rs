//! Attention, forwards: scores, softmax and weighted values, a few rows at a time.

use super::cache::Segment;
use super::product::{Extent, Left, Right, Sums, multiply, pack_columns, row_vectors};
use super::softmax::{bend, exponentials};
use super::{Attention, Operands, Span};
use crate::kernels::rows::{Rows, SharedPlaces};
use crate::kernels::simd::{LANES, Simd};
use crate::kernels::threads::threads;
use crate::kernels::tier::Vectorized;
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Rows of a span that one task takes, for as many heads as share keys. Few enough that one long span keeps several
/// threads busy, many enough that laying out its keys once for each task costs little.
const TASK_ROWS: usize = 48;
/// Below this many multiply-adds, starting a second thread costs more than it saves.
const PARALLEL_PRODUCTS: usize = 1 << 19;

/// Writes the result for all rows and heads.
pub(super) fn run(op: &Attention, operands: Operands<'_>, out: SharedPlaces<f32>) {
    let mut tasks = Vec::new();
    let mut products = 0;
    for span in op.spans.iter() {
        products += 2 * span.len * (span.past_len() + span.len) * operands.q.width;
        for first in (0..span.len).step_by(TASK_ROWS) {
            let rows = first..(first + TASK_ROWS).min(span.len);
            tasks.extend((0..op.shape.kv_heads).map(|kv_head| (span, kv_head, rows.clone())));
        }
    }
    let work = |scratch: &mut Scratch, (span, kv_head, rows): (&Span, usize, Range<usize>)| {
        op.tier.run(Task { op, operands, span, kv_head, rows, out, scratch });
    };
    if products < PARALLEL_PRODUCTS || threads() == 1 {
        let mut scratch = Scratch::default();
        tasks.into_iter().for_each(|task| work(&mut scratch, task));
    } else {
        tasks.into_par_iter().for_each_init(Scratch::default, work);
    }
}

/// Memory that tasks use one after the other.
#[derive(Default)]
struct Scratch {
    own: OwnRows,
    scores: Vec<f32>,
    weighted: Vec<f32>,
}

/// At least `len` elements of a buffer that is never shrunk.
pub(super) fn grown(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// The keys and values of a span's own rows, laid out like a cache's.
#[derive(Default)]
struct OwnRows {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl OwnRows {
    /// One head of the rows `rows`, counted from the span's first.
    #[inline(always)]
    fn gather<'a, S: Simd>(
        &'a mut self,
        s: S,
        (k, v): (Rows<'a>, Rows<'a>),
        (span, kv_head, head_dim): (&Span, usize, usize),
        rows: Range<usize>,
    ) -> Segment<'a> {
        let columns = kv_head * head_dim..(kv_head + 1) * head_dim;
        let first = span.start + rows.start;
        let keys = grown(&mut self.keys, rows.len().div_ceil(LANES) * head_dim * LANES);
        pack_columns(s, (rows.len(), head_dim), |i| &k.row(first + i)[columns.clone()], keys);
        let (values, value_stride) = if head_dim.is_multiple_of(LANES) {
            (v.data().get(first * v.stride + columns.start..).unwrap_or(&[]), v.stride)
        } else {
            let padded = row_vectors(head_dim) * LANES;
            let values = grown(&mut self.values, rows.len() * padded);
            for (i, to) in values.chunks_exact_mut(padded).enumerate() {
                to[..head_dim].copy_from_slice(&v.row(first + i)[columns.clone()]);
                to[head_dim..].fill(0.0);
            }
            (&*values, padded)
        };
        let start = span.past_len() + rows.start;
        Segment { start, len: rows.len(), keys, block_stride: head_dim * LANES, values, value_stride }
    }
}

/// Some rows of a span, for the query heads of one key-value head.
struct Task<'a, 's> {
    op: &'a Attention,
    operands: Operands<'a>,
    span: &'a Span,
    kv_head: usize,
    rows: Range<usize>,
    out: SharedPlaces<f32>,
    scratch: &'s mut Scratch,
}

impl Vectorized for Task<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn vectorized<S: Simd>(self, s: S) {
        let Self { op, operands, span, kv_head, rows, out, scratch: Scratch { own, scores, weighted } } =
            self;
        let (past, group, head_dim) = (span.past_len(), op.shape.group(), op.shape.head_dim);
        let needed = op.shape.visible_to_any(&(past + rows.start..past + rows.end));
        let own_rows = needed.start.saturating_sub(past)..rows.end;
        let own = own.gather(s, (operands.k, operands.v), (span, kv_head, head_dim), own_rows);
        let segments = segments(span, kv_head, own);
        // One row has its heads side by side as the tile's rows; several rows are taken head by head.
        let side_by_side = rows.len() == 1;
        let (heads_per_tile, rows_per_tile) =
            if side_by_side { (S::SMALL_TILE_ROWS, 1) } else { (1, S::SMALL_TILE_ROWS) };
        let heads = kv_head * group..(kv_head + 1) * group;
        for head in heads.clone().step_by(heads_per_tile) {
            for row in rows.clone().step_by(rows_per_tile) {
                let queries = if side_by_side {
                    Queries::Heads((heads.end - head).min(heads_per_tile))
                } else {
                    Queries::Rows((rows.end - row).min(rows_per_tile))
                };
                let (row, position) = (span.start + row, past + row);
                let tile = Tile { op, operands, segments: &segments, row, position, head, queries };
                tile.compute(s, scores, weighted, out);
            }
        }
    }
}

/// The past of a span and then its own rows.
pub(super) fn segments<'a>(span: &'a Span, kv_head: usize, own: Segment<'a>) -> Vec<Segment<'a>> {
    let mut start = 0;
    let mut segments = Vec::with_capacity(span.past.len() + 1);
    for past in &span.past {
        segments.push(past.segment(kv_head, start));
        start += past.len();
    }
    segments.push(own);
    segments
}

/// What the rows of a tile are.
#[derive(Clone, Copy)]
enum Queries {
    /// Consecutive rows of one head.
    Rows(usize),
    /// Consecutive heads of one row.
    Heads(usize),
}

/// A few queries that are scored together.
struct Tile<'a> {
    op: &'a Attention,
    operands: Operands<'a>,
    segments: &'a [Segment<'a>],
    row: usize,
    /// Position of the first query.
    position: usize,
    head: usize,
    queries: Queries,
}

impl Tile<'_> {
    #[inline(always)]
    fn compute<S: Simd>(&self, s: S, scores: &mut Vec<f32>, weighted: &mut Vec<f32>, out: SharedPlaces<f32>) {
        let Self { op, operands: Operands { q, .. }, segments, .. } = *self;
        let head_dim = op.shape.head_dim;
        let (count, q_stride, positions) = match self.queries {
            Queries::Rows(count) => (count, q.stride, self.position..self.position + count),
            Queries::Heads(count) => (count, head_dim, self.position..self.position + 1),
        };
        let visible = op.shape.visible_to_any(&positions);
        let queries =
            Left { data: &q.data()[self.row * q.stride + self.head * head_dim..], row: q_stride, step: 1 };
        let board = ScoreBoard::new(&visible);
        let scores = grown(scores, count * board.stride);
        board.fill(s, (queries, count, head_dim), segments, &visible, scores);

        let mut inverse_sums = [0.0; 6];
        for i in 0..count {
            let sees = match self.queries {
                Queries::Rows(_) => op.shape.visible(self.position + i),
                Queries::Heads(_) => visible.clone(),
            };
            let row = &mut scores[i * board.stride + FRONT..(i + 1) * board.stride];
            if let Some(cap) = op.shape.cap {
                bend(row, board.columns(&sees), op.shape.scale, cap);
            }
            inverse_sums[i] =
                1.0 / exponentials(s, row, board.columns(&visible), board.columns(&sees), op.shape.scale);
        }

        let vectors = row_vectors(head_dim);
        let width = vectors * LANES;
        let weighted = grown(weighted, count * width);
        let mut sums = Sums::Fresh;
        for segment in segments {
            let part = segment.part(&visible);
            if part.is_empty() {
                continue;
            }
            let column = board.column(segment.start + part.start);
            let weights = Left { data: &scores[column..], row: board.stride, step: 1 };
            let values = &segment.values[part.start * segment.value_stride..];
            let values = Right { data: values, step: segment.value_stride, vector: LANES };
            let extent = Extent { rows: count, depth: part.len(), vectors };
            multiply(s, extent, weights, values, (weighted, width), sums);
            sums = Sums::Continued;
        }
        for (i, weighted) in weighted.chunks_exact(width).enumerate() {
            let (row, head) = match self.queries {
                Queries::Rows(_) => (self.row + i, self.head),
                Queries::Heads(_) => (self.row, self.head + i),
            };
            let start = row * op.shape.heads * head_dim + head * head_dim;
            // SAFETY: within the result; no other task has this row and head, and the reference ends here.
            let out: &mut [MaybeUninit<f32>] = unsafe { out.get(start, head_dim) };
            let inverse_sum = s.splat(inverse_sums[i]);
            for at in (0..head_dim).step_by(LANES) {
                s.store_at(s.mul(s.load_at(weighted, at), inverse_sum), out, at);
            }
        }
    }
}

/// Columns before the first, for the keys of a block that are not visible.
pub(super) const FRONT: usize = LANES;

/// How positions are placed in rows of scores: column 0 is the last multiple of sixteen before the first position.
#[derive(Clone, Copy)]
pub(super) struct ScoreBoard {
    base: usize,
    /// Between rows.
    pub(super) stride: usize,
}

impl ScoreBoard {
    pub(super) fn new(visible: &Range<usize>) -> Self {
        let base = visible.start / LANES * LANES;
        // Behind the last column, the rest of its block of keys, which need not end at a multiple of sixteen.
        let stride = FRONT + (visible.end - base).next_multiple_of(LANES) + LANES;
        Self { base, stride }
    }

    /// Columns, rounded up to whole vectors.
    pub(super) fn width(&self) -> usize {
        self.stride - FRONT - LANES
    }

    /// Place of a position in a row, front included.
    pub(super) fn column(&self, position: usize) -> usize {
        FRONT + position - self.base
    }

    /// Columns of positions, from the first column.
    pub(super) fn columns(&self, positions: &Range<usize>) -> Range<usize> {
        positions.start - self.base..positions.end - self.base
    }

    /// Writes the products of queries with the keys at `visible`.
    ///
    /// Whole blocks of keys are multiplied, so columns just outside a segment receive sums of no meaning: those before
    /// it are not visible, those after it are overwritten by the next segment, or not visible either.
    #[inline(always)]
    pub(super) fn fill<S: Simd>(
        &self,
        s: S,
        (queries, count, head_dim): (Left<'_>, usize, usize),
        segments: &[Segment<'_>],
        visible: &Range<usize>,
        scores: &mut [f32],
    ) {
        for segment in segments {
            let part = segment.part(visible);
            if part.is_empty() {
                continue;
            }
            let blocks = part.start / LANES..part.end.div_ceil(LANES);
            let keys = &segment.keys[blocks.start * segment.block_stride..];
            let keys = Right { data: keys, step: LANES, vector: segment.block_stride };
            let extent = Extent { rows: count, depth: head_dim, vectors: blocks.len() };
            let column = self.column(segment.start + part.start) - part.start % LANES;
            multiply(s, extent, queries, keys, (&mut scores[column..], self.stride), Sums::Fresh);
        }
    }
}
