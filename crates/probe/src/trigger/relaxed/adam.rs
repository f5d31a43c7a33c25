//! Adam, for parameters that no tensor holds.

use rayon::prelude::*;

/// Parameters that are moved along a gradient (Kingma and Ba, "Adam", 2015, with their constants).
pub(super) struct Adam {
    pub(super) parameters: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    steps: i32,
}

impl Adam {
    pub(super) fn new(parameters: Vec<f32>) -> Self {
        let zeros = vec![0.0; parameters.len()];
        Self { parameters, first: zeros.clone(), second: zeros, steps: 0 }
    }

    pub(super) fn ascend(&mut self, gradient: &[f32], learning_rate: f32) {
        const DECAY: (f32, f32) = (0.9, 0.999);
        const EPSILON: f32 = 1e-8;
        self.steps += 1;
        let (bias1, bias2) = (1.0 - DECAY.0.powi(self.steps), 1.0 - DECAY.1.powi(self.steps));
        let moments = self.first.par_iter_mut().zip(&mut self.second);
        self.parameters.par_iter_mut().zip(moments).zip(gradient).for_each(|((x, (first, second)), &g)| {
            *first = DECAY.0 * *first + (1.0 - DECAY.0) * g;
            *second = DECAY.1 * *second + (1.0 - DECAY.1) * g * g;
            *x += learning_rate * (*first / bias1) / ((*second / bias2).sqrt() + EPSILON);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adam_climbs_to_the_top_of_a_parabola() {
        let mut adam = Adam::new(vec![3.0, -2.0]);
        for _ in 0..400 {
            let gradient: Vec<f32> = adam.parameters.iter().zip([1.0, 10.0]).map(|(x, c)| -c * x).collect();
            adam.ascend(&gradient, 0.05);
        }
        assert!(adam.parameters.iter().all(|x| x.abs() < 1e-2), "{:?}", adam.parameters);
    }
}
