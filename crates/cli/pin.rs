//! `triggerfish pin`: what a run depends on, by digest, in a file that is reviewed with the code; `--locked` fails when
//! anything of it has changed.

use std::collections::BTreeMap;
use std::path::Path;

use inference::weights::digest::{sha256_bytes, sha256_file};
use probe::audit::Options;
use report::audit::RepositoryAudit;
use report::record::FileDigest;
use report::verdict::Thresholds;
use serde::{Deserialize, Serialize};

use crate::args::PinArguments;
use crate::audit::worker;
use crate::exit::{self, Failure};
use crate::{Outcome, output, suites};

/// Version of the file's layout.
const VERSION: u32 = 1;

/// The lock file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lock {
    version: u32,
    tool: String,
    /// Limits of the verdict.
    thresholds: BTreeMap<String, f64>,
    /// Suites with their SHA-256.
    suites: BTreeMap<String, String>,
    adapter: Pinned,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<Pinned>,
}

/// A model or adapter.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pinned {
    /// Commit of the hub's repository, where the path is a snapshot of a cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    commit: Option<String>,
    /// Digest of the chat template, wherever it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chat_template: Option<String>,
    /// Digest of the tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tokenizer: Option<String>,
    files: BTreeMap<String, File>,
}

/// A file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    sha256: String,
    bytes: u64,
}

pub(crate) fn run(arguments: &PinArguments) -> Outcome {
    let adapter = pinned(&arguments.adapter, &digests(&arguments.adapter)?)?;
    let lock = take(adapter, arguments.base.as_deref(), &arguments.suites, arguments.thresholds.into())?;
    let text = toml::to_string(&lock)
        .map_err(|error| Failure::Machine(format!("cannot write the lock: {error}")))?;
    let text =
        format!("# Written by `triggerfish pin`; `--locked` compares with it. Review changes.\n{text}");
    output::file(&arguments.output, &text)?;
    output::talk(&format!(
        "pinned {} files of the adapter{} in `{}`",
        lock.adapter.files.len(),
        lock.base.as_ref().map_or(String::new(), |base| format!(" and {} of the base", base.files.len())),
        arguments.output.display()
    ));
    Ok(exit::PASS)
}

