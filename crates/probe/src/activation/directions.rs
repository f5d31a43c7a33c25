//! Clean-range exit of the directions that the adapter writes: cosines of the residual stream with the leading left
//! singular vectors of B·A at modules that write to it (WeightWatch, arXiv 2508.00161).

use super::capture::{Sample, Shape};
use super::moments::Ranges;
use super::{Clean, Detector, Fit};

/// Cosines with the adapter's own directions.
pub(super) struct Directions;

impl Detector for Directions {
    fn name(&self) -> &'static str {
        "directions"
    }

    fn about(&self) -> &'static str {
        "leading directions of B·A along which the residual stream leaves the range of benign prompts; by layer: their share"
    }

    fn fit(&self, shape: &Shape) -> Option<Box<dyn Fit>> {
        let layer_of: Vec<usize> = shape
            .directions
            .iter()
            .enumerate()
            .flat_map(|(layer, count)| std::iter::repeat_n(layer, *count))
            .collect();
        if layer_of.is_empty() {
            return None;
        }
        Some(Box::new(Clean {
            layers: shape.layers,
            ranges: Ranges::new(layer_of.len()),
            layer_of,
            excess: Ranges::excess,
            features: |sample: &Sample| Box::new(sample.cosines.iter().flatten().map(|cosine| Some(*cosine))),
        }))
    }
}
