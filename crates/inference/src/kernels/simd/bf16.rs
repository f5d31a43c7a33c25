//! The AVX512_BF16 instructions: rounding to `bf16` and the dot product of pairs, accumulated in `f32`.

use super::{Avx512, LANES};
use crate::kernels::tier::Vectorized;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// Proof of AVX512_BF16, on top of [`Avx512`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kernels) struct Avx512Bf16(Avx512);

// SAFETY of the blocks below: the token exists only where the instructions were detected; pointers are the caller's
// promise.
impl Avx512Bf16 {
    pub(in crate::kernels) fn detect() -> Option<Self> {
        if is_x86_feature_detected!("avx512bf16") { Avx512::detect().map(Self) } else { None }
    }

    /// The token of the plain instructions.
    #[inline(always)]
    pub(in crate::kernels) fn avx512(self) -> Avx512 {
        self.0
    }

    /// Enters code compiled for AVX-512 with AVX512_BF16.
    #[inline(always)]
    pub(in crate::kernels) fn run<T: Vectorized>(self, task: T) -> T::Output {
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16,avx2,fma")]
        fn inner<T: Vectorized>(task: T, simd: Avx512) -> T::Output {
            task.vectorized(simd)
        }
        // SAFETY: see above.
        unsafe { inner(task, self.0) }
    }

    /// `acc + a.low * b.low + a.high * b.high` in each lane, where `a` is one pair for all lanes.
    ///
    /// # Safety
    /// Sixteen pairs are readable at `b`.
    #[inline(always)]
    pub(in crate::kernels) unsafe fn dot(self, acc: __m512, a: u32, b: *const u32) -> __m512 {
        // SAFETY: see above; both conversions are between types of 64 bytes without invalid values.
        unsafe {
            let a: __m512bh = std::mem::transmute(_mm512_set1_epi32(a.cast_signed()));
            let b: __m512bh = std::mem::transmute(_mm512_loadu_si512(b.cast()));
            _mm512_dpbf16_ps(acc, a, b)
        }
    }

    /// Rounds a row to `bf16`, two to a place (the earlier in the low half), padding an odd length with a zero.
    /// `to` has `from.len().div_ceil(2)` places, all of which are written.
    #[inline(always)]
    pub(in crate::kernels) fn round_pairs(self, from: &[f32], to: &mut [MaybeUninit<u32>]) {
        assert_eq!(to.len(), from.len().div_ceil(2));
        let (whole, rest) = from.as_chunks::<{ 2 * LANES }>();
        let (to_whole, to_rest) = to.split_at_mut(whole.len() * LANES);
        for (from, to) in whole.iter().zip(to_whole.chunks_exact_mut(LANES)) {
            // SAFETY: see above; 32 values are read and 16 pairs written.
            unsafe {
                let low = _mm512_loadu_ps(from.as_ptr());
                let high = _mm512_loadu_ps(from.as_ptr().add(LANES));
                let pairs: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                _mm512_storeu_si512(to.as_mut_ptr().cast(), pairs);
            }
        }
        for (pair, to) in rest.chunks(2).zip(to_rest) {
            let bits = |x: f32| u32::from(half::bf16::from_f32(x).to_bits());
            to.write(bits(pair[0]) | pair.get(1).map_or(0, |&x| bits(x) << 16));
        }
    }
}
