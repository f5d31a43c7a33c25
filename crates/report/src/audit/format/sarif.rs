//! SARIF 2.1.0, as code scanners of repository hosts read it.

use serde_json::{Value, json};

use super::AuditFormat;
use crate::audit::{AuditReport, Finding, RepositoryAudit, Rule, Severity};

/// Static Analysis Results Interchange Format, version 2.1.0.
pub(super) struct Sarif;

impl AuditFormat for Sarif {
    fn name(&self) -> &'static str {
        "sarif"
    }

    fn render(&self, report: &AuditReport, rules: &[&Rule]) -> String {
        let runs: Vec<Value> =
            report.repositories.iter().map(|repository| run(report, repository, rules)).collect();
        let log = json!({
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": runs,
        });
        // Strings and integers only, which always serialize.
        serde_json::to_string_pretty(&log).map_or_else(|error| error.to_string(), |text| text + "\n")
    }
}

fn run(report: &AuditReport, repository: &RepositoryAudit, rules: &[&Rule]) -> Value {
    let described: Vec<Value> = rules.iter().map(|rule| described(rule)).collect();
    let results: Vec<Value> = repository.findings.iter().map(|finding| result(finding, rules)).collect();
    let artifacts: Vec<Value> = repository
        .files
        .iter()
        .map(|file| {
            json!({
                "location": {"uri": uri(&file.name)},
                "length": file.bytes,
                "hashes": {"sha-256": file.sha256},
            })
        })
        .collect();
    json!({
        "tool": {"driver": {
            "name": report.tool.name,
            "version": report.tool.version,
            "rules": described,
        }},
        "automationDetails": {"id": format!("triggerfish/{}", repository.name)},
        "invocations": [{"executionSuccessful": repository.complete(), "exitCode": report.exit_code}],
        "artifacts": artifacts,
        "results": results,
    })
}

fn described(rule: &Rule) -> Value {
    json!({
        "id": rule.id,
        "name": rule.title,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.help},
        "help": {
            "text": format!("{} {}", rule.help, rule.remediation),
            "markdown": format!("{}\n\n**What to do.** {}", rule.help, rule.remediation),
        },
        "defaultConfiguration": {"level": level(rule.severity)},
        "properties": {
            "security-severity": score(rule.severity),
            "tags": ["security", rule.family(), format!("external/cwe/cwe-{:03}", rule.cwe)],
        },
    })
}

fn result(finding: &Finding, rules: &[&Rule]) -> Value {
    // A file inside an archive is no file of the repository: the archive is, and the member is a logical place in it.
    let (file, member) = match finding.file.split_once("!/") {
        Some((file, member)) => (file, Some(member)),
        None => (finding.file.as_str(), None),
    };
    let mut physical = json!({"artifactLocation": {"uri": uri(file)}});
    if let Some(line) = finding.line {
        physical["region"] = json!({"startLine": line});
    }
    let mut location = json!({"physicalLocation": physical});
    let logical: Vec<Value> = [member, finding.location.as_deref()]
        .into_iter()
        .flatten()
        .map(|name| json!({"fullyQualifiedName": name}))
        .collect();
    if !logical.is_empty() {
        location["logicalLocations"] = Value::Array(logical);
    }
    let mut text = finding.message.clone();
    if let Some(evidence) = &finding.evidence {
        text.push_str(&format!(" Evidence: {evidence}"));
    }
    let mut result = json!({
        "ruleId": finding.rule,
        "level": level(finding.severity),
        "message": {"text": text},
        "locations": [location],
        "partialFingerprints": {"triggerfish/v1": fingerprint(finding)},
        "properties": {"severity": finding.severity.name(), "coverageGap": finding.gap, "more": finding.more},
    });
    if let Some(index) = rules.iter().position(|rule| rule.id == finding.rule) {
        result["ruleIndex"] = json!(index);
    }
    if let Some(why) = &finding.suppressed {
        result["suppressions"] = json!([{"kind": "external", "justification": why.reason}]);
    }
    result
}

/// What stays the same from run to run: rule, file, content, place.
fn fingerprint(finding: &Finding) -> String {
    let (rule, file, sha256, line, location) = finding.identity();
    let line = line.map_or(String::new(), |line| line.to_string());
    [rule, file, sha256.unwrap_or(""), &line, location.unwrap_or("")].join("|")
}

const fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Note | Severity::Low => "note",
        Severity::Medium => "warning",
        Severity::High | Severity::Critical => "error",
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

/// A relative path as a URI reference: what RFC 3986 does not leave alone is percent-encoded.
fn uri(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/!".contains(&byte) {
            encoded.push(byte as char);
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
