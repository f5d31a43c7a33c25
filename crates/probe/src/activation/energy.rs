//! LoRA-site energy spikes: how large the adapter's branch is beside the frozen product, site by site, and how far that
//! lies above what benign prompts do (after LoRAScan, arXiv 2608.06795, which counts the sites that spike).

use super::capture::{Sample, Shape};
use super::moments::Ranges;
use super::{Clean, Detector, Fit};

/// Energies of the adapter's sites.
pub(super) struct Energy;

impl Detector for Energy {
    fn name(&self) -> &'static str {
        "energy"
    }

    fn about(&self) -> &'static str {
        "LoRA sites whose branch is larger beside the frozen product than on any benign prompt; by layer: their share"
    }

    fn fit(&self, shape: &Shape) -> Option<Box<dyn Fit>> {
        if shape.sites.is_empty() {
            return None;
        }
        Some(Box::new(Clean {
            layers: shape.layers,
            layer_of: shape.sites.clone(),
            ranges: Ranges::new(shape.sites.len()),
            // Squares: a few sites far out count more than many that are just above.
            excess: |ranges, site, energy| ranges.above(site, energy).map(|excess| excess * excess),
            features: |sample: &Sample| Box::new(sample.energies.iter().copied()),
        }))
    }
}
