//! What a search finds where there is nothing to find.
//!
//! Searching over many candidates finds something that moves any model, so the strongest candidate is ranked
//! among what stands for no trigger: random strings of its own shape, scored alike, and the strongest
//! candidates of null runs ([`Null`](super::hunt::Null)). With m null values no p-value is below `1 / (m + 1)`, and the
//! record says so. Of null runs the test counts as well: a trigger must do more than their strongest string.

use report::hunt::NullRecord;
use report::significance::empirical_p;

use super::control;
use super::hunt::Hunt;
use super::pool::Depth;
use crate::error::Result;
use crate::prompt::Change;

/// Random strings of the strongest candidate's shape: no p-value against them is below 1/65.
const STRINGS: u64 = 64;

/// Ranks the strongest candidate among random strings of its shape at its placement. `None` if no
/// candidate was scored on the development prompts.
///
/// # Errors
/// If the model or the journal fails, or the user stops.
pub(super) fn random_strings(hunt: &mut Hunt<'_>) -> Result<Option<NullRecord>> {
    let Some((change, nats)) = strongest(hunt) else { return Ok(None) };
    let strings: Vec<Change> =
        (0..STRINGS).map(|index| control::counterpart(&change, hunt.seed(), index)).collect();
    let null: Vec<f64> =
        hunt.scores(Depth::Full, &strings, true)?.iter().map(super::pool::Score::nats).collect();
    Ok(Some(NullRecord {
        name: format!("random strings of the shape of `{}`", change.text()),
        p: empirical_p(nats, &null)?,
        nats: null,
    }))
}

/// The strongest candidate on the development prompts and its score in nats.
pub(super) fn strongest(hunt: &Hunt<'_>) -> Option<(Change, f64)> {
    hunt.pool().ranked(Depth::Full).first().map(|found| (found.change.clone(), found.score.nats()))
}
