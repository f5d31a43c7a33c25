//! Sixteen lanes as an array: loops of fixed length, which the compiler turns into what vectors the target has.

use super::{LANES, Simd};
use crate::kernels::tier::Vectorized;
use std::mem::MaybeUninit;

/// Needs no instruction beyond the target's baseline.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Portable;

/// Where the baseline has no fused multiply-add, `f32::mul_add` would be a call into the C library.
const FUSED: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

#[derive(Clone, Copy)]
#[repr(align(64))]
pub(in crate::kernels) struct Array([f32; LANES]);

#[inline(always)]
fn zip(a: Array, b: Array, f: impl Fn(f32, f32) -> f32) -> Array {
    let mut out = a;
    for i in 0..LANES {
        out.0[i] = f(a.0[i], b.0[i]);
    }
    out
}

impl Simd for Portable {
    type V = Array;

    const TILE_VECTORS: usize = 1;
    const TILE_ROWS: usize = if cfg!(target_arch = "aarch64") { 6 } else { 2 };
    const WIDE_TILE_ROWS: usize = if cfg!(target_arch = "aarch64") { 2 } else { 1 };
    const SMALL_TILE_VECTORS: usize = 1;
    const SMALL_TILE_ROWS: usize = Self::TILE_ROWS;

    #[inline(always)]
    fn run<T: Vectorized>(self, task: T) -> T::Output {
        task.vectorized(self)
    }

    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> Array {
        // SAFETY: sixteen values are readable by the caller's promise.
        Array(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store_ptr(self, v: Array, to: *mut f32) {
        // SAFETY: sixteen values are writable by the caller's promise.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(v.0) }
    }

    #[inline(always)]
    unsafe fn widen_ptr(self, from: *const u32) -> (Array, Array) {
        // SAFETY: sixteen pairs are readable by the caller's promise.
        let pairs = unsafe { from.cast::<[u32; LANES]>().read_unaligned() };
        let first = pairs.map(|pair| f32::from_bits(pair << 16));
        let second = pairs.map(|pair| f32::from_bits(pair & 0xffff_0000));
        (Array(first), Array(second))
    }

    #[inline(always)]
    fn load_partial(self, from: &[f32]) -> Array {
        let mut lanes = [0.0; LANES];
        lanes[..from.len()].copy_from_slice(from);
        Array(lanes)
    }

    #[inline(always)]
    fn store_partial(self, v: Array, to: &mut [MaybeUninit<f32>]) {
        for (to, lane) in to.iter_mut().zip(v.0) {
            to.write(lane);
        }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Array {
        Array([x; LANES])
    }

    #[inline(always)]
    fn add(self, a: Array, b: Array) -> Array {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Array, b: Array) -> Array {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Array, b: Array) -> Array {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Array, b: Array) -> Array {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, a: Array, b: Array, c: Array) -> Array {
        let mut out = c;
        for i in 0..LANES {
            out.0[i] = if FUSED { a.0[i].mul_add(b.0[i], c.0[i]) } else { a.0[i] * b.0[i] + c.0[i] };
        }
        out
    }

    #[inline(always)]
    fn max(self, a: Array, b: Array) -> Array {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Array, b: Array) -> Array {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn scale_exp2(self, a: Array, n: Array) -> Array {
        zip(a, n, |a, n| {
            // In two steps, since 2^n itself may not be a normal number.
            let n = n as i32;
            let power = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
            a * power(n >> 1) * power(n - (n >> 1))
        })
    }

    #[inline(always)]
    fn sum(self, v: Array) -> f32 {
        let mut lanes = v.0;
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
        }
        lanes[0]
    }

    #[inline(always)]
    fn transpose(self, rows: [Array; LANES]) -> [Array; LANES] {
        super::transpose_by_lanes(self, rows)
    }

    #[inline(always)]
    fn largest(self, v: Array) -> f32 {
        v.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}
