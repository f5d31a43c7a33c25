//! Spectral signature: the component of the centred residual difference along the leading direction of the benign
//! differences (Tran, Li and Madry, "Spectral signatures in backdoor attacks", 2018, who take it of a training set).

use super::capture::{Sample, Shape};
use super::moments::Moments;
use super::symmetric::eigenvectors;
use super::{Detector, Fit, Fitted, Score};

/// Components along the benign differences' leading direction.
pub(super) struct Spectral;

struct Fitting(Vec<Moments>);

/// One entry a layer; none where the differences do not vary.
struct Components(Vec<Option<Component>>);

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
        Some(Box::new(Fitting(vec![Moments::new(shape.width); shape.layers])))
    }
}

impl Fit for Fitting {
    fn add(&mut self, sample: &Sample) {
        self.0.iter_mut().zip(&sample.differences).for_each(|(layer, difference)| layer.add(difference));
    }

    fn fitted(self: Box<Self>) -> Option<Box<dyn Fitted>> {
        let layer = |moments: &Moments| {
            let mut found = eigenvectors(&moments.covariance(), moments.mean().len());
            let (value, direction) = if found.is_empty() { return None } else { found.swap_remove(0) };
            let direction = direction.iter().map(|x| x / value.sqrt()).collect();
            (value > 0.0).then(|| Component { mean: moments.mean().to_vec(), direction })
        };
        let layers: Vec<_> = self.0.iter().map(layer).collect();
        layers.iter().any(Option::is_some).then(|| Box::new(Components(layers)) as Box<dyn Fitted>)
    }
}

impl Fitted for Components {
    fn score(&self, sample: &Sample) -> Score {
        let component = |(layer, difference): (&Option<Component>, &Vec<f32>)| {
            let Some(Component { mean, direction }) = layer else { return 0.0 };
            let products =
                difference.iter().zip(mean).zip(direction).map(|((x, mean), d)| (f64::from(*x) - mean) * d);
            products.sum::<f64>().abs()
        };
        let layers: Vec<f64> = self.0.iter().zip(&sample.differences).map(component).collect();
        let measured = self.0.iter().flatten().count().max(1) as f64;
        Score { total: layers.iter().sum::<f64>() / measured, layers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_leading_direction_counts() {
        let sample = |difference: [f32; 2]| Sample {
            differences: vec![difference.to_vec()],
            energies: Vec::new(),
            cosines: Vec::new(),
        };
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
