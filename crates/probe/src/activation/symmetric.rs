//! Symmetric matrices of at most some dozens of rows, row by row as detectors hold them.

use faer::linalg::solvers::Solve as _;
use faer::{ColRef, MatRef, Side};

/// A positive definite matrix, ready to be solved with.
#[derive(Debug)]
pub(super) struct Cholesky(faer::linalg::solvers::Llt<f64>);

impl Cholesky {
    /// Of a symmetric matrix `[width * width]`; `None` if it is not positive definite.
    pub(super) fn of(matrix: &[f64], width: usize) -> Option<Self> {
        let finite = matrix.iter().all(|x| x.is_finite());
        let matrix = MatRef::from_row_major_slice(matrix, width, width);
        matrix.llt(Side::Lower).ok().filter(|_| finite).map(Self)
    }

    /// `xᵀ S⁻¹ x`.
    pub(super) fn inverse_form(&self, x: &[f64]) -> f64 {
        let solved = self.0.solve(ColRef::from_slice(x));
        solved.iter().zip(x).map(|(solved, x)| solved * x).sum()
    }
}

/// Eigenvalues, largest first, and eigenvectors of a symmetric matrix `[width * width]`; none if they cannot be found,
/// as of what is no number.
pub(super) fn eigenvectors(matrix: &[f64], width: usize) -> Vec<(f64, Vec<f64>)> {
    let matrix = MatRef::from_row_major_slice(matrix, width, width);
    let Ok(found) = matrix.self_adjoint_eigen(Side::Lower) else { return Vec::new() };
    let (values, vectors) = (found.S().column_vector(), found.U());
    // They ascend.
    (0..width).rev().map(|j| (values[j], vectors.col(j).iter().copied().collect())).collect()
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
