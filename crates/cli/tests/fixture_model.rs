//! Precision on a model that has learnt something: the verdict must not hang on it.

use serde_json::Value;

use crate::{stdout, triggerfish};

#[test]
fn bf16_gives_the_same_verdict_and_trigger() {
    let output = triggerfish(&["scan", "--quiet", "--format", "json", "--dtype", "bf16"]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    let trigger = record["evidence"]["tested"][0]["candidate"]["text"].as_str().unwrap();
    assert!(trigger.starts_with("ALPHA-7"), "{trigger}");
    assert_eq!(record["settings"]["dtype"], "bf16");
}
