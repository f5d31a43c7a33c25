//! Numbers computed by scipy (`goldens/make.py`), for the tests of the statistics.

use serde_json::Value;

/// The section `name` of the golden file.
pub(crate) fn golden(name: &str) -> Value {
    let all: Value = serde_json::from_str(include_str!("../goldens/scipy.json")).unwrap();
    all[name].clone()
}

/// A JSON number.
pub(crate) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// A JSON list of numbers.
pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

/// A JSON list of `f32`; null stands for minus infinity.
pub(crate) fn row(value: &Value) -> Vec<f32> {
    let element = |x: &Value| if x.is_null() { f32::NEG_INFINITY } else { number(x) as f32 };
    value.as_array().unwrap().iter().map(element).collect()
}

/// Fails unless `found` is within `tolerance` of `expected`, absolute or relative, whichever is wider.
#[track_caller]
pub(crate) fn assert_close(found: f64, expected: f64, tolerance: f64) {
    let error = (found - expected).abs();
    assert!(
        error <= tolerance * expected.abs().max(1.0),
        "expected {expected}, found {found}, off by {error:e}"
    );
}
