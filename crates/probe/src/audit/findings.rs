//! Where checks put what they find: at most so many of a rule in a file, the rest is counted.

use std::collections::BTreeMap;

use report::audit::Finding;

use super::file::File;
use super::limits;

/// What has been found so far.
#[derive(Debug, Default)]
pub struct Findings {
    all: Vec<Finding>,
    /// Rule and file to the number found and the first one's place in `all`.
    counts: BTreeMap<(String, String), (usize, usize)>,
    /// Rule to its first finding's place in `all`.
    first: BTreeMap<String, usize>,
}

impl Findings {
    /// A finding about a file's content: it gets the digest of the bytes that were parsed.
    pub fn in_file(&mut self, file: &File, finding: Finding) {
        self.add(finding.of_bytes(&file.sha256));
    }

    /// A finding that is not about one file's content.
    pub fn add(&mut self, finding: Finding) {
        let next = self.all.len();
        if next >= limits::FINDINGS
            && let Some(&first) = self.first.get(&finding.rule)
        {
            self.count(first, &finding);
            return;
        }
        self.first.entry(finding.rule.clone()).or_insert(next);
        let (count, first) =
            self.counts.entry((finding.rule.clone(), finding.file.clone())).or_insert((0, next));
        *count += 1;
        if *count <= limits::FINDINGS_A_RULE {
            self.all.push(finding);
            return;
        }
        let first = *first;
        self.count(first, &finding);
    }

    /// What is left out counts with its severity all the same.
    fn count(&mut self, first: usize, left_out: &Finding) {
        let first = &mut self.all[first];
        first.more += 1;
        first.severity = first.severity.max(left_out.severity);
    }

    /// Counts `n` more findings of a rule that a file has already.
    pub fn more(&mut self, rule: &str, path: &str, n: usize) {
        if let Some((_, first)) = self.counts.get(&(rule.to_owned(), path.to_owned())) {
            self.all[*first].more += n;
        } else if let Some(first) = self.first.get(rule) {
            self.all[*first].more += n;
        }
    }

    /// Whether a rule has a finding in a file.
    #[must_use]
    pub fn has(&self, rule: &str, path: &str) -> bool {
        self.all.iter().any(|finding| finding.rule == rule && finding.file == path)
    }

    pub(crate) fn into_all(self) -> Vec<Finding> {
        self.all
    }
}

/// The first names of a list, and how many more there are.
pub(super) fn listed<'a>(names: impl IntoIterator<Item = &'a str>, most: usize) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let more = names.len().saturating_sub(most);
    let text = names[..names.len() - more].join(", ");
    if more > 0 { format!("{text} and {more} more") } else { text }
}
