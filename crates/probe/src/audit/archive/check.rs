//! FS and LIM rules of archives, from what was noted while they were opened.

use report::audit::{Finding, Rule, Severity};

use super::Problem;
use crate::audit::Check;
use crate::audit::file::File;
use crate::audit::findings::Findings;
use crate::audit::kind::Kind;

const TRAVERSAL: Rule = Rule {
    id: "FS-012",
    severity: Severity::Critical,
    cwe: 22,
    title: "An archive member leaves the folder it is unpacked in",
    help: "A member's path is absolute or has `..` in it, or a link points outside. Tools that unpack the archive can be made to overwrite any file of the user.",
    remediation: "Do not unpack the archive. No adapter needs one.",
    gap: false,
};
const INCONSISTENT: Rule = Rule {
    id: "FS-013",
    severity: Severity::High,
    cwe: 436,
    title: "An archive that readers see differently",
    help: "Checksums, names or directories of the archive contradict each other, or two members have one name. Scanners that trust one of them are shown other content than the loader.",
    remediation: "Do not load it; ask the author for safetensors.",
    gap: false,
};
const HIDDEN: Rule = Rule {
    id: "FS-014",
    severity: Severity::High,
    cwe: 434,
    title: "An archive behind a file of another kind",
    help: "The file begins as one format and ends as a zip archive, which some loaders open. Such a polyglot shows scanners one content and loaders another.",
    remediation: "Do not load it; ask the author why the archive is there.",
    gap: false,
};
const BOMB: Rule = Rule {
    id: "LIM-001",
    severity: Severity::High,
    cwe: 409,
    title: "A decompression bomb",
    help: "Little packed data unpacks to very much. Whoever unpacks it runs out of memory or disk.",
    remediation: "Do not unpack the archive.",
    gap: false,
};
const NOT_READ: Rule = Rule {
    id: "LIM-002",
    severity: Severity::Medium,
    cwe: 693,
    title: "A part of an archive could not be read",
    help: "A member is encrypted, damaged, packed by an unknown method, too large or nested too deeply. What is in it is not known.",
    remediation: "Unpack it in a safe place and audit what it holds, or remove it.",
    gap: true,
};
const UNOPENED: Rule = Rule {
    id: "LIM-004",
    severity: Severity::Medium,
    cwe: 693,
    title: "An archive of a format that is not opened",
    help: "What is in the archive is not known. No adapter needs one.",
    remediation: "Unpack it in a safe place and audit what it holds, or remove it.",
    gap: true,
};

/// The archives of a repository.
pub(in crate::audit) struct Archives;

impl Check for Archives {
    fn name(&self) -> &'static str {
        "archives"
    }

    fn rules(&self) -> &'static [Rule] {
        &[TRAVERSAL, INCONSISTENT, HIDDEN, BOMB, NOT_READ, UNOPENED]
    }

    fn wants(&self, file: &File) -> bool {
        !file.problems.is_empty() || matches!(file.kind, Kind::Archive(_)) || super::is_hidden(file)
    }

    fn file(&self, file: &File, findings: &mut Findings) {
        if let Kind::Archive(format) = file.kind {
            findings.in_file(file, Finding::new(&UNOPENED, &file.path, format!("{format} archive")));
        }
        if super::is_hidden(file) {
            let message = format!("{} that is also a zip archive", file.kind.name());
            findings.in_file(file, Finding::new(&HIDDEN, &file.path, message));
        }
        let all = file.problems.first.iter().map(|problem| (problem, None));
        let all = all.chain(file.problems.more.iter().map(|(problem, count)| (problem, Some(*count))));
        for (problem, more) in all {
            let (rule, member, message) = match problem {
                Problem::Traversal { member } => {
                    (&TRAVERSAL, member, "the path leads out of the folder".to_owned())
                }
                Problem::Link { member, target } => {
                    (&TRAVERSAL, member, format!("a link that points outside, to `{target}`"))
                }
                Problem::Checksum { member } => {
                    (&INCONSISTENT, member, "the content does not match its checksum".to_owned())
                }
                Problem::Inconsistent { member, what } => (&INCONSISTENT, member, (*what).to_owned()),
                Problem::Duplicate { member } => {
                    (&INCONSISTENT, member, "another member has the same name".to_owned())
                }
                Problem::Bomb { member, packed } => {
                    (&BOMB, member, format!("{packed} packed bytes unpack to far more"))
                }
                Problem::NotRead { member, why } => (&NOT_READ, member, (*why).to_owned()),
            };
            match more {
                Some(count) => findings.more(rule.id, &file.path, count),
                None => findings.in_file(file, Finding::new(rule, &file.path, message).at(member)),
            }
        }
    }
}
