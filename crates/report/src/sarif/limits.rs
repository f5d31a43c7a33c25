//! The limits of GitHub's code scanning ("SARIF results exceed limits" in its documentation): a file beyond its
//! maximum is rejected as a whole, so less is written, and the log says so.

use super::log::{Level, Log, Notification, Run};

/// Results that one run may have; GitHub shows the 5,000 most severe.
pub const RESULTS_PER_RUN: usize = 25_000;
/// Locations that one result may have and that are shown (it may have 1,000).
pub const LOCATIONS_PER_RESULT: usize = 100;
/// Tags that one rule may have and that are shown (it may have 20).
pub const TAGS_PER_RULE: usize = 10;

const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

/// A log of runs, each with the most severe results first, within GitHub's limits. Rules without a result stay: a
/// reader sees what was looked for. What is left out is counted in a notification.
#[must_use]
pub fn log(runs: impl IntoIterator<Item = Run>) -> Log {
    Log { schema: SCHEMA, version: "2.1.0", runs: runs.into_iter().map(limited).collect() }
}

fn limited(mut run: Run) -> Run {
    run.results.sort_by_key(|result| std::cmp::Reverse(result.level));
    let left_out = run.results.len().saturating_sub(RESULTS_PER_RUN);
    run.results.truncate(RESULTS_PER_RUN);
    for result in &mut run.results {
        result.locations.truncate(LOCATIONS_PER_RESULT);
    }
    for rule in &mut run.tool.driver.rules {
        rule.properties.tags.truncate(TAGS_PER_RULE);
    }
    if left_out > 0 {
        let message = format!("{left_out} results beyond {RESULTS_PER_RUN} are left out, the mildest of all");
        let notification = Notification { level: Level::Warning, message: message.into() };
        for invocation in &mut run.invocations {
            invocation.tool_execution_notifications.push(notification.clone());
        }
    }
    run
}

#[cfg(test)]
mod tests {
    use super::super::log::{ArtifactLocation, Fingerprints, Invocation, Location, SarifResult};
    use super::*;

    #[test]
    fn the_mildest_results_are_left_out_and_counted() {
        let result = |level| SarifResult {
            level,
            locations: vec![Location::in_file("a", None); 2 * LOCATIONS_PER_RESULT],
            ..SarifResult::default()
        };
        let mut results = vec![result(Level::Note); RESULTS_PER_RUN];
        results.push(result(Level::Error));
        let run = Run { results, invocations: vec![Invocation::default()], ..Run::default() };
        let log = log([run]);
        let run = &log.runs[0];
        assert_eq!((run.results.len(), run.results[0].level), (RESULTS_PER_RUN, Level::Error));
        assert_eq!(run.results[0].locations.len(), LOCATIONS_PER_RESULT);
        let notes = &run.invocations[0].tool_execution_notifications;
        assert!(notes.len() == 1 && notes[0].message.text.starts_with("1 results"), "{notes:?}");
    }

    #[test]
    fn a_path_becomes_a_relative_reference() {
        let uri = |path| ArtifactLocation::of_path(path).uri;
        assert_eq!(uri("a b/ü.json:x"), "a%20b/%C3%BC.json%3Ax");
        assert_eq!(uri("//host/share"), "host/share", "never an authority");
    }

    #[test]
    fn fingerprints_tell_lists_of_parts_apart() {
        assert_eq!(Fingerprints::of(&["a", "b"]), Fingerprints::of(&["a", "b"]));
        assert_ne!(Fingerprints::of(&["ab", ""]), Fingerprints::of(&["a", "b"]));
        assert_eq!(Fingerprints::of(&[]).own.len(), 32);
    }
}
