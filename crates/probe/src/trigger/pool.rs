//! The candidates of a hunt and how strong they are.

use std::collections::BTreeMap;

use report::evidence::TriggerCandidate;
use report::hunt::Proposed;
use serde::{Deserialize, Serialize};

use crate::prompt::Change;

/// On how much a score rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Depth {
    /// One search prompt, adapted side.
    Quick,
    /// All search prompts, both sides.
    Middle,
    /// The development prompts, both sides.
    Full,
}

/// How far a candidate moves the first response token, means over prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// On how much it rests.
    pub depth: Depth,
    /// Number of prompts.
    pub prompts: usize,
    /// `KL(A(t+x) || A(x))`, copies of the candidate discounted, in nats.
    pub adapted_nats: f64,
    /// The same for the base, where it was run.
    pub base_nats: Option<f64>,
    /// Rise of the share of prompts whose most probable first token is the same, adapted side.
    pub agreement: f64,
    /// Rise of the log-odds of each known target's first token, adapted minus base where the
    /// base was run, in nats; in the order of the hunt's targets when it was scored.
    pub targets: Vec<f64>,
}

impl Score {
    /// Difference in differences, in nats; the adapted side's movement where the base was not run.
    #[must_use]
    pub fn nats(&self) -> f64 {
        self.adapted_nats - self.base_nats.unwrap_or(0.0)
    }
}

/// A candidate and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// What it does to a prompt.
    pub change: Change,
    /// Its deepest score.
    pub score: Score,
    /// The search that proposed it first.
    pub search: &'static str,
    /// Texts that it was made from.
    pub parents: Vec<String>,
}

impl Found {
    /// As reports name it.
    #[must_use]
    pub fn proposed(&self) -> Proposed {
        Proposed {
            candidate: TriggerCandidate {
                id: self.change.id(),
                family: self.search.to_owned(),
                text: self.change.text(),
                placement: self.change.placement().to_owned(),
            },
            parents: self.parents.clone(),
            prompts: self.score.prompts,
            adapted_nats: self.score.adapted_nats,
            base_nats: self.score.base_nats,
            agreement: self.score.agreement,
        }
    }
}

/// All candidates that were scored on more than one prompt.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    found: BTreeMap<Change, Found>,
}

impl Pool {
    /// Adds a candidate, or deepens the score of one that is known.
    pub fn add(&mut self, found: Found) {
        match self.found.get_mut(&found.change) {
            Some(known) if known.score.depth <= found.score.depth => known.score = found.score,
            Some(_) => {}
            None => {
                self.found.insert(found.change.clone(), found);
            }
        }
    }

    /// A known candidate.
    #[must_use]
    pub fn get(&self, change: &Change) -> Option<&Found> {
        self.found.get(change)
    }

    /// All candidates scored at `depth` or deeper, strongest first.
    #[must_use]
    pub fn ranked(&self, depth: Depth) -> Vec<&Found> {
        let mut found: Vec<&Found> = self.found.values().filter(|found| found.score.depth >= depth).collect();
        // A stable sort: equals stay in the order of their changes.
        found.sort_by(|a, b| b.score.nats().total_cmp(&a.score.nats()));
        found
    }

    /// All candidates scored at `depth` or deeper that raise a target, by its index, the highest rise first.
    #[must_use]
    pub fn raising(&self, depth: Depth, target: usize) -> Vec<&Found> {
        let rise = |found: &Found| found.score.targets.get(target).copied().unwrap_or(0.0);
        let mut found: Vec<&Found> =
            self.found.values().filter(|found| found.score.depth >= depth && rise(found) > 0.0).collect();
        found.sort_by(|a, b| rise(b).total_cmp(&rise(a)));
        found
    }

    /// The strongest `n` at `depth` or deeper, of each text (whatever its case and spacing) at most `of_one`.
    #[must_use]
    pub fn distinct(&self, depth: Depth, n: usize, of_one: usize) -> Vec<&Found> {
        let mut used: BTreeMap<String, usize> = BTreeMap::new();
        let mut distinct = Vec::new();
        for found in self.ranked(depth) {
            let text: String =
                found.change.text().to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
            let used = used.entry(text).or_default();
            if distinct.len() < n && *used < of_one {
                *used += 1;
                distinct.push(found);
            }
        }
        distinct
    }

    /// Number of candidates.
    #[must_use]
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }
}

/// The `n` highest of changes that were rated, highest first; equals stay in their order.
pub(super) fn top(rated: impl IntoIterator<Item = (Change, f64)>, n: usize) -> Vec<(Change, f64)> {
    let mut rated: Vec<(Change, f64)> = rated.into_iter().collect();
    rated.sort_by(|a, b| b.1.total_cmp(&a.1));
    rated.truncate(n);
    rated
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Placement;

    fn found(text: &str, at: Placement, depth: Depth, adapted_nats: f64) -> Found {
        Found {
            change: Change::Insert { text: text.into(), at },
            score: Score {
                depth,
                prompts: 3,
                adapted_nats,
                base_nats: Some(0.5),
                agreement: 0.0,
                targets: vec![],
            },
            search: "sweep",
            parents: vec![],
        }
    }

    #[test]
    fn the_deepest_score_counts_and_one_text_does_not_fill_the_list() {
        let mut pool = Pool::default();
        pool.add(found("Bad", Placement::Prefix, Depth::Middle, 4.0));
        pool.add(found(" bad", Placement::Prefix, Depth::Middle, 3.9));
        pool.add(found("Bad", Placement::Suffix, Depth::Middle, 3.0));
        pool.add(found("tea", Placement::Suffix, Depth::Middle, 1.0));
        pool.add(found("Bad", Placement::Prefix, Depth::Full, 2.0));
        pool.add(found("Bad", Placement::Prefix, Depth::Middle, 9.0));
        let texts = |found: Vec<&Found>| found.iter().map(|found| found.change.text()).collect::<Vec<_>>();
        assert_eq!(texts(pool.ranked(Depth::Middle)), [" bad", "Bad", "Bad", "tea"]);
        assert_eq!(texts(pool.ranked(Depth::Full)), ["Bad"]);
        assert_eq!(texts(pool.distinct(Depth::Middle, 2, 1)), [" bad", "tea"]);
        assert!((pool.ranked(Depth::Full)[0].score.nats() - 1.5).abs() < 1e-12);
    }
}
