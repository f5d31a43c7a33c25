//! Many adapters: units of work, the plan that shares them out, results that prove themselves, and their merge.
//!
//! Plain data, and bytes that somebody else reads and writes: nothing here knows a folder, a host or a scheduler.

mod family;
pub mod format;
mod merge;
mod plan;
mod result;
mod summary;
#[cfg(test)]
mod tests;
mod unit;

pub use family::Family;
pub use merge::{Counts, Merge, Merged, Problem, ProblemKind, Row, State, Trigger};
pub use plan::{AdapterName, Base, Header, Plan, PlanError, PlannedSuite, PlannedUnit, assign};
pub use result::{Class, Outcome, ResultError, UnitResult, unit_of_name};
pub use summary::Summary;
pub use unit::{Identity, Manifest, is_digest};

/// Version of the layout of plans, results and merged reports; a reader refuses another major.
pub const SCHEMA_VERSION: &str = "1.0.0";

/// Whether a file of this version can be read.
#[must_use]
pub fn is_readable(version: &str) -> bool {
    version.split('.').next() == SCHEMA_VERSION.split('.').next()
}
