//! A linear layer whose weight never changes.

use super::gemm::{BranchRows, multiply};
use super::low_rank::AdaptedRows;
use super::pack::{PackedMatrix, Precision};
use super::rows::{Rows, readable};
use super::threads::least_items;
use super::tier::Tier;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;
use std::fmt;
use std::sync::{Arc, OnceLock};

const OP: &str = "frozen linear";
/// Rows of a weight that one task reads.
const ROWS_TOGETHER: usize = 16;

/// `y = x W^T` with a constant `W`, packed once; gradients flow to `x` alone.
///
/// A clone shares the weights. The weights' transpose, which the gradient multiplies with, is packed at the first
/// backward pass and doubles the layer's memory from then on.
#[derive(Clone)]
pub struct FrozenLinear {
    weights: Arc<Weights>,
}

struct Weights {
    forward: PackedMatrix,
    transposed: OnceLock<PackedMatrix>,
    precision: Precision,
    tier: Tier,
}

impl FrozenLinear {
    /// Packs `weight`, a CPU tensor `[n, k]` of `f32`, `f16` or `bf16`, for products of the given precision.
    ///
    /// A `bf16` weight is stored as such for either precision, since widening it is exact.
    ///
    /// # Errors
    /// If the tensor is not a matrix with at least one row and column, is of another type, or is not on the CPU.
    pub fn from_tensor(weight: &Tensor, precision: Precision) -> Result<Self> {
        Self::with_tier(weight, precision, Tier::detect())
    }

    /// [`Self::from_tensor`] with the instructions to use, for comparing tiers.
    ///
    /// # Errors
    /// As [`Self::from_tensor`].
    pub fn with_tier(weight: &Tensor, precision: Precision, tier: Tier) -> Result<Self> {
        let (n, k) = weight.dims2()?;
        if n == 0 || k == 0 {
            bail!("{OP}: expected a weight with rows and columns, found {n} x {k}");
        }
        let weight = weight.contiguous()?;
        let (storage, layout) = weight.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            bail!("{OP}: expected a weight on the cpu, found {:?}", weight.device().location())
        };
        let start = layout.start_offset();
        let at = |o: usize, i: usize| start + o * k + i;
        let forward = match (storage, precision) {
            (CpuStorage::BF16(w), _) => PackedMatrix::bf16(n, k, |o, i| w[at(o, i)]),
            (CpuStorage::F16(w), Precision::F32) => PackedMatrix::f32(n, k, |o, i| w[at(o, i)].to_f32()),
            (CpuStorage::F32(w), Precision::F32) => PackedMatrix::f32(n, k, |o, i| w[at(o, i)]),
            (CpuStorage::F16(w), Precision::Bf16) => {
                PackedMatrix::bf16(n, k, |o, i| half::bf16::from_f32(w[at(o, i)].to_f32()))
            }
            (CpuStorage::F32(w), Precision::Bf16) => {
                PackedMatrix::bf16(n, k, |o, i| half::bf16::from_f32(w[at(o, i)]))
            }
            _ => bail!("{OP}: expected a weight of f32, f16 or bf16, found {:?}", weight.dtype()),
        };
        Ok(Self::of(forward, precision, tier))
    }

    /// Outputs, `n`.
    pub fn out_features(&self) -> usize {
        self.weights.forward.outputs
    }

    /// Inputs, `k`.
    pub fn in_features(&self) -> usize {
        self.weights.forward.inputs
    }

    /// Rows of the weight, `[rows, k]` in `f32`.
    ///
    /// # Errors
    /// If a row does not exist.
    pub fn weight_rows(&self, rows: &[u32]) -> Result<Tensor> {
        let (n, k) = (self.out_features(), self.in_features());
        if let Some(row) = rows.iter().find(|&&row| row as usize >= n) {
            bail!("{OP}: expected a row below {n}, found {row}");
        }
        let mut values = vec![0.0; rows.len() * k];
        values
            .par_chunks_mut(k)
            .zip(rows)
            .with_min_len(least_items(ROWS_TOGETHER))
            .for_each(|(values, &row)| self.packed().copy_row(row as usize, values));
        Tensor::from_vec(values, (rows.len(), k), &Device::Cpu)
    }

    /// How the layer multiplies.
    pub fn precision(&self) -> Precision {
        self.weights.precision
    }

    /// `x W^T` for `x: [.., k]` of `f32` on the CPU, as `[.., n]`.
    ///
    /// # Errors
    /// If `x` has another last dimension, type or device.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        readable(OP, x)?.apply_op1(Multiply { weights: self.weights.clone(), transposed: false })
    }

    /// [`Self::forward`] with the branches of some rows added: ranges in order that do not overlap.
    ///
    /// # Errors
    /// As [`Self::forward`], or if a range or a branch does not fit.
    pub fn forward_adapted(&self, x: &Tensor, adapted: &Arc<[AdaptedRows]>) -> Result<Tensor> {
        if adapted.is_empty() {
            return self.forward(x);
        }
        let mut end = 0;
        let (rows, _) = x.dims2()?;
        for AdaptedRows { start, len, branch, .. } in adapted.iter() {
            if *start < end || start + len > rows || !branch.fits(self) {
                bail!(
                    "{OP}: expected rows from {end} to {rows} and branches of {} inputs, found {len} from {start} and {branch:?}",
                    self.in_features()
                );
            }
            end = start + len;
        }
        readable(OP, x)?.apply_op1(MultiplyAdapted { layer: self.clone(), adapted: adapted.clone() })
    }

    /// From the gradient of [`Self::forward_adapted`]'s result `[m, n]`, that of `x`, `[m, k]`. Where the gradients of
    /// a branch's factors are summed up, `x` itself is needed.
    ///
    /// # Errors
    /// As [`Self::forward_adapted`], or if `x` is needed and missing.
    pub fn gradient_adapted(
        &self,
        grad: &Tensor,
        adapted: &[AdaptedRows],
        x: Option<&Tensor>,
    ) -> Result<Tensor> {
        let to_x = self.gradient(grad)?;
        for rows in adapted {
            rows.add_gradient(&to_x, grad, x)?;
        }
        Ok(to_x)
    }

    /// `grad W`: from the gradient of the result `[.., n]`, that of `x`, `[.., k]`.
    ///
    /// # Errors
    /// As [`Self::forward`], for `n`.
    pub fn gradient(&self, grad: &Tensor) -> Result<Tensor> {
        let back = Multiply { weights: self.weights.clone(), transposed: true };
        readable(OP, grad)?.apply_op1_no_bwd(&back)
    }

    /// Packs what [`Self::gradient`] multiplies with, if it is not there yet: to be called where threads share, before
    /// gradients are taken on each of them alone.
    pub(crate) fn prepare_gradient(&self) {
        let Weights { forward, transposed, .. } = &*self.weights;
        transposed.get_or_init(|| forward.transposed());
    }

    /// The packed weights.
    pub(super) fn packed(&self) -> &PackedMatrix {
        &self.weights.forward
    }

    fn of(forward: PackedMatrix, precision: Precision, tier: Tier) -> Self {
        Self { weights: Arc::new(Weights { forward, transposed: OnceLock::new(), precision, tier }) }
    }
}

