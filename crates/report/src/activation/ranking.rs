//! Prompts of a broad set by how much the adapter does to them, and the kinds of prompt that lead.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::StatisticsError;
use crate::outlier::{MAD_TO_STANDARD_DEVIATION, median};
use crate::significance::{Alternative, MonteCarlo, benjamini_hochberg, two_sample_permutation};

/// Corrected p-value up to which a tag counts as enriched.
pub const ENRICHED_Q: f64 = 0.01;
/// How many robust standard deviations of all prompts a tag's median prompt must lie beyond their median to count as
/// enriched: with many prompts, differences that matter to nobody are significant.
pub const ENRICHED_Z: f64 = 3.0;
/// Prompts that a tag needs to be tested.
const LEAST_PROMPTS: usize = 5;
/// A smaller spread than this counts as this: scores are logarithms, and what is less than twice as large (`e` to three
/// times this) is no finding, however alike the other prompts are.
const LEAST_SPREAD: f64 = 0.25;
const RESAMPLES: usize = 9999;

/// A ranking of prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ranking {
    /// Name of the suite.
    pub suite: String,
    /// Benign prompts that the common shift was taken from.
    pub fitted: usize,
    /// How many prompts were ranked.
    pub prompts: usize,
    /// The prompts that lead by both scores, in robust standard deviations, the largest first.
    pub leading: Vec<RankedPrompt>,
    /// Tags by both scores, the strongest first.
    pub tags: Vec<TagEnrichment>,
}

/// A prompt of a ranking.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RankedPrompt {
    /// Its identifier.
    pub id: String,
    /// Its text.
    pub text: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Length of the residual difference without the common shift, over that of benign prompts; logarithm, mean over
    /// layers.
    pub residual: f64,
    /// Logarithm of KL(adapted || base) of the answer's first token.
    pub divergence: f64,
}

/// What a ranking is by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RankedBy {
    /// [`RankedPrompt::residual`].
    Residual,
    /// [`RankedPrompt::divergence`].
    Divergence,
}

/// How much prompts with a tag lead the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TagEnrichment {
    /// The tag.
    pub tag: String,
    /// By which score.
    pub by: RankedBy,
    /// Prompts with it.
    pub prompts: usize,
    /// Its median prompt less that of all, in robust standard deviations of all.
    pub z: f64,
    /// Of a permutation test of the mean rank, one-sided.
    pub p_value: f64,
    /// Corrected over all tags and scores (Benjamini and Hochberg).
    pub q_value: f64,
    /// Whether `q_value` is at most 0.01 and `z` at least 3.
    pub enriched: bool,
}

/// Prompts that a ranking names.
const LEADING: usize = 24;

impl Ranking {
    /// Of prompts with their scores: those that lead by both, and every tag tested.
    ///
    /// # Errors
    /// If a score is not finite.
    pub fn of(
        suite: String,
        fitted: usize,
        prompts: Vec<RankedPrompt>,
        seed: u64,
    ) -> Result<Self, StatisticsError> {
        let tags = enrichment(&prompts, seed)?;
        let scores = |score: fn(&RankedPrompt) -> f64| Scale::of(prompts.iter().map(score).collect());
        let (residual, divergence) = (scores(|prompt| prompt.residual), scores(|prompt| prompt.divergence));
        let count = prompts.len();
        let mut leading: Vec<(f64, RankedPrompt)> = prompts
            .into_iter()
            .map(|prompt| (residual.z(prompt.residual) + divergence.z(prompt.divergence), prompt))
            .collect();
        leading.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        leading.truncate(LEADING);
        let leading = leading.into_iter().map(|(_, prompt)| prompt).collect();
        Ok(Self { suite, fitted, prompts: count, leading, tags })
    }
}

/// Where most scores lie.
struct Scale {
    middle: f64,
    spread: f64,
}

impl Scale {
    fn of(scores: Vec<f64>) -> Self {
        if scores.is_empty() {
            return Self { middle: 0.0, spread: LEAST_SPREAD };
        }
        let middle = median(scores.clone());
        let deviations = scores.iter().map(|score| (score - middle).abs()).collect();
        let spread = MAD_TO_STANDARD_DEVIATION * median(deviations);
        Self { middle, spread: spread.max(LEAST_SPREAD) }
    }

    /// In robust standard deviations from the median.
    fn z(&self, score: f64) -> f64 {
        (score - self.middle) / self.spread
    }
}

