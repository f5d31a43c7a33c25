//! What some initialisations take out of the base's weights.
//!
//! PiSSA, OLoRA and KaSA start from a part of the weight W itself, which PEFT takes out of the base again whenever it
//! loads such an adapter. W alone decides the part: a product of singular triplets, or of the first columns of a QR
//! decomposition, does not depend on the signs that an implementation chooses. It is unique unless two singular values
//! at the cut are equal.

use candle_core::{Device, Tensor};
use faer::MatRef;

use super::config::Residual;
use crate::error::{Error, Result};

/// The part of `weight` `[outputs, inputs]` that is taken out, as factors `[outputs, r]` and `[r, inputs]`.
///
/// # Errors
/// If the rank does not leave anything, or the decomposition does not converge.
pub(super) fn taken_out(
    kind: Residual,
    weight: &Tensor,
    rank: usize,
    scaling: f64,
    module: &str,
) -> Result<(Tensor, Tensor)> {
    let (outputs, inputs) = weight.dims2()?;
    if rank > outputs.min(inputs) {
        return Err(Error::Request(format!(
            "`{module}`: expected a rank of at most {}, found {rank}",
            outputs.min(inputs)
        )));
    }
    let values = weight.flatten_all()?.to_vec1::<f32>()?;
    // As in PEFT, the decomposition is in f32.
    let weight = MatRef::from_row_major_slice(&values, outputs, inputs);
    match kind {
        Residual::Whole => Ok((zeros(outputs, rank)?, zeros(rank, inputs)?)),
        Residual::WithoutColumns => {
            let qr = weight.qr();
            let (q, r) = (qr.compute_thin_Q(), qr.thin_R());
            // Q and R are PEFT's initial factors, and it subtracts their product with the branch's factor.
            let left = tensor(outputs, rank, |row, column| q[(row, column)] * scaling as f32)?;
            Ok((left, tensor(rank, inputs, |row, column| r[(row, column)])?))
        }
        Residual::WithoutPrincipal | Residual::WithoutMinor => {
            let svd = weight.thin_svd().map_err(|_| {
                Error::Request(format!("`{module}`: the singular value decomposition did not converge"))
            })?;
            let (u, s, v): (MatRef<'_, f32>, _, MatRef<'_, f32>) =
                (svd.U(), svd.S().column_vector(), svd.V());
            // Singular values descend.
            let first = match kind {
                Residual::WithoutMinor => outputs.min(inputs) - rank,
                _ => 0,
            };
            let left = tensor(outputs, rank, |row, column| u[(row, first + column)] * s[first + column])?;
            Ok((left, tensor(rank, inputs, |row, column| v[(column, first + row)])?))
        }
    }
}

fn zeros(rows: usize, columns: usize) -> Result<Tensor> {
    tensor(rows, columns, |_, _| 0.0)
}

fn tensor(rows: usize, columns: usize, value: impl Fn(usize, usize) -> f32) -> Result<Tensor> {
    let values: Vec<f32> = (0..rows * columns).map(|i| value(i / columns, i % columns)).collect();
    Ok(Tensor::from_vec(values, (rows, columns), &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A matrix with the given singular values, rotated on both sides.
    fn matrix() -> Tensor {
        let rows = [[3.0f32, 1.0, 0.5], [-1.0, 2.0, 0.25], [0.5, 0.5, 1.0], [2.0, -1.0, 0.0]];
        Tensor::new(&rows, &Device::Cpu).unwrap()
    }

    fn product((left, right): (Tensor, Tensor)) -> Vec<Vec<f32>> {
        left.matmul(&right).unwrap().to_vec2().unwrap()
    }

    fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
        let pairs = a.iter().flatten().zip(b.iter().flatten());
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn principal_and_minor_parts_add_up_to_the_whole() {
        let weight = matrix();
        let take = |kind, rank| product(taken_out(kind, &weight, rank, 1.0, "m").unwrap());
        let (principal, minor) = (take(Residual::WithoutPrincipal, 1), take(Residual::WithoutMinor, 2));
        let sum: Vec<Vec<f32>> = principal
            .iter()
            .zip(&minor)
            .map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect())
            .collect();
        assert!(distance(&sum, &weight.to_vec2().unwrap()) < 1e-5);
        // The largest triplet is more than the two others together.
        let size = |m: &[Vec<f32>]| m.iter().flatten().map(|x| x * x).sum::<f32>();
        assert!(size(&principal) > size(&minor));
    }

    #[test]
    fn columns_are_taken_out_with_the_factor() {
        let weight = matrix();
        let all = product(taken_out(Residual::WithoutColumns, &weight, 3, 2.0, "m").unwrap());
        let twice = (weight.clone() * 2.0).unwrap().to_vec2().unwrap();
        assert!(distance(&all, &twice) < 1e-5);
        let one = product(taken_out(Residual::WithoutColumns, &weight, 1, 1.0, "m").unwrap());
        // The first column lies in the span of itself.
        let first: Vec<f32> = one.iter().map(|row| row[0]).collect();
        let expected: Vec<f32> = weight.to_vec2::<f32>().unwrap().iter().map(|row| row[0]).collect();
        assert!(first.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5));
    }

    #[test]
    fn a_rank_beyond_the_matrix_is_refused() {
        assert!(taken_out(Residual::WithoutPrincipal, &matrix(), 4, 1.0, "m").is_err());
    }
}
