//! Spectral signature: the component of the centred residual difference along the leading direction of the benign
//! differences (Tran, Li and Madry, "Spectral signatures in backdoor attacks", 2018, who take it of a training set).

use super::capture::Shape;
use super::moments::Moments;
use super::symmetric::eigenvectors;
use super::{Detector, Differences, Fit, Layer};

/// Components along the benign differences' leading direction.
pub(super) struct Spectral;

struct Component {
    mean: Vec<f64>,
    /// The leading direction over the standard deviation along it.
    direction: Vec<f64>,
}

impl Detector for Spectral {
    fn name(&self) -> &'static str {
        "spectral"
    }

    fn about(&self) -> &'static str {
        "component of the residual difference along the leading direction of benign prompts; by layer: in standard deviations"
    }

    fn fit(&self, shape: &Shape) -> Option<Box<dyn Fit>> {
        Differences::fit(shape, component, |deviations| deviations)
    }
}

fn component(moments: &Moments) -> Option<Box<dyn Layer>> {
    let (value, direction) = eigenvectors(&moments.covariance(), moments.mean().len()).into_iter().next()?;
    let direction = direction.iter().map(|x| x / value.sqrt()).collect();
    (value > 0.0).then(|| Box::new(Component { mean: moments.mean().to_vec(), direction }) as Box<dyn Layer>)
}

impl Layer for Component {
    fn measure(&self, difference: &[f32]) -> f64 {
        let products = difference
            .iter()
            .zip(&self.mean)
            .zip(&self.direction)
            .map(|((x, mean), direction)| (f64::from(*x) - mean) * direction);
        products.sum::<f64>().abs()
    }
}

#[cfg(test)]
mod tests {
    use super::super::capture::Sample;
    use super::*;

    #[test]
    fn only_the_leading_direction_counts() {
        let sample =
            |difference: [f32; 2]| Sample { differences: vec![difference.to_vec()], ..Sample::default() };
        let shape = Shape { layers: 1, width: 2, sites: Vec::new(), directions: vec![0] };
        let mut fit = Spectral.fit(&shape).unwrap();
        for i in 0..400 {
            fit.add(&sample([(i as f32 * 0.37).sin() * 2.0 + 5.0, (i as f32 * 0.91).cos() * 0.1]));
        }
        let fitted = fit.fitted().unwrap();
        let [along, across] = [[15.0, 0.0], [5.0, 10.0]].map(|at| fitted.score(&sample(at)).total);
        // The deviation of a sine of amplitude 2 is the square root of 2.
        assert!((along - 10.0 / 2f64.sqrt()).abs() < 0.2 && across < 0.5, "{along} {across}");
    }
}
