//! Small matrix products on unpacked operands.

use crate::kernels::simd::{LANES, Simd};
use crate::kernels::tile::accumulate_f32;

/// Vectors that hold `features` features.
pub(super) fn row_vectors(features: usize) -> usize {
    features.div_ceil(LANES)
}

/// A left operand: element `(i, step)` is at `i * row + step * self.step`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) data: &'a [f32],
    pub(super) row: usize,
    pub(super) step: usize,
}

/// A right operand: vector `w` of step `step` starts at `step * self.step + w * vector`.
#[derive(Clone, Copy)]
pub(super) struct Right<'a> {
    pub(super) data: &'a [f32],
    pub(super) step: usize,
    pub(super) vector: usize,
}

/// Rows of the result, steps of the contraction, vectors of columns.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    pub(super) rows: usize,
    pub(super) depth: usize,
    pub(super) vectors: usize,
}

/// Whether a product starts its sums or takes up those that are there. The order of additions is that of the steps
/// either way, so a contraction may be cut anywhere.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sums {
    Fresh,
    Continued,
}

/// `c = a b` or `c += a b`; rows of `c` are `c_row` apart.
///
/// # Panics
/// If an operand is smaller than the extent.
#[inline(always)]
pub(super) fn multiply<S: Simd>(
    s: S,
    extent: Extent,
    a: Left<'_>,
    b: Right<'_>,
    (c, c_row): (&mut [f32], usize),
    sums: Sums,
) {
    let Extent { rows, depth, vectors } = extent;
    if rows == 0 || vectors == 0 {
        return;
    }
    assert!(c.len() >= (rows - 1) * c_row + vectors * LANES);
    if depth > 0 {
        assert!(a.data.len() > (rows - 1) * a.row + (depth - 1) * a.step);
        assert!(b.data.len() >= (depth - 1) * b.step + (vectors - 1) * b.vector + LANES);
    }
    let tiles = rows.div_ceil(S::SMALL_TILE_ROWS);
    for vector in (0..vectors).step_by(S::SMALL_TILE_VECTORS) {
        let b = Right { data: b.data.get(vector * b.vector..).unwrap_or(&[]), ..b };
        let width = (vectors - vector).min(S::SMALL_TILE_VECTORS);
        for tile in 0..tiles {
            let (first, end) = (rows * tile / tiles, rows * (tile + 1) / tiles);
            let a = Left { data: a.data.get(first * a.row..).unwrap_or(&[]), ..a };
            let c = &mut c[first * c_row + vector * LANES..];
            // SAFETY: the tile lies within the extent that the operands were compared with.
            unsafe { multiply_tile(s, (end - first, width, depth), a, b, (c, c_row), sums) };
        }
    }
}

/// # Safety
/// All elements of `a` and `b` that rows, width and depth reach must exist.
#[inline(always)]
unsafe fn multiply_tile<S: Simd>(
    s: S,
    (rows, width, depth): (usize, usize, usize),
    a: Left<'_>,
    b: Right<'_>,
    c: (&mut [f32], usize),
    sums: Sums,
) {
    macro_rules! sized {
        ($($rows:literal)*) => {
            // SAFETY: as the caller's.
            unsafe { match (rows, width) {
                $(($rows, 1) if $rows <= S::SMALL_TILE_ROWS => sized_tile::<S, $rows, 1>(s, depth, a, b, c, sums),
                ($rows, 2) if $rows <= S::SMALL_TILE_ROWS && S::SMALL_TILE_VECTORS >= 2 => {
                    sized_tile::<S, $rows, 2>(s, depth, a, b, c, sums)
                }
                ($rows, 3) if $rows <= S::SMALL_TILE_ROWS && S::SMALL_TILE_VECTORS >= 3 => {
                    sized_tile::<S, $rows, 3>(s, depth, a, b, c, sums)
                }
                ($rows, 4) if $rows <= S::SMALL_TILE_ROWS && S::SMALL_TILE_VECTORS >= 4 => {
                    sized_tile::<S, $rows, 4>(s, depth, a, b, c, sums)
                })*
                _ => unreachable!("a tile of {rows} rows and {width} vectors"),
            } }
        };
    }
    sized!(1 2 3 4 5 6)
}

/// # Safety
/// All elements of `a` and `b` that `R`, `W` and `depth` reach must exist.
#[inline(always)]
unsafe fn sized_tile<S: Simd, const R: usize, const W: usize>(
    s: S,
    depth: usize,
    a: Left<'_>,
    b: Right<'_>,
    (c, c_row): (&mut [f32], usize),
    sums: Sums,
) {
    let mut acc = [[s.splat(0.0); W]; R];
    if sums == Sums::Continued {
        for (i, row) in acc.iter_mut().enumerate() {
            for (w, sum) in row.iter_mut().enumerate() {
                *sum = s.load_at(&c[..i * c_row + (w + 1) * LANES], i * c_row + w * LANES);
            }
        }
    }
    // SAFETY: as the caller's.
    unsafe {
        let (a, b) = ((a.data.as_ptr(), a.row, a.step), (b.data.as_ptr(), b.step, b.vector));
        accumulate_f32(s, depth, a, b, 0, &mut acc);
    }
    for (i, row) in acc.iter().enumerate() {
        for (w, sum) in row.iter().enumerate() {
            let place = i * c_row + w * LANES;
            s.put_at(*sum, &mut c[place..place + LANES], 0);
        }
    }
}

/// Lays out `count` rows of `features` features, found by `row`, as blocks `[feature][16 rows]`, with zeros for the
/// rows that are missing from the last one.
#[inline(always)]
pub(super) fn pack_columns<'a, S: Simd>(
    s: S,
    (count, features): (usize, usize),
    row: impl Fn(usize) -> &'a [f32],
    to: &mut [f32],
) {
    for (block, to) in
        to[..count.div_ceil(LANES) * features * LANES].chunks_exact_mut(features * LANES).enumerate()
    {
        for feature in (0..features).step_by(LANES) {
            let mut rows = [s.splat(0.0); LANES];
            for (i, v) in rows.iter_mut().enumerate().take(count - block * LANES) {
                *v = s.load_at(row(block * LANES + i), feature);
            }
            let columns = s.transpose(rows);
            for (to, v) in to[feature * LANES..].chunks_exact_mut(LANES).zip(columns) {
                s.put_at(v, to, 0);
            }
        }
    }
}