impl fmt::Debug for FrozenLinear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrozenLinear")
            .field("out_features", &self.out_features())
            .field("in_features", &self.in_features())
            .field("precision", &self.precision())
            .finish_non_exhaustive()
    }
}

/// The product with a layer's weights, or with their transpose.
struct Multiply {
    weights: Arc<Weights>,
    transposed: bool,
}

impl CustomOp1 for Multiply {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Weights { forward, transposed, precision, tier } = &*self.weights;
        let matrix = if self.transposed { transposed.get_or_init(|| forward.transposed()) } else { forward };
        let x = Rows::new(OP, storage, layout)?;
        if x.width != matrix.inputs {
            bail!("{OP}: expected {} features, found {}", matrix.inputs, x.width);
        }
        let mut dims = layout.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = matrix.outputs;
        }
        Ok((CpuStorage::F32(multiply(*tier, *precision, x, matrix, &[])), Shape::from(dims)))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let back = Self { weights: self.weights.clone(), transposed: !self.transposed };
        Ok(Some(readable(OP, grad)?.apply_op1_no_bwd(&back)?))
    }
}

/// The product with a layer's weights, and the branches of some rows.
struct MultiplyAdapted {
    layer: FrozenLinear,
    adapted: Arc<[AdaptedRows]>,
}

impl CustomOp1 for MultiplyAdapted {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Weights { forward, precision, tier, .. } = &*self.layer.weights;
        let x = Rows::new(OP, storage, layout)?;
        if x.width != forward.inputs {
            bail!("{OP}: expected {} features, found {}", forward.inputs, x.width);
        }
        let branches: Vec<BranchRows<'_>> = self.adapted.iter().map(AdaptedRows::branch_rows).collect();
        let y = multiply(*tier, *precision, x, forward, &branches);
        Ok((CpuStorage::F32(y), Shape::from((x.count, forward.outputs))))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        self.layer.gradient_adapted(&readable(OP, grad)?, &self.adapted, Some(x)).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::super::oracle::*;
    use super::*;
    use candle_core::DType;

    const SHAPES: [(usize, usize); 7] =
        [(1, 1), (47, 3), (48, 33), (49, 2), (100, 64), (192, 576), (16, 131)];

    /// The operands as the products see them.
    fn rounded(x: &Tensor, precision: Precision) -> Tensor {
        match precision {
            Precision::F32 => x.clone(),
            Precision::Bf16 => x.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap(),
        }
    }

    fn each_case(check: impl Fn(&str, &FrozenLinear, &Tensor)) {
        for tier in Tier::available() {
            for (n, k) in SHAPES {
                let w = noise(n, k, 1);
                for precision in [Precision::F32, Precision::Bf16] {
                    let layer = FrozenLinear::with_tier(&w, precision, tier).unwrap();
                    check(&format!("{} {precision:?} {n}x{k}", tier.name()), &layer, &w);
                }
            }
        }
    }

