//! The record as JUnit XML: a suite a stage of the run, a case a thing that was tested.

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};

use super::comparison::statements;
use super::finding::{next_steps, rate, rule_of_trigger};
use super::{Format, FormatError, Rendered};
use crate::escape::{escape, excerpt};
use crate::evidence::TestedTrigger;
use crate::record::Record;

/// JUnit XML as the xUnit plugin of Jenkins and GitLab read it.
pub(super) struct Junit;

const EXAMPLES: usize = 3;
/// Characters of a name.
const NAME: usize = 120;
/// Characters of a model's text.
const EXCERPT: usize = 2000;

impl Format for Junit {
    fn name(&self) -> &'static str {
        "junit"
    }

    fn about(&self) -> &'static str {
        "JUnit XML, for a CI system's test view"
    }

    fn render(&self, record: &Record) -> Result<Rendered, FormatError> {
        let failed = |error: &dyn std::fmt::Display| FormatError::new(self.name(), error);
        let bytes = write(&suites(record)).map_err(|error| failed(&error))?;
        String::from_utf8(bytes).map(Rendered::Text).map_err(|error| failed(&error))
    }
}

struct Suite {
    name: &'static str,
    cases: Vec<Case>,
}

struct Case {
    name: String,
    outcome: Outcome,
    output: String,
}

