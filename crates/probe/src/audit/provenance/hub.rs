//! A snapshot of a Hugging Face cache against the tree that the hub recorded for its commit: the same rule that
//! `hf cache verify` uses, without the network.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use report::audit::{Finding, Rule, Severity};
use serde_json::Value;

use super::sha1;
use crate::audit::Check;
use crate::audit::file::File;
use crate::audit::findings::Findings;
use crate::audit::repository::Repository;

const DIFFERS: Rule = Rule {
    id: "PROV-020",
    severity: Severity::Critical,
    cwe: 353,
    title: "A file differs from what the hub recorded for this commit",
    help: "The cache names the digest of every file of the commit: SHA-256 of large files, git's SHA-1 of the others. The file has another one: it was changed after the download, or damaged.",
    remediation: "Delete the snapshot and download the commit again.",
    gap: false,
};
const UNKNOWN: Rule = Rule {
    id: "PROV-021",
    severity: Severity::Medium,
    cwe: 353,
    title: "A file that the commit does not have",
    help: "The snapshot has a file that the hub's record of the commit does not name: it was put there later.",
    remediation: "Delete the snapshot and download the commit again.",
    gap: false,
};

/// A record is a list of files; one of a hundred thousand files stays below this.
const TREE_BYTES: u64 = 32 << 20;

/// Snapshots of a Hugging Face cache.
pub(in crate::audit) struct Hub;

impl Check for Hub {
    fn name(&self) -> &'static str {
        "hub"
    }

    fn rules(&self) -> &'static [Rule] {
        &[DIFFERS, UNKNOWN]
    }

    fn wants(&self, _: &File) -> bool {
        false
    }

    fn repository(&self, repository: &Repository, findings: &mut Findings) {
        let Some(tree) = tree(repository.root) else { return };
        for file in repository.files.iter().filter(|file| !file.is_member()) {
            match tree.get(&file.path) {
                Some(expected) => {
                    let found = match expected {
                        Digest::Sha256(_) => Some(file.sha256.clone()),
                        Digest::GitSha1(_) => file.git_sha1.clone(),
                    };
                    let (Digest::Sha256(expected) | Digest::GitSha1(expected)) = expected;
                    if found.as_ref().is_some_and(|found| found != expected) {
                        let message = format!("expected {expected}, found {}", found.unwrap_or_default());
                        findings.in_file(file, Finding::new(&DIFFERS, &file.path, message));
                    }
                }
                None => {
                    let message = "it is not in the tree of the commit";
                    findings.in_file(file, Finding::new(&UNKNOWN, &file.path, message));
                }
            }
        }
    }
}

/// What the hub knows a file by.
enum Digest {
    /// Of large files.
    Sha256(String),
    /// Of the others, as git computes it of a blob.
    GitSha1(String),
}

/// Where the record of a snapshot is: `models--X/trees/COMMIT.json` for `models--X/snapshots/COMMIT`.
pub(in crate::audit) fn record(root: &Path) -> Option<PathBuf> {
    let real = root.canonicalize().ok()?;
    let commit = real.file_name()?.to_str()?.to_owned();
    let snapshots = real.parent()?;
    let is_commit = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_commit && snapshots.file_name()? == "snapshots")
        .then(|| {
            snapshots.parent().map(|repository| repository.join("trees").join(format!("{commit}.json")))
        })?
        .filter(|path| path.is_file())
}

fn tree(root: &Path) -> Option<BTreeMap<String, Digest>> {
    let bytes = inference::weights::json::read_bounded(&record(root)?, TREE_BYTES).ok()?;
    let value: Value = serde_json::from_slice(&bytes).ok()?;
    let files = value.get("files")?.as_object()?;
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_lowercase);
    Some(
        files
            .iter()
            .filter_map(|(path, file)| {
                let digest = text(file, "lfs_sha256")
                    .map(Digest::Sha256)
                    .or_else(|| text(file, "blob_id").map(Digest::GitSha1))?;
                Some((path.clone(), digest))
            })
            .collect(),
    )
}

/// Git's name of a file's content.
pub(in crate::audit) fn git_sha1(bytes: &[u8]) -> String {
    let mut blob = format!("blob {}\0", bytes.len()).into_bytes();
    blob.extend_from_slice(bytes);
    sha1::hex(&blob)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_changed_file_of_a_snapshot_is_found() {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("models--a--b");
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let snapshot = repository.join("snapshots").join(commit);
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir(repository.join("trees")).unwrap();
        std::fs::write(snapshot.join("notes.txt"), "hello\n").unwrap();
        std::fs::write(snapshot.join("large.txt"), "abc").unwrap();
        // `git hash-object` of "hello\n"; FIPS 180-2 for "abc".
        let tree = r#"{"format_version":1,"files":{
            "notes.txt":{"size":6,"blob_id":"ce013625030ba8dba906f756967f9e9ca394464a"},
            "large.txt":{"size":3,"blob_id":"00","lfs_sha256":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}}}"#;
        std::fs::write(repository.join("trees").join(format!("{commit}.json")), tree).unwrap();
        let found = || {
            let options = crate::audit::Options::default();
            let audit = crate::audit::audit(&snapshot, "snapshot", &options, &mut |_| {}).unwrap();
            let of_hub = audit.findings.iter().filter(|finding| finding.rule.starts_with("PROV-02"));
            of_hub.map(|finding| format!("{} {}", finding.rule, finding.file)).collect::<Vec<_>>()
        };
        assert!(found().is_empty(), "{:?}", found());
        std::fs::write(snapshot.join("notes.txt"), "hallo\n").unwrap();
        std::fs::write(snapshot.join("large.txt"), "abd").unwrap();
        std::fs::write(snapshot.join("more.txt"), "x").unwrap();
        assert_eq!(found(), ["PROV-020 large.txt", "PROV-020 notes.txt", "PROV-021 more.txt"]);
    }
}
