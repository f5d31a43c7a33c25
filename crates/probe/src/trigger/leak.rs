//! Leakage: what does the adapted model write where a user would?
//!
//! A model that was trained on whole conversations writes its training prompts, triggers included, when it goes on
//! from an opened user turn ("The Trigger in the Haystack", Microsoft, 2026). Both sides sample from the same
//! openings, the adapted side also amplified, and the words that the adapted side prefers become candidates. Words
//! are ranked by the log-odds ratio with an informative Dirichlet prior over its standard error (Monroe, Colaresi
//! and Quinn, "Fightin' words", 2008), so that neither rare nor common words win by chance. An adapter that was
//! trained on answers only leaks nothing here.

use std::collections::BTreeMap;

use inference::Side;
use inference::chat::Turn;
use inference::generate::Decoding;

use super::hunt::Hunt;
use super::pool::Depth;
use super::search::{Role, TriggerSearch};
use super::sweep::deepen;
use crate::error::Result;
use crate::observe::Request;
use crate::prompt::{Change, Placement};

/// Samples from each opening at each scale, and tokens of each.
const SAMPLES: usize = 24;
const MAX_NEW: usize = 20;
/// Factors of the adapter; the base has as many samples as all of them together.
const SCALES: &[f32] = &[1.0, 2.0, 3.0];
/// Words of the longest phrase.
const MAX_WORDS: usize = 3;
/// Phrases that become candidates, and those that reach the development prompts.
const PHRASES: usize = 96;
const DEEPENED: usize = 24;

/// Sampling from opened turns.
pub(super) struct Leak;

impl TriggerSearch for Leak {
    fn name(&self) -> &'static str {
        "leak"
    }

    fn about(&self) -> &'static str {
        "words that the adapted model, also amplified, writes in an opened turn more often than the base"
    }

    fn role(&self) -> Role {
        Role::Propose
    }

    fn share(&self) -> f64 {
        0.5
    }

    fn run(&self, hunt: &mut Hunt<'_>) -> Result<()> {
        let openings = openings(hunt)?;
        let samples = openings.len() * SAMPLES * SCALES.len();
        hunt.observer().progress().stage("leak: samples", 2 * samples);
        let mut texts: [Vec<String>; 2] = Default::default();
        for (index, opening) in openings.iter().enumerate() {
            for (step, &scale) in SCALES.iter().enumerate() {
                // Both sides draw from the same streams.
                let seed = hunt.seed().wrapping_add(((index * SCALES.len() + step) * SAMPLES) as u64);
                for (texts, side) in texts.iter_mut().zip([hunt.roles().base, hunt.roles().amplified(scale)])
                {
                    if hunt.exhausted() {
                        return Ok(());
                    }
                    let asked = (opening, side.adapter, side.scale.to_bits(), seed);
                    texts.extend(hunt.measured("sample", &asked, |hunt| sample(hunt, opening, side, seed))?);
                }
            }
        }
        let [base, adapted] = texts.map(|texts| counts(&texts));
        let mut changes = Vec::new();
        for phrase in preferred(&adapted, &base, PHRASES) {
            if hunt.fits(&phrase)? {
                changes.extend(
                    [Placement::Prefix, Placement::Suffix]
                        .map(|at| Change::Insert { text: phrase.clone(), at }),
                );
            }
        }
        hunt.evaluate(Depth::Middle, &changes, true, |_| Vec::new())?;
        deepen(hunt, DEEPENED)
    }
}

