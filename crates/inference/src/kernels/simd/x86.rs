//! The x86-64 tiers: one 512-bit register, or two of 256 bits, for sixteen lanes.

use super::{LANES, Simd};
use crate::kernels::tier::Vectorized;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// Proof of AVX-512 (F, VL, DQ, BW).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kernels) struct Avx512(());

impl Avx512 {
    pub(in crate::kernels) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw")
            && Avx2::detect().is_some();
        found.then_some(Self(()))
    }
}

/// Bit `i` set for every `i < len`.
#[inline(always)]
fn mask(len: usize) -> __mmask16 {
    debug_assert!(len <= LANES);
    ((1u32 << len) - 1) as __mmask16
}

// SAFETY of the blocks below: the token exists only where the instructions were detected; pointers are the caller's
// promise, and masked lanes are neither read nor written.
impl Simd for Avx512 {
    type V = __m512;

    const TILE_VECTORS: usize = 3;
    const TILE_ROWS: usize = 9;
    const WIDE_TILE_ROWS: usize = 9;
    const SMALL_TILE_VECTORS: usize = 4;
    const SMALL_TILE_ROWS: usize = 6;

    #[inline(always)]
    fn run<T: Vectorized>(self, task: T) -> T::Output {
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
        fn inner<T: Vectorized>(task: T, simd: Avx512) -> T::Output {
            task.vectorized(simd)
        }
        // SAFETY: see above.
        unsafe { inner(task, self) }
    }

    #[inline(always)]
    fn prefetch<T>(self, from: *const T) {
        // SAFETY: a hint, which reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store_ptr(self, v: __m512, to: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn widen_ptr(self, from: *const u32) -> (__m512, __m512) {
        // SAFETY: see above.
        unsafe {
            let pairs = _mm512_loadu_si512(from.cast());
            let second = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
            (_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(second))
        }
    }

    #[inline(always)]
    fn load_partial(self, from: &[f32]) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_maskz_loadu_ps(mask(from.len()), from.as_ptr()) }
    }

    #[inline(always)]
    fn store_partial(self, v: __m512, to: &mut [MaybeUninit<f32>]) {
        // SAFETY: see above.
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr().cast(), mask(to.len()), v) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn scale_exp2(self, a: __m512, n: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_scalef_ps(a, n) }
    }

    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        // SAFETY: see above.
        unsafe { sum_of_8(_mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v))) }
    }

    #[inline(always)]
    fn transpose(self, rows: [__m512; LANES]) -> [__m512; LANES] {
        // SAFETY: see above.
        unsafe { transpose_16(rows) }
    }

    #[inline(always)]
    fn largest(self, v: __m512) -> f32 {
        // SAFETY: see above.
        unsafe { _mm512_reduce_max_ps(v) }
    }
}

/// Proof of AVX2 with fused multiply-add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kernels) struct Avx2(());

impl Avx2 {
    pub(in crate::kernels) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }
}

/// Lanes 0 to 7 and 8 to 15.
pub(in crate::kernels) type Halves = [__m256; 2];

// SAFETY of the blocks below: as for `Avx512`.
impl Simd for Avx2 {
    type V = Halves;

    const TILE_VECTORS: usize = 1;
    const TILE_ROWS: usize = 6;
    const WIDE_TILE_ROWS: usize = 2;
    const SMALL_TILE_VECTORS: usize = 1;
    const SMALL_TILE_ROWS: usize = 6;

    #[inline(always)]
    fn run<T: Vectorized>(self, task: T) -> T::Output {
        #[target_feature(enable = "avx2,fma")]
        fn inner<T: Vectorized>(task: T, simd: Avx2) -> T::Output {
            task.vectorized(simd)
        }
        // SAFETY: see above.
        unsafe { inner(task, self) }
    }

    #[inline(always)]
    fn prefetch<T>(self, from: *const T) {
        // SAFETY: a hint, which reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> Halves {
        // SAFETY: see above.
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }

    #[inline(always)]
    unsafe fn store_ptr(self, v: Halves, to: *mut f32) {
        // SAFETY: see above.
        unsafe {
            _mm256_storeu_ps(to, v[0]);
            _mm256_storeu_ps(to.add(8), v[1]);
        }
    }

