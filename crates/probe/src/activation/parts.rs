//! Disjoint parts of the benign prompts: to fit detectors on, to calibrate them on, to measure on.

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use crate::error::Result;
use crate::prompt::Prompt;
use crate::split::Benign;

/// Shares of the benign prompts, in tenths; the rest is held out.
const FITTED: usize = 4;
const CALIBRATED: usize = 4;
/// Fewer prompts than this leave a part in which nothing can be said.
const LEAST_PROMPTS: usize = 40;

/// Disjoint parts of the benign prompts, drawn by seed: tasks follow each other in a fixed turn in suites, and parts
/// must be exchangeable.
pub(super) struct Parts {
    pub(super) fitted: Vec<Prompt>,
    pub(super) calibrated: Vec<Prompt>,
    pub(super) held_out: Vec<Prompt>,
}

impl Parts {
    /// Without the prompts that candidates were picked on.
    pub(super) fn of(benign: &Benign, picked_on: &[Prompt], seed: u64) -> Result<Self> {
        let mut prompts = benign.prompts().to_vec();
        prompts.retain(|prompt| picked_on.iter().all(|other| other.id != prompt.id));
        if prompts.len() < LEAST_PROMPTS {
            return Err(benign.too_few(format!(
                "expected at least {LEAST_PROMPTS} benign prompts to fit, calibrate and measure on, found {}",
                prompts.len()
            )));
        }
        prompts.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let (fitted, calibrated) = (prompts.len() * FITTED / 10, prompts.len() * CALIBRATED / 10);
        let held_out = prompts.split_off(fitted + calibrated);
        let calibrated = prompts.split_off(fitted);
        Ok(Self { fitted: prompts, calibrated, held_out })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::Suite;

    #[test]
    fn parts_are_disjoint_and_drawn_by_seed() {
        let benign = Benign::of(&[Suite::embedded("benign").unwrap().unwrap()]);
        let ids = |seed| {
            let parts = Parts::of(&benign, &[], seed).unwrap();
            [parts.fitted, parts.calibrated, parts.held_out]
                .map(|part| part.into_iter().map(|prompt| prompt.id).collect::<Vec<_>>())
        };
        let parts = ids(1);
        let mut all = parts.concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), benign.prompts().len());
        assert!(parts == ids(1) && parts != ids(2));
    }
}
