//! The directions in which an adapter writes: left singular vectors of its products B·A.

use inference::adapter::delta::LoraDelta;

use super::symmetric::eigenvectors;
use crate::error::Result;

/// Singular values below this share of the largest are rounding.
const LEAST: f64 = 1e-6;

/// The left singular vectors `[outputs]` of B·A with the largest singular values, at most `count`, largest first.
pub(super) fn left_vectors(delta: &LoraDelta, count: usize) -> Result<Vec<Vec<f32>>> {
    Ok(decomposed(delta, count)?.into_iter().map(|(_, vector)| vector).collect())
}

/// The largest singular values of B·A, at most `count`, largest first, without the factor of the config, and their left
/// singular vectors `[outputs]`.
///
/// With `A Aᵀ = L Lᵀ`, the matrix `C = B L` has the left singular vectors and singular values of B·A, and r columns only:
/// eigenvectors of two r x r matrices are all that is needed.
pub(crate) fn decomposed(delta: &LoraDelta, count: usize) -> Result<Vec<(f64, Vec<f32>)>> {
    let (a, b) = delta.factors();
    let rows = |t: &candle_core::Tensor| t.to_vec2::<f32>().map_err(inference::Error::from);
    let (a, b) = (rows(a)?, rows(b)?);
    let rank = a.len();
    let of_a = eigenvectors(&gram(&a), rank);
    // Column j of L is eigenvector j times the root of its eigenvalue.
    let columns: Vec<Vec<f64>> = of_a
        .iter()
        .map(|(value, vector)| vector.iter().map(|x| x * value.max(0.0).sqrt()).collect())
        .collect();
    let product =
        |row: &Vec<f32>, column: &Vec<f64>| row.iter().zip(column).map(|(b, l)| f64::from(*b) * l).sum();
    let c: Vec<Vec<f64>> =
        b.iter().map(|row| columns.iter().map(|column| product(row, column)).collect()).collect();
    let mut of_c = vec![0.0; rank * rank];
    for row in &c {
        for (i, left) in row.iter().enumerate() {
            for (j, right) in row.iter().enumerate() {
                of_c[i * rank + j] += left * right;
            }
        }
    }
    let found = eigenvectors(&of_c, rank);
    let largest = found.first().map_or(0.0, |(value, _)| *value);
    let kept = found.iter().take(count).filter(|(value, _)| *value > LEAST * LEAST * largest && *value > 0.0);
    let vector = |(value, q): &(f64, Vec<f64>)| -> (f64, Vec<f32>) {
        let size = value.sqrt();
        let row = |row: &Vec<f64>| (row.iter().zip(q).map(|(c, q)| c * q).sum::<f64>() / size) as f32;
        (size, c.iter().map(row).collect())
    };
    Ok(kept.map(vector).collect())
}

/// Products of the rows of a matrix, `[rows * rows]`.
fn gram(matrix: &[Vec<f32>]) -> Vec<f64> {
    let product = |left: &Vec<f32>, right: &Vec<f32>| {
        left.iter().zip(right).map(|(l, r)| f64::from(*l) * f64::from(*r)).sum()
    };
    matrix.iter().flat_map(|left| matrix.iter().map(move |right| product(left, right))).collect()
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    fn delta(a: &[[f32; 3]], b: &[[f32; 2]]) -> LoraDelta {
        let tensor = |values: Vec<f32>, columns| {
            Tensor::from_vec(values.clone(), (values.len() / columns, columns), &Device::Cpu)
        };
        let (a, b) = (a.concat(), b.concat());
        LoraDelta::new(&tensor(a, 3).unwrap(), &tensor(b, 2).unwrap(), 1.5).unwrap()
    }

    #[test]
    fn they_are_the_eigenvectors_of_the_product_with_its_transpose() {
        let a = [[1.0, 2.0, 0.5], [-0.5, 0.3, 2.0]];
        let b = [[1.0, 0.2], [0.4, -1.0], [2.0, 0.7], [0.0, 0.3]];
        let found = left_vectors(&delta(&a, &b), 20).unwrap();
        assert_eq!(found.len(), 2);
        let m: Vec<Vec<f64>> =
            b.iter().map(|b| (0..3).map(|j| f64::from(b[0] * a[0][j] + b[1] * a[1][j])).collect()).collect();
        let mut before = f64::INFINITY;
        for u in &found {
            let length: f64 = u.iter().map(|x| f64::from(*x).powi(2)).sum();
            assert!((length - 1.0).abs() < 1e-5);
            // M Mᵀ u = sigma² u.
            let inner: Vec<f64> =
                (0..3).map(|j| m.iter().zip(u).map(|(row, u)| row[j] * f64::from(*u)).sum()).collect();
            let image: Vec<f64> =
                m.iter().map(|row| row.iter().zip(&inner).map(|(m, x)| m * x).sum()).collect();
            let square: f64 = image.iter().zip(u).map(|(x, u)| x * f64::from(*u)).sum();
            assert!(square < before);
            before = square;
            assert!(image.iter().zip(u).all(|(x, u)| (x - square * f64::from(*u)).abs() < 1e-4 * square));
        }
    }

    #[test]
    fn directions_that_are_not_written_are_left_out() {
        let dependent = delta(&[[1.0, 2.0, 0.5], [2.0, 4.0, 1.0]], &[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]);
        assert_eq!(left_vectors(&dependent, 20).unwrap().len(), 1);
        let zero = delta(&[[1.0, 2.0, 0.5], [0.0, 1.0, 0.0]], &[[0.0; 2]; 3]);
        assert!(left_vectors(&zero, 20).unwrap().is_empty());
    }
}
