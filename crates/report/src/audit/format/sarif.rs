//! The findings of an audit as SARIF, as code scanners of repository hosts read it.

use std::collections::BTreeMap;

use super::AuditFormat;
use crate::audit::{AuditReport, Finding, RepositoryAudit, Rule, Severity};
use crate::sarif::{
    self, Artifact, AutomationDetails, Configuration, Descriptor, Driver, Fingerprints, Invocation, Level,
    Location, Message, Properties, Run, SarifResult, Suppression, SuppressionKind, Tool,
};

/// SARIF 2.1.0 with one run a repository.
pub(super) struct Sarif;

impl AuditFormat for Sarif {
    fn name(&self) -> &'static str {
        "sarif"
    }

    fn render(&self, report: &AuditReport, rules: &[&Rule]) -> String {
        let log = sarif::log(report.repositories.iter().map(|repository| run(report, repository, rules)));
        // Strings and integers only, which always serialize.
        serde_json::to_string_pretty(&log).map_or_else(|error| error.to_string(), |text| text + "\n")
    }
}

fn run(report: &AuditReport, repository: &RepositoryAudit, rules: &[&Rule]) -> Run {
    Run {
        tool: Tool {
            driver: Driver {
                name: report.tool.name.clone(),
                semantic_version: report.tool.version.clone(),
                rules: rules.iter().map(|rule| descriptor(rule)).collect(),
            },
        },
        automation_details: Some(AutomationDetails { id: format!("triggerfish/{}", repository.name) }),
        invocations: vec![Invocation {
            execution_successful: repository.complete(),
            exit_code: report.exit_code,
            ..Invocation::default()
        }],
        artifacts: repository.files.iter().map(Artifact::from).collect(),
        results: repository.findings.iter().map(|finding| result(finding, rules)).collect(),
        ..Run::default()
    }
}

fn descriptor(rule: &Rule) -> Descriptor {
    Descriptor {
        id: rule.id.to_owned(),
        name: rule.title.to_owned(),
        short_description: rule.title.into(),
        full_description: rule.help.into(),
        help: Message {
            text: format!("{} {}", rule.help, rule.remediation),
            markdown: Some(format!("{}\n\n**What to do.** {}", rule.help, rule.remediation)),
        },
        default_configuration: Configuration { level: level(rule.severity) },
        properties: Properties {
            tags: vec![
                "security".to_owned(),
                rule.family().to_owned(),
                format!("external/cwe/cwe-{:03}", rule.cwe),
            ],
            security_severity: Some(score(rule.severity).to_owned()),
            ..Properties::default()
        },
    }
}

fn result(finding: &Finding, rules: &[&Rule]) -> SarifResult {
    // A file inside an archive is no file of the repository: the archive is, and the member is a logical place in it.
    let (file, member) = match finding.file.split_once("!/") {
        Some((file, member)) => (file, Some(member)),
        None => (finding.file.as_str(), None),
    };
    let mut location = Location::in_file(file, finding.line);
    if let Some(member) = member {
        location = location.at("member", member);
    }
    if let Some(place) = &finding.location {
        location = location.at("object", place);
    }
    let mut text = finding.message.clone();
    if let Some(evidence) = &finding.evidence {
        text.push_str(&format!(" Evidence: {evidence}"));
    }
    let properties = [
        ("severity", finding.severity.name().into()),
        ("coverageGap", finding.gap.into()),
        ("more", finding.more.into()),
    ];
    let suppression =
        |reason: &str| Suppression { kind: SuppressionKind::External, justification: reason.to_owned() };
    SarifResult {
        rule_id: finding.rule.clone(),
        rule_index: rules.iter().position(|rule| rule.id == finding.rule),
        level: level(finding.severity),
        message: text.into(),
        locations: vec![location],
        partial_fingerprints: fingerprint(finding),
        suppressions: finding.suppressed.iter().map(|why| suppression(&why.reason)).collect(),
        properties: Properties {
            other: properties
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect::<BTreeMap<_, _>>(),
            ..Properties::default()
        },
    }
}

/// What stays the same from run to run: rule, file, content, place.
fn fingerprint(finding: &Finding) -> Fingerprints {
    let (rule, file, sha256, line, location) = finding.identity();
    let line = line.map_or(String::new(), |line| line.to_string());
    Fingerprints::of(&[rule, file, sha256.unwrap_or(""), &line, location.unwrap_or("")])
}

const fn level(severity: Severity) -> Level {
    match severity {
        Severity::Note | Severity::Low => Level::Note,
        Severity::Medium => Level::Warning,
        Severity::High | Severity::Critical => Level::Error,
    }
}

const fn score(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "0.0",
        Severity::Low => "3.0",
        Severity::Medium => "5.5",
        Severity::High => "8.0",
        Severity::Critical => "9.5",
    }
}
