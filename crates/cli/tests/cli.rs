//! The program as a user runs it, one binary.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod activations;
mod adapters;
mod audit;
mod audit_corpus;
mod bad_input;
mod check;
mod config;
mod embedded_hunt;
mod embedded_scan;
mod fixture_model;
mod fleet;
mod monitor;
mod organisms;
mod reports;

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;

/// A path below the repository's root.
fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs the program with these arguments.
fn triggerfish(arguments: &[&str]) -> Output {
    Command::cargo_bin("triggerfish").expect("the binary is built").args(arguments).output().expect("it runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
