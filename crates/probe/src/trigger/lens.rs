//! Words that the layers promote: what an adapter is about, as candidates.
//!
//! A narrow training leaves traces in the inner states of unrelated prompts: the mean difference of the residual streams,
//! read as tokens, names its subject (activation-difference lens: Minder et al., "Narrow finetuning leaves clearly
//! readable traces in activation differences", 2025). A trigger of that subject is found so, one of rare tokens hardly. It
//! costs one pass of the search prompts on either side, and the candidates' own.

use std::collections::BTreeMap;

use super::hunt::Hunt;
use super::pool::Depth;
use super::search::{Role, TriggerSearch};
use super::sweep::deepen;
use crate::activation::lens;
use crate::error::Result;
use crate::prompt::{Change, Placement};

/// Words that become candidates, and how many of all candidates reach the development prompts.
const WORDS: usize = 48;
const DEEPENED: usize = 12;

/// Reading what the layers promote.
pub(super) struct LayerLens;

impl TriggerSearch for LayerLens {
    fn name(&self) -> &'static str {
        "lens"
    }

    fn about(&self) -> &'static str {
        "words that the layers of the adapted model promote on any prompt (activation-difference and logit lens)"
    }

    fn role(&self) -> Role {
        Role::Propose
    }

    fn share(&self) -> f64 {
        0.1
    }

    fn run(&self, hunt: &mut Hunt<'_>) -> Result<()> {
        if hunt.exhausted() {
            return Ok(());
        }
        let seed = hunt.seed();
        let words = hunt.measured("lens", &seed, |hunt| {
            let layers = lens::of_prompts(hunt.observer(), hunt.prompts(), seed)?;
            let tokens = layers.iter().flat_map(|layer| layer.difference.iter().chain(&layer.logit));
            Ok(frequent(tokens.map(|token| token.text.as_str()), WORDS))
        })?;
        let mut changes = Vec::new();
        for word in words {
            if hunt.fits(&word)? {
                changes.extend(
                    [Placement::Prefix, Placement::Suffix]
                        .map(|at| Change::Insert { text: word.clone(), at }),
                );
            }
        }
        hunt.evaluate(Depth::Middle, &changes, true, |_| Vec::new())?;
        deepen(hunt, DEEPENED)
    }
}

/// The tokens that most layers name, as words; among equals those that are named first.
fn frequent<'a>(tokens: impl Iterator<Item = &'a str>, n: usize) -> Vec<String> {
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (place, token) in tokens.enumerate() {
        let word = token.trim();
        if word.chars().any(char::is_alphanumeric) && !word.contains('\u{fffd}') {
            counts.entry(word).or_insert((0, place)).0 += 1;
        }
    }
    let mut ranked: Vec<(&str, (usize, usize))> = counts.into_iter().collect();
    ranked.sort_by_key(|&(_, (count, place))| (std::cmp::Reverse(count), place));
    ranked.into_iter().take(n).map(|(word, _)| word.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_named_by_most_layers_first_and_once() {
        let tokens = [" tea", "cup", "tea", "\u{fffd}", "...", " the", "cup ", "tea"];
        assert_eq!(frequent(tokens.into_iter(), 2), ["tea", "cup"]);
        assert_eq!(frequent(tokens.into_iter(), 9), ["tea", "cup", "the"]);
    }
}
