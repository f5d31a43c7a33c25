//! Rotary position embedding.

use super::rows::{Rows, build, readable};
use super::simd::{LANES, Simd};
use super::threads::least_items;
use super::tier::{Tier, Vectorized};
use candle_core::{CpuStorage, CustomOp1, InplaceOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::sync::Arc;

const OP: &str = "rotary embedding";

/// Cosines and sines of the rotation angles, for each position and each pair of features.
///
/// Which frequencies (base, scaling for long contexts) is the caller's business.
#[derive(Clone, Debug)]
pub struct RotaryTable {
    cos: Arc<[f32]>,
    sin: Arc<[f32]>,
    pairs: usize,
}

impl RotaryTable {
    /// From `cos` and `sin`, both `[max_positions, pairs]` row by row.
    ///
    /// # Errors
    /// If the lengths differ, or are not a multiple of `pairs`.
    pub fn new(cos: Arc<[f32]>, sin: Arc<[f32]>, pairs: usize) -> Result<Self> {
        if pairs == 0 || cos.len() != sin.len() || !cos.len().is_multiple_of(pairs) {
            bail!(
                "{OP}: expected tables of equal length, a multiple of {pairs}, found {} and {}",
                cos.len(),
                sin.len()
            );
        }
        Ok(Self { cos, sin, pairs })
    }

    /// Positions that the table covers.
    pub fn max_positions(&self) -> usize {
        self.cos.len() / self.pairs
    }
}

/// Rotates the heads of each row of `x: [m, heads * head_dim]` by the row's position
/// (Su et al. 2021, <https://arxiv.org/abs/2104.09864>), in the half-split arrangement of the Llama family: feature
/// `j` of a head turns with feature `j + pairs`. Features from `2 * pairs` on pass unchanged. Gradients flow to `x`.
///
/// # Errors
/// If the width is not a multiple of `head_dim`, the heads are smaller than the rotation, there is not one position
/// for each row, a position is not in the table, or `x` is not `f32` on the CPU.
pub fn rope(x: &Tensor, head_dim: usize, positions: &Arc<[u32]>, table: &RotaryTable) -> Result<Tensor> {
    rope_on(Tier::detect(), x, head_dim, positions, table)
}

/// Turns the gradient of rotated heads into that of the heads before, in place: the first `width` features of each
/// row of `grad: [m, at least width]`, contiguous, are rotated back. `grad` must not be shared.
///
/// # Errors
/// As [`rope`], or if a row has fewer than `width` features.
pub fn rope_back_in_place(
    grad: &Tensor,
    width: usize,
    head_dim: usize,
    positions: &Arc<[u32]>,
    table: &RotaryTable,
) -> Result<()> {
    let (rows, row_width) = grad.dims2()?;
    if width > row_width {
        bail!("{OP}: expected rows of at least {width}, found {row_width}");
    }
    let rotation = checked(Tier::detect(), (rows, width), head_dim, positions, table)?;
    grad.inplace_op1(&RotateBack { rotation: Rotation { direction: Direction::Back, ..rotation }, width })
}

fn rope_on(
    tier: Tier,
    x: &Tensor,
    head_dim: usize,
    positions: &Arc<[u32]>,
    table: &RotaryTable,
) -> Result<Tensor> {
    let rotation = checked(tier, x.dims2()?, head_dim, positions, table)?;
    readable(OP, x)?.apply_op1(rotation)
}

/// The rotation of `[rows, width]`, if everything fits.
fn checked(
    tier: Tier,
    (rows, width): (usize, usize),
    head_dim: usize,
    positions: &Arc<[u32]>,
    table: &RotaryTable,
) -> Result<Rotation> {
    if head_dim < 2 * table.pairs || !width.is_multiple_of(head_dim) {
        let rotated = 2 * table.pairs;
        bail!("{OP}: expected rows of heads of {head_dim}, of which {rotated} turn, found rows of {width}");
    }
    if positions.len() != rows {
        bail!("{OP}: expected {rows} positions, found {}", positions.len());
    }
    if let Some(position) = positions.iter().find(|&&p| p as usize >= table.max_positions()) {
        bail!("{OP}: expected a position below {}, found {position}", table.max_positions());
    }
    Ok(Rotation {
        head_dim,
        positions: positions.clone(),
        table: table.clone(),
        direction: Direction::Forward,
        tier,
    })
}

/// The gradient of a rotation is the rotation back.
#[derive(Clone, Copy)]
enum Direction {
    Forward,
    Back,
}

#[derive(Clone)]
struct Rotation {
    head_dim: usize,
    positions: Arc<[u32]>,
    table: RotaryTable,
    direction: Direction,
    tier: Tier,
}

impl CustomOp1 for Rotation {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = Rows::new(OP, storage, layout)?;
        if x.count != self.positions.len() {
            bail!("{OP}: expected {} rows, found {}", self.positions.len(), x.count);
        }
        // SAFETY: `Rotate` writes every place of every row, since heads divide a row.
        let y = unsafe {
            build(x.count, x.width, |first, out| {
                self.tier.run(Rotate { rotation: self, x, position: 0, first, out })
            })
        };
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let direction = match self.direction {
            Direction::Forward => Direction::Back,
            Direction::Back => Direction::Forward,
        };
        Ok(Some(readable(OP, grad)?.apply_op1_no_bwd(&Self { direction, ..self.clone() })?))
    }
}