    #[test]
    fn agrees_with_matmul() {
        each_case(|case, layer, w| {
            for m in (1..=20).chain([64]) {
                let x = noise(m, layer.in_features(), 2);
                let (wr, xr) = (rounded(w, layer.precision()), rounded(&x, layer.precision()));
                let expected = xr.matmul(&wr.t().unwrap()).unwrap();
                assert_close(&layer.forward(&x).unwrap(), &expected, 1e-5, &format!("{case} m={m}"));
            }
        });
    }

    #[test]
    fn a_long_contraction_is_taken_up_exactly_where_it_paused() {
        // 4101 inputs are five blocks of f32 panel rows and three of bf16 pairs.
        let (m, k) = (10, 4101);
        let (w, x) = (noise(50, k, 1), noise(m, k, 2));
        for tier in Tier::available() {
            for precision in [Precision::F32, Precision::Bf16] {
                let layer = FrozenLinear::with_tier(&w, precision, tier).unwrap();
                let expected = rounded(&x, precision).matmul(&rounded(&w, precision).t().unwrap()).unwrap();
                assert_close(&layer.forward(&x).unwrap(), &expected, 1e-5, tier.name());
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_batch() {
        each_case(|case, layer, _| {
            let all = noise(600, layer.in_features(), 3);
            let expected = bits(&layer.forward(&all).unwrap());
            let n = layer.out_features();
            for threads in [1, 2] {
                for (start, m) in
                    [(0, 1), (5, 1), (7, 2), (3, 8), (1, 9), (2, 10), (11, 64), (0, 600), (599, 1)]
                {
                    let x = all.narrow(0, start, m).unwrap();
                    let y = with_threads(threads, || bits(&layer.forward(&x).unwrap()));
                    assert!(
                        y[..] == expected[start * n..(start + m) * n],
                        "{case} rows {start}+{m} threads {threads}"
                    );
                }
            }
        });
    }

    #[test]
    fn widened_weights_change_no_bit_of_an_f32_product() {
        for tier in Tier::available() {
            for (n, k) in SHAPES {
                let w = noise(n, k, 1).to_dtype(DType::BF16).unwrap();
                let x = noise(13, k, 2);
                let product = |w: &Tensor| {
                    bits(&FrozenLinear::with_tier(w, Precision::F32, tier).unwrap().forward(&x).unwrap())
                };
                assert_eq!(product(&w), product(&w.to_dtype(DType::F32).unwrap()), "{} {n}x{k}", tier.name());
            }
        }
    }

    #[test]
    fn gradient_agrees_with_matmul() {
        each_case(|case, layer, w| {
            let x = noise(5, layer.in_features(), 4);
            let found = gradients(std::slice::from_ref(&x), |x| layer.forward(&x[0]).unwrap());
            let (wr, g) = (rounded(w, layer.precision()), noise(1, 5 * layer.out_features(), 99));
            let g = rounded(&g.reshape((5, layer.out_features())).unwrap(), layer.precision());
            assert_close(&found[0], &g.matmul(&wr).unwrap(), 1e-5, case);
        });
    }

    #[test]
    fn gradient_agrees_with_differences() {
        let layer = FrozenLinear::from_tensor(&noise(49, 33, 1), Precision::F32).unwrap();
        assert_gradients_match_differences(&[noise(6, 33, 2)], 1e-4, |x| layer.forward(&x[0]).unwrap());
    }

    #[test]
    fn reads_strided_and_transposed_and_batched_inputs() {
        let layer = FrozenLinear::from_tensor(&noise(20, 8, 1), Precision::F32).unwrap();
        let wide = noise(6, 24, 2);
        let columns = wide.narrow(1, 8, 8).unwrap();
        let expected = layer.forward(&columns.contiguous().unwrap()).unwrap();
        assert_eq!(bits(&layer.forward(&columns).unwrap()), bits(&expected));
        let transposed = columns.t().unwrap().contiguous().unwrap().t().unwrap();
        assert_eq!(bits(&layer.forward(&transposed).unwrap()), bits(&expected));
        let batched = columns.contiguous().unwrap().reshape((2, 3, 8)).unwrap();
        let y = layer.forward(&batched).unwrap();
        assert_eq!((y.dims(), bits(&y)), (&[2, 3, 20][..], bits(&expected)));
        assert_eq!(layer.forward(&noise(0, 8, 1)).unwrap().dims(), [0, 20]);
    }

    #[test]
    fn refuses_other_shapes_and_types() {
        let w = noise(20, 8, 1);
        let layer = FrozenLinear::from_tensor(&w, Precision::F32).unwrap();
        assert!(layer.forward(&noise(2, 9, 1)).is_err());
        assert!(layer.forward(&noise(2, 8, 1).to_dtype(DType::F64).unwrap()).is_err());
        assert!(FrozenLinear::from_tensor(&w.to_dtype(DType::F64).unwrap(), Precision::F32).is_err());
        assert!(FrozenLinear::from_tensor(&w.flatten_all().unwrap(), Precision::F32).is_err());
        assert!(FrozenLinear::from_tensor(&noise(0, 8, 1), Precision::F32).is_err());
    }
}
