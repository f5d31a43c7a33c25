//! How a long run tells of itself and is told to stop.

use crate::error::{Error, Result};

/// Receives the progress of a run. Implementations must be cheap: they are called once a batch.
pub trait Progress {
    /// A stage of `total` steps begins.
    fn stage(&self, name: &str, total: usize);
    /// Some steps of the stage are done.
    fn advance(&self, steps: usize);
    /// Something worth telling at once, such as the best candidate so far.
    fn note(&self, text: &str);
    /// Whether the user asked to stop.
    fn stopped(&self) -> bool;
}

/// Says nothing and never stops.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Progress for Silent {
    fn stage(&self, _: &str, _: usize) {}
    fn advance(&self, _: usize) {}
    fn note(&self, _: &str) {}
    fn stopped(&self) -> bool {
        false
    }
}

/// An error if the user asked to stop.
pub(crate) fn check(progress: &dyn Progress) -> Result<()> {
    if progress.stopped() { Err(Error::Stopped) } else { Ok(()) }
}
