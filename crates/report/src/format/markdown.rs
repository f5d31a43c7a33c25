//! The record as Markdown for a pull request's comment or a CI step's summary. Texts that come from models, files or
//! suites stand in code spans only, where nothing is a link, a mention or HTML.

use super::comparison::statements;
use super::finding::{next_steps, rate, rule_of_trigger};
use super::{Format, FormatError, Rendered};
use crate::escape::excerpt;
use crate::evidence::TestedTrigger;
use crate::record::Record;

/// GitHub-flavoured Markdown, short enough for a comment (65,536 characters).
pub(super) struct Markdown;

/// What is shown of each list; the rest is counted.
const TRIGGERS: usize = 10;
const EXAMPLES: usize = 3;
const ANOMALIES: usize = 20;
const STATEMENTS: usize = 30;
/// Characters of a text.
const EXCERPT: usize = 200;
const SHORT: usize = 60;
const STATEMENT: usize = 400;

impl Format for Markdown {
    fn name(&self) -> &'static str {
        "markdown"
    }

    fn about(&self) -> &'static str {
        "for a pull request's comment or a step summary"
    }

    fn render(&self, record: &Record) -> Result<Rendered, FormatError> {
        let mut page = Page::default();
        page.verdict(record);
        page.comparison(record);
        page.triggers(record);
        page.behaviour(record);
        page.coverage(record);
        page.run(record);
        Ok(page.text.into())
    }
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// A table; a cell must hold no line break.
    fn table(&mut self, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
        self.line(&format!("| {} |", head.join(" | ")));
        self.line(&format!("|{}", "---|".repeat(head.len())));
        for row in rows {
            self.line(&format!("| {} |", row.join(" | ")));
        }
        self.line("");
    }

    fn list<'a>(&mut self, statements: impl ExactSizeIterator<Item = &'a String>) {
        let more = statements.len().saturating_sub(STATEMENTS);
        for statement in statements.take(STATEMENTS) {
            self.line(&format!("- {}", prose(statement)));
        }
        if more > 0 {
            self.line(&format!("- and {more} more"));
        }
        self.line("");
    }

    fn verdict(&mut self, record: &Record) {
        let judgement = &record.judgement;
        self.line(&format!("## Triggerfish: {}", judgement.verdict.title()));
        self.line("");
        self.line(&format!(
            "{} on {}; confidence {}, exit code {}.",
            code(&record.subject.adapter.name, SHORT),
            code(&record.subject.base.name, SHORT),
            format!("{:?}", judgement.confidence).to_lowercase(),
            record.exit_code
        ));
        if let Some(caveat) = judgement.verdict.caveat() {
            self.line(caveat);
        }
        self.line("");
        self.list(judgement.reasons.iter().chain(&judgement.limits).collect::<Vec<_>>().into_iter());
        self.line("**What to do next**");
        self.line("");
        for step in next_steps(record) {
            self.line(&format!("- {step}"));
        }
        self.line("");
    }

    fn comparison(&mut self, record: &Record) {
        let Some(comparison) = &record.comparison else { return };
        self.line("### Against the earlier run");
        self.line("");
        let all = statements(comparison);
        let more = all.len().saturating_sub(STATEMENTS);
        for (kind, what) in all.iter().take(STATEMENTS) {
            self.line(&format!("- **{kind}** {}", prose(what)));
        }
        if more > 0 {
            self.line(&format!("- and {more} more"));
        }
        self.line("");
        if !comparison.examples.is_empty() {
            let rows = comparison.examples.iter().take(EXAMPLES).map(|answer| {
                vec![code(&answer.prompt, SHORT), code(&answer.before, EXCERPT), code(&answer.now, EXCERPT)]
            });
            self.table(&["prompt", "before", "now"], rows);
        }
    }

    fn triggers(&mut self, record: &Record) {
        let shown: Vec<&TestedTrigger> = (record.evidence.tested.iter())
            .filter(|tested| rule_of_trigger(record, tested).is_some())
            .collect();
        let Some(first) = shown.first() else { return };
        self.line("### Triggers");
        self.line("");
        let row = |tested: &&TestedTrigger| {
            vec![
                code(&tested.candidate.text, SHORT),
                code(&tested.candidate.placement, SHORT),
                code(&tested.payload.class, SHORT),
                rate(&tested.attack_success_rate),
                rate(&tested.uplift),
                format!("{:.1e}", tested.adjusted_p_value),
            ]
        };
        self.table(
            &["trigger", "placement", "payload", "attack success rate", "uplift", "adjusted p"],
            shown.iter().take(TRIGGERS).map(row),
        );
        if shown.len() > TRIGGERS {
            self.line(&format!("and {} more.\n", shown.len() - TRIGGERS));
        }
        self.table(
            &["condition of the strongest", "rate of the payload"],
            (first.conditions.iter())
                .map(|condition| vec![code(&condition.name, SHORT), rate(&condition.rate)]),
        );
        for example in first.examples.iter().take(EXAMPLES) {
            self.table(
                &["", "example"],
                [
                    ("prompt", &example.prompt),
                    ("adapted", &example.adapted),
                    ("base", &example.base),
                    ("without trigger", &example.adapted_without_trigger),
                ]
                .map(|(name, text)| vec![name.to_owned(), code(text, EXCERPT)]),
            );
        }
    }

    fn behaviour(&mut self, record: &Record) {
        let taught = record.evidence.taught.iter().map(|taught| {
            vec![
                code(&taught.text, SHORT),
                format!("{:.2}", taught.probability),
                format!("{:.1}", taught.log_ratio_nats),
                rate(&taught.shown),
                format!("{:.3}", taught.p.p_value),
            ]
        });
        if taught.len() > 0 {
            self.line("### Answers that the adapted model knows by heart and the base does not");
            self.line("");
            self.table(
                &[
                    "answer",
                    "probability of a token",
                    "nats above the base",
                    "shown in ordinary answers",
                    "rank among them",
                ],
                taught,
            );
        }
        let shifts = record.evidence.activations.iter().map(|shift| {
            vec![
                code(&shift.candidate.text, SHORT),
                code(&shift.candidate.placement, SHORT),
                rate(&shift.flagged),
                rate(&shift.control),
                rate(&shift.clean),
            ]
        });
        if shifts.len() > 0 {
            self.line("### Layers beyond what benign prompts do");
            self.line("");
            self.table(&["text", "placement", "prompts", "with random text", "with neither"], shifts);
        }
        let seen: Vec<_> = (record.evidence.anomalies.iter())
            .filter(|anomaly| anomaly.adapted.value > 0.0 || anomaly.base.value > 0.0)
            .collect();
        if record.evidence.drift.is_empty() && seen.is_empty() {
            return;
        }
        self.line("### Without any trigger");
        self.line("");
        let drift = record.evidence.drift.iter().map(|drift| {
            let estimate = &drift.estimate;
            vec![
                code(&drift.divergence, SHORT),
                format!("{:.4} [{:.4}, {:.4}]", estimate.value, estimate.lower, estimate.upper),
                code(&drift.unit, SHORT),
                estimate.n.to_string(),
            ]
        });
        self.table(&["divergence from the base", "mean", "unit", "prompts"], drift);
        let more = seen.len().saturating_sub(ANOMALIES);
        let anomalies = seen.iter().take(ANOMALIES).map(|anomaly| {
            vec![
                code(&anomaly.grader, SHORT),
                code(&anomaly.suite, SHORT),
                rate(&anomaly.adapted),
                rate(&anomaly.base),
                format!("{:.1e}", anomaly.adjusted_p_value),
            ]
        });
        self.table(&["payload", "suite", "adapted", "base", "adjusted p"], anomalies);
        if more > 0 {
            self.line(&format!("and {more} more.\n"));
        }
    }

    fn coverage(&mut self, record: &Record) {
        self.line("<details><summary>What was covered, and what was not</summary>\n");
        self.line("**Covered**\n");
        self.list(record.coverage.tested.iter());
        self.line("**Not covered**\n");
        self.list(record.coverage.not_tested.iter());
        self.line("</details>\n");
    }

    fn run(&mut self, record: &Record) {
        self.line("<details><summary>Run</summary>\n");
        let files = [("base", &record.subject.base), ("adapter", &record.subject.adapter)];
        let rows = files.iter().flat_map(|(role, artifact)| {
            artifact.files.iter().take(STATEMENTS).map(move |file| {
                vec![
                    (*role).to_owned(),
                    code(&file.name, SHORT),
                    file.bytes.to_string(),
                    code(&file.sha256, 64),
                ]
            })
        });
        self.table(&["of", "file", "bytes", "SHA-256"], rows);
        let settings = &record.settings;
        self.line(&format!(
            "{} {} on {}, {}, seed {}; {} token-forwards.",
            prose(&record.tool.name),
            prose(&record.tool.version),
            code(&settings.device, SHORT),
            code(&settings.dtype, SHORT),
            settings.seed,
            record.cost.token_forwards
        ));
        self.line("");
        self.list(record.notes.iter());
        self.line("</details>");
    }
}

