//! The product of a few or many rows with a packed weight.

use super::block::{Left, product};
use super::pack::{PackedMatrix, Panels, Precision};
use super::rows::{Rows, build};
#[cfg(target_arch = "x86_64")]
use super::simd::Avx512Bf16;
use super::simd::{Portable, Simd};
use super::tier::{Kind, Tier, Vectorized};
#[cfg(target_arch = "x86_64")]
use super::tile::Bf16Dot;
use super::tile::{Single, Widened};
use half::bf16;
use std::mem::MaybeUninit;

/// `x W^T`: `x` is `[m, inputs]`, the result `[m, outputs]`, row by row.
pub(super) fn multiply(tier: Tier, precision: Precision, x: Rows<'_>, weight: &PackedMatrix) -> Vec<f32> {
    match tier.kind() {
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512Bf16(bf16) => multiply_with_bf16_dot(bf16, precision, x, weight),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512(simd) => multiply_in_f32(simd, precision, x, weight),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2(simd) => multiply_in_f32(simd, precision, x, weight),
        Kind::Portable => multiply_in_f32(Portable, precision, x, weight),
    }
}

/// Without a `bf16` dot product, rounded operands are multiplied in `f32`.
fn multiply_in_f32<S: Simd>(simd: S, precision: Precision, x: Rows<'_>, weight: &PackedMatrix) -> Vec<f32> {
    let rounded;
    let x = match precision {
        Precision::F32 => x,
        Precision::Bf16 => {
            rounded = round_to_bf16(simd, x);
            Rows::of_slice(&rounded, x.width)
        }
    };
    let left = Left { elements: x.data(), stride: x.stride, rows: x.count, depth: x.width };
    match &weight.panels {
        Panels::F32(panels) => product(Single(simd), left, panels, weight.outputs),
        Panels::Bf16(panels) => product(Widened(simd), left, panels, weight.outputs),
    }
}

#[cfg(target_arch = "x86_64")]
fn multiply_with_bf16_dot(
    bf16: Avx512Bf16,
    precision: Precision,
    x: Rows<'_>,
    weight: &PackedMatrix,
) -> Vec<f32> {
    match (precision, &weight.panels) {
        (Precision::Bf16, Panels::Bf16(panels)) => {
            let depth = x.width.div_ceil(2);
            let pairs = round_to_pairs(bf16, x);
            let left = Left { elements: &pairs, stride: depth, rows: x.count, depth };
            product(Bf16Dot(bf16), left, panels, weight.outputs)
        }
        _ => multiply_in_f32(bf16.avx512(), precision, x, weight),
    }
}

/// The rows rounded to `bf16`, kept in `f32`.
fn round_to_bf16<S: Simd>(simd: S, x: Rows<'_>) -> Vec<f32> {
    struct Round<'a, 'o>(Rows<'a>, usize, &'o mut [MaybeUninit<f32>]);
    impl Vectorized for Round<'_, '_> {
        type Output = ();
        #[inline(always)]
        fn vectorized<S: Simd>(self, _: S) {
            for (i, out) in self.2.chunks_exact_mut(self.0.width).enumerate() {
                for (out, &x) in out.iter_mut().zip(self.0.row(self.1 + i)) {
                    out.write(bf16::from_f32(x).to_f32());
                }
            }
        }
    }
    // SAFETY: `Round` writes every place of every row.
    unsafe { build(x.count, x.width, |first, out| simd.run(Round(x, first, out))) }
}

/// The rows rounded to `bf16`, in pairs.
#[cfg(target_arch = "x86_64")]
fn round_to_pairs(bf16: Avx512Bf16, x: Rows<'_>) -> Vec<u32> {
    struct Round<'a, 'o>(Avx512Bf16, Rows<'a>, usize, &'o mut [MaybeUninit<u32>]);
    impl Vectorized for Round<'_, '_> {
        type Output = ();
        #[inline(always)]
        fn vectorized<S: Simd>(self, _: S) {
            for (i, out) in self.3.chunks_exact_mut(self.1.width.div_ceil(2)).enumerate() {
                self.0.round_pairs(self.1.row(self.2 + i), out);
            }
        }
    }
    // SAFETY: `round_pairs` writes every place of a row.
    unsafe { build(x.count, x.width.div_ceil(2), |first, out| bf16.run(Round(bf16, x, first, out))) }
}
