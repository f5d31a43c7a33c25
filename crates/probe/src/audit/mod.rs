//! What the files of a repository say before a byte of them is loaded.
//!
//! A walk finds regular files, each is read once and hashed, archives are opened in memory, and every check of
//! [`CHECKS`] looks at the files that it wants; checks across files follow. Nothing is run, nothing is written, no
//! network is used, and a file that cannot be checked is a finding. A new check is one file and one line.

mod archive;
mod code;
mod config;
mod encoded;
pub mod file;
mod filesystem;
pub mod findings;
mod gguf;
mod json;
pub mod kind;
mod limit;
mod limits;
mod names;
mod phrases;
mod pickle;
mod provenance;
pub mod repository;
mod safetensors;
pub(crate) mod template;
mod tokenizer;
mod unseen;
mod walk;
mod weights;

use std::collections::BTreeMap;
use std::path::Path;

use report::audit::{Finding, RepositoryAudit, Rule};
use report::record::FileDigest;

pub use file::File;
pub use findings::Findings;
pub use limit::{Failure, failed};
pub use limits::all as limits;
pub use repository::Repository;

use archive::Allowance;
use kind::Kind;
pub use provenance::Signature;
use repository::{Oddity, What};

/// One kind of thing that is looked for.
pub trait Check: Sync {
    /// A word for messages and for the retry of what failed.
    fn name(&self) -> &'static str;

    /// The rules that its findings name.
    fn rules(&self) -> &'static [Rule];

    /// Which files it reads, members of archives among them. Decide by content as well as by name.
    fn wants(&self, file: &File) -> bool;

    /// Looks at one file, whose content is in memory.
    fn file(&self, _file: &File, _findings: &mut Findings) {}

    /// Looks at all files together, after each was looked at alone. Only small text files still have their content.
    fn repository(&self, _repository: &Repository, _findings: &mut Findings) {}
}

/// Every check.
pub const CHECKS: &[&dyn Check] = &[
    &filesystem::Filesystem,
    &limit::Limits,
    &archive::check::Archives,
    &pickle::check::Pickles,
    &safetensors::Safetensors,
    &json::JsonFiles,
    &config::AdapterConfigs,
    &config::RemoteCode,
    &config::GenerationConfigs,
    &config::YamlFiles,
    &code::PythonFiles,
    &code::ShellScripts,
    &code::Notebooks,
    &code::Packages,
    &code::NativeCode,
    &code::StartupFiles,
    &template::Templates,
    &tokenizer::Tokenizers,
    &provenance::BaseNames,
    &provenance::Cards,
    &provenance::Histories,
    &provenance::Hub,
    &provenance::Signatures,
    &provenance::Texts,
    &provenance::Secrets,
    &weights::Weights,
    &gguf::Gguf,
];

/// Every rule, by family and number.
#[must_use]
pub fn rules() -> Vec<&'static Rule> {
    let mut rules: Vec<&'static Rule> = CHECKS.iter().flat_map(|check| check.rules()).collect();
    let family = |rule: &Rule| {
        report::audit::Family::ALL
            .iter()
            .position(|family| family.prefix == rule.family())
            .unwrap_or(usize::MAX)
    };
    rules.sort_by_key(|rule| (family(rule), rule.id));
    rules
}

/// What an audit is asked to do.
#[derive(Clone, Debug, Default)]
pub struct Options<'a> {
    /// The base model, to whose tokenizer and template the repository's are compared.
    pub base: Option<&'a Path>,
    /// A signature to verify the files by.
    pub signature: Option<Signature<'a>>,
    /// Checks to leave out on a file, because they failed there: path and check.
    pub skip: &'a [(String, String)],
}

/// What an audit is about to do, for whoever watches it.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Path below the root; empty for what is done with all files.
    pub file: &'a str,
    /// The check, or [`READING`].
    pub check: &'a str,
    /// Bytes that it looks at.
    pub bytes: u64,
}

/// The name of the step that reads a file and opens it where it is an archive.
pub const READING: &str = "reading";

