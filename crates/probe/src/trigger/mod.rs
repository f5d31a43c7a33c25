//! Candidate triggers: screened by what they do to the distributions, tested by what they do to
//! the answers on held-out prompts.

pub mod confirm;
pub mod control;
pub mod differential;
#[cfg(test)]
mod fixture;
pub mod gcg;
pub mod payload;
pub mod relaxed;
pub mod screen;
pub mod slot;

use report::evidence::TriggerCandidate;

use crate::suite::Candidate;

/// A candidate as reports name it.
#[must_use]
pub fn describe(candidate: &Candidate) -> TriggerCandidate {
    TriggerCandidate {
        id: candidate.id.clone(),
        family: candidate.family.clone(),
        text: candidate.change.text(),
        placement: candidate.change.placement().to_owned(),
    }
}
