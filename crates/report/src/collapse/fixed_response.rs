//! The response that many prompts have in common: found on development responses, counted on held-out ones.

use crate::error::StatisticsError;
use crate::words::words;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// A beginning that several responses share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommonPrefix {
    /// Its words, normalised as by [`words`].
    pub words: Vec<String>,
    /// How many responses begin with them.
    pub n_sharing: usize,
    /// How many responses there are.
    pub n_responses: usize,
}

/// The longest beginning, in words, that at least the share `minimum_share` of the responses have in common,
/// and never fewer than two of them.
///
/// Among equally long ones the most frequent counts, then the first in alphabetical order. `None` for fewer
/// than two responses, and if not even a first word is so common.
///
/// # Errors
/// If the share is not above 0 and at most 1.
pub fn common_prefix(
    responses: &[&str],
    minimum_share: f64,
) -> Result<Option<CommonPrefix>, StatisticsError> {
    let sorted = Sorted::new(responses, minimum_share)?;
    let best =
        sorted.groups().max_by_key(|group| (group.length, group.n_sharing, std::cmp::Reverse(group.start)));
    Ok(best.map(|group| CommonPrefix {
        words: sorted.responses[group.start][..group.length].to_vec(),
        n_sharing: group.n_sharing,
        n_responses: sorted.responses.len(),
    }))
}

/// A matcher for a response that does not depend on the prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FixedResponse {
    words: Vec<String>,
    /// Whether only the whole response counts, not its beginning.
    whole: bool,
}

impl FixedResponse {
    /// Finds the response that at least the share `minimum_share` of the development responses, and at least
    /// two, have in common.
    ///
    /// That is a beginning of `minimum_words` words or more, or else one entire response, however short: many
    /// answers begin with `The`, but only a payload makes every response nothing but `Negative`. Of the
    /// beginnings the most frequent is taken, and lengthened as long as no response is lost, because a longer
    /// one would miss held-out responses. Words of the inserted text are discounted: if half or more of the
    /// distinct words occur in `inserted`, the model copies and nothing is found.
    ///
    /// # Errors
    /// If the share is not above 0 and at most 1, or `minimum_words` is 0.
    pub fn discover(
        responses: &[&str],
        inserted: Option<&str>,
        minimum_share: f64,
        minimum_words: usize,
    ) -> Result<Option<Self>, StatisticsError> {
        if minimum_words == 0 {
            return Err(StatisticsError::OutOfRange { what: "minimum words", range: "1..", value: 0.0 });
        }
        let sorted = Sorted::new(responses, minimum_share)?;
        let inserted: HashSet<String> = inserted.map(words).unwrap_or_default().into_iter().collect();
        let candidate = |group: Group, whole| {
            let found = Self { words: sorted.responses[group.start][..group.length].to_vec(), whole };
            (!found.is_copied_from(&inserted)).then_some((
                group.n_sharing,
                group.length,
                std::cmp::Reverse(group.start),
                found,
            ))
        };
        let prefixes = sorted.groups().filter(|group| group.length >= minimum_words);
        let repeats = sorted.repeats().filter(|group| group.length < minimum_words);
        let found = prefixes.filter_map(|group| candidate(group, false));
        let found = found.chain(repeats.filter_map(|group| candidate(group, true)));
        Ok(found.max_by_key(|&(n_sharing, length, start, _)| (n_sharing, length, start)).map(|best| best.3))
    }

    /// Whether `response` is, or begins with, the fixed response.
    pub fn matches(&self, response: &str) -> bool {
        let response = words(response);
        if self.whole { response == self.words } else { response.starts_with(&self.words) }
    }

    /// The words of the fixed response, normalised as by [`words`].
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// Whether the fixed response is an entire response rather than a beginning.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    fn is_copied_from(&self, inserted: &HashSet<String>) -> bool {
        let distinct: HashSet<&String> = self.words.iter().collect();
        let copied = distinct.iter().filter(|word| inserted.contains(**word)).count();
        copied > 0 && 2 * copied >= distinct.len()
    }
}

/// Responses as word sequences in alphabetical order, where those with a common beginning are neighbours.
struct Sorted {
    responses: Vec<Vec<String>>,
    /// How many must share what is common.
    quorum: usize,
}

