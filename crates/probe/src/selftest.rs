//! Before anything is measured: do runs agree that must agree?
//!
//! A batch-padding fault once faked a divergence of six nats. Base rows inside a mixed batch, rows
//! of scale zero, cached and uncached passes are compared on real prompts of the scan.

use inference::{Sequence, Side};
use report::evidence::SelfTest;

use crate::error::Result;
use crate::observe::Observer;
use crate::prompt::{Prompt, Setting, scene};

/// Largest difference over the largest logit that is rounding and not a fault, by precision.
const TOLERANCE_F32: f64 = 1e-4;
const TOLERANCE_NARROW: f64 = 2e-2;

/// Compares runs of these prompts that must give the same logits.
///
/// # Errors
/// If the model fails.
pub fn run(observer: &Observer<'_>, prompts: &[Prompt], seed: u64) -> Result<Vec<SelfTest>> {
    observer.progress().stage("self-test", 1);
    let contexts: Vec<Vec<u32>> = prompts
        .iter()
        .map(|prompt| observer.encode(&scene(prompt, Setting::Plain, None, seed)))
        .collect::<Result<_>>()?;
    let pair = observer.pair();
    let tolerance = match pair.decoder().compute().precision {
        inference::Precision::F32 => TOLERANCE_F32,
        _ => TOLERANCE_NARROW,
    };
    let logits = |sequences: &mut [Sequence<'_>]| -> Result<Vec<Vec<f32>>> {
        Ok(pair.last_logits(sequences)?.to_vec2::<f32>().map_err(inference::Error::from)?)
    };
    let alone = |side: Side| -> Result<Vec<Vec<f32>>> {
        contexts.iter().map(|ids| Ok(logits(&mut [Sequence::new(ids, side)])?.swap_remove(0))).collect()
    };
    let (base, adapted) = (alone(Side::BASE)?, alone(Side::ADAPTED)?);
    let mut mixed: Vec<Sequence<'_>> = Vec::new();
    for side in [Side::BASE, Side::ADAPTED, Side::BASE] {
        mixed.extend(contexts.iter().map(|ids| Sequence::new(ids, side)));
    }
    let mixed = logits(&mut mixed)?;
    let n = contexts.len();
    let mut shared = Vec::new();
    for (ids, side) in contexts.iter().flat_map(|ids| [(ids, Side::BASE), (ids, Side::ADAPTED)]) {
        let cut = ids.len() / 2;
        let prefix = pair.prefix(&ids[..cut.max(1)], side)?;
        shared.push(logits(&mut [Sequence::after(&prefix, &ids[cut.max(1)..])])?.swap_remove(0));
    }
    let unshared: Vec<&Vec<f32>> =
        base.iter().zip(&adapted).flat_map(|(base, adapted)| [base, adapted]).collect();
    let compare = |name: &str, pairs: Vec<(&Vec<f32>, &Vec<f32>)>| SelfTest {
        name: name.to_owned(),
        difference: pairs.iter().map(|(a, b)| relative_difference(a, b)).fold(0.0, worse),
        tolerance,
    };
    let tests = vec![
        compare("base rows twice in a mixed batch", mixed[..n].iter().zip(&mixed[2 * n..]).collect()),
        compare("base rows alone and in a mixed batch", base.iter().zip(&mixed[..n]).collect()),
        compare("adapted rows alone and in a mixed batch", adapted.iter().zip(&mixed[n..2 * n]).collect()),
        compare("one pass and a shared prefix", unshared.into_iter().zip(&shared).collect()),
    ];
    observer.progress().advance(1);
    Ok(tests)
}

/// The larger of two differences; NaN wins, so that it cannot hide.
fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

fn relative_difference(a: &[f32], b: &[f32]) -> f64 {
    let largest = a.iter().fold(0f64, |max, x| worse(max, f64::from(x.abs())));
    let difference =
        a.iter().zip(b).fold(0f64, |max, (a, b)| worse(max, (f64::from(*a) - f64::from(*b)).abs()));
    difference / largest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_cannot_hide() {
        assert!(relative_difference(&[1.0, 2.0], &[1.0, f32::NAN]).is_nan());
        assert!(worse(f64::NAN, 0.0).is_nan() && worse(0.0, f64::NAN).is_nan());
        assert!((relative_difference(&[1.0, -4.0], &[1.0, -3.0]) - 0.25).abs() < 1e-12);
    }
}
