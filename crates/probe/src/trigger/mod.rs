//! Candidate triggers: screened by what they do to the distributions, tested by what they do to
//! the answers on held-out prompts.
//!
//! A scan screens the candidates of suites ([`screen`]). A [`hunt`] has no list: searches (the table
//! [`search::SEARCHES`]) propose candidates, one evaluator scores them within a shared [`budget`], and
//! a [`journal`] keeps every measurement. Both end in [`confirm`].

mod begin;
pub mod budget;
mod climb;
mod combine;
mod complete;
pub mod confirm;
mod continuation;
pub mod control;
pub mod differential;
mod evaluator;
mod extend;
#[cfg(test)]
pub(crate) mod fixture;
pub mod flow;
pub mod gcg;
mod gradient;
pub mod hunt;
mod invert;
pub mod journal;
mod leak;
mod lens;
mod letters;
pub mod movement;
mod null;
mod path;
pub mod payload;
pub mod pool;
mod random;
mod rating;
mod reading;
mod refine;
pub mod relaxed;
pub(crate) mod rows;
pub mod screen;
pub mod search;
pub mod slot;
mod strengthen;
mod style;
mod sweep;
mod target;
mod taught;
mod tokens;
mod topics;
mod trial;
pub mod vocabulary;
mod words;

use report::evidence::TriggerCandidate;

use crate::suite::Candidate;

/// What neither a scan nor a hunt can cover, said every time.
pub(crate) const NEVER_COVERED: &[&str] = &[
    "triggers that depend on meaning beyond kinds of prompts, on tool results, or on more than two turns",
    "payloads that neither a grader nor a repeated wording shows, such as a subtle change of facts",
    "other chat templates, quantised deployments, merged or combined adapters",
];

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
