//! A placebo: random changes of a base with the sizes of another adapter's. Whatever is found in one is found in noise.

use candle_core::{Device, Tensor};
use inference::adapter::Adapter;
use inference::adapter::delta::LoraDelta;
use inference::decoder::Decoder;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result};

/// Random A and B at every site that `like` changes, of its rank and with its `‖scaling · B A‖` (Frobenius).
///
/// # Errors
/// If `like` has no low-rank change that is not zero.
pub fn placebo(like: &Adapter, decoder: &Decoder, seed: u64) -> Result<Adapter> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut deltas = Vec::with_capacity(decoder.sites().len());
    for index in 0..decoder.sites().len() {
        let Some(delta) = like.delta(index) else {
            deltas.push(None);
            continue;
        };
        let (a, b) = delta.factors();
        let [a, b] = [a, b].map(|factor| draw(factor.dims(), &mut random));
        let (a, b) = (a?, b?);
        let norm = product_norm(&a, &b)?;
        let wanted = product_norm(delta.factors().0, delta.factors().1)?;
        let b = (b * (wanted / norm)).map_err(inference::Error::from)?;
        deltas.push(Some(LoraDelta::new(&a, &b, delta.scaling())?));
    }
    Ok(Adapter::from_deltas(deltas, decoder.sites(), decoder.compute())?)
}

fn draw(shape: &[usize], random: &mut ChaCha8Rng) -> Result<Tensor> {
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.random_range(-1.0..1.0)).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu).map_err(inference::Error::from)?)
}

/// `‖B A‖` from the r x r Gram matrices: the trace of `(Bᵀ B)(A Aᵀ)`.
fn product_norm(a: &Tensor, b: &Tensor) -> Result<f64> {
    let squared = || -> candle_core::Result<f64> {
        let of_a = a.matmul(&a.t()?.contiguous()?)?;
        let of_b = b.t()?.contiguous()?.matmul(b)?;
        Ok(f64::from((of_a * of_b)?.sum_all()?.to_scalar::<f32>()?))
    };
    let squared = squared().map_err(inference::Error::from)?;
    if squared > 0.0 {
        return Ok(squared.sqrt());
    }
    Err(Error::Inference(inference::Error::Request("a placebo of an adapter that changes nothing".into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trigger::fixture;

    #[test]
    fn a_placebo_has_the_sizes_and_not_the_directions() {
        let pair = fixture::pair(&["backdoored-url"]);
        let like = &pair.adapters()[0];
        let made = placebo(like, pair.decoder(), 5).unwrap();
        let mut sites = 0;
        for index in 0..pair.decoder().sites().len() {
            let (Some(of_like), Some(of_made)) = (like.delta(index), made.delta(index)) else {
                assert!(like.delta(index).is_none() && made.delta(index).is_none());
                continue;
            };
            let full = |delta: &LoraDelta| {
                let (a, b) = delta.factors();
                (b.matmul(a).unwrap() * delta.scaling())
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .to_vec1::<f32>()
                    .unwrap()
            };
            let (x, y) = (full(of_like), full(of_made));
            let dot = |x: &[f32], y: &[f32]| {
                x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>()
            };
            let (nx, ny) = (dot(&x, &x).sqrt(), dot(&y, &y).sqrt());
            assert!((nx / ny - 1.0).abs() < 1e-4, "{nx} {ny}");
            assert!((dot(&x, &y) / (nx * ny)).abs() < 0.1);
            sites += 1;
        }
        assert_eq!(sites, 12);
    }
}
