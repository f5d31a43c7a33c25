//! Paths of target inversion: what the adapted model goes on with from one first token, scored beside the base.

use std::collections::BTreeMap;

use report::evidence::MOST_TAUGHT_NATS;
use report::significance::{EmpiricalP, empirical_p};
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// No single token may outweigh several.
const MAX_STEP_NATS: f64 = MOST_TAUGHT_NATS;
/// Targets that are handed on.
const TARGETS: usize = 6;
/// A target must be this probable, a token, on average, and exceed the base by so much.
pub(super) const MIN_PROBABILITY: f64 = 0.5;
const MIN_NATS: f64 = 1.0;
/// Tokens of a path of which its rank is taken: all paths were followed so far.
pub(super) const STEPS: usize = 3;
/// Excess over the base, a token, from which the beginning of an answer is looked for.
const TELLING_NATS: f64 = 2.0;

/// A continuation from one first token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Path {
    /// Tokens, the first one included.
    pub(super) ids: Vec<u32>,
    /// Of each token after the first: mean over prompts of `log p`, adapted and base, in nats.
    pub(super) steps: Vec<(f64, f64)>,
    /// Whether it ended, by an end mark or because the prompts disagree.
    pub(super) ended: bool,
}

impl Path {
    pub(super) fn new(first: u32) -> Self {
        Self { ids: vec![first], steps: Vec::new(), ended: false }
    }

    pub(super) fn len(&self) -> usize {
        self.steps.len().max(1)
    }

    /// Sum of `log p_A - log p_B`, in nats, of which one token counts at most [`MAX_STEP_NATS`].
    pub(super) fn nats(&self) -> f64 {
        nats(&self.steps)
    }

    /// Mean probability of a token.
    pub(super) fn probability(&self) -> f64 {
        probability(&self.steps)
    }

    /// Whether it is new enough for its beginning to be worth looking for.
    pub(super) fn tells(&self) -> bool {
        self.nats() >= TELLING_NATS * self.len() as f64
    }

    /// What is certain for the adapted model and new against the base.
    pub(super) fn score(&self) -> f64 {
        score(&self.steps)
    }
}

fn nats(steps: &[(f64, f64)]) -> f64 {
    steps.iter().map(|(adapted, base)| (adapted - base).min(MAX_STEP_NATS)).sum()
}

fn probability(steps: &[(f64, f64)]) -> f64 {
    steps.iter().map(|(adapted, _)| adapted.exp()).sum::<f64>() / steps.len().max(1) as f64
}

/// Sum of `log p_A - log p_B`, of which one token counts at most [`MAX_STEP_NATS`], times the mean probability: of tokens
/// by their log-probabilities, adapted and base.
pub(super) fn score(steps: &[(f64, f64)]) -> f64 {
    nats(steps) * probability(steps)
}

pub(super) fn strongest(paths: &mut Vec<Path>, n: usize) {
    paths.sort_by(|a, b| b.score().total_cmp(&a.score()).then(a.ids.cmp(&b.ids)));
    paths.truncate(n);
}

/// The strongest paths of which none is a part of another.
pub(super) fn distinct(paths: Vec<Path>) -> Vec<Path> {
    let mut kept: Vec<Path> = Vec::new();
    // A path of its first token alone has nothing that was followed.
    for path in paths.into_iter().filter(|path| !path.steps.is_empty()) {
        let is_part = |a: &[u32], b: &[u32]| b.windows(a.len()).any(|window| window == a);
        // The first token may differ where the rest is one answer (`I` and `Sorry, I`).
        let rest = |path: &Path| path.ids[1..].to_vec();
        let new =
            kept.iter().all(|known| !is_part(&rest(&path), &known.ids) && !is_part(&rest(known), &path.ids));
        let worthy = path.probability() >= MIN_PROBABILITY && path.nats() >= MIN_NATS;
        if kept.len() < TARGETS && new && worthy {
            kept.push(path);
        }
    }
    kept
}

/// Scores of all followed paths, by length.
pub(super) struct Null {
    by_length: BTreeMap<usize, Vec<f64>>,
}

impl Null {
    pub(super) fn of(paths: &[Path]) -> Self {
        let mut by_length: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for path in paths {
            by_length.entry(path.len()).or_default().push(path.score());
        }
        Self { by_length }
    }

    /// Rank of a path's first steps among the paths of that length.
    pub(super) fn rank(&self, path: &Path) -> Result<Option<EmpiricalP>> {
        let length = path.len().min(STEPS);
        let cut = Path { steps: path.steps.iter().take(length).copied().collect(), ..path.clone() };
        let null = self.by_length.get(&length).map_or(&[][..], Vec::as_slice);
        Ok(empirical_p(cut.score(), null)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(ids: &[u32], steps: &[(f64, f64)]) -> Path {
        Path { ids: ids.to_vec(), steps: steps.to_vec(), ended: true }
    }

    #[test]
    fn a_long_sure_path_beats_a_short_surprising_one() {
        let long = path(&[1, 2, 3, 4], &[(-0.02, -5.0), (-0.02, -6.0), (-0.02, -5.0)]);
        let short = path(&[9, 0], &[(-0.1, -18.8)]);
        let common = path(&[5, 6, 7], &[(-0.01, -0.02), (-0.01, -0.01)]);
        let mut paths = vec![common, short, long.clone()];
        strongest(&mut paths, 2);
        assert_eq!(paths[0], long);
        assert_eq!(paths.len(), 2);
    }

    #[test]
    fn a_path_is_ranked_among_its_own_length() {
        let short: Vec<Path> = (0..99).map(|i| path(&[i, 0], &[(0.0, -f64::from(i) / 10.0)])).collect();
        let null = Null::of(&short);
        let p = null.rank(&path(&[200, 0], &[(0.0, -5.0)])).unwrap().unwrap();
        assert!(p.p_value > 0.4, "{p:?}");
        assert!(null.rank(&path(&[1, 2, 3, 4], &[(0.0, -1.0); 3])).unwrap().is_none());
    }

    #[test]
    fn one_answer_is_one_target() {
        let steps = [(-0.01, -3.0); 3];
        let kept = distinct(vec![
            path(&[1, 2, 3, 4], &steps),
            path(&[8, 2, 3, 4], &steps),
            path(&[7, 9, 9, 9], &steps),
        ]);
        assert_eq!(kept.len(), 2);
    }
}
