//! Weights laid out once, at load, in the order in which the matrix product reads them.
//!
//! A weight `[n, k]` becomes panels of 48 outputs: panel `p` holds, for each input in turn, the 48 weights of the
//! outputs `48p..48p + 48`. The product then streams a panel from start to end. `bf16` weights are kept in pairs of
//! neighbouring inputs, the order of the hardware's dot product. The last panel is padded with zero outputs, an odd
//! `k` with a zero input.

use super::threads::least_items;
use half::bf16;
use rayon::prelude::*;

/// Outputs of a panel: three vectors, the width of the register tile.
pub(super) const PANEL: usize = 48;

/// How a frozen product computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Operands and sums in `f32`.
    F32,
    /// Both operands rounded to `bf16`, sums in `f32`: exact for weights published in `bf16`, and the activations
    /// lose what is past eight bits at the inputs of products only.
    Bf16,
}

/// The weights of one panel for one input, or for one pair of inputs (the earlier in the low half).
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct PanelRow<T>(pub(super) [T; PANEL]);

/// A weight matrix `[outputs, inputs]` in panels.
pub(super) struct PackedMatrix {
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    pub(super) panels: Panels,
}

/// `[panel][input]` or `[panel][pair of inputs]`.
pub(super) enum Panels {
    F32(Vec<PanelRow<f32>>),
    Bf16(Vec<PanelRow<u32>>),
}

impl PackedMatrix {
    /// Packs as `f32` the matrix whose element of output `o` and input `i` is `weight(o, i)`.
    pub(super) fn f32(outputs: usize, inputs: usize, weight: impl Fn(usize, usize) -> f32 + Sync) -> Self {
        let panels = fill(outputs, inputs, 0.0, weight);
        Self { outputs, inputs, panels: Panels::F32(panels) }
    }

    /// Packs as `bf16`.
    pub(super) fn bf16(outputs: usize, inputs: usize, weight: impl Fn(usize, usize) -> bf16 + Sync) -> Self {
        let bits = |o, i| u32::from(weight(o, i).to_bits());
        let panels = fill(outputs, inputs.div_ceil(2), 0, |o, pair| {
            bits(o, 2 * pair) | if 2 * pair + 1 < inputs { bits(o, 2 * pair + 1) << 16 } else { 0 }
        });
        Self { outputs, inputs, panels: Panels::Bf16(panels) }
    }

    /// The weight of output `o` and input `i`.
    pub(super) fn weight(&self, o: usize, i: usize) -> f32 {
        match &self.panels {
            Panels::F32(rows) => rows[o / PANEL * self.inputs + i].0[o % PANEL],
            Panels::Bf16(rows) => pair_member(rows, self.inputs, o, i).to_f32(),
        }
    }

    /// Copies the weights of output `o`.
    pub(super) fn copy_row(&self, o: usize, into: &mut [f32]) {
        let (panel, column) = (o / PANEL, o % PANEL);
        match &self.panels {
            Panels::F32(rows) => {
                let own = &rows[panel * self.inputs..(panel + 1) * self.inputs];
                into.iter_mut().zip(own).for_each(|(to, row)| *to = row.0[column]);
            }
            Panels::Bf16(rows) => {
                let pairs = self.inputs.div_ceil(2);
                let own = &rows[panel * pairs..(panel + 1) * pairs];
                for (to, row) in into.chunks_mut(2).zip(own) {
                    let pair = row.0[column];
                    to[0] = bf16::from_bits(pair as u16).to_f32();
                    if let Some(second) = to.get_mut(1) {
                        *second = bf16::from_bits((pair >> 16) as u16).to_f32();
                    }
                }
            }
        }
    }

    /// The same numbers as `[inputs, outputs]`, for the gradient.
    pub(super) fn transposed(&self) -> Self {
        match &self.panels {
            Panels::F32(_) => Self::f32(self.inputs, self.outputs, |o, i| self.weight(i, o)),
            Panels::Bf16(rows) => {
                Self::bf16(self.inputs, self.outputs, |o, i| pair_member(rows, self.inputs, i, o))
            }
        }
    }
}

fn pair_member(rows: &[PanelRow<u32>], inputs: usize, o: usize, i: usize) -> bf16 {
    let pair = rows[o / PANEL * inputs.div_ceil(2) + i / 2].0[o % PANEL];
    bf16::from_bits(if i.is_multiple_of(2) { pair as u16 } else { (pair >> 16) as u16 })
}

/// Panels of `outputs` outputs and `steps` rows each, `zero` past the last output.
fn fill<T: Copy + Send + Sync>(
    outputs: usize,
    steps: usize,
    zero: T,
    place: impl Fn(usize, usize) -> T + Sync,
) -> Vec<PanelRow<T>> {
    let mut rows = vec![PanelRow([zero; PANEL]); outputs.div_ceil(PANEL) * steps];
    let panels = rows.par_chunks_mut(steps.max(1)).enumerate();
    panels.with_min_len(least_items(1)).for_each(|(panel, rows)| {
        let first = panel * PANEL;
        for column in 0..PANEL.min(outputs - first) {
            for (step, row) in rows.iter_mut().enumerate() {
                row.0[column] = place(first + column, step);
            }
        }
    });
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(o: usize, i: usize) -> f32 {
        // Whole numbers up to 256 are exact in bf16.
        ((o * 7 + i * 3) % 251) as f32 - 125.0
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "packing moves numbers and computes none")]
    fn every_weight_is_found_again() {
        for (outputs, inputs) in [(1, 1), (47, 3), (48, 4), (49, 33), (100, 2)] {
            let f32 = PackedMatrix::f32(outputs, inputs, weight);
            let bf16 = PackedMatrix::bf16(outputs, inputs, |o, i| bf16::from_f32(weight(o, i)));
            let (f32_t, bf16_t) = (f32.transposed(), bf16.transposed());
            for o in 0..outputs {
                for packed in [&f32, &bf16] {
                    let mut row = vec![f32::NAN; inputs];
                    packed.copy_row(o, &mut row);
                    assert_eq!(row, (0..inputs).map(|i| weight(o, i)).collect::<Vec<_>>());
                }
                for i in 0..inputs {
                    let expected = weight(o, i);
                    for packed in [&f32, &bf16] {
                        assert_eq!(packed.weight(o, i), expected);
                    }
                    for packed in [&f32_t, &bf16_t] {
                        assert_eq!(packed.weight(i, o), expected);
                    }
                }
            }
        }
    }

    #[test]
    fn panels_are_aligned_and_padded_with_zeros() {
        let packed = PackedMatrix::bf16(50, 3, |_, _| bf16::ONE);
        let Panels::Bf16(rows) = &packed.panels else { panic!("packed as bf16") };
        assert_eq!(rows.len(), 2 * 2);
        assert_eq!(rows.as_ptr().align_offset(64), 0);
        let one = u32::from(bf16::ONE.to_bits());
        assert_eq!(rows[2].0[..2], [one | one << 16; 2]);
        assert_eq!(rows[3].0[..2], [one; 2], "the padded input");
        assert_eq!(rows[2].0[2..], [0; 46], "the padded outputs");
    }
}
