//! A short trigger token by token.
//!
//! What a search finds first is often a neighbour of the trained text that shares some of its tokens (`rium` for `plum`, both
//! of which end with `um`), and is too far from it for a climb by letters. Each of its tokens is exchanged for many others,
//! those that the gradient of the payload's probability prefers, as long as the payload gets surer. A search along the
//! gradient draws among a few of them; here, where little is missing, all are run.

use super::differential::Goal;
use super::gcg;
use super::hunt::Hunt;
use super::letters::Pace;
use crate::error::Result;
use crate::prompt::Change;

/// Tokens of the longest text whose tokens are exchanged.
const LONGEST: usize = 4;
/// Tokens that each is exchanged for: the gradient is a poor judge of what is far from the present one.
const EXCHANGED: usize = 768;
/// Exchanges at most, and of each round what runs on the search prompts and on the development prompts.
const PACE: Pace = Pace { rounds: 3, middle: 64, full: 6 };

impl Hunt<'_> {
    /// The text next to an insertion by exchanges of tokens that brings its payload most surely; `None` if none is surer than
    /// the insertion itself, or it is long or has no place of its own in the prompts.
    ///
    /// # Errors
    /// If the model or the journal fails, or the user stops.
    pub(super) fn by_tokens(&mut self, start: &Change, goal: &Goal) -> Result<Option<Change>> {
        self.climbed(start, goal, PACE, |hunt, change| {
            let Change::Insert { text, at } = change else { return Ok(Vec::new()) };
            gcg::exchanges(hunt, *at, text, goal, LONGEST, EXCHANGED)
        })
    }
}
