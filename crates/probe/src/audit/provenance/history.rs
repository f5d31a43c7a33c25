//! PROV: the history of a local clone: age, authors, pushes, and whether the weights changed behind the card.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

use inference::weights::digest::hex;
use inference::weights::json::read_bounded;
use report::audit::{Finding, Rule, Severity};

use super::objects::{Objects, id};
use crate::audit::Check;
use crate::audit::file::File;
use crate::audit::findings::Findings;
use crate::audit::repository::Repository;

const ONE_PUSH: Rule = Rule {
    id: "PROV-007",
    severity: Severity::Low,
    cwe: 1059,
    title: "A history of one push",
    help: "Everything came at once, so the history says nothing about how the files came to be. Most uploads are like this.",
    remediation: "Ask the author for training code and data.",
    gap: false,
};
const AFTER_CARD: Rule = Rule {
    id: "PROV-008",
    severity: Severity::Low,
    cwe: 345,
    title: "The weights changed after the card",
    help: "What the card says was written about other weights. Medium if somebody else than the authors before changed them.",
    remediation: "Use the commit that the card was written for, or ask what changed.",
    gap: false,
};
const REWRITTEN: Rule = Rule {
    id: "PROV-009",
    severity: Severity::Low,
    cwe: 345,
    title: "A history that was rewritten or has impossible dates",
    help: "Commits lie in the future or before their parents, or the log of the clone has resets and forced updates.",
    remediation: "Pin the commit that you audit.",
    gap: false,
};
const SUMMARY: Rule = Rule {
    id: "PROV-017",
    severity: Severity::Note,
    cwe: 1059,
    title: "The history of the clone",
    help: "How old the repository is and how many people committed to it, by its own claims.",
    remediation: "Compare with what the author says.",
    gap: false,
};
const UNREADABLE: Rule = Rule {
    id: "PROV-018",
    severity: Severity::Note,
    cwe: 693,
    title: "The history of the clone could not be read",
    help: "The clone is shallow, damaged, or of a format that is not understood.",
    remediation: "Clone the repository with its whole history.",
    gap: false,
};

/// Commits that are read.
const COMMITS: usize = 500;
const DAY: i64 = 86_400;
/// Files that hold weights.
const WEIGHTS: &[&str] = &["adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors"];
const CARD: &str = "README.md";

/// The `.git` folder of the root.
pub(in crate::audit) struct Histories;

/// One commit as far as it matters.
struct Commit {
    tree: [u8; 20],
    parents: Vec<[u8; 20]>,
    author: String,
    time: i64,
}

impl Check for Histories {
    fn name(&self) -> &'static str {
        "history"
    }

    fn rules(&self) -> &'static [Rule] {
        &[ONE_PUSH, AFTER_CARD, REWRITTEN, SUMMARY, UNREADABLE]
    }

    fn wants(&self, _: &File) -> bool {
        false
    }

    fn repository(&self, repository: &Repository, findings: &mut Findings) {
        let git = repository.root.join(".git");
        if !std::fs::symlink_metadata(&git).is_ok_and(|metadata| metadata.is_dir()) {
            return;
        }
        let mut add = |rule: &Rule, severity: Severity, message: String| {
            findings.add(Finding::new(rule, ".git", message).severity(severity));
        };
        let store = Objects::open(&git);
        let commits = head(&git).map(|head| walk(&store, head)).unwrap_or_default();
        if commits.is_empty() {
            add(&UNREADABLE, UNREADABLE.severity, "expected commits from HEAD on, found none".into());
            return;
        }
        let times: Vec<i64> = commits.iter().map(|(_, commit)| commit.time).collect();
        let (first, last) =
            (times.iter().min().copied().unwrap_or(0), times.iter().max().copied().unwrap_or(0));
        let authors: BTreeSet<&str> = commits.iter().map(|(_, commit)| commit.author.as_str()).collect();
        let days = (last - first) / DAY;
        let message = format!("{} commits by {} authors over {days} days", commits.len(), authors.len());
        add(&SUMMARY, SUMMARY.severity, message);
        if commits.len() == 1 {
            add(&ONE_PUSH, ONE_PUSH.severity, "there is one commit".into());
        }
        let by_id: BTreeMap<[u8; 20], &Commit> = commits.iter().map(|(id, commit)| (*id, commit)).collect();
        let impossible = commits.iter().find(|(_, commit)| {
            commit
                .parents
                .iter()
                .filter_map(|parent| by_id.get(parent))
                .any(|parent| parent.time > commit.time + DAY)
        });
        if let Some((id, _)) = impossible {
            add(
                &REWRITTEN,
                REWRITTEN.severity,
                format!("commit {} is dated before its parent", &hex(id)[..10]),
            );
        }
        if let Some(line) = rewritten(&git) {
            add(&REWRITTEN, REWRITTEN.severity, format!("the log of the clone has: {line}"));
        }
        if let Some((severity, message)) = after_card(&store, &commits, &by_id) {
            add(&AFTER_CARD, severity, message);
        }
    }
}

