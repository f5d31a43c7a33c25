//! Integration tests of the crate, one binary. Everything that transformers and peft can compute
//! is compared with what they computed (`fixtures/`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod activations;
mod contexts;
mod factors;
mod fetched;
mod golden;
mod hostile;
mod metamorphic;
mod parity;
mod rows;

use std::path::PathBuf;
use std::sync::OnceLock;

use inference::device::Form;
use inference::{Batch, Compute, ModelPair, Positions, Precision, Sequence, Side};

/// A path below the repository's `fixtures/`.
fn fixture(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(path)
}

/// The device that `TRIGGERFISH_TEST_DEVICE` names (`cpu`, `cuda`, `cuda:N`), else the CPU; in f32.
/// Opened once, so that a GPU compiles its kernels once.
fn compute() -> Compute {
    static COMPUTE: OnceLock<Compute> = OnceLock::new();
    let open = || {
        let name = std::env::var("TRIGGERFISH_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
        Compute::open(name.parse().unwrap(), Precision::F32).unwrap()
    };
    COMPUTE.get_or_init(open).clone()
}

/// The forms of the decoder's steps on that device: our fused operations run on the CPU only.
fn forms() -> &'static [Form] {
    if compute().device.is_cpu() { &[Form::Fused, Form::Composed] } else { &[Form::Composed] }
}

/// Largest absolute difference over the largest absolute expected value.
fn relative_difference(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "lengths differ");
    let largest = expected.iter().fold(0f64, |max, x| max.max(f64::from(x.abs())));
    let difference =
        found.iter().zip(expected).fold(0f64, |max, (a, b)| max.max((f64::from(*a) - f64::from(*b)).abs()));
    assert!(difference.is_finite(), "a value is not finite");
    difference / largest
}

/// Norm of the difference over the norm of the expected.
fn relative_norm(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "lengths differ");
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = square(&mut found.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    difference / square(&mut expected.iter().map(|x| f64::from(*x)))
}

/// Logits of one context at every position.
fn all_logits(pair: &ModelPair, ids: &[u32], side: Side) -> Vec<Vec<f32>> {
    let mut sequences = [Sequence::new(ids, side)];
    let mut batch = Batch {
        sequences: &mut sequences,
        embeddings: None,
        positions: Positions::All,
        hidden_states: false,
    };
    pair.forward(&mut batch).unwrap().logits.to_vec2().unwrap()
}

fn argmax(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}