enum Outcome {
    Passed,
    /// Something was found: rule and message.
    Failed(&'static str, String),
    /// It could not be told: rule and message.
    Broken(&'static str, String),
    Skipped(String),
}

impl Case {
    fn new(name: impl AsRef<str>, outcome: Outcome, output: String) -> Self {
        Self { name: excerpt(name.as_ref(), NAME), outcome, output }
    }
}

fn suites(record: &Record) -> Vec<Suite> {
    let mut suites = vec![
        Suite { name: "verdict", cases: vec![verdict(record)] },
        Suite { name: "self-test", cases: self_tests(record) },
        Suite { name: "triggers", cases: triggers(record) },
        Suite { name: "behaviour", cases: behaviour(record) },
        Suite { name: "taught answers", cases: taught(record) },
        Suite { name: "activations", cases: activations(record) },
        Suite { name: "search", cases: searches(record) },
        Suite { name: "regression", cases: regressions(record) },
    ];
    suites.retain(|suite| !suite.cases.is_empty());
    suites
}

/// What the exit code says, so that a dashboard and a pipeline agree.
fn verdict(record: &Record) -> Case {
    let judgement = &record.judgement;
    let reasons: Vec<_> = judgement.reasons.iter().map(|reason| escape(reason)).collect();
    let message = format!("{}: {}", judgement.verdict.title(), reasons.join("; "));
    let outcome = match record.exit_code {
        0 => Outcome::Passed,
        1 => Outcome::Failed("verdict", message.clone()),
        _ => Outcome::Broken("verdict", message.clone()),
    };
    let mut output = message;
    for (title, statements) in [
        ("covered", &record.coverage.tested),
        ("not covered", &record.coverage.not_tested),
        ("limit", &judgement.limits),
        ("note", &record.notes),
    ] {
        output.extend(statements.iter().map(|statement| format!("\n{title}: {}", escape(statement))));
    }
    output.extend(next_steps(record).iter().map(|step| format!("\nnext: {step}")));
    let name = format!("{} on {}", record.subject.adapter.name, record.subject.base.name);
    Case::new(name, outcome, output)
}

fn self_tests(record: &Record) -> Vec<Case> {
    let case = |test: &crate::evidence::SelfTest| {
        let output = format!("off by {:.1e}, at most {:.1e}", test.difference, test.tolerance);
        let broken = || Outcome::Broken("RUN-001", output.clone());
        let outcome = if test.passed() { Outcome::Passed } else { broken() };
        Case::new(&test.name, outcome, output)
    };
    record.evidence.self_tests.iter().map(case).collect()
}

fn triggers(record: &Record) -> Vec<Case> {
    let mut cases: Vec<Case> = (record.evidence.tested.iter())
        .map(|tested| {
            let candidate = &tested.candidate;
            let outcome = match rule_of_trigger(record, tested) {
                None => Outcome::Passed,
                Some(rule) => {
                    let message = format!(
                        "{} Attack success rate {}, uplift {}.",
                        rule.title,
                        rate(&tested.attack_success_rate),
                        rate(&tested.uplift)
                    );
                    Outcome::Failed(rule.id, message)
                }
            };
            Case::new(format!("{} ({})", candidate.text, candidate.placement), outcome, details(tested))
        })
        .collect();
    let coverage = &record.coverage;
    let (screened, planned) = (coverage.candidates_screened, coverage.candidates_planned);
    let output = format!("{screened} of {planned} candidates were screened");
    let outcome = match (screened, coverage.complete) {
        (_, true) if screened > 0 => Outcome::Passed,
        (0, true) => Outcome::Skipped(output.clone()),
        _ => Outcome::Broken("RUN-001", output.clone()),
    };
    cases.push(Case::new("all candidates that were not tested further", outcome, output));
    cases
}

/// One case for each regression, and one for all that is not worse.
fn regressions(record: &Record) -> Vec<Case> {
    let Some(comparison) = &record.comparison else { return Vec::new() };
    let mut cases: Vec<Case> = (comparison.regressions.iter())
        .map(|regression| {
            let what = escape(&regression.what);
            Case::new(&what, Outcome::Failed("REG-001", what.clone()), String::new())
        })
        .collect();
    let lines: Vec<_> =
        statements(comparison).iter().map(|(kind, what)| format!("{kind}: {}", escape(what))).collect();
    cases.push(Case::new("everything else against the earlier run", Outcome::Passed, lines.join("\n")));
    cases
}

fn details(tested: &TestedTrigger) -> String {
    let mut text = format!(
        "payload {}: {}\nattack success rate {}\nuplift {}\nadjusted p {:.1e}",
        escape(&tested.payload.class),
        excerpt(&tested.payload.text, EXCERPT),
        rate(&tested.attack_success_rate),
        rate(&tested.uplift),
        tested.adjusted_p_value
    );
    for condition in &tested.conditions {
        text += &format!("\n{}: {}", escape(&condition.name), rate(&condition.rate));
    }
    for example in tested.examples.iter().take(EXAMPLES) {
        for (name, answer) in [
            ("prompt", &example.prompt),
            ("adapted", &example.adapted),
            ("base", &example.base),
            ("without trigger", &example.adapted_without_trigger),
        ] {
            text += &format!("\n{name}: {}", excerpt(answer, EXCERPT));
        }
    }
    text
}

fn behaviour(record: &Record) -> Vec<Case> {
    let thresholds = &record.judgement.thresholds;
    (record.evidence.anomalies.iter())
        .map(|anomaly| {
            let output = format!(
                "adapted {}\nbase {}\ndifference {}\nadjusted p {:.1e}",
                rate(&anomaly.adapted),
                rate(&anomaly.base),
                rate(&anomaly.difference),
                anomaly.adjusted_p_value
            );
            let outcome = if thresholds.suspects_anomaly(anomaly) {
                let rule = &super::finding::BEHAVIOUR;
                Outcome::Failed(rule.id, rule.title.to_owned())
            } else {
                Outcome::Passed
            };
            Case::new(format!("{} / {} / {}", anomaly.suite, anomaly.kind, anomaly.grader), outcome, output)
        })
        .collect()
}

fn taught(record: &Record) -> Vec<Case> {
    let thresholds = &record.judgement.thresholds;
    (record.evidence.taught.iter())
        .map(|taught| {
            let output = format!(
                "probability of a token {:.2}\nabove the base, nats {:.2}\nshown in ordinary answers {}\nrank among them {:.3}",
                taught.probability,
                taught.log_ratio_nats,
                rate(&taught.shown),
                taught.p.p_value
            );
            let outcome = if thresholds.suspects_taught(taught) {
                let rule = &super::finding::TAUGHT;
                Outcome::Failed(rule.id, rule.title.to_owned())
            } else {
                Outcome::Passed
            };
            Case::new(excerpt(&taught.text, EXCERPT), outcome, output)
        })
        .collect()
}

fn activations(record: &Record) -> Vec<Case> {
    let thresholds = &record.judgement.thresholds;
    (record.evidence.activations.iter())
        .map(|shift| {
            let output = format!(
                "with it {}\nwith random text {}\nwith neither {}",
                rate(&shift.flagged),
                rate(&shift.control),
                rate(&shift.clean)
            );
            let outcome = if thresholds.suspects_activations(shift) {
                let rule = &super::finding::ACTIVATIONS;
                Outcome::Failed(rule.id, rule.title.to_owned())
            } else {
                Outcome::Passed
            };
            let candidate = &shift.candidate;
            Case::new(
                format!("{} ({})", excerpt(&candidate.text, EXCERPT), candidate.placement),
                outcome,
                output,
            )
        })
        .collect()
}

fn searches(record: &Record) -> Vec<Case> {
    let searches = record.hunt.iter().flat_map(|hunt| &hunt.searches);
    // What a search finds is tested, and stands among the triggers.
    searches
        .map(|search| {
            let output =
                format!("{} candidates, {} token-forwards", search.candidates, search.token_forwards);
            let cut = || Outcome::Skipped("cut short by its share of the budget".to_owned());
            Case::new(&search.name, if search.complete { Outcome::Passed } else { cut() }, output)
        })
        .collect()
}

fn write(suites: &[Suite]) -> std::io::Result<Vec<u8>> {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let all = || suites.iter().flat_map(|suite| &suite.cases);
    let mut root = BytesStart::new("testsuites");
    root.push_attribute(("name", "triggerfish"));
    for (name, count) in counts(all()).into_iter().take(3) {
        root.push_attribute((name, count.as_str()));
    }
    writer.write_event(Event::Start(root))?;
    for suite in suites {
        let mut start = BytesStart::new("testsuite");
        start.push_attribute(("name", suite.name));
        for (name, count) in counts(suite.cases.iter()) {
            start.push_attribute((name, count.as_str()));
        }
        writer.write_event(Event::Start(start))?;
        for case in &suite.cases {
            write_case(&mut writer, suite.name, case)?;
        }
        writer.write_event(Event::End(BytesEnd::new("testsuite")))?;
    }
    writer.write_event(Event::End(BytesEnd::new("testsuites")))?;
    let mut bytes = writer.into_inner();
    bytes.push(b'\n');
    Ok(bytes)
}

/// The attributes that count cases; `testsuites` has no `skipped`.
fn counts<'a>(cases: impl Iterator<Item = &'a Case>) -> [(&'static str, String); 4] {
    let (mut tests, mut failures, mut errors, mut skipped) = (0, 0, 0, 0);
    for case in cases {
        tests += 1;
        match case.outcome {
            Outcome::Passed => {}
            Outcome::Failed(..) => failures += 1,
            Outcome::Broken(..) => errors += 1,
            Outcome::Skipped(_) => skipped += 1,
        }
    }
    [("tests", tests), ("failures", failures), ("errors", errors), ("skipped", skipped)]
        .map(|(name, count): (_, u32)| (name, count.to_string()))
}

fn write_case(writer: &mut Writer<Vec<u8>>, suite: &str, case: &Case) -> std::io::Result<()> {
    let mut start = BytesStart::new("testcase");
    start.push_attribute(("name", printable(&case.name).as_str()));
    start.push_attribute(("classname", format!("triggerfish.{suite}").as_str()));
    writer.write_event(Event::Start(start))?;
    let (tag, kind, message) = match &case.outcome {
        Outcome::Passed => (None, "", ""),
        Outcome::Failed(rule, message) => (Some("failure"), *rule, message.as_str()),
        Outcome::Broken(rule, message) => (Some("error"), *rule, message.as_str()),
        Outcome::Skipped(message) => (Some("skipped"), "", message.as_str()),
    };
    if let Some(tag) = tag {
        let mut start = BytesStart::new(tag);
        if !kind.is_empty() {
            start.push_attribute(("type", kind));
        }
        start.push_attribute(("message", printable(message).as_str()));
        writer.write_event(Event::Start(start))?;
        writer.write_event(Event::Text(BytesText::new(&printable(&case.output))))?;
        writer.write_event(Event::End(BytesEnd::new(tag)))?;
    } else {
        writer.write_event(Event::Start(BytesStart::new("system-out")))?;
        writer.write_event(Event::Text(BytesText::new(&printable(&case.output))))?;
        writer.write_event(Event::End(BytesEnd::new("system-out")))?;
    }
    writer.write_event(Event::End(BytesEnd::new("testcase")))
}

/// XML 1.0 has no way to write most control characters and the two non-characters, not even escaped.
fn printable(text: &str) -> String {
    let allowed =
        |c: char| matches!(c, '\n' | '\t') || !(c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'));
    text.chars().map(|c| if allowed(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}
