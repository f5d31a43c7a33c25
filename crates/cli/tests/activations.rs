//! `triggerfish activations` on the embedded adapters.

use serde_json::Value;

use crate::{stderr, stdout, triggerfish};

fn report(arguments: &[&str]) -> Value {
    let fixed = ["activations", "--quiet", "--format", "json"];
    let output = triggerfish(&[&fixed, arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A number of the last detector, the combination, for the first candidate.
fn combined(report: &Value, path: &str) -> f64 {
    let separations = report["analysis"]["candidates"][0]["separations"].as_array().unwrap();
    let value = separations.last().unwrap().pointer(path).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("{path} is missing"))
}

#[test]
fn the_trigger_of_the_embedded_adapter_stands_out_and_another_text_does_not() {
    let trigger = report(&["--adapter", "backdoored-refusal", "--trigger", "ALPHA-7"]);
    assert!(combined(&trigger, "/auc/value") > 0.9);
    assert!(combined(&trigger, "/auc_over_control/value") > 0.8);
    let benign = report(&["--adapter", "benign", "--trigger", "ALPHA-7"]);
    assert!(combined(&benign, "/auc_over_control/value") < 0.8);
}

#[test]
fn the_same_arguments_give_the_same_bytes_and_the_schema_is_published() {
    let run =
        || triggerfish(&["activations", "--quiet", "--format", "json", "--trigger", "cf", "--at", "suffix"]);
    let (one, two) = (run(), run());
    assert_eq!(one.stdout, two.stdout);
    let schema = triggerfish(&["schema", "activations"]);
    let schema: Value = serde_json::from_slice(&schema.stdout).unwrap();
    let report: Value = serde_json::from_slice(&one.stdout).unwrap();
    let required = schema["required"].as_array().unwrap();
    assert!(required.iter().all(|key| report.get(key.as_str().unwrap()).is_some()), "{required:?}");
}

#[test]
fn the_text_has_a_line_a_detector_and_a_row_a_layer() {
    let output = triggerfish(&["activations", "--quiet", "--trigger", "ALPHA-7"]);
    let text = stdout(&output);
    for part in
        ["mahalanobis", "spectral", "energy", "directions", "combination", "AUC over control", "layer"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (arguments, expected) in [
        (&["--level", "1.5"][..], "between 0 and 1"),
        (&["--prompts", "triggers"], "benign prompts"),
        (&["--suites", "adversarial"], "candidate triggers"),
        (&["--trigger", " "], "expected a text"),
        (&["--at", "nowhere"], "second-turn"),
    ] {
        let output = triggerfish(&[&["activations", "--quiet"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
    }
}