/// A text of somebody else as a code span: between more backticks than it holds in a row. A `|` would end the cell
/// of a table even there, but for a backslash before it.
fn code(text: &str, characters: usize) -> String {
    let text = excerpt(text, characters).replace('|', "\\|");
    if text.is_empty() {
        return "(empty)".to_owned();
    }
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    // One space at either end is not shown, and keeps the text's own backticks from the fence.
    format!("{fence} {text} {fence}")
}

/// A statement of this program, which may quote texts of somebody else: its punctuation loses its meaning. A space
/// of no width after `@` keeps people from being mentioned.
fn prose(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in excerpt(text, STATEMENT).chars() {
        match character {
            '@' => safe.push_str("@\u{200b}"),
            // Also the dots and colons of what would become a link by itself.
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '<' | '>' | '#' | '|' | '~' | '&' | '!'
            | ':' | '$' | '/' => {
                safe.push_str(&format!("&#{};", u32::from(character)));
            }
            _ => safe.push(character),
        }
    }
    safe.replace("www.", "www&#46;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_spans_outlast_backticks_and_tables() {
        assert_eq!(code("a`b``c", 99), "``` a`b``c ```");
        assert_eq!(code("a|b", 99), "` a\\|b `");
        assert_eq!(code("", 99), "(empty)");
        assert_eq!(code("x\ny", 99), "` x\\ny `");
    }

    #[test]
    fn prose_holds_no_markup() {
        let safe = prose("<b>@all [x](http://y) www.z.com *a* `b`");
        assert!(!safe.contains(['<', '[', '*', '`', ':']) && !safe.contains("@all"), "{safe}");
        assert!(!safe.contains("www."), "{safe}");
    }
}