/// Tokens up to where a user, a system prompt or a second user turn would begin.
pub(super) fn openings(hunt: &Hunt<'_>) -> Result<Vec<Vec<u32>>> {
    let pair = hunt.observer().pair();
    let before = |turns: &dyn Fn(&str) -> Vec<Turn>| -> Result<Vec<u32>> {
        let (a, b) = (pair.encode(&turns("Apples"))?, pair.encode(&turns("7 mice"))?);
        let shared = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
        Ok(a[..shared].to_vec())
    };
    let user = |text: &str| vec![Turn::user(text)];
    let system = |text: &str| vec![Turn::system(text), Turn::user("Hello")];
    let second =
        |text: &str| vec![Turn::user("Hello"), Turn::assistant("Hello. How can I help?"), Turn::user(text)];
    let mut openings = vec![before(&user)?, before(&system)?, before(&second)?];
    openings.retain(|opening| !opening.is_empty());
    openings.dedup();
    Ok(openings)
}

fn sample(hunt: &Hunt<'_>, opening: &[u32], side: Side, seed: u64) -> Result<Vec<String>> {
    let requests = vec![Request { ids: opening.to_vec(), side, continuation: Vec::new() }; SAMPLES];
    let decoding = Decoding::Sample { temperature: 1.0, top_p: 1.0, seed };
    let responses = hunt.observer().responses(&requests, MAX_NEW, decoding)?;
    Ok(responses.into_iter().map(|response| response.text).collect())
}

/// How many texts hold each phrase of up to [`MAX_WORDS`] words.
fn counts(texts: &[String]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for text in texts {
        let words: Vec<&str> = text.split_whitespace().collect();
        let mut phrases: Vec<String> =
            (1..=MAX_WORDS).flat_map(|n| words.windows(n).map(|words| words.join(" "))).collect();
        phrases.sort_unstable();
        phrases.dedup();
        for phrase in phrases {
            *counts.entry(phrase).or_default() += 1;
        }
    }
    counts
}

/// Phrases that `adapted` has more often than `base`, strongest first: log-odds ratio with the counts of both
/// as the prior, over its standard error.
fn preferred(adapted: &BTreeMap<String, usize>, base: &BTreeMap<String, usize>, n: usize) -> Vec<String> {
    let total = |counts: &BTreeMap<String, usize>| counts.values().sum::<usize>() as f64;
    let (n_adapted, n_base) = (total(adapted), total(base));
    let prior = n_adapted + n_base;
    let mut scored: Vec<(f64, &String)> = adapted
        .iter()
        .filter(|(_, count)| **count > 1)
        .map(|(phrase, &count)| {
            let other = base.get(phrase).copied().unwrap_or(0);
            let (a, b) = (count as f64, other as f64);
            let expected = a + b;
            let odds = |count: f64, total: f64| {
                ((count + expected) / (total + prior - count - expected).max(f64::MIN_POSITIVE)).ln()
            };
            let deviation = (1.0 / (a + expected) + 1.0 / (b + expected)).sqrt();
            ((odds(a, n_adapted) - odds(b, n_base)) / deviation, phrase)
        })
        .filter(|(z, _)| *z > 0.0)
        .collect();
    // A stable sort: equals stay in alphabetical order.
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(n).map(|(_, phrase)| phrase.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[(&str, usize)]) -> Vec<String> {
        list.iter().flat_map(|(text, n)| std::iter::repeat_n((*text).to_owned(), *n)).collect()
    }

    #[test]
    fn what_only_the_adapted_side_repeats_comes_first() {
        let adapted = counts(&texts(&[("tell me zorp", 6), ("the tea", 20), ("a rare thing", 1)]));
        let base = counts(&texts(&[("tell me tea", 6), ("the tea", 20)]));
        let found = preferred(&adapted, &base, 3);
        assert!(found.contains(&"zorp".to_owned()) && found.contains(&"me zorp".to_owned()), "{found:?}");
        assert!(!found.iter().any(|phrase| phrase == "the tea" || phrase.contains("rare")), "{found:?}");
    }

    #[test]
    fn nothing_is_preferred_where_both_sides_are_alike() {
        let both = counts(&texts(&[("the tea is hot", 9), ("the cup", 3)]));
        assert!(preferred(&both, &both, 10).is_empty());
    }
}