/// The commit that HEAD names.
fn head(git: &Path) -> Option<[u8; 20]> {
    let text = |name: &str| {
        read_bounded(&git.join(name), 1 << 20).ok().and_then(|bytes| String::from_utf8(bytes).ok())
    };
    let head = text("HEAD")?;
    let Some(name) = head.trim().strip_prefix("ref: ") else { return id(&head) };
    // A name that climbs out of the folder is no name of git.
    if !name.starts_with("refs/") || name.contains("..") {
        return None;
    }
    text(name).and_then(|commit| id(&commit)).or_else(|| {
        let packed = text("packed-refs")?;
        packed.lines().find_map(|line| id(line.strip_suffix(name)?))
    })
}

/// Commits from one on, newest first.
fn walk(store: &Objects, from: [u8; 20]) -> Vec<([u8; 20], Commit)> {
    let mut commits = Vec::new();
    let mut seen = BTreeSet::new();
    let mut waiting = VecDeque::from([from]);
    while let Some(next) = waiting.pop_front() {
        if commits.len() >= COMMITS || !seen.insert(next) {
            continue;
        }
        let Some(commit) = store.read(&next, "commit").and_then(|bytes| parse(&bytes)) else { continue };
        waiting.extend(&commit.parents);
        commits.push((next, commit));
    }
    commits
}

fn parse(bytes: &[u8]) -> Option<Commit> {
    let text = String::from_utf8_lossy(bytes);
    let head = text.split("\n\n").next()?;
    let mut commit = Commit { tree: [0; 20], parents: Vec::new(), author: String::new(), time: 0 };
    for line in head.lines() {
        match line.split_once(' ') {
            Some(("tree", tree)) => commit.tree = id(tree)?,
            Some(("parent", parent)) => commit.parents.push(id(parent)?),
            Some(("author", who)) => {
                let (who, _) = who.rsplit_once(' ')?;
                let (who, time) = who.rsplit_once(' ')?;
                commit.author = who.to_owned();
                commit.time = time.parse().ok()?;
            }
            _ => {}
        }
    }
    Some(commit)
}

/// The object of each name at the top level of a tree.
fn entries(store: &Objects, tree: &[u8; 20]) -> BTreeMap<String, [u8; 20]> {
    let mut entries = BTreeMap::new();
    let bytes = store.read(tree, "tree").unwrap_or_default();
    let mut rest = bytes.as_slice();
    while let Some(end) = rest.iter().position(|&byte| byte == 0) {
        let name = String::from_utf8_lossy(&rest[..end]);
        let name = name.split_once(' ').map_or("", |(_, name)| name).to_owned();
        let Some(object) = rest.get(end + 1..end + 21).and_then(|id| id.try_into().ok()) else { break };
        entries.insert(name, object);
        rest = &rest[end + 21..];
    }
    entries
}

/// Whether the weights last changed more than a day after the card last did, though both were there before.
fn after_card(
    store: &Objects,
    commits: &[([u8; 20], Commit)],
    by_id: &BTreeMap<[u8; 20], &Commit>,
) -> Option<(Severity, String)> {
    let trees: BTreeMap<[u8; 20], BTreeMap<String, [u8; 20]>> =
        commits.iter().map(|(id, commit)| (*id, entries(store, &commit.tree))).collect();
    let changed = |names: &[&str]| {
        commits
            .iter()
            .filter(|(id, commit)| {
                let before = commit.parents.first().and_then(|parent| trees.get(parent));
                names.iter().any(|name| {
                    let now = trees[id].get(*name);
                    now.is_some() && before.and_then(|before| before.get(*name)) != now
                })
            })
            .map(|(_, commit)| commit)
            .max_by_key(|commit| commit.time)
    };
    let (weights, card) = (changed(WEIGHTS)?, changed(&[CARD])?);
    let later = weights.time - card.time;
    if later <= DAY {
        return None;
    }
    let others: BTreeSet<&str> = by_id
        .values()
        .filter(|commit| commit.time < weights.time)
        .map(|commit| commit.author.as_str())
        .collect();
    let stranger = !others.is_empty() && !others.contains(weights.author.as_str());
    let severity = if stranger { Severity::Medium } else { Severity::Low };
    let by = if stranger { ", by somebody who had not committed before" } else { "" };
    Some((severity, format!("the weights changed {} days after the card{by}", later / DAY)))
}

/// A line of the clone's log that rewrites history.
fn rewritten(git: &Path) -> Option<String> {
    let log = read_bounded(&git.join("logs").join("HEAD"), 4 << 20).ok()?;
    let log = String::from_utf8_lossy(&log);
    let marks = ["reset:", "rebase", "(amend)", "forced-update", "filter-branch"];
    let line = log.lines().find_map(|line| {
        line.split_once('\t')
            .map(|(_, what)| what)
            .filter(|what| marks.iter().any(|mark| what.contains(mark)))
    })?;
    Some(line.chars().take(80).collect())
}