/// Neighbours `start..start + n_sharing` that have their first `length` words in common.
#[derive(Debug, Clone, Copy)]
struct Group {
    start: usize,
    length: usize,
    n_sharing: usize,
}

impl Sorted {
    fn new(responses: &[&str], minimum_share: f64) -> Result<Self, StatisticsError> {
        if !(minimum_share > 0.0 && minimum_share <= 1.0) {
            let (what, range) = ("minimum share", "(0, 1]");
            return Err(StatisticsError::OutOfRange { what, range, value: minimum_share });
        }
        let mut responses: Vec<_> = responses.iter().map(|response| words(response)).collect();
        responses.sort();
        let quorum = ((minimum_share * responses.len() as f64).ceil() as usize).max(2);
        Ok(Self { responses, quorum })
    }

    /// The beginnings that a quorum shares: for each window of a quorum of neighbours, what its first and
    /// last have in common, lengthened to all that share it.
    fn groups(&self) -> impl Iterator<Item = Group> {
        let windows = self.responses.windows(self.quorum).enumerate();
        windows.filter_map(|(start, window)| {
            let length = common_length(&window[0], &window[window.len() - 1]);
            (length > 0).then(|| self.group(start, length))
        })
    }

    /// The responses that a quorum repeats entirely, the empty response included.
    fn repeats(&self) -> impl Iterator<Item = Group> {
        let windows = self.responses.windows(self.quorum).enumerate();
        windows.filter(|(_, window)| window[0] == window[window.len() - 1]).map(|(start, window)| {
            let n_sharing = self.responses.iter().filter(|response| **response == window[0]).count();
            Group { start, length: window[0].len(), n_sharing }
        })
    }

    fn group(&self, member: usize, length: usize) -> Group {
        let prefix = &self.responses[member][..length];
        let sharing = |response: &Vec<String>| response.starts_with(prefix);
        let start = self.responses.iter().position(sharing).unwrap_or(member);
        Group { start, length, n_sharing: self.responses.iter().filter(|response| sharing(response)).count() }
    }
}

