//! Many adapters on one machine or on many: `plan` cuts, `run` scans, `merge` reports, `status` counts. What places, retries
//! and requeues is the user's own scheduler, which sees exit codes and the files of a store.

pub(crate) mod batch;
mod failure;
mod local;
pub(crate) mod merge;
pub(crate) mod plan;
pub(crate) mod run;
mod shard;
pub(crate) mod status;
mod store;
mod unit;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use inference::weights::digest::sha256_file;
use report::fleet::{Plan, PlannedUnit};

use crate::exit::Failure;
use crate::hub::{self, Part};

/// Reads a plan, and keeps the units that are wanted.
fn read_plan(path: &Path, wanted: impl Fn(&PlannedUnit) -> bool) -> Result<Plan, Failure> {
    let wrong = |reason: String| Failure::Input(format!("plan `{}`: {reason}", path.display()));
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    Plan::read(BufReader::with_capacity(1 << 20, file), wanted).map_err(|error| wrong(error.to_string()))
}

/// SHA-256 of a plan's file, by which reports name it.
fn plan_digest(path: &Path) -> Result<String, Failure> {
    Ok(sha256_file(path)?)
}

/// A path of a plan on this machine: relative ones are below `root`, and an id is looked up in the hub's cache.
fn on_machine(root: Option<&Path>, path: &str, part: Part) -> Result<PathBuf, Failure> {
    match root {
        Some(root) => Ok(root.join(path)),
        None => hub::resolve(Path::new(path), part, false, true),
    }
}