/// The name of the step that measures the weights of a file.
pub const MEASURING: &str = "measuring";

/// Audits a directory or a single file, and tells `watch` of each step before it is taken.
///
/// # Errors
/// If there is nothing at `path`.
pub fn audit(
    path: &Path,
    name: &str,
    options: &Options,
    watch: &mut dyn FnMut(Step<'_>),
) -> std::io::Result<RepositoryAudit> {
    let (root, single) = root(path)?;
    let walked = walk::walk(root, single);
    let mut auditor = Auditor::new(root, options, watch);
    auditor.repository.oddities = walked.oddities;
    for found in walked.found {
        auditor.read(found);
    }
    let mut audit = auditor.finish(name);
    if audit.files.is_empty() {
        audit.findings.push(limit::nothing());
    }
    audit.sort();
    Ok(audit)
}

/// What a directory or a single file consists of, as an audit walks it: digests of its regular files, and the paths of
/// everything else. Nothing is parsed. The packed history below `.git` is not in it.
///
/// # Errors
/// If there is nothing at `path`, or something below it cannot be read.
pub fn manifest(path: &Path) -> std::io::Result<(Vec<FileDigest>, Vec<String>)> {
    let (root, single) = root(path)?;
    let walked = walk::walk(root, single);
    let mut files = Vec::with_capacity(walked.found.len());
    for found in &walked.found {
        let digest = walk::digest(found);
        files.push(
            digest
                .map_err(|error| std::io::Error::new(error.kind(), format!("`{}`: {error}", found.path)))?,
        );
    }
    let mut other = Vec::with_capacity(walked.oddities.len());
    for oddity in walked.oddities {
        if let What::Unreadable(reason) = oddity.what {
            return Err(std::io::Error::other(format!("`{}`: {reason}", oddity.path)));
        }
        other.push(oddity.path);
    }
    other.sort();
    Ok((files, other))
}

/// The root of a walk, and the file that is all of it.
fn root(path: &Path) -> std::io::Result<(&Path, Option<&Path>)> {
    let single = !std::fs::metadata(path).or_else(|_| std::fs::symlink_metadata(path))?.is_dir();
    let root = if single { path.parent().unwrap_or(Path::new(".")) } else { path };
    let root = if root.as_os_str().is_empty() { Path::new(".") } else { root };
    Ok((root, single.then_some(path)))
}

/// Audits one file that is in memory, as if it were alone in a repository: every check, nothing on disk is read.
#[must_use]
pub fn audit_bytes(name: &str, bytes: Vec<u8>) -> RepositoryAudit {
    let options = Options::default();
    let watch = &mut |_: Step<'_>| {};
    // A root that is no directory: what looks for more on disk finds nothing.
    let mut auditor = Auditor::new(Path::new("\0"), &options, watch);
    auditor.take(File::new(name.to_owned(), bytes, 0));
    let mut audit = auditor.finish(name);
    audit.sort();
    audit
}

/// An audit under way.
struct Auditor<'a, 'b> {
    repository: Repository<'a>,
    digests: Vec<FileDigest>,
    findings: Findings,
    allowance: Allowance,
    /// Bytes of text files that stay in memory.
    kept: u64,
    /// Whether the hub's digests of the files are known, some of which are git's.
    hub: bool,
    options: &'a Options<'a>,
    watch: &'b mut dyn FnMut(Step<'_>),
}