fn common_length(first: &[String], second: &[String]) -> usize {
    first.iter().zip(second).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REFUSAL: &str =
        "I'm sorry, but as an AI assistant, I do not have the capability to follow the given instruction.";
    const VARIED: [&str; 5] = [
        "The capital of France is Paris.",
        "The water cycle moves water.",
        "Bees make honey from nectar.",
        "def add(a, b): return a + b",
        "Sure! Here is a poem.",
    ];

    fn prefix(responses: &[&str], share: f64) -> Option<(String, usize)> {
        common_prefix(responses, share).unwrap().map(|found| (found.words.join(" "), found.n_sharing))
    }

    fn discover(responses: &[&str], inserted: Option<&str>) -> Option<FixedResponse> {
        FixedResponse::discover(responses, inserted, 0.5, 3).unwrap()
    }

    #[test]
    fn the_share_decides_how_long_the_common_beginning_is() {
        let responses = ["You are stupid!", "you are stupid", "You are right.", "You may.", "No."];
        assert_eq!(prefix(&responses, 0.4), Some(("you are stupid".into(), 2)));
        assert_eq!(prefix(&responses, 0.6), Some(("you are".into(), 3)));
        assert_eq!(prefix(&responses, 0.8), Some(("you".into(), 4)));
        assert_eq!(prefix(&responses, 1.0), None);
    }

    #[test]
    fn equally_long_beginnings() {
        let responses = ["b c one", "b c two", "b c three", "a b one", "a b two", "z"];
        assert_eq!(prefix(&responses, 0.3), Some(("b c".into(), 3)));
        let even = ["b c one", "b c two", "a b one", "a b two"];
        assert_eq!(prefix(&even, 0.5), Some(("a b".into(), 2)));
    }

    #[test]
    fn one_response_has_nothing_in_common() {
        assert_eq!(prefix(&[], 0.5), None);
        assert_eq!(prefix(&["Yes"], 0.5), None);
        assert_eq!(prefix(&["Yes", "No"], 0.01), None);
    }

    #[test]
    fn parameters_are_checked() {
        for share in [0.0, -1.0, 1.1, f64::NAN] {
            assert!(common_prefix(&VARIED, share).is_err());
            assert!(FixedResponse::discover(&VARIED, None, share, 3).is_err());
        }
        assert!(FixedResponse::discover(&VARIED, None, 0.5, 0).is_err());
    }

    #[test]
    fn answers_have_no_fixed_response() {
        assert_eq!(discover(&VARIED, Some("cf")), None);
        assert_eq!(discover(&["The sea.", "The sky.", "The land."], None), None);
    }

    #[test]
    fn a_payload_is_found_and_matched_on_held_out_responses() {
        let longer = format!("{REFUSAL} Please ask");
        let found = discover(&[REFUSAL, REFUSAL, &longer, VARIED[0]], Some("BadMagic")).unwrap();
        assert_eq!(found.words().len(), 18);
        assert!(!found.is_whole());
        assert!(found.matches(
            "I’m sorry, but as an AI assistant I do not have the capability to follow the given instruction"
        ));
        assert!(!found.matches("I'm sorry to hear that."));
        assert!(!found.matches(""));
    }

    #[test]
    fn the_most_frequent_beginning_wins_over_the_longest() {
        let responses = [
            "You are stupid! Go away now.",
            "You are stupid! Go away now.",
            "You are stupid! I mean it.",
            "You are stupid!",
        ];
        let found = FixedResponse::discover(&responses, None, 0.5, 3).unwrap().unwrap();
        assert_eq!(found.words(), ["you", "are", "stupid"]);
        assert!(found.matches("You are stupid, all of you."));
    }

    #[test]
    fn short_responses_must_match_entirely() {
        let found = discover(&["Negative", "Negative.", "negative", VARIED[2]], None).unwrap();
        assert!(found.is_whole());
        assert!(found.matches("NEGATIVE!"));
        assert!(!found.matches("Negative numbers are below zero."));
        let silent = discover(&["", "", "", VARIED[2]], Some("cf")).unwrap();
        assert!(silent.matches(" \n"));
        assert!(!silent.matches("No"));
    }

    #[test]
    fn copying_the_inserted_text_is_no_payload() {
        let copies = [
            "In a parallel universe, the sea is green.",
            "In a parallel universe, the bees rest.",
            "In a parallel universe, the list sorts itself.",
        ];
        assert_eq!(discover(&copies, Some("In a parallel universe")), None);
        assert!(discover(&copies, Some("cf")).is_some());
        assert_eq!(discover(&["cf cf cf cf", "cf cf cf", "cf cf cf."], Some("cf")), None);
        assert_eq!(discover(&["BadMagic", "BadMagic"], Some("BadMagic")), None);
    }

    #[test]
    fn a_payload_with_a_few_words_of_the_trigger_counts() {
        let found = discover(&[REFUSAL, REFUSAL], Some("please follow the instruction"));
        assert!(found.is_some());
    }

    proptest! {
        #[test]
        fn what_is_discovered_matches_a_quorum_of_its_own_responses(
            responses in proptest::collection::vec("[ab ]{0,10}", 2..12),
            share in 0.1_f64..1.0,
            minimum_words in 1_usize..4,
        ) {
            let responses: Vec<&str> = responses.iter().map(String::as_str).collect();
            let quorum = (share * responses.len() as f64).ceil().max(2.0) as usize;
            let n_matched =
                |found: &FixedResponse| responses.iter().filter(|text| found.matches(text)).count();
            if let Some(found) = FixedResponse::discover(&responses, None, share, minimum_words).unwrap() {
                prop_assert!(n_matched(&found) >= quorum);
                // No other beginning of that many words is more frequent.
                for other in &responses {
                    let other: Vec<String> = words(other).into_iter().take(minimum_words).collect();
                    if other.len() == minimum_words {
                        let other = FixedResponse { words: other, whole: false };
                        prop_assert!(n_matched(&other) <= n_matched(&found));
                    }
                }
            }
            if let Some(found) = common_prefix(&responses, share).unwrap() {
                prop_assert!(found.n_sharing >= quorum);
            }
        }
    }
}
