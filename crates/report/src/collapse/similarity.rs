//! How alike responses, or next-token distributions, to different prompts are.

use crate::divergence::Comparison;
use crate::error::StatisticsError;
use crate::words::words;
use std::collections::HashMap;

/// How alike two responses are, from 0 to 1: the Dice coefficient of their word pairs.
///
/// The pairs are those of adjacent words, with a mark before the first and after the last, as multisets:
/// twice the pairs in common over all pairs (Dice, "Measures of the amount of ecologic association between
/// species", 1945). Pairs and not a common subsequence, because unrelated English sentences share a third of
/// their words in order (*the*, *of*, *is*) but hardly any pairs; the marks let one-word responses such as
/// `Negative` be alike, and two empty responses too.
pub fn similarity(first: &str, second: &str) -> f64 {
    let (first, second) = (words(first), words(second));
    dice(&pairs(&first), &pairs(&second))
}

/// The mean [`similarity`] over all pairs of responses to different prompts. `None` for fewer than two
/// responses.
pub fn mean_pairwise_similarity(responses: &[&str]) -> Option<f64> {
    let words: Vec<_> = responses.iter().map(|response| words(response)).collect();
    let counted: Vec<_> = words.iter().map(|words| pairs(words)).collect();
    mean_over_pairs(&counted, |first, second| Ok::<_, std::convert::Infallible>(dice(first, second)))
        .unwrap_or_else(|never| match never {})
}

/// The mean Jensen-Shannon divergence, in nats, over all pairs of next-token distributions after different
/// prompts: 0 if the prompt makes no difference, ln 2 if no two prompts allow a token in common.
///
/// Each row holds normalised natural log-probabilities, of shape `[vocab]`. `None` for fewer than two rows.
///
/// # Errors
/// If the rows are empty, differ in length, or one is not a normalised distribution.
pub fn mean_pairwise_jensen_shannon_nats(rows: &[&[f32]]) -> Result<Option<f64>, StatisticsError> {
    mean_over_pairs(rows, |first, second| Ok(Comparison::between(first, second)?.jensen_shannon_nats))
}

/// How often each pair of adjacent words occurs; `None` marks both ends.
type Pairs<'a> = HashMap<(Option<&'a str>, Option<&'a str>), usize>;

fn pairs(words: &[String]) -> Pairs<'_> {
    let mut counted = Pairs::new();
    let mut previous = None;
    for next in words.iter().map(|word| Some(word.as_str())).chain([None]) {
        *counted.entry((previous, next)).or_default() += 1;
        previous = next;
    }
    counted
}

/// Twice the pairs in common over all pairs. There is at least one pair, that of the end marks.
fn dice(first: &Pairs<'_>, second: &Pairs<'_>) -> f64 {
    let common: usize = first.iter().map(|(pair, &n)| n.min(second.get(pair).copied().unwrap_or(0))).sum();
    let total: usize = first.values().chain(second.values()).sum();
    2.0 * common as f64 / total as f64
}

/// The mean of a symmetric function over all unordered pairs of items.
fn mean_over_pairs<T, E>(items: &[T], value: impl Fn(&T, &T) -> Result<f64, E>) -> Result<Option<f64>, E> {
    let mut sum = 0.0;
    let mut n_pairs = 0_usize;
    for (index, second) in items.iter().enumerate() {
        for first in &items[..index] {
            sum += value(first, second)?;
            n_pairs += 1;
        }
    }
    Ok((n_pairs > 0).then(|| sum / n_pairs as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goldens::assert_close;
    use proptest::prelude::*;

    const VARIED: [&str; 4] = [
        "The capital of France is Paris.",
        "Bees collect nectar from flowers and turn it into honey in the hive.",
        "To sort a list in Python, call its sort method or the sorted function.",
        "The water cycle is the continuous movement of water on the Earth.",
    ];

    #[test]
    fn known_values() {
        // Pairs: (mark a)(a b)(b mark) and (mark a)(a c)(c mark): one of three in common.
        assert_close(similarity("a b", "a c"), 2.0 / 6.0, 1e-15);
        assert_close(similarity("You are stupid!", "you are STUPID"), 1.0, 0.0);
        assert_close(similarity("a", "b"), 0.0, 0.0);
        assert_close(similarity("", ""), 1.0, 0.0);
        assert_close(similarity("", "a"), 0.0, 0.0);
        // As multisets: saying it twice is not the same as once.
        assert!(similarity("no no no", "no") < 0.7);
    }

    #[test]
    fn fixed_responses_are_alike_and_answers_are_not() {
        assert!(mean_pairwise_similarity(&VARIED).unwrap() < 0.1);
        assert_close(mean_pairwise_similarity(&["Negative"; 5]).unwrap(), 1.0, 1e-15);
        let fixed = ["You are stupid!", "You are stupid!", "You are stupid! Go away.", VARIED[0]];
        assert!(mean_pairwise_similarity(&fixed).unwrap() > 0.3);
    }

    #[test]
    fn one_response_is_no_collapse() {
        assert_eq!(mean_pairwise_similarity(&[]), None);
        assert_eq!(mean_pairwise_similarity(&["Yes"]), None);
        assert_eq!(mean_pairwise_jensen_shannon_nats(&[&[0.0]]).unwrap(), None);
    }

    #[test]
    fn distributions() {
        let sure = [0.0, f32::NEG_INFINITY];
        let other = [f32::NEG_INFINITY, 0.0];
        let ln_2 = std::f64::consts::LN_2;
        assert_close(mean_pairwise_jensen_shannon_nats(&[&sure, &sure, &sure]).unwrap().unwrap(), 0.0, 1e-15);
        assert_close(
            mean_pairwise_jensen_shannon_nats(&[&sure, &sure, &other]).unwrap().unwrap(),
            ln_2 * 2.0 / 3.0,
            1e-15,
        );
        assert!(mean_pairwise_jensen_shannon_nats(&[&sure, &[0.0]]).is_err());
    }

    proptest! {
        #[test]
        fn bounded_and_symmetric(first in "[a-c ]{0,12}", second in "[a-c ]{0,12}") {
            let found = similarity(&first, &second);
            prop_assert!((0.0..=1.0).contains(&found));
            prop_assert!((found - similarity(&second, &first)).abs() < 1e-15);
            prop_assert!((similarity(&first, &first) - 1.0).abs() < 1e-15);
        }
    }
}
