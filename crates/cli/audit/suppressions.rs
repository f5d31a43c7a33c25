//! Findings that the user accepts: `triggerfish.toml`, which names rule and content, a reason, who approved it, and
//! until when.
//!
//! The file is the one that the user names, or the settings of the project; one that lies in an audited repository is its
//! author's and is not read.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use report::audit::{RepositoryAudit, Suppressed};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::exit::Failure;
use crate::{config, output};

/// One accepted finding.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// Id of the rule.
    rule: String,
    /// Of the file's content, so that an exchanged file is not covered.
    sha256: String,
    /// Narrows it to one place in the file.
    location: Option<String>,
    /// Why it is accepted.
    reason: String,
    /// Who accepted it.
    approved_by: String,
    /// Last day, as `YYYY-MM-DD`.
    expires: String,
}

/// Marks what the file at `path` accepts. What is expired stays a finding, and so does everything else.
pub(crate) fn apply(path: &Path, audits: &mut [RepositoryAudit]) -> Result<(), Failure> {
    let wrong = |reason: String| Failure::Input(format!("suppressions `{}`: {reason}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let file = config::parse(&text)
        .map_err(|reason| Failure::Input(format!("suppressions `{}`{reason}", path.display())))?;
    let today = today();
    for (index, entry) in file.suppress.iter().enumerate() {
        entry.check().map_err(|reason| wrong(format!("entry {}: {reason}", index + 1)))?;
        if entry.expires.as_str() < today.as_str() {
            output::talk(&format!(
                "suppression of {} expired on {}: the finding counts again",
                entry.rule, entry.expires
            ));
            continue;
        }
        let mut used = false;
        for finding in audits.iter_mut().flat_map(|audit| &mut audit.findings) {
            let fits = finding.rule == entry.rule
                && finding.sha256.as_deref() == Some(entry.sha256.as_str())
                && (entry.location.is_none() || entry.location == finding.location);
            if fits {
                used = true;
                finding.suppressed = Some(Suppressed {
                    reason: entry.reason.clone(),
                    approved_by: Some(entry.approved_by.clone()),
                    expires: Some(entry.expires.clone()),
                });
            }
        }
        if !used {
            output::talk(&format!("suppression of {} for {} is not needed", entry.rule, &entry.sha256[..16]));
        }
    }
    Ok(())
}

impl Entry {
    fn check(&self) -> Result<(), String> {
        if !probe::audit::rules().iter().any(|rule| rule.id == self.rule) {
            return Err(format!("there is no rule `{}`", self.rule));
        }
        if self.sha256.len() != 64
            || !self.sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Err("expected `sha256` as 64 lower-case hex digits".into());
        }
        for (key, text) in [("reason", &self.reason), ("approved_by", &self.approved_by)] {
            if text.trim().is_empty() {
                return Err(format!("expected words in `{key}`, found none"));
            }
        }
        let digits = self
            .expires
            .bytes()
            .enumerate()
            .all(|(at, byte)| if matches!(at, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() });
        if self.expires.len() != 10 || !digits {
            return Err(format!("expected `expires` as YYYY-MM-DD, found `{}`", self.expires));
        }
        Ok(())
    }
}

/// The day, as `YYYY-MM-DD` in UTC; `SOURCE_DATE_EPOCH` names another one, for reproducible runs.
fn today() -> String {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse::<u64>().ok());
    let seconds = given.unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
    });
    date(seconds / 86_400)
}

/// The date of a day since 1970-01-01, after Howard Hinnant's `civil_from_days`.
fn date(days: u64) -> String {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(11_016), "2000-02-29");
        assert_eq!(date(20_779), "2026-11-22");
    }
}
