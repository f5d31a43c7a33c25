//! The little linear algebra that detectors need, on symmetric matrices of at most some dozens of rows.

/// A lower triangular factor `L` with `L Lᵀ = S`, row by row `[width * width]`.
#[derive(Clone, Debug)]
pub(super) struct Cholesky {
    width: usize,
    lower: Vec<f64>,
}

impl Cholesky {
    /// Of a symmetric matrix; `None` if it is not positive definite.
    pub(super) fn of(matrix: &[f64], width: usize) -> Option<Self> {
        let mut lower = vec![0.0; width * width];
        for i in 0..width {
            for j in 0..=i {
                let inner: f64 = (0..j).map(|k| lower[i * width + k] * lower[j * width + k]).sum();
                let rest = matrix[i * width + j] - inner;
                if i != j {
                    lower[i * width + j] = rest / lower[j * width + j];
                } else if rest > 0.0 {
                    lower[i * width + i] = rest.sqrt();
                } else {
                    return None;
                }
            }
        }
        Some(Self { width, lower })
    }

    /// `xᵀ S⁻¹ x`.
    pub(super) fn inverse_form(&self, x: &[f64]) -> f64 {
        let mut solved: Vec<f64> = Vec::with_capacity(self.width);
        for (i, x) in x.iter().enumerate() {
            let row = &self.lower[i * self.width..];
            let inner: f64 = row.iter().zip(&solved).map(|(l, y)| l * y).sum();
            solved.push((x - inner) / row[i]);
        }
        solved.iter().map(|y| y * y).sum()
    }
}

/// Turns of [`eigenvectors`]; a quadratic method needs fewer than ten.
const SWEEPS: usize = 60;

/// Eigenvalues, largest first, and eigenvectors of a symmetric matrix `[width * width]`, by Jacobi's rotations.
pub(super) fn eigenvectors(matrix: &[f64], width: usize) -> Vec<(f64, Vec<f64>)> {
    let mut a = matrix.to_vec();
    let mut vectors: Vec<f64> =
        (0..width * width).map(|i| f64::from(u8::from(i / width == i % width))).collect();
    let size: f64 = a.iter().map(|x| x * x).sum();
    for _ in 0..SWEEPS {
        let off =
            (0..width).flat_map(|i| (0..i).map(move |j| i * width + j)).map(|at| a[at] * a[at]).sum::<f64>();
        if off <= 1e-28 * size {
            break;
        }
        for p in 0..width {
            for q in p + 1..width {
                let middle = a[p * width + q];
                if middle.abs() <= f64::MIN_POSITIVE {
                    continue;
                }
                let theta = (a[q * width + q] - a[p * width + p]) / (2.0 * middle);
                let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
                let c = 1.0 / t.hypot(1.0);
                let s = t * c;
                let rotate = |x: &mut Vec<f64>, first: usize, second: usize| {
                    let (one, two) = (x[first], x[second]);
                    (x[first], x[second]) = (c * one - s * two, s * one + c * two);
                };
                (0..width).for_each(|k| rotate(&mut a, k * width + p, k * width + q));
                (0..width).for_each(|k| rotate(&mut a, p * width + k, q * width + k));
                (0..width).for_each(|k| rotate(&mut vectors, k * width + p, k * width + q));
            }
        }
    }
    let mut found: Vec<(f64, Vec<f64>)> = (0..width)
        .map(|j| (a[j * width + j], (0..width).map(|k| vectors[k * width + j]).collect()))
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const MATRIX: [f64; 9] = [4.0, 1.0, 0.5, 1.0, 3.0, -0.25, 0.5, -0.25, 2.0];

    #[test]
    fn the_inverse_form_solves() {
        let cholesky = Cholesky::of(&MATRIX, 3).unwrap();
        // x = S y, so that xᵀ S⁻¹ x = yᵀ S y.
        let y = [0.3, -1.0, 2.0];
        let image: Vec<f64> =
            MATRIX.chunks_exact(3).map(|row| row.iter().zip(&y).map(|(m, y)| m * y).sum()).collect();
        let expected: f64 = image.iter().zip(&y).map(|(x, y)| x * y).sum();
        assert!((cholesky.inverse_form(&image) - expected).abs() < 1e-12);
        assert!(Cholesky::of(&[1.0, 2.0, 2.0, 1.0], 2).is_none(), "indefinite");
        assert!(Cholesky::of(&[f64::NAN], 1).is_none());
    }

    #[test]
    fn eigenvectors_diagonalise() {
        let found = eigenvectors(&MATRIX, 3);
        assert!(found[0].0 > found[1].0 && found[1].0 > found[2].0);
        for (value, vector) in &found {
            let length: f64 = vector.iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 1e-12);
            for (row, x) in MATRIX.chunks_exact(3).zip(vector) {
                let image: f64 = row.iter().zip(vector).map(|(m, v)| m * v).sum();
                assert!((image - value * x).abs() < 1e-10);
            }
        }
        let trace: f64 = found.iter().map(|(value, _)| value).sum();
        assert!((trace - 9.0).abs() < 1e-12);
    }
}