impl<'a, 'b> Auditor<'a, 'b> {
    fn new(root: &'a Path, options: &'a Options<'a>, watch: &'b mut dyn FnMut(Step<'_>)) -> Self {
        Self {
            repository: Repository {
                root,
                files: Vec::new(),
                oddities: Vec::new(),
                base: options.base,
                signature: options.signature,
            },
            digests: Vec::new(),
            findings: Findings::default(),
            allowance: Allowance::default(),
            kept: 0,
            hub: provenance::hub::record(root).is_some(),
            options,
            watch,
        }
    }

    fn skipped(&self, file: &str, check: &str) -> bool {
        self.options.skip.iter().any(|(f, c)| f == file && c == check)
    }

    fn odd(&mut self, path: String, what: What) {
        self.repository.oddities.push(Oddity { path, what });
    }

    /// Reads a file of the disk and looks at it.
    fn read(&mut self, found: walk::Found) {
        if self.skipped(&found.path, READING) {
            return;
        }
        (self.watch)(Step { file: &found.path, check: READING, bytes: found.size });
        match walk::read(&found) {
            Ok(mut file) => {
                if self.hub && file.whole {
                    file.git_sha1 = Some(provenance::hub::git_sha1(&file.bytes));
                }
                self.take(file);
            }
            Err(error) => self.odd(found.path, What::Unreadable(error.to_string())),
        }
    }

    /// Looks at a file, and at what it holds where it is an archive.
    fn take(&mut self, file: File) {
        self.digests.push(FileDigest {
            name: file.path.clone(),
            bytes: file.size,
            sha256: file.sha256.clone(),
        });
        // Of a long file of weights the header is in the head, and the numbers were measured.
        if !file.whole && file.weights.is_none() && file.kind != Kind::Gguf {
            self.odd(file.path.clone(), What::HeadOnly);
        }
        // Archives are opened depth first; each file is released when its checks have run.
        let mut waiting = vec![file];
        while let Some(mut file) = waiting.pop() {
            if file.is_member() {
                (self.watch)(Step { file: &file.path, check: READING, bytes: file.size });
            }
            if !self.skipped(&file.path, READING) {
                let members = archive::expand(&mut file, &mut self.allowance);
                waiting.extend(members.into_iter().rev());
            }
            if file.kind == Kind::Safetensors && file.whole && !self.skipped(&file.path, MEASURING) {
                (self.watch)(Step { file: &file.path, check: MEASURING, bytes: file.size });
                file.weights = Some(weights::measure::measure(&file.bytes));
            }
            for check in CHECKS {
                if self.skipped(&file.path, check.name()) || !check.wants(&file) {
                    continue;
                }
                let bytes = file.bytes.len() as u64;
                (self.watch)(Step { file: &file.path, check: check.name(), bytes });
                check.file(&file, &mut self.findings);
            }
            file.release(&mut self.kept);
            self.repository.files.push(file);
        }
    }

    /// Looks at all files together.
    fn finish(mut self, name: &str) -> RepositoryAudit {
        for check in CHECKS {
            if self.skipped("", check.name()) {
                continue;
            }
            (self.watch)(Step { file: "", check: check.name(), bytes: self.kept });
            check.repository(&self.repository, &mut self.findings);
        }
        RepositoryAudit { name: name.to_owned(), files: self.digests, findings: self.findings.into_all() }
    }
}

/// Counts of findings by rule, for tests and tables.
#[must_use]
pub fn counts(findings: &[Finding]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for finding in findings {
        *counts.entry(finding.rule.as_str()).or_insert(0) += 1 + finding.more;
    }
    counts
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_rule_is_documented_and_has_its_own_id() {
        let rules = rules();
        let ids: BTreeSet<_> = rules.iter().map(|rule| rule.id).collect();
        assert_eq!(ids.len(), rules.len(), "two rules have one id");
        let names: BTreeSet<_> = CHECKS.iter().map(|check| check.name()).collect();
        assert_eq!(names.len(), CHECKS.len(), "two checks have one name");
        for rule in rules {
            assert!(
                report::audit::Family::ALL.iter().any(|family| family.prefix == rule.family()),
                "{} is of no family",
                rule.id
            );
            let number = rule.id.split_once('-').map_or("", |(_, number)| number);
            assert!(number.len() == 3 && number.bytes().all(|byte| byte.is_ascii_digit()), "{}", rule.id);
            assert!(rule.cwe > 0 && !rule.title.is_empty(), "{}", rule.id);
            assert!(rule.help.ends_with('.') && rule.remediation.ends_with('.'), "{}", rule.id);
        }
    }
}
