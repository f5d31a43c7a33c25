//! The softmax of one row of scores.

use crate::kernels::simd::{LANES, Simd};
use std::ops::Range;

/// Bends the scores at `visible` so that their products with `scale` stay within `cap`.
pub(super) fn bend(scores: &mut [f32], visible: Range<usize>, scale: f32, cap: f32) {
    for score in &mut scores[visible] {
        *score = (*score * (scale / cap)).tanh() * (cap / scale);
    }
}

/// The slopes of [`bend`] at the scores that it gave.
pub(super) fn slopes(bent: &[f32], scale: f32, cap: f32) -> Vec<f32> {
    bent.iter()
        .map(|score| {
            let bent = score * (scale / cap);
            1.0 - bent * bent
        })
        .collect()
}

/// Replaces the scores at `visible` by `e^((score - largest) * scale)` and all others of `all` by zero, and returns
/// the sum.
///
/// Column 0 of `scores` must be a position that is a multiple of sixteen: lanes are then summed by position modulo
/// sixteen, in the order of positions, wherever the row begins. `scores` must reach the next multiple of sixteen
/// columns after the last one visible.
#[inline(always)]
pub(super) fn exponentials<S: Simd>(
    s: S,
    scores: &mut [f32],
    all: Range<usize>,
    visible: Range<usize>,
    scale: f32,
) -> f32 {
    let vectors = visible.start / LANES * LANES..visible.end.next_multiple_of(LANES);
    scores[vectors.start..visible.start].fill(f32::NEG_INFINITY);
    scores[visible.end..vectors.end].fill(f32::NEG_INFINITY);
    let mut largest = s.splat(f32::NEG_INFINITY);
    for at in vectors.clone().step_by(LANES) {
        largest = s.max(largest, s.load_at(scores, at));
    }
    let (largest, scale) = (s.splat(s.largest(largest)), s.splat(scale));
    let mut sum = s.splat(0.0);
    for at in vectors.clone().step_by(LANES) {
        let e = s.exp(s.mul(s.sub(s.load_at(scores, at), largest), scale));
        sum = s.add(sum, e);
        s.put_at(e, scores, at);
    }
    scores[all.start.min(vectors.start)..vectors.start].fill(0.0);
    scores[vectors.end..all.end.max(vectors.end)].fill(0.0);
    s.sum(sum)
}