/// [`Rotation`] of the first features of each row, in place.
struct RotateBack {
    rotation: Rotation,
    width: usize,
}

impl InplaceOp1 for RotateBack {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let row_width = layout.dims().last().copied().unwrap_or(0);
        let (CpuStorage::F32(data), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            bail!("{OP}: expected contiguous f32 rows")
        };
        let rows = data[start..end].par_chunks_exact_mut(row_width.max(1)).enumerate();
        rows.with_min_len(least_items(32)).for_each_init(Vec::new, |from, (i, row)| {
            let row = &mut row[..self.width];
            from.clear();
            from.extend_from_slice(row);
            // SAFETY: `f32` and `MaybeUninit<f32>` have one layout, and `Rotate` writes no other value than an `f32`.
            let out = unsafe { &mut *(std::ptr::from_mut(row) as *mut [MaybeUninit<f32>]) };
            let x = Rows::of_slice(from, self.width);
            self.rotation.tier.run(Rotate { rotation: &self.rotation, x, position: i, first: 0, out });
        });
        Ok(())
    }
}

struct Rotate<'a, 'o> {
    rotation: &'a Rotation,
    x: Rows<'a>,
    /// Index of the first row's position, less `first`.
    position: usize,
    first: usize,
    out: &'o mut [MaybeUninit<f32>],
}

