//! What a search for triggers is, and the table of all of them.

use super::climb::Climb;
use super::combine::Combine;
use super::extend::Extend;
use super::gcg::GcgSearch;
use super::hunt::Hunt;
use super::invert::TriggerInversion;
use super::leak::Leak;
use super::lens::LayerLens;
use super::random::RandomStrings;
use super::relaxed::RelaxedTriggers;
use super::style::Style;
use super::sweep::Sweep;
use super::target::TargetInversion;
use super::topics::Topics;
use super::words::Words;
use crate::error::Result;

/// What a search is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Proposes targets or candidates out of nothing.
    Propose,
    /// Makes candidates stronger; after it, the strongest are put to the test on held-out prompts.
    Refine,
}

/// One way to look for a trigger. A search proposes candidates through [`Hunt::evaluate`], which
/// scores them within the budget and keeps them in the hunt's pool.
pub trait TriggerSearch: Sync {
    /// Name as in `--search`.
    fn name(&self) -> &'static str;

    /// What it does, in one sentence.
    fn about(&self) -> &'static str;

    /// What it is for.
    fn role(&self) -> Role;

    /// Whether it only stands for chance, to compare others with: it runs where it is named.
    fn compares(&self) -> bool {
        false
    }

    /// Its part of the budget, relative to the other searches of the hunt.
    fn share(&self) -> f64;

    /// Searches until it is done or [`Hunt::exhausted`] says that its share is spent.
    ///
    /// # Errors
    /// If the model or the journal fails, or the user stops.
    fn run(&self, hunt: &mut Hunt<'_>) -> Result<()>;
}

/// Every search, in the order in which a hunt runs them.
pub const SEARCHES: &[&dyn TriggerSearch] = &[
    &TargetInversion,
    &TriggerInversion,
    &Style,
    &Topics,
    &Leak,
    &LayerLens,
    &Words,
    &Sweep,
    &Extend,
    &Combine,
    &Climb,
    &RelaxedTriggers,
    &GcgSearch,
    &RandomStrings,
];

/// The searches that look for triggers: all but those that others are compared with.
pub fn searches() -> impl Iterator<Item = &'static dyn TriggerSearch> {
    SEARCHES.iter().copied().filter(|search| !search.compares())
}

/// The search of this name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static dyn TriggerSearch> {
    SEARCHES.iter().copied().find(|search| search.name() == name)
}
