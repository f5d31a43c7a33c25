//! AdamW (Loshchilov and Hutter, 2019), with moments that can be written down and read back.
//!
//! candle has an optimiser too; its moments are private, so that a run which uses it cannot go on where it was stopped.

/// Decay of the first moment.
const BETA_1: f64 = 0.9;
/// Decay of the second.
const BETA_2: f64 = 0.999;
/// What keeps a step finite where gradients vanish.
const EPSILON: f64 = 1e-8;

/// A matrix that is learned.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Rows and columns.
    pub shape: [usize; 2],
    /// Its values, row by row.
    pub values: Vec<f32>,
    /// Mean of its gradients.
    pub(super) first: Vec<f32>,
    /// Mean of their squares.
    pub(super) second: Vec<f32>,
}

impl Parameter {
    /// A parameter that has seen no gradient.
    #[must_use]
    pub fn new(shape: [usize; 2], values: Vec<f32>) -> Self {
        let moments = vec![0.0; values.len()];
        Self { shape, values, first: moments.clone(), second: moments }
    }

    /// One step, the `step`th from 1 on, along a gradient of the same length.
    pub fn step(&mut self, gradient: &[f32], step: usize, rate: f64, decay: f64) {
        let exponent = i32::try_from(step).unwrap_or(i32::MAX);
        let (bias_1, bias_2) = (1.0 - BETA_1.powi(exponent), 1.0 - BETA_2.powi(exponent));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((value, &g), (first, second)) in self.values.iter_mut().zip(gradient).zip(moments) {
            let g = f64::from(g);
            let m = BETA_1 * f64::from(*first) + (1.0 - BETA_1) * g;
            let v = BETA_2 * f64::from(*second) + (1.0 - BETA_2) * g * g;
            let kept = f64::from(*value) * (1.0 - rate * decay);
            *value = (kept - rate * (m / bias_1) / ((v / bias_2).sqrt() + EPSILON)) as f32;
            (*first, *second) = (m as f32, v as f32);
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor, Var};
    use candle_nn::optim::{AdamW, Optimizer as _, ParamsAdamW};

    use super::*;

    /// Thirty steps on a quadratic, against candle's optimiser.
    #[test]
    fn steps_are_those_of_candle() {
        let start = [0.5f32, -2.0, 3.0, 0.01, -0.3, 1.0];
        let goal = Tensor::new(&[1.0f32, 1.0, -1.0, 0.0, -0.3, 2.0], &Device::Cpu).unwrap();
        let var = Var::new(&start, &Device::Cpu).unwrap();
        let (rate, decay) = (0.05, 0.1);
        let settings = ParamsAdamW { lr: rate, weight_decay: decay, ..ParamsAdamW::default() };
        let mut theirs = AdamW::new(vec![var.clone()], settings).unwrap();
        let mut ours = Parameter::new([2, 3], start.to_vec());
        for step in 1..=30 {
            let loss = (var.as_tensor() - &goal).unwrap().sqr().unwrap().sum_all().unwrap();
            theirs.step(&loss.backward().unwrap()).unwrap();
            let own = Tensor::new(ours.values.as_slice(), &Device::Cpu).unwrap();
            let gradient = ((own - &goal).unwrap() * 2.0).unwrap().to_vec1::<f32>().unwrap();
            ours.step(&gradient, step, rate, decay);
        }
        let expected = var.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
        for (ours, theirs) in ours.values.iter().zip(&expected) {
            assert!((ours - theirs).abs() < 1e-5, "{ours} {theirs}");
        }
        assert!((ours.values[0] - start[0]).abs() > 0.1, "it has moved");
    }
}
