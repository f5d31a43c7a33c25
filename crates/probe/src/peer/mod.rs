//! Published methods of others, to compare a scan with on the same adapters and budget.
//!
//! Each gives one number by which adapters can be ranked, from what its authors let it see. None of them compares with
//! the base: what that brings is what the comparison is to show. They are written from their papers; where a detail had
//! to differ, their file says so. One file a method, one line in [`PEERS`].

mod bait;
mod gcg;
mod spectral;

use report::benchmark::peer::Finding;

use crate::error::Result;
use crate::observe::Observer;
use crate::split::Split;
use crate::trigger::budget::{Budget, Limit};

/// The budget of a method that runs the model, if none is named.
pub const LIMIT: Limit = Limit::Tokens(1_000_000);

/// A method of others.
pub trait Peer: Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// What it does and who published it, in one sentence.
    fn about(&self) -> &'static str;

    /// Whether it runs the model, and so takes a budget.
    fn runs_model(&self) -> bool;

    /// Looks at the pair's first adapter.
    ///
    /// # Errors
    /// If the model fails or the user stops.
    fn measure(&self, case: &Case<'_>) -> Result<Finding>;
}

impl std::fmt::Debug for dyn Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Every method.
pub const PEERS: &[&dyn Peer] = &[
    &bait::Bait,
    &gcg::PlainGcg,
    &spectral::Spectral::NORM_SPREAD,
    &spectral::Spectral::CONCENTRATION,
    &spectral::Spectral::INCOHERENCE,
];

/// The method of this name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static dyn Peer> {
    PEERS.iter().copied().find(|peer| peer.name() == name)
}

/// An adapter to be looked at, and what for.
pub struct Case<'a> {
    /// The models, and what was spent.
    pub observer: &'a Observer<'a>,
    /// Benign prompts.
    pub prompts: &'a Split,
    /// What may be spent; nothing is counted of a method that runs no model.
    pub limit: Limit,
    /// Seed of every random choice.
    pub seed: u64,
}

impl Case<'_> {
    /// Whether `part` of the budget is spent.
    fn spent(&self, part: f64) -> bool {
        let mut budget = Budget::new(self.limit);
        budget.open_share(part);
        budget.charge(self.observer.cost(), 0.0);
        budget.exhausted()
    }
}