    #[inline(always)]
    unsafe fn widen_ptr(self, from: *const u32) -> (Halves, Halves) {
        // SAFETY: see above.
        unsafe {
            let (low, high) = (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(8).cast()));
            let upper = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
            let first = (_mm256_slli_epi32::<16>(low), _mm256_slli_epi32::<16>(high));
            let second = (_mm256_and_si256(low, upper), _mm256_and_si256(high, upper));
            (
                [_mm256_castsi256_ps(first.0), _mm256_castsi256_ps(first.1)],
                [_mm256_castsi256_ps(second.0), _mm256_castsi256_ps(second.1)],
            )
        }
    }

    #[inline(always)]
    fn load_partial(self, from: &[f32]) -> Halves {
        let mut lanes = [0.0; LANES];
        lanes[..from.len()].copy_from_slice(from);
        self.load(&lanes)
    }

    #[inline(always)]
    fn store_partial(self, v: Halves, to: &mut [MaybeUninit<f32>]) {
        let mut lanes = [MaybeUninit::uninit(); LANES];
        self.store(v, &mut lanes);
        to.copy_from_slice(&lanes[..to.len()]);
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Halves {
        // SAFETY: see above.
        unsafe { [_mm256_set1_ps(x); 2] }
    }

    #[inline(always)]
    fn add(self, a: Halves, b: Halves) -> Halves {
        // SAFETY: see above.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn sub(self, a: Halves, b: Halves) -> Halves {
        // SAFETY: see above.
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul(self, a: Halves, b: Halves) -> Halves {
        // SAFETY: see above.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn div(self, a: Halves, b: Halves) -> Halves {
        // SAFETY: see above.
        unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul_add(self, a: Halves, b: Halves, c: Halves) -> Halves {
        // SAFETY: see above.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn max(self, a: Halves, b: Halves) -> Halves {
        // SAFETY: see above.
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn min(self, a: Halves, b: Halves) -> Halves {
        // SAFETY: see above.
        unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn scale_exp2(self, a: Halves, n: Halves) -> Halves {
        // SAFETY: see above.
        unsafe { [scale_exp2_of_8(a[0], n[0]), scale_exp2_of_8(a[1], n[1])] }
    }

    #[inline(always)]
    fn sum(self, v: Halves) -> f32 {
        // SAFETY: see above.
        unsafe { sum_of_8(_mm256_add_ps(v[0], v[1])) }
    }

    #[inline(always)]
    fn transpose(self, rows: [Halves; LANES]) -> [Halves; LANES] {
        super::transpose_by_lanes(self, rows)
    }

    #[inline(always)]
    fn largest(self, v: Halves) -> f32 {
        // SAFETY: see above.
        unsafe {
            let v = _mm256_max_ps(v[0], v[1]);
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn sum_of_8(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}

/// In two steps, since 2^n itself may not be a normal number.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn scale_exp2_of_8(a: __m256, n: __m256) -> __m256 {
    let n = _mm256_cvtps_epi32(n);
    let half = _mm256_srai_epi32::<1>(n);
    let bias = _mm256_set1_epi32(127);
    let first = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias)));
    let rest = _mm256_add_epi32(_mm256_sub_epi32(n, half), bias);
    _mm256_mul_ps(_mm256_mul_ps(a, first), _mm256_castsi256_ps(_mm256_slli_epi32::<23>(rest)))
}

/// Transposes 4 x 4 blocks within quarters of the registers, then the quarters.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
fn transpose_16(rows: [__m512; LANES]) -> [__m512; LANES] {
    let mut blocks = rows;
    for i in (0..LANES).step_by(4) {
        let [a, b, c, d] = [rows[i], rows[i + 1], rows[i + 2], rows[i + 3]];
        let (ab_low, ab_high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        blocks[i] = _mm512_shuffle_ps::<0b01_00_01_00>(ab_low, cd_low);
        blocks[i + 1] = _mm512_shuffle_ps::<0b11_10_11_10>(ab_low, cd_low);
        blocks[i + 2] = _mm512_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high);
        blocks[i + 3] = _mm512_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high);
    }
    // Now lane `4q + l` of `blocks[4b + c]` is lane `4q + c` of row `4b + l`.
    let mut turned = blocks;
    for c in 0..4 {
        let [a, b, d, e] = [blocks[c], blocks[4 + c], blocks[8 + c], blocks[12 + c]];
        let (ab_even, ab_odd) =
            (_mm512_shuffle_f32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b));
        let (de_even, de_odd) =
            (_mm512_shuffle_f32x4::<0b10_00_10_00>(d, e), _mm512_shuffle_f32x4::<0b11_01_11_01>(d, e));
        turned[c] = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_even, de_even);
        turned[8 + c] = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_even, de_even);
        turned[4 + c] = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_odd, de_odd);
        turned[12 + c] = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_odd, de_odd);
    }
    turned
}
