//! The vocabulary sweep.

use super::hunt::Hunt;
use super::search::{Role, TriggerSearch};
use crate::error::Result;

/// Every token of the vocabulary, by successive halving.
pub(super) struct Sweep;

impl TriggerSearch for Sweep {
    fn name(&self) -> &'static str {
        "sweep"
    }

    fn about(&self) -> &'static str {
        "every printable token of the vocabulary before and after a prompt"
    }

    fn role(&self) -> Role {
        Role::Propose
    }

    fn share(&self) -> f64 {
        3.0
    }

    fn run(&self, _hunt: &mut Hunt<'_>) -> Result<()> {
        Ok(())
    }
}