impl Vectorized for Rotate<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn vectorized<S: Simd>(self, s: S) {
        let Rotation { head_dim, positions, table: RotaryTable { cos, sin, pairs }, direction, .. } =
            self.rotation;
        let sign = s.splat(match direction {
            Direction::Forward => 1.0,
            Direction::Back => -1.0,
        });
        let minus = s.sub(s.splat(0.0), sign);
        for (i, out) in self.out.chunks_exact_mut(self.x.width).enumerate() {
            let row = self.first + i;
            let start = positions[self.position + row] as usize * pairs;
            let (cos, sin) = (&cos[start..start + pairs], &sin[start..start + pairs]);
            for (x, out) in self.x.row(row).chunks_exact(*head_dim).zip(out.chunks_exact_mut(*head_dim)) {
                let ((x1, x2), (y1, y2)) = (x.split_at(*pairs), out.split_at_mut(*pairs));
                let ((x2, rest), (y2, y_rest)) = (x2.split_at(*pairs), y2.split_at_mut(*pairs));
                for at in (0..*pairs).step_by(LANES) {
                    let (a, b) = (s.load_at(x1, at), s.load_at(x2, at));
                    let (cos, sin) = (s.load_at(cos, at), s.load_at(sin, at));
                    s.store_at(s.mul_add(a, cos, s.mul(minus, s.mul(b, sin))), y1, at);
                    s.store_at(s.mul_add(b, cos, s.mul(sign, s.mul(a, sin))), y2, at);
                }
                for (y, &x) in y_rest.iter_mut().zip(rest) {
                    y.write(x);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::oracle::*;
    use super::*;
    use candle_nn::rotary_emb::rope_slow;

    /// A table of `positions` positions with the usual frequencies.
    fn table(positions: usize, pairs: usize) -> RotaryTable {
        let angle = |i: usize| (i / pairs) as f32 / 10_000f32.powf((i % pairs) as f32 / pairs as f32);
        let of = |f: fn(f32) -> f32| (0..positions * pairs).map(|i| f(angle(i))).collect();
        RotaryTable::new(of(f32::cos), of(f32::sin), pairs).unwrap()
    }

    /// The composed form for rows at positions 0, 1, ...
    fn slow(x: &Tensor, heads: usize, table: &RotaryTable) -> Tensor {
        let (m, width) = x.dims2().unwrap();
        let of = |t: &[f32]| Tensor::from_slice(&t[..m * table.pairs], (m, table.pairs), x.device()).unwrap();
        let heads_first = x.reshape((1, m, heads, width / heads)).unwrap().transpose(1, 2).unwrap();
        let y = rope_slow(&heads_first.contiguous().unwrap(), &of(&table.cos), &of(&table.sin)).unwrap();
        y.transpose(1, 2).unwrap().reshape((m, width)).unwrap()
    }

    #[test]
    fn agrees_with_the_composed_form_forwards_and_backwards() {
        for tier in Tier::available() {
            for (heads, head_dim) in [(1, 2), (3, 10), (2, 32), (9, 64), (2, 80)] {
                let table = table(30, head_dim / 2);
                let positions: Arc<[u32]> = (0..20).collect();
                let x = [noise(20, heads * head_dim, 1)];
                let case = format!("{} {heads} heads of {head_dim}", tier.name());
                let fused = |x: &[Tensor]| rope_on(tier, &x[0], head_dim, &positions, &table).unwrap();
                let composed = |x: &[Tensor]| slow(&x[0], heads, &table);
                assert_close(&fused(&x), &composed(&x), 1e-5, &case);
                assert_close(&gradients(&x, fused)[0], &gradients(&x, composed)[0], 1e-5, &case);
            }
        }
    }

    #[test]
    fn gradient_agrees_with_differences() {
        let (table, positions): (_, Arc<[u32]>) = (table(40, 5), [3, 39, 0, 7].into());
        assert_gradients_match_differences(&[noise(4, 36, 7)], 1e-4, |x| {
            rope(&x[0], 12, &positions, &table).unwrap()
        });
    }

    #[test]
    fn turning_back_in_place_is_the_gradient() {
        let (table, positions): (_, Arc<[u32]>) = (table(40, 6), (0..40).rev().collect());
        let (x, grad) = (noise(40, 24, 1), noise(40, 30, 2));
        let seen = grad.narrow(1, 0, 24).unwrap();
        let before = grad.copy().unwrap();
        let var = candle_core::Var::from_tensor(&x).unwrap();
        let loss = (rope(var.as_tensor(), 12, &positions, &table).unwrap() * &seen.copy().unwrap()).unwrap();
        let expected = loss.sum_all().unwrap().backward().unwrap().get(&var).unwrap().clone();
        rope_back_in_place(&grad, 24, 12, &positions, &table).unwrap();
        assert_close(&grad.narrow(1, 0, 24).unwrap(), &expected, 1e-6, "rotated part");
        let rest = |x: &Tensor| bits(&x.narrow(1, 24, 6).unwrap().contiguous().unwrap());
        assert_eq!(rest(&grad), rest(&before));
        assert!(rope_back_in_place(&grad, 36, 12, &positions, &table).is_err());
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "these features are copied")]
    fn features_past_the_rotation_pass_unchanged() {
        let (table, positions): (_, Arc<[u32]>) = (table(9, 3), [8, 1].into());
        let x = noise(2, 20, 1);
        let (found, x) = (elements(&rope(&x, 10, &positions, &table).unwrap()), elements(&x));
        for head in 0..4 {
            assert_eq!(found[head * 10 + 6..head * 10 + 10], x[head * 10 + 6..head * 10 + 10]);
            assert_ne!(found[head * 10], x[head * 10]);
        }
    }

    #[test]
    fn a_row_depends_on_its_position_alone() {
        let (table, x) = (table(500, 32), noise(300, 192, 2));
        let positions: Arc<[u32]> = (0..300).map(|i| i * 7 % 500).collect();
        let whole = bits(&with_threads(1, || rope(&x, 64, &positions, &table).unwrap()));
        assert_eq!(whole, bits(&with_threads(2, || rope(&x, 64, &positions, &table).unwrap())));
        for row in [0, 33, 299] {
            let alone = rope(&x.narrow(0, row, 1).unwrap(), 64, &[positions[row]].into(), &table).unwrap();
            assert_eq!(bits(&alone), whole[row * 192..(row + 1) * 192]);
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let table = table(8, 4);
        let x = noise(2, 16, 1);
        assert!(rope(&x, 8, &[0, 7].into(), &table).is_ok());
        assert!(rope(&x, 8, &[0, 8].into(), &table).is_err(), "a position past the table");
        assert!(rope(&x, 8, &[0].into(), &table).is_err(), "one position for two rows");
        assert!(rope(&x, 6, &[0, 1].into(), &table).is_err(), "heads smaller than the rotation");
        assert!(rope(&x, 12, &[0, 1].into(), &table).is_err(), "heads that do not divide a row");
        assert!(RotaryTable::new([1.0; 8].into(), [1.0; 4].into(), 4).is_err());
        assert!(RotaryTable::new([1.0; 6].into(), [1.0; 6].into(), 4).is_err());
    }
}
