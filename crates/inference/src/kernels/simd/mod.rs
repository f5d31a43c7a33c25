//! Sixteen `f32` lanes, whatever the machine: the one vocabulary in which the kernels are written.
//!
//! Every tier has sixteen lanes, as one register or several, so that a sum over a row is taken in the same order on
//! all of them.

#[cfg(target_arch = "x86_64")]
mod bf16;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
pub(super) use bf16::Avx512Bf16;
pub(super) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

use super::tier::Vectorized;
use std::mem::MaybeUninit;

/// Lanes of every vector.
pub(super) const LANES: usize = 16;

/// Proof, as a value, that the machine can execute one tier's instructions, and those instructions as methods.
pub(super) trait Simd: Copy + Send + Sync + 'static {
    /// Sixteen `f32`.
    type V: Copy;

    /// Width, in vectors, of the register tile of a matrix product with many rows.
    const TILE_VECTORS: usize;
    /// Rows of that tile: as many as the register file holds beside one row of the second operand.
    const TILE_ROWS: usize;
    /// Up to this many rows, a tile three vectors wide fits the registers.
    const WIDE_TILE_ROWS: usize;
    /// Vectors in a row of the tile of a product without packed operands, which has at most six rows.
    const SMALL_TILE_VECTORS: usize;
    /// Rows of that tile.
    const SMALL_TILE_ROWS: usize;

    /// Enters code compiled for this tier's instructions.
    fn run<T: Vectorized>(self, task: T) -> T::Output;

    /// Asks for the cache line of an address, which need not be valid.
    #[inline(always)]
    fn prefetch<T>(self, _from: *const T) {}

    /// # Safety
    /// Sixteen `f32` are readable at `from`, which need not be aligned.
    unsafe fn load_ptr(self, from: *const f32) -> Self::V;

    /// # Safety
    /// Sixteen `f32` are writable at `to`, which need not be aligned.
    unsafe fn store_ptr(self, v: Self::V, to: *mut f32);

    /// Splits sixteen pairs of `bf16` into their first (low half) and second (high half) members, widened exactly.
    ///
    /// # Safety
    /// Sixteen `u32` are readable at `from`.
    unsafe fn widen_ptr(self, from: *const u32) -> (Self::V, Self::V);

    /// Loads at most sixteen values; the other lanes are zero.
    fn load_partial(self, from: &[f32]) -> Self::V;
    /// Stores the first `to.len()` lanes, at most sixteen.
    fn store_partial(self, v: Self::V, to: &mut [MaybeUninit<f32>]);

    fn splat(self, x: f32) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the machine can.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger of each lane; `b` where either is not a number.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller of each lane; `b` where either is not a number.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * 2^n` for integral `n` in -150..=128, rounded once.
    fn scale_exp2(self, a: Self::V, n: Self::V) -> Self::V;
    /// Sum of the lanes: `i` with `i + 8`, then `+ 4`, `+ 2`, `+ 1`.
    fn sum(self, v: Self::V) -> f32;
    /// Lane `j` of vector `i` becomes lane `i` of vector `j`.
    fn transpose(self, rows: [Self::V; LANES]) -> [Self::V; LANES];
    /// Largest lane.
    fn largest(self, v: Self::V) -> f32;

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::V {
        // SAFETY: the reference is to sixteen values.
        unsafe { self.load_ptr(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, v: Self::V, to: &mut [MaybeUninit<f32>; LANES]) {
        // SAFETY: the reference is to sixteen places.
        unsafe { self.store_ptr(v, to.as_mut_ptr().cast()) }
    }

    /// Loads the (at most) sixteen values at `start`, zeros past the end.
    #[inline(always)]
    fn load_at(self, from: &[f32], start: usize) -> Self::V {
        match from[start..].first_chunk() {
            Some(whole) => self.load(whole),
            None => self.load_partial(&from[start..]),
        }
    }

    /// Stores the (at most) sixteen lanes that fit at `start`.
    #[inline(always)]
    fn store_at(self, v: Self::V, to: &mut [MaybeUninit<f32>], start: usize) {
        match to[start..].first_chunk_mut() {
            Some(whole) => self.store(v, whole),
            None => self.store_partial(v, &mut to[start..]),
        }
    }

    /// [`Self::store_at`] for values that are there already.
    #[inline(always)]
    fn put_at(self, v: Self::V, to: &mut [f32], start: usize) {
        // SAFETY: the layouts are equal, and stores write initialised values only.
        let places = unsafe { &mut *(std::ptr::from_mut(to) as *mut [MaybeUninit<f32>]) };
        self.store_at(v, places, start);
    }

    /// `e^x` to within 2 units in the last place: 0 below -104, infinity above 89, not a number if `x` is none.
    ///
    /// Cody-Waite reduction by ln 2 in two parts, then the degree-7 polynomial of the Cephes library (`expf`).
    #[inline(always)]
    fn exp(self, x: Self::V) -> Self::V {
        /// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
        const ROUND: f32 = 12_582_912.0;
        // The bound comes first, so that a lane which is not a number stays one.
        let x = self.min(self.splat(89.0), self.max(self.splat(-104.0), x));
        let shifted = self.mul_add(x, self.splat(std::f32::consts::LOG2_E), self.splat(ROUND));
        let n = self.sub(shifted, self.splat(ROUND));
        let r = self.mul_add(n, self.splat(-0.693_359_4), x);
        let r = self.mul_add(n, self.splat(2.121_944_4e-4), r);
        let mut p = self.splat(1.987_569_1e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = self.mul_add(p, r, self.splat(c));
        }
        let tail = self.add(r, self.splat(1.0));
        self.scale_exp2(self.mul_add(p, self.mul(r, r), tail), n)
    }

    /// `1 / (1 + e^-x)`.
    #[inline(always)]
    fn sigmoid(self, x: Self::V) -> Self::V {
        let one = self.splat(1.0);
        self.div(one, self.add(one, self.exp(self.sub(self.splat(0.0), x))))
    }

    /// `sum(a[i] * b[i])`, in an order that depends on the length alone.
    #[inline(always)]
    fn dot(self, a: &[f32], b: &[f32]) -> f32 {
        let mut sums = [self.splat(0.0); 4];
        for (block, start) in (0..a.len()).step_by(LANES).enumerate() {
            let (x, y) = (self.load_at(a, start), self.load_at(b, start));
            sums[block % 4] = self.mul_add(x, y, sums[block % 4]);
        }
        self.sum(self.add(self.add(sums[0], sums[1]), self.add(sums[2], sums[3])))
    }
}

/// [`Simd::transpose`] through memory.
#[inline(always)]
fn transpose_by_lanes<S: Simd>(s: S, rows: [S::V; LANES]) -> [S::V; LANES] {
    let mut lanes = [[0.0; LANES]; LANES];
    for (lanes, row) in lanes.iter_mut().zip(rows) {
        s.put_at(row, lanes, 0);
    }
    let mut columns = rows;
    for (j, column) in columns.iter_mut().enumerate() {
        *column = s.load(&lanes.map(|row| row[j]));
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::super::tier::Tier;
    use super::*;

    /// Applies `exp` to a whole slice.
    struct Exp<'a>(&'a [f32], &'a mut [f32]);

    impl Vectorized for Exp<'_> {
        type Output = ();
        #[inline(always)]
        fn vectorized<S: Simd>(self, simd: S) {
            for start in (0..self.0.len()).step_by(LANES) {
                let v = simd.exp(simd.load_at(self.0, start));
                simd.put_at(v, self.1, start);
            }
        }
    }

    struct Dot<'a>(&'a [f32], &'a [f32]);

    impl Vectorized for Dot<'_> {
        type Output = f32;
        #[inline(always)]
        fn vectorized<S: Simd>(self, simd: S) -> f32 {
            simd.dot(self.0, self.1)
        }
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let x: Vec<f32> = (0..200_003).map(|i| -87.3 + i as f32 * (175.9 / 200_003.0)).collect();
        for tier in Tier::available() {
            let mut y = vec![0.0; x.len()];
            tier.run(Exp(&x, &mut y));
            for (&x, &y) in x.iter().zip(&y) {
                let exact = f64::from(x).exp();
                let ulp = f64::from(f32::from_bits((exact as f32).to_bits() + 1)) - f64::from(exact as f32);
                let error = (f64::from(y) - exact).abs() / ulp;
                assert!(error <= 2.0, "{}: exp({x}) = {y}, {error} ulp from {exact}", tier.name());
            }
        }
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "e^0 is exact")]
    fn exp_of_the_extremes() {
        let x = [f32::NEG_INFINITY, -1e30, -104.0, -100.0, 0.0, 88.7, 89.0, 1e30, f32::INFINITY, f32::NAN];
        for tier in Tier::available() {
            let mut y = [0.0; 10];
            tier.run(Exp(&x, &mut y));
            assert_eq!(y[..3], [0.0; 3], "{}", tier.name());
            assert!(y[3] > 0.0 && y[3] < 1e-43, "{}: {}", tier.name(), y[3]);
            assert_eq!(y[4], 1.0);
            assert!(y[5].is_finite());
            assert_eq!(y[6..9], [f32::INFINITY; 3]);
            assert!(y[9].is_nan());
        }
    }

    struct Transpose<'a>(&'a [[f32; LANES]; LANES], &'a mut [[f32; LANES]; LANES]);

    impl Vectorized for Transpose<'_> {
        type Output = ();
        #[inline(always)]
        fn vectorized<S: Simd>(self, simd: S) {
            let turned = simd.transpose(self.0.map(|row| simd.load(&row)));
            for (to, v) in self.1.iter_mut().zip(turned) {
                simd.put_at(v, to, 0);
            }
        }
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "lanes are moved")]
    fn transpose_turns_rows_into_columns() {
        let from: [[f32; LANES]; LANES] =
            std::array::from_fn(|i| std::array::from_fn(|j| (i * 100 + j) as f32));
        for tier in Tier::available() {
            let mut to = [[0.0; LANES]; LANES];
            tier.run(Transpose(&from, &mut to));
            for (i, row) in to.iter().enumerate() {
                for (j, &x) in row.iter().enumerate() {
                    assert_eq!(x, from[j][i], "{} {i} {j}", tier.name());
                }
            }
        }
    }

    #[test]
    fn dot_of_any_length() {
        for n in [0, 1, 15, 16, 17, 31, 64, 65, 100, 576] {
            let a: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
            let b: Vec<f32> = (0..n).map(|i| (i as f32 * 0.11).cos()).collect();
            let exact: f64 = a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            for tier in Tier::available() {
                let dot = f64::from(tier.run(Dot(&a, &b)));
                assert!(
                    (dot - exact).abs() < 1e-5 * (1.0 + exact.abs()),
                    "{} {n}: {dot} {exact}",
                    tier.name()
                );
            }
        }
    }
}