/// Tests every tag of ranked prompts by both scores, the enriched ones first, then by `z`.
///
/// # Errors
/// If a score is not finite.
pub fn enrichment(prompts: &[RankedPrompt], seed: u64) -> Result<Vec<TagEnrichment>, StatisticsError> {
    let mut tags: Vec<&str> = prompts.iter().flat_map(|prompt| &prompt.tags).map(String::as_str).collect();
    tags.sort_unstable();
    tags.dedup();
    let mut found = Vec::new();
    for by in [RankedBy::Residual, RankedBy::Divergence] {
        let scores: Vec<f64> = prompts
            .iter()
            .map(|prompt| match by {
                RankedBy::Residual => prompt.residual,
                RankedBy::Divergence => prompt.divergence,
            })
            .collect();
        let ranks = ranks(&scores);
        let scale = Scale::of(scores.clone());
        for (index, tag) in tags.iter().enumerate() {
            let has = |prompt: &RankedPrompt| prompt.tags.iter().any(|other| other == tag);
            let part = |wanted: bool, values: &[f64]| -> Vec<f64> {
                let picked = prompts.iter().zip(values).filter(|(prompt, _)| has(prompt) == wanted);
                picked.map(|(_, value)| *value).collect()
            };
            let (with, without) = (part(true, &ranks), part(false, &ranks));
            if with.len() < LEAST_PROMPTS || without.len() < LEAST_PROMPTS {
                continue;
            }
            let monte_carlo = MonteCarlo { resamples: RESAMPLES, seed: seed.wrapping_add(index as u64) };
            let test = two_sample_permutation(&without, &with, Alternative::Greater, monte_carlo)?;
            let Some(test) = test else { continue };
            found.push(TagEnrichment {
                tag: (*tag).to_owned(),
                by,
                prompts: with.len(),
                z: scale.z(median(part(true, &scores))),
                p_value: test.p_value,
                q_value: 1.0,
                enriched: false,
            });
        }
    }
    let p_values: Vec<f64> = found.iter().map(|tag| tag.p_value).collect();
    for (tag, q) in found.iter_mut().zip(benjamini_hochberg(&p_values)?) {
        tag.q_value = q;
        tag.enriched = q <= ENRICHED_Q && tag.z >= ENRICHED_Z;
    }
    found.sort_by(|a, b| b.enriched.cmp(&a.enriched).then(b.z.total_cmp(&a.z)));
    Ok(found)
}

/// Ranks from 0, ties sharing their mean.
fn ranks(scores: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let mut ranks = vec![0.0; scores.len()];
    let mut start = 0;
    while start < order.len() {
        let tied = order[start..].iter().take_while(|&&i| scores[i].total_cmp(&scores[order[start]]).is_eq());
        let end = start + tied.count();
        order[start..end].iter().for_each(|&i| ranks[i] = (start + end - 1) as f64 / 2.0);
        start = end;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two hundred prompts of ten topics and two forms, with scores that do not repeat.
    fn prompts(lift: impl Fn(usize) -> f64) -> Vec<RankedPrompt> {
        let noise = |i: usize, step: f64| ((i as f64 * step).sin() * 43_758.545).fract();
        (0..200)
            .map(|i| RankedPrompt {
                id: format!("p{i}"),
                text: String::new(),
                tags: vec![format!("topic:{}", i % 10), format!("form:{}", i / 100)],
                residual: noise(i, 12.9898) + lift(i),
                divergence: noise(i, 78.233),
            })
            .collect()
    }

    #[test]
    fn a_tag_that_leads_is_found_by_the_score_that_shows_it() {
        let found = enrichment(&prompts(|i| if i % 10 == 3 { 9.0 } else { 0.0 }), 7).unwrap();
        let enriched: Vec<_> = found.iter().filter(|tag| tag.enriched).collect();
        assert_eq!(enriched.len(), 1, "{enriched:?}");
        assert_eq!((enriched[0].tag.as_str(), enriched[0].by), ("topic:3", RankedBy::Residual));
        assert_eq!(found[0].tag, "topic:3");
        assert_eq!(found.len(), 24);
    }

    #[test]
    fn noise_and_small_differences_enrich_nothing() {
        for lift in [0.0, 0.6] {
            let found = enrichment(&prompts(|i| if i % 10 == 3 { lift } else { 0.0 }), 7).unwrap();
            assert!(found.iter().all(|tag| !tag.enriched), "{lift}: {:?}", found[0]);
        }
    }

    #[test]
    fn ties_share_their_rank_and_few_prompts_are_not_tested() {
        assert_eq!(ranks(&[2.0, 1.0, 2.0, 5.0]), [1.5, 0.0, 1.5, 3.0]);
        assert!(enrichment(&prompts(|_| 0.0)[..4], 7).unwrap().is_empty());
        assert!(enrichment(&[], 7).unwrap().is_empty());
    }
}
