//! Statistics of the weights alone, without running anything.
//!
//! The published detectors train a classifier on hundreds of adapters of one base and recipe; here each statistic ranks
//! by itself, in the direction that was published.

use inference::adapter::delta::LoraDelta;
use inference::decoder::site::Site;
use report::benchmark::peer::{Finding, Seeks};

use super::{Case, Peer};
use crate::activation::singular::decomposed;
use crate::error::Result;

/// One statistic.
pub(super) struct Spectral {
    name: &'static str,
    about: &'static str,
    statistic: fn(&[Module]) -> f64,
}

/// The spectrum of a changed module.
struct Module {
    /// Singular values of the change, largest first.
    values: Vec<f64>,
    /// Number of weights.
    size: f64,
    /// Of a module that writes to the residual stream: the left singular vector of the largest.
    direction: Option<Vec<f32>>,
}

impl Spectral {
    /// Spread of the modules' norms.
    pub(super) const NORM_SPREAD: Self = Self {
        name: "norm-spread",
        about: "standard deviation over modules of the Frobenius norm per weight (Travis-ML, 2025)",
        statistic: norm_spread,
    };

    /// Concentration of the spectra.
    pub(super) const CONCENTRATION: Self = Self {
        name: "concentration",
        about: "mean share of the largest singular value in their sum (arXiv 2602.15195)",
        statistic: concentration,
    };

    /// Lack of agreement between layers.
    pub(super) const INCOHERENCE: Self = Self {
        name: "incoherence",
        about: "one less the mean cosine of leading output directions across layers (cornercore.ai, 2026)",
        statistic: incoherence,
    };
}

impl Peer for Spectral {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn runs_model(&self) -> bool {
        false
    }

    fn measure(&self, case: &Case<'_>) -> Result<Finding> {
        let pair = case.observer.pair();
        let mut modules = Vec::new();
        for (index, site) in pair.decoder().sites().iter().enumerate() {
            let adapter = &pair.adapters()[case.observer.roles().adapted.adapter];
            if let Some(delta) = adapter.delta(index) {
                modules.push(module(delta, site)?);
            }
        }
        Ok(Finding {
            score: (self.statistic)(&modules),
            condemned: None,
            seeks: Seeks::Nothing,
            target: None,
            trigger: None,
            cost: case.observer.cost(),
        })
    }
}

fn module(delta: &LoraDelta, site: &Site) -> Result<Module> {
    let found = decomposed(delta, delta.rank())?;
    let direction = found.first().filter(|_| site.writes).map(|(_, vector)| vector.clone());
    let values = found.into_iter().map(|(value, _)| value * delta.scaling().abs()).collect();
    Ok(Module { values, size: (site.inputs * site.outputs) as f64, direction })
}

fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

fn norm_spread(modules: &[Module]) -> f64 {
    let norm = |module: &Module| (module.values.iter().map(|x| x * x).sum::<f64>() / module.size).sqrt();
    let norms: Vec<f64> = modules.iter().map(norm).collect();
    let centre = mean(&norms);
    mean(&norms.iter().map(|norm| (norm - centre).powi(2)).collect::<Vec<f64>>()).sqrt()
}

fn concentration(modules: &[Module]) -> f64 {
    let share = |module: &Module| {
        let sum: f64 = module.values.iter().sum();
        module.values.first().filter(|_| sum > 0.0).map(|largest| largest / sum)
    };
    mean(&modules.iter().filter_map(share).collect::<Vec<f64>>())
}

fn incoherence(modules: &[Module]) -> f64 {
    let directions: Vec<&Vec<f32>> = modules.iter().filter_map(|module| module.direction.as_ref()).collect();
    let cosine =
        |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>().abs();
    let pairs = (0..directions.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
    let cosines: Vec<f64> = pairs.map(|(i, j)| cosine(directions[i], directions[j])).collect();
    if cosines.is_empty() { 0.0 } else { 1.0 - mean(&cosines) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(values: &[f64], size: f64, direction: Option<&[f32]>) -> Module {
        Module { values: values.to_vec(), size, direction: direction.map(<[f32]>::to_vec) }
    }

    #[test]
    fn statistics_are_those_of_hand_made_spectra() {
        // Norms per weight of 5/10 and 13/10.
        let modules = [
            module(&[4.0, 3.0], 100.0, Some(&[1.0, 0.0])),
            module(&[12.0, 5.0], 100.0, Some(&[0.6, 0.8])),
            module(&[], 100.0, None),
        ];
        assert!((norm_spread(&modules[..2]) - 0.4).abs() < 1e-12);
        assert!((concentration(&modules) - f64::midpoint(4.0 / 7.0, 12.0 / 17.0)).abs() < 1e-12);
        assert!((incoherence(&modules) - 0.4).abs() < 1e-6);
        assert!(incoherence(&modules[..1]).abs() < 1e-12, "one direction has nothing to agree with");
    }
}
