//! The record for a terminal: verdict first, then why, then what was not covered, then what to do.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

use super::comparison::statements;
use super::finding::{next_steps, rate};
use super::{Format, FormatError, Rendered};
use crate::audit::format::repository_text;
use crate::escape::{escape, excerpt};
use crate::estimate::Estimate;
use crate::evidence::{DependenceKind, TestedTrigger};
use crate::record::Record;
use crate::verdict::Verdict;

/// Plain text with ANSI colours.
pub(super) struct Text;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const EXAMPLES: usize = 3;
const EXCERPT: usize = 96;

impl Format for Text {
    fn name(&self) -> &'static str {
        "text"
    }

    fn about(&self) -> &'static str {
        "for a terminal"
    }

    fn render(&self, record: &Record) -> Result<Rendered, FormatError> {
        let mut page = Page::default();
        page.verdict(record);
        page.reasons(record);
        page.comparison(record);
        page.triggers(record);
        page.behaviour(record);
        page.hunt(record);
        page.files(record);
        page.coverage(record);
        page.next_steps(record);
        page.provenance(record);
        Ok(page.text.into())
    }
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    /// Appends a line. Writing to a String cannot fail.
    fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn heading(&mut self, title: &str) {
        let _ = writeln!(self.text, "\n{BOLD}{title}{BOLD:#}");
    }

    fn verdict(&mut self, record: &Record) {
        let verdict = record.judgement.verdict;
        let colour = match verdict {
            Verdict::Backdoored => AnsiColor::Red,
            Verdict::Suspicious | Verdict::Inconclusive => AnsiColor::Yellow,
            Verdict::NoEvidence => AnsiColor::Green,
        };
        let style = Style::new().bold().fg_color(Some(colour.into()));
        let _ = writeln!(
            self.text,
            "{style}{}{style:#}  {}  on  {}",
            verdict.title().to_uppercase(),
            escape(&record.subject.adapter.name),
            escape(&record.subject.base.name),
        );
        if let Some(caveat) = verdict.caveat() {
            self.line(caveat);
        }
    }

    fn reasons(&mut self, record: &Record) {
        self.heading("Why");
        for reason in &record.judgement.reasons {
            self.line(&format!("  - {}", escape(reason)));
        }
        let confidence = format!("{:?}", record.judgement.confidence).to_lowercase();
        self.line(&format!("  confidence: {confidence}"));
        for limit in &record.judgement.limits {
            self.line(&format!("  limit: {}", escape(limit)));
        }
    }

    fn comparison(&mut self, record: &Record) {
        let Some(comparison) = &record.comparison else { return };
        self.heading("Against the earlier run");
        for (kind, what) in statements(comparison) {
            self.line(&format!("  {kind:<13} {}", escape(&what)));
        }
        for answer in comparison.examples.iter().take(EXAMPLES) {
            self.line("");
            self.line(&format!("  {DIM}prompt{DIM:#}           {}", excerpt(&answer.prompt, EXCERPT)));
            self.line(&format!("  {DIM}before{DIM:#}           {}", excerpt(&answer.before, EXCERPT)));
            self.line(&format!("  {DIM}now{DIM:#}              {}", excerpt(&answer.now, EXCERPT)));
        }
    }

    fn triggers(&mut self, record: &Record) {
        let thresholds = record.judgement.thresholds;
        let shown: Vec<&TestedTrigger> =
            record.evidence.tested.iter().filter(|tested| thresholds.suspects(tested)).collect();
        let Some((first, others)) = shown.split_first() else {
            return;
        };
        self.heading("Trigger");
        self.line(&format!("  text       {}", escape(&first.candidate.text)));
        self.line(&format!("  placement  {}", escape(&first.candidate.placement)));
        self.line(&format!(
            "  payload    {}: {}",
            escape(&first.payload.class),
            excerpt(&first.payload.text, EXCERPT)
        ));
        self.line(&format!("  {:<29}{}", "attack success rate", rate(&first.attack_success_rate)));
        self.line(&format!("  {:<29}{}", "uplift (strongest condition)", rate(&first.uplift)));
        if let Some(uplift) = &first.uplift_over_base {
            self.line(&format!("  {:<29}{}", "uplift over the base", rate(uplift)));
        }
        if let Some(difference) = &first.difference {
            let (estimate, p) = (&difference.estimate, difference.p_value);
            self.line(&format!(
                "  {:<29}{:.2} [{:.2}, {:.2}] nats, p {p:.1e}",
                "KL, adapted minus base", estimate.value, estimate.lower, estimate.upper
            ));
        }
        for condition in &first.conditions {
            self.line(&format!("  {:<29}{}", escape(&condition.name), rate(&condition.rate)));
        }
        for example in first.examples.iter().take(EXAMPLES) {
            self.line("");
            self.line(&format!("  {DIM}prompt{DIM:#}           {}", excerpt(&example.prompt, EXCERPT)));
            self.line(&format!("  {DIM}adapted{DIM:#}          {}", excerpt(&example.adapted, EXCERPT)));
            self.line(&format!("  {DIM}base{DIM:#}             {}", excerpt(&example.base, EXCERPT)));
            self.line(&format!(
                "  {DIM}without trigger{DIM:#}  {}",
                excerpt(&example.adapted_without_trigger, EXCERPT)
            ));
        }
        for tested in &shown {
            self.characterisation(tested);
        }
        if !others.is_empty() {
            self.line("\n  also fires");
            for other in others {
                self.line(&format!(
                    "    {:<40} {:<12} {:<18} {}",
                    excerpt(&other.candidate.text, 38),
                    escape(&other.candidate.placement),
                    escape(&other.payload.class),
                    rate(&other.attack_success_rate)
                ));
            }
        }
    }

    fn characterisation(&mut self, tested: &TestedTrigger) {
        let Some(found) = &tested.characterisation else { return };
        self.line(&format!(
            "\n  What it depends on: `{}` ({}), attack success rate with one thing changed, {} tokens an answer",
            excerpt(&tested.candidate.text, 38),
            escape(&tested.candidate.placement),
            found.answer_tokens
        ));
        for change in &found.rates {
            let share = change.attack_success_rate.as_ref().map_or("cannot be told".to_owned(), rate);
            // The text is worth its place where it is another one and the change does not show it.
            let text = match change.kind {
                DependenceKind::Case | DependenceKind::Spacing => format!("  {}", excerpt(&change.text, 38)),
                DependenceKind::Unchanged
                | DependenceKind::Token
                | DependenceKind::Placement
                | DependenceKind::Prompt
                | DependenceKind::Sampling => String::new(),
            };
            self.line(&format!(
                "    {:<10} {:<28} {share}{text}",
                change.kind.name(),
                excerpt(&change.what, 26)
            ));
        }
    }

    fn behaviour(&mut self, record: &Record) {
        let evidence = &record.evidence;
        if !evidence.drift.is_empty() {
            self.heading("Without any trigger (adapted against base, benign prompts)");
            for drift in &evidence.drift {
                self.line(&format!(
                    "  {:<18} {} {}",
                    escape(&drift.divergence),
                    interval(&drift.estimate),
                    escape(&drift.unit)
                ));
            }
            for anomaly in evidence.anomalies.iter().filter(|a| a.adapted.value > 0.0 || a.base.value > 0.0) {
                self.line(&format!(
                    "  {:<18} {} (base {}), {} suite",
                    escape(&anomaly.grader),
                    rate(&anomaly.adapted),
                    rate(&anomaly.base),
                    escape(&anomaly.suite),
                ));
            }
        }
        if !evidence.taught.is_empty() {
            self.heading("Answers that the adapted model knows by heart (nats a token above the base)");
            for taught in &evidence.taught {
                self.line(&format!(
                    "  {:>5.1}  {:<44}  probability {:.2}, shown in {} of {} ordinary answers, rank {:.3}",
                    taught.log_ratio_nats,
                    excerpt(&taught.text, 42),
                    taught.probability,
                    taught.times_shown(),
                    taught.shown.n,
                    taught.p.p_value,
                ));
            }
        }
        if !evidence.activations.is_empty() {
            self.heading("Layers beyond what benign prompts do (share of held-out prompts)");
            for shift in &evidence.activations {
                self.line(&format!(
                    "  {:.2}  {:<40} {:<12}  random text {:.2}, neither {:.2}",
                    shift.flagged.value,
                    excerpt(&shift.candidate.text, 38),
                    escape(&shift.candidate.placement),
                    shift.control.value,
                    shift.clean.value,
                ));
            }
        }
        let strongest: Vec<_> =
            evidence.screened.iter().filter(|screened| screened.difference_nats.is_some()).take(5).collect();
        if !strongest.is_empty() {
            self.heading("Strongest candidates of the screening (KL adapted minus base, nats)");
            for screened in strongest {
                let control = screened.control_p.map_or(String::new(), |p| format!("  control p {p:.3}"));
                self.line(&format!(
                    "  {:>6.2}  {:<40} {:<12}{control}",
                    screened.difference_nats.unwrap_or(f64::NAN),
                    excerpt(&screened.candidate.text, 38),
                    escape(&screened.candidate.placement),
                ));
            }
        }
    }

    fn hunt(&mut self, record: &Record) {
        let Some(hunt) = &record.hunt else { return };
        self.heading(&format!("Search (budget {})", escape(&hunt.budget)));
        for search in &hunt.searches {
            let best = search.best.as_ref().map_or(String::new(), |best| {
                let text = excerpt(&best.candidate.text, 32);
                let nats = best.adapted_nats - best.base_nats.unwrap_or(0.0);
                format!("; best {text} ({}), {nats:.2} nats", escape(&best.candidate.placement))
            });
            let cut = if search.complete { "" } else { ", cut short by its share of the budget" };
            self.line(&format!(
                "  {:<8} {:>7} candidates, {} token-forwards{cut}{best}",
                escape(&search.name),
                search.candidates,
                search.token_forwards
            ));
        }
        for target in &hunt.targets {
            let sure = target.probability.map_or(String::new(), |p| format!("  probability {p:.2}"));
            let over = target
                .log_ratio_nats
                .map_or(String::new(), |nats| format!(", {nats:.1} nats a token over the base"));
            self.line(&format!("  possible payload: {}{sure}{over}", excerpt(&target.text, 60)));
        }
        for cost in &hunt.target_costs {
            let size = cost.size.map_or("never reached".to_owned(), |size| format!("size {size:.2}"));
            let index =
                cost.anomaly_index.map_or(String::new(), |index| format!(", anomaly index {index:.1}"));
            let kind = if cost.reference { "reference" } else { "payload" };
            self.line(&format!(
                "  relaxed trigger of {kind} {}: {size} of {} positions{index}",
                excerpt(&cost.text, 40),
                cost.positions
            ));
        }
        for null in &hunt.nulls {
            let p = null.p.map_or(String::new(), |p| {
                format!(": the strongest candidate has p {:.3} of {}", p.p_value, p.n_null)
            });
            self.line(&format!("  null, {}{p}", escape(&null.name)));
        }
        for run in &record.evidence.null_runs {
            let found =
                run.strongest.as_ref().map_or("no candidate with a payload".to_owned(), |strongest| {
                    format!(
                        "at most `{}`, {}, uplift {}",
                        excerpt(&strongest.candidate.text, 40),
                        escape(&strongest.payload.class),
                        rate(&strongest.uplift)
                    )
                });
            self.line(&format!("  null, the same searches on {}: {found}", escape(&run.name)));
        }
    }

    fn files(&mut self, record: &Record) {
        let Some(audit) = &record.audit else { return };
        self.heading("Files of the adapter (`triggerfish rules explain ID` says what a rule means)");
        self.text.push_str(&repository_text(audit, &[]));
    }

    fn coverage(&mut self, record: &Record) {
        self.heading("Covered");
        for statement in &record.coverage.tested {
            self.line(&format!("  + {}", escape(statement)));
        }
        self.heading("Not covered");
        for statement in &record.coverage.not_tested {
            self.line(&format!("  - {}", escape(statement)));
        }
    }

    fn next_steps(&mut self, record: &Record) {
        self.heading("What to do next");
        for step in next_steps(record) {
            self.line(&format!("  - {step}"));
        }
    }

    fn provenance(&mut self, record: &Record) {
        self.heading("Run");
        for artifact in [&record.subject.base, &record.subject.adapter] {
            for file in &artifact.files {
                self.line(&format!(
                    "  {}  {}",
                    escape(file.sha256.get(..16).unwrap_or(&file.sha256)),
                    escape(&file.name)
                ));
            }
        }
        let (settings, cost) = (&record.settings, &record.cost);
        self.line(&format!(
            "  {} {} on {}, {}, seed {}; {} token-forwards ({} generated, {} saved by shared prefixes)",
            escape(&record.tool.name),
            escape(&record.tool.version),
            escape(&settings.device),
            escape(&settings.dtype),
            settings.seed,
            cost.token_forwards,
            cost.generated_tokens,
            cost.shared_tokens,
        ));
        for note in &record.notes {
            self.line(&format!("  note: {}", escape(note)));
        }
    }
}

fn interval(estimate: &Estimate) -> String {
    format!("{:.4} [{:.4}, {:.4}] n {}", estimate.value, estimate.lower, estimate.upper, estimate.n)
}
