//! Whether layers push the residual stream in one direction: the output directions of the largest singular values,
//! compared across layers. Reported of backdoored adapters, and of honest ones that only change a style: triage.

use std::collections::BTreeMap;

use super::adapter::Pair;
use super::measure;

/// Modules whose output is added to the residual stream, which all layers share; directions of others live in spaces
/// of their own.
const WRITERS: &[&str] =
    &["o_proj", "out_proj", "down_proj", "c_proj", "dense_4h_to_h", "fc2", "dense", "wo", "w2"];
/// Layers below which a mean says little.
const LAYERS: usize = 4;
/// Modules of one kind that are compared; each with each.
const COMPARED: usize = 256;

/// How well the modules of one kind agree.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Coherence {
    /// Last part of the modules' names.
    pub(super) kind: String,
    /// How many were compared.
    pub(super) modules: usize,
    /// Mean magnitude of the cosine between two of them.
    pub(super) mean: f64,
    /// What it is for random directions of this many dimensions: `sqrt(2 / (pi d))`.
    pub(super) random: f64,
}

/// Each kind of module that writes to the residual stream, most coherent first. Modules whose factors were not kept
/// are left out.
pub(super) fn coherence(pairs: &BTreeMap<String, Pair<'_>>) -> Vec<Coherence> {
    let mut directions: BTreeMap<(&str, usize), Vec<Vec<f64>>> = BTreeMap::new();
    for (module, pair) in pairs {
        let kind = module.rsplit('.').next().unwrap_or(module);
        if WRITERS.contains(&kind)
            && let Some(direction) = direction(pair)
        {
            directions.entry((kind, direction.len())).or_default().push(direction);
        }
    }
    let mut found: Vec<Coherence> = directions
        .into_iter()
        .filter(|(_, directions)| directions.len() >= LAYERS)
        .map(|((kind, width), mut directions)| {
            directions.truncate(COMPARED);
            let cosines = (0..directions.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
            let cosines: Vec<f64> = cosines.map(|(i, j)| dot(&directions[i], &directions[j]).abs()).collect();
            Coherence {
                kind: kind.to_owned(),
                modules: directions.len(),
                mean: cosines.iter().sum::<f64>() / cosines.len() as f64,
                random: (2.0 / (std::f64::consts::PI * width as f64)).sqrt(),
            }
        })
        .collect();
    found.sort_by(|a, b| (b.mean / b.random).total_cmp(&(a.mean / a.random)));
    found
}

/// The left singular vector of the largest singular value of B·A, of length one.
fn direction(pair: &Pair<'_>) -> Option<Vec<f64>> {
    let rank = usize::try_from(pair.rank()?).ok()?;
    let b = pair.b?;
    let top = measure::spectrum(pair.a?.gram.as_ref()?, b.gram.as_ref()?, rank)?.top;
    let rows = b.kept.as_ref()?.chunks_exact(rank);
    let direction: Vec<f64> =
        rows.map(|row| row.iter().zip(&top).map(|(b, weight)| f64::from(*b) * weight).sum()).collect();
    let length = dot(&direction, &direction).sqrt();
    (length > 0.0 && length.is_finite()).then(|| direction.iter().map(|x| x / length).collect())
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

#[cfg(test)]
mod tests {
    use super::super::measure::Measured;
    use super::*;

    /// Factors `[2, 3]` and `[4, 2]` of a layer, as a file.
    fn tensors(layer: usize, b: [f32; 8]) -> Vec<Measured> {
        let name = |side| format!("model.layers.{layer}.mlp.down_proj.lora_{side}.weight");
        let a: &[f32] = &[2.0, 0.0, 0.0, 0.0, 1.0, 0.0];
        let bytes = measure::file_of(&[(&name("A"), &[2, 3], a), (&name("B"), &[4, 2], &b)]);
        measure::measure(&bytes)
    }

    #[test]
    fn layers_that_write_one_direction_agree() {
        // B·A has the columns 2 b_1 and b_2: the first is the larger.
        let same = |layer| tensors(layer, [0.0, 0.1, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let own = |layer: usize| {
            let mut b = [0.0; 8];
            b[2 * layer] = 3.0;
            tensors(layer, b)
        };
        let mean = |all: Vec<Measured>| {
            let found = coherence(&super::super::adapter::pairs(&all));
            assert_eq!((found.len(), found[0].modules), (1, 4), "{found:?}");
            found[0].mean
        };
        assert!(mean((0..4).flat_map(same).collect()) > 0.999);
        assert!(mean((0..4).flat_map(own).collect()) < 1e-9);
    }
}
