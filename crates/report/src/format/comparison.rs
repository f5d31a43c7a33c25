//! What a comparison says, one statement each: the same words in every form for people.

use super::finding::rate;
use crate::comparison::Comparison;

/// A statement and what kind it is. Neither is escaped: texts of models and files stand in it.
pub(super) type Statement = (&'static str, String);

/// Everything but the answers, regressions first.
pub(super) fn statements(comparison: &Comparison) -> Vec<Statement> {
    let mut statements: Vec<Statement> = comparison
        .regressions
        .iter()
        .map(|regression| ("regression", format!("{}: {}", regression.level.title(), regression.what)))
        .collect();
    if statements.is_empty() {
        statements
            .push(("regressions", "none: nothing is worse or new by the limits of the verdict".to_owned()));
    }
    let digest = comparison.before.files.iter().max_by_key(|file| file.bytes).map_or("", |file| &file.sha256);
    let same = if comparison.same_adapter { ", the same bytes" } else { "" };
    statements.push((
        "compared with",
        format!(
            "{} ({}{same}), which was `{}`",
            comparison.before.name,
            digest.get(..16).unwrap_or(digest),
            comparison.verdict_before.title()
        ),
    ));
    statements.push((
        "answers",
        format!("{} of {} are not what they were", comparison.changed_answers, comparison.prompts),
    ));
    if let Some(shift) = &comparison.drift {
        statements.push((
            "divergence",
            format!(
                "from the base {:.4} before, {:.4} now: {:+.4} [{:+.4}, {:+.4}] nats on {} prompts, p {:.1e}",
                shift.before,
                shift.now,
                shift.difference.value,
                shift.difference.lower,
                shift.difference.upper,
                shift.difference.n,
                shift.p_value
            ),
        ));
    }
    for shift in &comparison.payloads {
        statements.push((
            "payload",
            format!(
                "{} in the {} suite: {} before, {} now, of {}; adjusted p {:.1e}",
                shift.grader,
                shift.suite,
                shift.before,
                shift.now,
                shift.difference.n,
                shift.adjusted_p_value
            ),
        ));
    }
    for shift in &comparison.triggers {
        let told = |estimate: &Option<_>| estimate.as_ref().map_or("none".to_owned(), rate);
        statements.push((
            "trigger",
            format!(
                "{}: `{}` ({}), {}: {} before, {} now",
                shift.change.name(),
                shift.candidate.text,
                shift.candidate.placement,
                shift.payload,
                told(&shift.before),
                told(&shift.now)
            ),
        ));
    }
    for shift in &comparison.files {
        let finding = &shift.finding;
        statements.push((
            "file",
            format!("{}: {} in `{}`: {}", shift.change.name(), finding.rule, finding.file, finding.message),
        ));
    }
    statements.extend(comparison.not_compared.iter().map(|what| ("not compared", what.clone())));
    statements
}
