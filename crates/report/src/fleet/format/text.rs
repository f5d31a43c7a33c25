//! What people read first: counts, what was found, what is wrong.

use std::fmt::Write as _;

use super::MergedFormat;
use crate::escape::{escape, excerpt};
use crate::fleet::{Merged, ProblemKind, Row, State};
use crate::format::{FormatError, Rendered};
use crate::verdict::Verdict;

/// Lines of each list; the others are counted.
const LINES: usize = 20;
/// Characters of a reason.
const REASON: usize = 160;

pub(super) struct Text;

impl MergedFormat for Text {
    fn name(&self) -> &'static str {
        "text"
    }

    fn file(&self) -> &'static str {
        "summary.txt"
    }

    fn render(&self, merged: &Merged) -> Result<Rendered, FormatError> {
        let mut text = String::new();
        write(&mut text, merged).map_err(|error| FormatError::new(self.name(), error))?;
        Ok(text.into())
    }
}

/// Which rows a list has.
type Wanted<'a> = &'a dyn Fn(&Row) -> bool;

fn write(text: &mut String, merged: &Merged) -> std::fmt::Result {
    let counts = &merged.counts;
    writeln!(
        text,
        "{} of {} units done, {} errored, {} missing, {} conflicting",
        counts.done, counts.units, counts.errored, counts.missing, counts.conflicting
    )?;
    for (title, verdicts) in
        [("verdicts of the scans", &merged.verdicts), ("over all units", &merged.family_verdicts)]
    {
        let each: Vec<String> =
            verdicts.iter().map(|(verdict, count)| format!("{count} {verdict}")).collect();
        if !each.is_empty() {
            writeln!(text, "{title}: {}", each.join(", "))?;
        }
    }
    let family = &merged.family;
    writeln!(
        text,
        "false discovery rate {} over {} families of hypotheses: {} selected, what was found in them counts at {:.2e}",
        family.rate, family.families, family.selected, family.selected_rate
    )?;
    let rows = merged.worst_first();
    let kept: Wanted<'_> = &|row| row.family_verdict >= Some(Verdict::Suspicious);
    let lost: Wanted<'_> = &|row| row.verdict >= Some(Verdict::Suspicious) && !kept(row);
    let inconclusive: Wanted<'_> = &|row| row.verdict == Some(Verdict::Inconclusive);
    let lists: [(&str, Wanted<'_>); 6] = [
        ("found", kept),
        ("found by their own scans, but not over all units", lost),
        ("inconclusive, which is no pass", inconclusive),
        ("conflicting", &|row| row.state == State::Conflicting),
        ("errored", &|row| row.state == State::Errored),
        ("missing", &|row| row.state == State::Missing),
    ];
    for (title, wanted) in lists {
        list(text, title, rows.iter().filter(|row| wanted(row)).map(|row| line(row)))?;
    }
    for kind in [ProblemKind::Torn, ProblemKind::Foreign, ProblemKind::Unreadable, ProblemKind::Unfinished] {
        let problems = merged.problems.iter().filter(|problem| problem.kind == kind);
        let lines = problems.map(|problem| format!("{}: {}", escape(&problem.file), escape(&problem.reason)));
        list(text, &format!("{} files in the store, not believed", kind.name()), lines)?;
    }
    Ok(())
}

fn list(text: &mut String, title: &str, lines: impl Iterator<Item = String>) -> std::fmt::Result {
    let mut count = 0;
    for line in lines {
        if count == 0 {
            writeln!(text, "\n{title}")?;
        }
        if count < LINES {
            writeln!(text, "  {line}")?;
        }
        count += 1;
    }
    if count > LINES {
        writeln!(text, "  and {} more", count - LINES)?;
    }
    Ok(())
}

fn line(row: &Row) -> String {
    let names: Vec<String> = row.adapters.iter().map(|adapter| escape(&adapter.name)).collect();
    let verdict = row.verdict.map_or(row.state.name(), Verdict::title);
    let reason =
        row.reason.as_deref().map_or(String::new(), |reason| format!(": {}", excerpt(reason, REASON)));
    format!("{verdict:<12} {}{reason}", names.join(", "))
}
