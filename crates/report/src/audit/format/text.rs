//! For people: what is worst first, what to do, and what could not be checked.

use anstyle::{AnsiColor, Style};

use super::AuditFormat;
use crate::audit::{AuditReport, Finding, RepositoryAudit, Rule, Severity};
use crate::escape::escape;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// Plain text with colours.
pub(super) struct Text;

impl AuditFormat for Text {
    fn name(&self) -> &'static str {
        "text"
    }

    fn render(&self, report: &AuditReport, rules: &[&Rule]) -> String {
        let mut text = String::new();
        for repository in &report.repositories {
            text.push_str(&repository_text(repository, rules));
        }
        text
    }
}

/// The section of one repository, which a scan's report shows too.
pub(crate) fn repository_text(repository: &RepositoryAudit, rules: &[&Rule]) -> String {
    let mut text = headline(repository);
    let mut explained: Vec<&str> = Vec::new();
    for finding in repository.active() {
        text.push_str(&lines(finding));
        // Each remedy once, under the first finding that needs it.
        if finding.severity > Severity::Low && !explained.contains(&finding.rule.as_str()) {
            explained.push(&finding.rule);
            if let Some(rule) = rules.iter().find(|rule| rule.id == finding.rule) {
                text.push_str(&format!("            {DIM}do{DIM:#} {}\n", rule.remediation));
            }
        }
    }
    let suppressed: Vec<&Finding> =
        repository.findings.iter().filter(|finding| finding.suppressed.is_some()).collect();
    for finding in &suppressed {
        if let Some(why) = &finding.suppressed {
            let reason = escape(&why.reason);
            text.push_str(&format!(
                "  {DIM}suppressed {} {}: {reason}{DIM:#}\n",
                finding.rule,
                finding.place()
            ));
        }
    }
    text
}

fn headline(repository: &RepositoryAudit) -> String {
    let bytes: u64 = repository.files.iter().map(|file| file.bytes).sum();
    let counts: Vec<String> = Severity::ALL
        .into_iter()
        .rev()
        .map(|severity| {
            (severity, repository.active().filter(|finding| finding.severity == severity).count())
        })
        .filter(|(_, count)| *count > 0)
        .map(|(severity, count)| format!("{count} {}", severity.name()))
        .collect();
    let found = if counts.is_empty() { "no finding".to_owned() } else { counts.join(", ") };
    let incomplete = if repository.complete() { "" } else { "; INCOMPLETE: not everything could be checked" };
    format!(
        "{BOLD}{}{BOLD:#}: {found} in {} files, {bytes} bytes{incomplete}\n",
        escape(&repository.name),
        repository.files.len()
    )
}

fn lines(finding: &Finding) -> String {
    let style = style(finding.severity);
    let gap = if finding.gap { " (not checked)" } else { "" };
    let mut text = format!(
        "  {style}{:<8}{style:#}  {:<8}  {}{gap}\n            {}\n",
        finding.severity.name(),
        finding.rule,
        finding.place(),
        finding.message
    );
    if let Some(evidence) = &finding.evidence {
        text.push_str(&format!("            {DIM}|{DIM:#} {evidence}\n"));
    }
    if finding.more > 0 {
        text.push_str(&format!("            and {} more of the same\n", finding.more));
    }
    text
}

const fn style(severity: Severity) -> Style {
    let colour = match severity {
        Severity::Critical | Severity::High => AnsiColor::Red,
        Severity::Medium => AnsiColor::Yellow,
        Severity::Low | Severity::Note => return DIM,
    };
    Style::new().bold().fg_color(Some(anstyle::Color::Ansi(colour)))
}
