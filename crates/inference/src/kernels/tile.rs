//! The innermost loop of a matrix product: a tile of the result held in registers over the whole contraction.
//!
//! Every element of the tile is one chain of multiply-adds in the order of the contraction, whatever the tile's size.
//! That is why a row's result does not depend on its neighbours.

use super::pack::PANEL;
#[cfg(target_arch = "x86_64")]
use super::simd::Avx512Bf16;
use super::simd::{LANES, Simd};
use super::tier::Vectorized;

/// Vectors of a panel.
pub(super) const PANEL_VECTORS: usize = PANEL / LANES;

/// How one kind of operands is multiplied.
pub(super) trait Product: Copy + Send + Sync {
    type S: Simd;
    /// An element of the left operand.
    type Left: Copy + Send + Sync;
    /// An element of a panel row.
    type Right: Copy + Send + Sync;

    /// Elements of the left operand to one panel row.
    const LEFT_PER_ROW: usize;
    /// Rows of the tile for many rows.
    const TILE_ROWS: usize = Self::S::TILE_ROWS;
    /// Up to this many rows, a tile as wide as a panel is used.
    const WIDE_TILE_ROWS: usize = Self::S::WIDE_TILE_ROWS;

    fn simd(self) -> Self::S;

    /// Enters code compiled for the instructions of [`Self::accumulate`].
    #[inline(always)]
    fn run<T: Vectorized>(self, task: T) -> T::Output {
        self.simd().run(task)
    }

    /// Adds to `acc` the products of `R` rows of the left operand, `lda` apart, with `W` vectors of panel columns.
    /// Meanwhile asks for the panel rows that are `ahead` rows further on: hardware stops at page borders.
    ///
    /// # Safety
    /// `depth` elements are readable at `a + i * lda` for every `i < R`, and `16 * W` at `b + j * PANEL` for every
    /// panel row `j` that `depth` reaches into.
    unsafe fn accumulate<const R: usize, const W: usize>(
        self,
        depth: usize,
        a: *const Self::Left,
        lda: usize,
        b: *const Self::Right,
        ahead: usize,
        acc: &mut [[<Self::S as Simd>::V; W]; R],
    );
}

/// Both operands in `f32`.
#[derive(Clone, Copy)]
pub(super) struct Single<S>(pub(super) S);

impl<S: Simd> Product for Single<S> {
    type S = S;
    type Left = f32;
    type Right = f32;
    const LEFT_PER_ROW: usize = 1;

    #[inline(always)]
    fn simd(self) -> S {
        self.0
    }

    #[inline(always)]
    unsafe fn accumulate<const R: usize, const W: usize>(
        self,
        depth: usize,
        a: *const f32,
        lda: usize,
        b: *const f32,
        ahead: usize,
        acc: &mut [[S::V; W]; R],
    ) {
        // SAFETY: the caller's promise covers exactly these reads.
        unsafe { accumulate_f32(self.0, depth, (a, lda, 1), (b, PANEL, LANES), ahead, acc) }
    }
}

/// The left operand in `f32`, the right in pairs of `bf16`, widened without loss.
#[derive(Clone, Copy)]
pub(super) struct Widened<S>(pub(super) S);

impl<S: Simd> Product for Widened<S> {
    type S = S;
    type Left = f32;
    type Right = u32;
    const LEFT_PER_ROW: usize = 2;
    // The two widened halves of a panel row take the place of a row's sums.
    const TILE_ROWS: usize = if S::TILE_ROWS > 2 { S::TILE_ROWS - 1 } else { S::TILE_ROWS };
    const WIDE_TILE_ROWS: usize =
        if S::WIDE_TILE_ROWS > 2 { S::WIDE_TILE_ROWS - 1 } else { S::WIDE_TILE_ROWS };

    #[inline(always)]
    fn simd(self) -> S {
        self.0
    }

