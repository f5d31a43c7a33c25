//! Prompt suites, observations and the search for triggers.
//!
//! The middle of the river: prompts become runs of the base and of the adapted model, runs become
//! observations, and observations are reduced by the statistics of `report` to evidence. Everything
//! is a difference: what does a candidate change in the adapted model that it does not change in
//! the base?

pub mod activation;
pub mod audit;
pub mod behaviour;
pub mod corpus;
pub mod depth;
mod error;
mod lines;
pub mod memory;
pub mod observe;
pub mod organism;
pub mod peer;
pub mod progress;
pub mod prompt;
pub mod replay;
pub mod roles;
pub mod scan;
pub mod selftest;
mod sharing;
pub mod split;
pub mod suite;
mod transform;
pub mod trigger;

pub use error::{Error, Result};
pub use progress::Progress;
pub use roles::Roles;
