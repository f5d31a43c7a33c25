//! The product of a few or many rows with a packed weight.

use super::block::{Left, product};
use super::low_rank::{Adapted, Right};
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
use std::ops::Range;

/// Rows with a low-rank branch.
pub(super) struct BranchRows<'a> {
    pub(super) rows: Range<usize>,
    pub(super) scale: f32,
    /// The left factor, `[rank, inputs]`.
    pub(super) a: &'a PackedMatrix,
    pub(super) right: &'a Right,
}

/// `x W^T`: `x` is `[m, inputs]`, the result `[m, outputs]`, row by row. Rows with a branch have it added.
pub(super) fn multiply(
    tier: Tier,
    precision: Precision,
    x: Rows<'_>,
    weight: &PackedMatrix,
    branches: &[BranchRows<'_>],
) -> Vec<f32> {
    match tier.kind() {
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512Bf16(bf16) => multiply_with_bf16_dot(bf16, precision, x, weight, branches),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512(simd) => multiply_in_f32(simd, precision, x, weight, branches),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2(simd) => multiply_in_f32(simd, precision, x, weight, branches),
        Kind::Portable => multiply_in_f32(Portable, precision, x, weight, branches),
    }
}

/// Without a `bf16` dot product, rounded operands are multiplied in `f32`.
fn multiply_in_f32<S: Simd>(
    simd: S,
    precision: Precision,
    x: Rows<'_>,
    weight: &PackedMatrix,
    branches: &[BranchRows<'_>],
) -> Vec<f32> {
    let rounded;
    let x = match precision {
        Precision::F32 => x,
        Precision::Bf16 => {
            rounded = round_to_bf16(simd, x);
            Rows::of_slice(&rounded, x.width)
        }
    };
    let left = Left { elements: x.data(), stride: x.stride, rows: x.count, depth: x.width };
    let branch_lefts = branches
        .iter()
        .map(|branch| scaled(branch, product_in_f32(simd, left.part(&branch.rows), branch.a, &[])))
        .collect::<Vec<_>>();
    product_in_f32(simd, left, weight, &adapted(branches, &branch_lefts))
}

fn product_in_f32<S: Simd>(
    simd: S,
    left: Left<'_, f32>,
    matrix: &PackedMatrix,
    adapted: &[Adapted<'_>],
) -> Vec<f32> {
    match &matrix.panels {
        Panels::F32(panels) => product(Single(simd), left, panels, matrix.outputs, adapted),
        Panels::Bf16(panels) => product(Widened(simd), left, panels, matrix.outputs, adapted),
    }
}

#[cfg(target_arch = "x86_64")]
fn multiply_with_bf16_dot(
    bf16: Avx512Bf16,
    precision: Precision,
    x: Rows<'_>,
    weight: &PackedMatrix,
    branches: &[BranchRows<'_>],
) -> Vec<f32> {
    let (Precision::Bf16, Panels::Bf16(panels)) = (precision, &weight.panels) else {
        return multiply_in_f32(bf16.avx512(), precision, x, weight, branches);
    };
    let depth = x.width.div_ceil(2);
    let pairs = round_to_pairs(bf16, x);
    let left = Left { elements: &pairs, stride: depth, rows: x.count, depth };
    let branch_lefts = branches
        .iter()
        .map(|branch| {
            scaled(
                branch,
                match &branch.a.panels {
                    Panels::Bf16(panels) => {
                        product(Bf16Dot(bf16), left.part(&branch.rows), panels, branch.a.outputs, &[])
                    }
                    Panels::F32(_) => {
                        multiply_in_f32(bf16.avx512(), precision, x.part(&branch.rows), branch.a, &[])
                    }
                },
            )
        })
        .collect::<Vec<_>>();
    product(Bf16Dot(bf16), left, panels, weight.outputs, &adapted(branches, &branch_lefts))
}

/// The left half of a branch at its strength.
fn scaled(branch: &BranchRows<'_>, mut left: Vec<f32>) -> Vec<f32> {
    if branch.scale.to_bits() != 1f32.to_bits() {
        left.iter_mut().for_each(|x| *x *= branch.scale);
    }
    left
}

/// Branches with their left halves.
fn adapted<'a>(branches: &[BranchRows<'a>], lefts: &'a [Vec<f32>]) -> Vec<Adapted<'a>> {
    let with_left = |(branch, left): (&BranchRows<'a>, &'a Vec<f32>)| Adapted {
        rows: branch.rows.clone(),
        left: Rows::of_slice(left, branch.a.outputs),
        right: branch.right,
    };
    branches.iter().zip(lefts).map(with_left).collect()
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
