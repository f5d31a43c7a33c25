//! What the tests of this module compare with, and how.

use candle_core::{Device, Tensor, Var};

/// A reproducible `[rows, columns]` tensor with elements in -1..1.
pub(super) fn noise(rows: usize, columns: usize, seed: u64) -> Tensor {
    let element = |i: u64| {
        // SplitMix64.
        let mut z = (seed << 32).wrapping_add(i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let elements: Vec<f32> = (0..(rows * columns) as u64).map(element).collect();
    Tensor::from_vec(elements, (rows, columns), &Device::Cpu).unwrap()
}

/// The elements in order.
pub(super) fn elements(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// The elements as bit patterns.
pub(super) fn bits(x: &Tensor) -> Vec<u32> {
    elements(x).into_iter().map(f32::to_bits).collect()
}

/// Fails unless the shapes agree and no element differs by more than `tolerance` times the largest expected one.
pub(super) fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f32, what: &str) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let (found, expected) = (elements(found), elements(expected));
    let scale = expected.iter().fold(1e-3f32, |scale, x| scale.max(x.abs()));
    for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
        assert!((f - e).abs() <= tolerance * scale, "{what}: element {i} is {f}, expected {e}");
    }
}

/// Runs `work` in a pool of its own.
pub(super) fn with_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

/// The gradients, by autograd, of a weighted sum of `f`'s result with respect to each of its arguments. The weights
/// differ from element to element, so that no two errors cancel.
pub(super) fn gradients(args: &[Tensor], f: impl Fn(&[Tensor]) -> Tensor) -> Vec<Tensor> {
    let vars: Vec<Var> = args.iter().map(|arg| Var::from_tensor(arg).unwrap()).collect();
    let args: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let grads = weighted_sum(&f(&args)).backward().unwrap();
    vars.iter().map(|var| grads.get(var).expect("a gradient").clone()).collect()
}

fn weighted_sum(y: &Tensor) -> Tensor {
    let weights = noise(1, y.elem_count(), 99).reshape(y.dims()).unwrap();
    (y * weights).unwrap().sum_all().unwrap()
}

/// Compares the gradients of `f` with central differences along one random direction for each argument.
///
/// The sum is taken in `f64`, so what is left is the error of `f` itself and of the step.
pub(super) fn assert_gradients_match_differences(
    args: &[Tensor],
    tolerance: f64,
    f: impl Fn(&[Tensor]) -> Tensor,
) {
    let step = 1e-2;
    let value = |args: &[Tensor]| -> f64 {
        let y = f(args);
        let weights = elements(&noise(1, y.elem_count(), 99));
        elements(&y).into_iter().zip(weights).map(|(y, w)| f64::from(y) * f64::from(w)).sum()
    };
    for (i, grad) in gradients(args, &f).iter().enumerate() {
        let direction = noise(1, grad.elem_count(), 7 + i as u64).reshape(grad.dims()).unwrap();
        let moved = |by: f64| {
            let mut args = args.to_vec();
            args[i] = (&args[i] + (&direction * by).unwrap()).unwrap();
            value(&args)
        };
        let differences = (moved(step) - moved(-step)) / (2.0 * step);
        let derivative: f64 = elements(grad)
            .into_iter()
            .zip(elements(&direction))
            .map(|(g, d)| f64::from(g) * f64::from(d))
            .sum();
        let scale = differences.abs().max(1.0);
        assert!(
            (derivative - differences).abs() < tolerance * scale,
            "argument {i}: derivative {derivative}, central difference {differences}"
        );
    }
}