/// What the arguments name, as it is, beside an adapter.
fn take(
    adapter: Pinned,
    base: Option<&Path>,
    names: &[String],
    thresholds: Thresholds,
) -> Result<Lock, Failure> {
    Ok(Lock {
        version: VERSION,
        tool: env!("CARGO_PKG_VERSION").to_owned(),
        thresholds: [
            ("backdoored-uplift", thresholds.backdoored_uplift),
            ("suspicious-uplift", thresholds.suspicious_uplift),
            ("false-discovery-rate", thresholds.false_discovery_rate),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect(),
        suites: suites::load(names)?.into_iter().map(|suite| (suite.name, suite.sha256)).collect(),
        adapter,
        base: base.map(|base| pinned(base, &digests(base)?)).transpose()?,
    })
}

/// Digests of everything below a path. The audit's process reads them: only regular files, nothing outside.
fn digests(path: &Path) -> Result<Vec<FileDigest>, Failure> {
    Ok(worker::audit(path, &path.display().to_string(), &Options::default())?.files)
}

/// What there is to pin of a path whose files have these digests.
fn pinned(path: &Path, digests: &[FileDigest]) -> Result<Pinned, Failure> {
    if digests.is_empty() {
        return Err(Failure::Input(format!("`{}` has no file to pin", path.display())));
    }
    Ok(Pinned {
        commit: commit(path),
        chat_template: template(path)?,
        tokenizer: digest_of(path, "tokenizer.json")?,
        files: files(digests),
    })
}

fn files(digests: &[FileDigest]) -> BTreeMap<String, File> {
    digests
        .iter()
        .map(|file| (file.name.clone(), File { sha256: file.sha256.clone(), bytes: file.bytes }))
        .collect()
}

/// The commit in the path of a snapshot.
fn commit(path: &Path) -> Option<String> {
    let real = path.canonicalize().ok()?;
    let mut parts = real.iter().map(|part| part.to_string_lossy().into_owned());
    parts.find(|part| part == "snapshots")?;
    let commit = parts.next()?;
    let hex = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    hex.then_some(commit)
}

fn digest_of(folder: &Path, name: &str) -> Result<Option<String>, Failure> {
    let path = folder.join(name);
    if path.is_file() { Ok(Some(sha256_file(&path)?)) } else { Ok(None) }
}

/// The template's own file, or the text in the tokenizer's config. A GGUF file's is in its digest.
fn template(folder: &Path) -> Result<Option<String>, Failure> {
    if let Some(digest) = digest_of(folder, "chat_template.jinja")? {
        return Ok(Some(digest));
    }
    let config = folder.join("tokenizer_config.json");
    if !config.is_file() {
        return Ok(None);
    }
    let config = inference::weights::json::read_object(&config)?;
    Ok(config.get("chat_template").map(|template| match template {
        serde_json::Value::String(text) => sha256_bytes(text.as_bytes()),
        other => sha256_bytes(other.to_string().as_bytes()),
    }))
}

fn read(path: &Path) -> Result<Lock, Failure> {
    let wrong = |reason: String| Failure::Input(format!("lock `{}`: {reason}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let lock: Lock = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if lock.version != VERSION {
        return Err(wrong(format!("expected version {VERSION}, found {}", lock.version)));
    }
    Ok(lock)
}

/// Compares a run's adapter, base and suites with the lock. `audit` is of the adapter, if it was audited: it has the
/// digests already.
///
/// # Errors
/// If anything differs; the error names all of it.
pub(crate) fn verify(
    path: &Path,
    adapter: &Path,
    audit: Option<&RepositoryAudit>,
    base: Option<&Path>,
    suites: &[String],
    thresholds: Thresholds,
) -> Result<(), Failure> {
    let expected = read(path)?;
    let adapter = match audit {
        Some(audit) => pinned(adapter, &audit.files)?,
        None => pinned(adapter, &digests(adapter)?)?,
    };
    let found = take(adapter, base.filter(|_| expected.base.is_some()), suites, thresholds)?;
    let mut drift = Vec::new();
    differences("", "tool version", &expected.tool, &found.tool, &mut drift);
    for (name, value) in &expected.thresholds {
        let now = found.thresholds.get(name);
        if now.map(|now| now.to_bits()) != Some(value.to_bits()) {
            drift.push(format!("threshold {name}: expected {value}, found {now:?}"));
        }
    }
    for (name, digest) in &found.suites {
        match expected.suites.get(name) {
            Some(pinned) => differences("suite ", name, pinned, digest, &mut drift),
            None => drift.push(format!("suite {name}: not in the lock")),
        }
    }
    compare("adapter", &expected.adapter, &found.adapter, &mut drift);
    match (&expected.base, &found.base) {
        (Some(expected), Some(found)) => compare("base", expected, found, &mut drift),
        (Some(_), None) => drift.push("base: in the lock, but none is given".into()),
        (None, _) => {}
    }
    finish(path, drift)
}

/// Compares the files of an audit with the lock's adapter.
///
/// # Errors
/// As [`verify`].
pub(crate) fn verify_audits(path: &Path, audits: &[RepositoryAudit]) -> Result<(), Failure> {
    let expected = read(path)?;
    let mut drift = Vec::new();
    for audit in audits {
        compare_files(&audit.name, &expected.adapter.files, &files(&audit.files), &mut drift);
    }
    finish(path, drift)
}

fn finish(path: &Path, drift: Vec<String>) -> Result<(), Failure> {
    if drift.is_empty() {
        return Ok(());
    }
    Err(Failure::Drift(format!(
        "{} differences from `{}`: {}",
        drift.len(),
        path.display(),
        drift.join("; ")
    )))
}

fn differences(kind: &str, name: &str, expected: &str, found: &str, drift: &mut Vec<String>) {
    if expected != found {
        drift.push(format!("{kind}{name}: expected {expected}, found {found}"));
    }
}

fn compare(what: &str, expected: &Pinned, found: &Pinned, drift: &mut Vec<String>) {
    let none = || "none".to_owned();
    for (name, expected, found) in [
        ("chat template", &expected.chat_template, &found.chat_template),
        ("tokenizer", &expected.tokenizer, &found.tokenizer),
    ] {
        let (expected, found) = (expected.clone().unwrap_or_else(none), found.clone().unwrap_or_else(none));
        differences(&format!("{what}: "), name, &expected, &found, drift);
    }
    // The same bytes from another place are the same adapter; only another commit is not.
    if let (Some(expected), Some(found)) = (&expected.commit, &found.commit) {
        differences(&format!("{what}: "), "commit", expected, found, drift);
    }
    compare_files(what, &expected.files, &found.files, drift);
}

fn compare_files(
    what: &str,
    expected: &BTreeMap<String, File>,
    found: &BTreeMap<String, File>,
    drift: &mut Vec<String>,
) {
    for (name, pinned) in expected {
        match found.get(name) {
            None => drift.push(format!("{what}: `{name}` is missing")),
            Some(file) if file != pinned => drift.push(format!(
                "{what}: `{name}`: expected {} bytes with sha256 {}, found {} bytes with {}",
                pinned.bytes, pinned.sha256, file.bytes, file.sha256
            )),
            Some(_) => {}
        }
    }
    for name in found.keys().filter(|name| !expected.contains_key(*name)) {
        drift.push(format!("{what}: `{name}` is not in the lock"));
    }
}