    #[inline(always)]
    unsafe fn accumulate<const R: usize, const W: usize>(
        self,
        depth: usize,
        a: *const f32,
        lda: usize,
        b: *const u32,
        ahead: usize,
        acc: &mut [[S::V; W]; R],
    ) {
        let s = self.0;
        let zero = s.splat(0.0);
        // SAFETY: the caller's promise covers exactly these reads.
        unsafe {
            for pair in 0..depth / 2 {
                let mut columns = [(zero, zero); W];
                for (w, column) in columns.iter_mut().enumerate() {
                    let row = b.add(pair * PANEL + w * LANES);
                    s.prefetch(row.wrapping_add(ahead * PANEL));
                    *column = s.widen_ptr(row);
                }
                for (i, row) in acc.iter_mut().enumerate() {
                    let first = s.splat(*a.add(i * lda + 2 * pair));
                    for w in 0..W {
                        row[w] = s.mul_add(first, columns[w].0, row[w]);
                    }
                    let second = s.splat(*a.add(i * lda + 2 * pair + 1));
                    for w in 0..W {
                        row[w] = s.mul_add(second, columns[w].1, row[w]);
                    }
                }
            }
            if depth % 2 == 1 {
                for w in 0..W {
                    let (column, _) = s.widen_ptr(b.add(depth / 2 * PANEL + w * LANES));
                    for (i, row) in acc.iter_mut().enumerate() {
                        row[w] = s.mul_add(s.splat(*a.add(i * lda + depth - 1)), column, row[w]);
                    }
                }
            }
        }
    }
}

/// Both operands in pairs of `bf16`, multiplied by the hardware's dot product.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Bf16Dot(pub(super) Avx512Bf16);

#[cfg(target_arch = "x86_64")]
impl Product for Bf16Dot {
    type S = super::simd::Avx512;
    type Left = u32;
    type Right = u32;
    const LEFT_PER_ROW: usize = 1;

    #[inline(always)]
    fn simd(self) -> Self::S {
        self.0.avx512()
    }

    #[inline(always)]
    fn run<T: Vectorized>(self, task: T) -> T::Output {
        self.0.run(task)
    }

    #[inline(always)]
    unsafe fn accumulate<const R: usize, const W: usize>(
        self,
        depth: usize,
        a: *const u32,
        lda: usize,
        b: *const u32,
        ahead: usize,
        acc: &mut [[<Self::S as Simd>::V; W]; R],
    ) {
        // SAFETY: the caller's promise covers exactly these reads.
        unsafe {
            for step in 0..depth {
                for w in 0..W {
                    self.simd().prefetch(b.wrapping_add((step + ahead) * PANEL + w * LANES));
                }
                for (i, row) in acc.iter_mut().enumerate() {
                    let pair = *a.add(i * lda + step);
                    for (w, sum) in row.iter_mut().enumerate() {
                        *sum = self.0.dot(*sum, pair, b.add(step * PANEL + w * LANES));
                    }
                }
            }
        }
    }
}

/// Adds to `acc` the product of `R` rows of `a` with `W` vectors of columns of `b`, over `depth` steps.
/// `a` is a pointer with the distances between rows and between steps, `b` one with those between steps and between
/// vectors. What `b` has `ahead` steps further on is asked for meanwhile, unless `ahead` is 0.
///
/// # Safety
/// Element `(i, step)` of `a` is readable for every `i < R` and `step < depth`, and the sixteen from `(step, w)` of
/// `b` for every `w < W`.
#[inline(always)]
pub(super) unsafe fn accumulate_f32<S: Simd, const R: usize, const W: usize>(
    s: S,
    depth: usize,
    (a, a_row, a_step): (*const f32, usize, usize),
    (b, b_step, b_vector): (*const f32, usize, usize),
    ahead: usize,
    acc: &mut [[S::V; W]; R],
) {
    // SAFETY: the caller's promise covers exactly these reads.
    unsafe {
        for step in 0..depth {
            let mut columns = [s.splat(0.0); W];
            for (w, column) in columns.iter_mut().enumerate() {
                let row = b.add(step * b_step + w * b_vector);
                if ahead > 0 {
                    s.prefetch(row.wrapping_add(ahead * b_step));
                }
                *column = s.load_ptr(row);
            }
            for (i, row) in acc.iter_mut().enumerate() {
                let left = s.splat(*a.add(i * a_row + step * a_step));
                for w in 0..W {
                    row[w] = s.mul_add(left, columns[w], row[w]);
                }
            }
        }
    }
}
