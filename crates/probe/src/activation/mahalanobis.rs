//! Mahalanobis distance of the residual difference between adapted model and base, layer by layer (Lee et al., "A simple
//! unified framework for detecting out-of-distribution samples and adversarial attacks", 2018, for the distance).

use super::capture::Shape;
use super::moments::Moments;
use super::symmetric::Cholesky;
use super::{Detector, Differences, Fit, Layer};

/// Distances from the benign differences.
pub(super) struct Mahalanobis;

/// Mean and inverse covariance of a layer's differences.
struct Distance {
    mean: Vec<f64>,
    covariance: Cholesky,
}

impl Detector for Mahalanobis {
    fn name(&self) -> &'static str {
        "mahalanobis"
    }

    fn about(&self) -> &'static str {
        "distance of the residual difference from that of benign prompts; by layer: d^2 over its dimensions"
    }

    fn fit(&self, shape: &Shape) -> Option<Box<dyn Fit>> {
        // A distance counts by its order of magnitude, `ln(1 + d²/k)`, so that no single layer decides.
        Differences::fit(shape, distance, f64::ln_1p)
    }
}

fn distance(moments: &Moments) -> Option<Box<dyn Layer>> {
    let covariance = Cholesky::of(&shrunk(moments)?, moments.mean().len())?;
    Some(Box::new(Distance { mean: moments.mean().to_vec(), covariance }))
}

impl Layer for Distance {
    fn measure(&self, difference: &[f32]) -> f64 {
        let centred: Vec<f64> =
            difference.iter().zip(&self.mean).map(|(x, mean)| f64::from(*x) - mean).collect();
        self.covariance.inverse_form(&centred) / centred.len().max(1) as f64
    }
}

/// The covariance drawn towards a multiple of the identity by the oracle approximating shrinkage (Chen, Wiesel, Eldar and
/// Hero, "Shrinkage algorithms for MMSE covariance estimation", 2010): with no more prompts than dimensions it could not
/// be inverted as it is. `None` if nothing varies.
fn shrunk(moments: &Moments) -> Option<Vec<f64>> {
    let mut covariance = moments.covariance();
    let width = moments.mean().len();
    let trace: f64 = (0..width).map(|i| covariance[i * width + i]).sum();
    if trace.is_nan() || trace <= 0.0 {
        return None;
    }
    let squares: f64 = covariance.iter().map(|x| x * x).sum();
    let (n, p) = (moments.count() as f64, width as f64);
    let numerator = (1.0 - 2.0 / p) * squares + trace * trace;
    let denominator = (n + 1.0 - 2.0 / p) * (squares - trace * trace / p);
    let share = if denominator > 0.0 { (numerator / denominator).clamp(0.0, 1.0) } else { 1.0 };
    covariance.iter_mut().for_each(|x| *x *= 1.0 - share);
    (0..width).for_each(|i| covariance[i * width + i] += share * trace / p);
    Some(covariance)
}

#[cfg(test)]
mod tests {
    use super::super::Fitted;
    use super::super::capture::Sample;
    use super::*;

    fn sample(difference: [f32; 2]) -> Sample {
        Sample { differences: vec![difference.to_vec()], ..Sample::default() }
    }

    fn fitted() -> Box<dyn Fitted> {
        let shape = Shape { layers: 1, width: 2, sites: Vec::new(), directions: vec![0] };
        let mut fit = Mahalanobis.fit(&shape).unwrap();
        // Wide along the diagonal, narrow across.
        for i in 0..400 {
            let (along, across) = ((i as f32 * 0.37).sin() * 3.0, (i as f32 * 0.91).cos() * 0.1);
            fit.add(&sample([1.0 + along + across, 1.0 + along - across]));
        }
        fit.fitted().unwrap()
    }

    #[test]
    fn across_the_benign_spread_is_far_and_along_it_is_near() {
        let fitted = fitted();
        let [near, far] = [[3.0, 3.0], [2.0, 0.0]].map(|at| fitted.score(&sample(at)));
        assert!(far.total > 4.0 * near.total, "{far:?} {near:?}");
        assert!(near.layers[0] < 2.0 && far.layers[0] > 20.0);
    }

    #[test]
    fn shrinkage_leaves_much_data_alone_and_makes_little_invertible() {
        let mut moments = Moments::new(3);
        moments.add(&[1.0, 2.0, 3.0]);
        assert!(shrunk(&moments).is_none(), "one vector does not vary");
        moments.add(&[2.0, 2.5, 3.0]);
        let covariance = shrunk(&moments).unwrap();
        assert!(Cholesky::of(&covariance, 3).is_some());
        let trace = |m: &[f64]| m[0] + m[4] + m[8];
        assert!((trace(&covariance) - trace(&moments.covariance())).abs() < 1e-12);
        let mut moments = Moments::new(2);
        for i in 0..4000 {
            moments.add(&[(i as f32 * 0.37).sin() * 3.0, (i as f32 * 0.91).cos()]);
        }
        let (found, plain) = (shrunk(&moments).unwrap(), moments.covariance());
        assert!(found.iter().zip(plain).all(|(a, b)| (a - b).abs() < 0.02));
    }
}
