//! FS and LIM rules of what the walk met on disk.

use report::audit::{Finding, Rule, Severity};

use super::Check;
use super::file::File;
use super::findings::Findings;
use super::kind::Kind;
use super::repository::{Repository, What};

const LFS_POINTER: Rule = Rule {
    id: "FS-001",
    severity: Severity::Medium,
    cwe: 693,
    title: "A git-lfs pointer instead of the file",
    help: "The repository was cloned without its large files. What they hold was not checked.",
    remediation: "Run `git lfs pull` in the repository and audit it again.",
    gap: true,
};
const LINK_OUTSIDE: Rule = Rule {
    id: "FS-002",
    severity: Severity::High,
    cwe: 59,
    title: "A link that leads out of the repository",
    help: "Whoever reads or packs the repository reads files of the machine instead, or writes over them. It was not followed. Links of a Hugging Face cache into its own store are no finding.",
    remediation: "Remove the link.",
    gap: false,
};
const SPECIAL: Rule = Rule {
    id: "FS-003",
    severity: Severity::High,
    cwe: 67,
    title: "Not a regular file",
    help: "A FIFO, socket or device under the name of a file. Programs that open it hang, or act on the machine.",
    remediation: "Remove it.",
    gap: false,
};
const LINK_INSIDE: Rule = Rule {
    id: "FS-004",
    severity: Severity::Low,
    cwe: 59,
    title: "A link within the repository",
    help: "What it leads to was checked under its own name, if it exists.",
    remediation: "Replace the link by the file.",
    gap: false,
};
const ODD_NAME: Rule = Rule {
    id: "FS-005",
    severity: Severity::Medium,
    cwe: 451,
    title: "A file name that deceives",
    help: "The name is not UTF-8, or has control, invisible or right-to-left characters, so that people and programs read another name than the loader.",
    remediation: "Rename or remove the file.",
    gap: false,
};
const UNREADABLE: Rule = Rule {
    id: "FS-006",
    severity: Severity::Medium,
    cwe: 693,
    title: "A file that cannot be read",
    help: "The system refused to read it. What is in it was not checked.",
    remediation: "Give yourself the right to read it, or remove it.",
    gap: true,
};
const HOOK: Rule = Rule {
    id: "FS-010",
    severity: Severity::High,
    cwe: 829,
    title: "A git hook",
    help: "Git runs the programs in `.git/hooks` by itself. A published repository has none: a hook came with an archive or a copied folder.",
    remediation: "Read the hook and remove it unless it is your own.",
    gap: false,
};
const TOO_MANY: Rule = Rule {
    id: "LIM-003",
    severity: Severity::Medium,
    cwe: 400,
    title: "More files than are read",
    help: "The repository has more files or folders than an adapter could have. The rest was not checked.",
    remediation: "Remove what is not needed, or audit the folder of the adapter alone.",
    gap: true,
};
const TOO_DEEP: Rule = Rule {
    id: "LIM-005",
    severity: Severity::Medium,
    cwe: 674,
    title: "Folders nested too deeply",
    help: "What lies below was not checked.",
    remediation: "Remove the folders.",
    gap: true,
};
const HEAD_ONLY: Rule = Rule {
    id: "LIM-006",
    severity: Severity::Medium,
    cwe: 693,
    title: "A file too large to be inspected whole",
    help: "Only its head was inspected; its digest is that of the whole file.",
    remediation: "Audit it on its own after unpacking, or remove it.",
    gap: true,
};

/// What is no regular file, or was not read.
pub(super) struct Filesystem;

impl Check for Filesystem {
    fn name(&self) -> &'static str {
        "filesystem"
    }

    fn rules(&self) -> &'static [Rule] {
        &[
            LFS_POINTER,
            LINK_OUTSIDE,
            SPECIAL,
            LINK_INSIDE,
            ODD_NAME,
            UNREADABLE,
            HOOK,
            TOO_MANY,
            TOO_DEEP,
            HEAD_ONLY,
        ]
    }

    fn wants(&self, file: &File) -> bool {
        file.kind == Kind::LfsPointer || deceives(&file.path)
    }

    fn file(&self, file: &File, findings: &mut Findings) {
        if file.kind == Kind::LfsPointer {
            let message = format!("`{}` is a git-lfs pointer, the content is not here", file.name());
            findings.in_file(file, Finding::new(&LFS_POINTER, &file.path, message));
        }
        if deceives(&file.path) {
            findings
                .in_file(file, Finding::new(&ODD_NAME, &file.path, format!("the name is `{}`", file.path)));
        }
    }

    fn repository(&self, repository: &Repository, findings: &mut Findings) {
        for oddity in &repository.oddities {
            let (rule, message) = match &oddity.what {
                What::LinkOutside(target) => {
                    (&LINK_OUTSIDE, format!("a link to `{}`, which was not followed", target.display()))
                }
                What::Link(target) => (&LINK_INSIDE, format!("a link to `{}`", target.display())),
                What::Special(what) => (&SPECIAL, format!("expected a regular file, found {what}")),
                What::Unreadable(why) => (&UNREADABLE, why.clone()),
                What::TooMany => {
                    (&TOO_MANY, format!("more than {} files, from here on", super::limits::FILES))
                }
                What::TooDeep => (
                    &TOO_DEEP,
                    format!("more than {} folders inside each other", super::limits::FOLDER_DEPTH),
                ),
                What::OddName => (&ODD_NAME, "the name is not UTF-8, and the file was not read".to_owned()),
                What::HeadOnly => {
                    (&HEAD_ONLY, format!("only the first {} bytes were inspected", super::limits::HEAD_BYTES))
                }
                What::Hook => (&HOOK, "git runs this program by itself".to_owned()),
            };
            let mut finding = Finding::new(rule, &oddity.path, message);
            // States of optimizers are large, common, and never loaded to use an adapter.
            if oddity.what == What::HeadOnly && is_training_state(&oddity.path) {
                finding = finding.severity(Severity::Low);
            }
            findings.add(finding);
        }
    }
}

/// Whether a file is by its name the state of a training run, which only resuming that run loads.
fn is_training_state(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    ["optimizer", "scheduler", "rng_state", "scaler"].iter().any(|start| name.starts_with(start))
        || name.ends_with("_optim_states.pt")
}

/// Whether a path has characters that a reader does not see or that reorder it.
fn deceives(path: &str) -> bool {
    report::escape::escape(path) != path
}
