//! LIM: what became of a file whose check did not come to its end.

use report::audit::{Finding, Rule, Severity};

use super::Check;
use super::file::File;

const CRASHED: Rule = Rule {
    id: "LIM-010",
    severity: Severity::High,
    cwe: 248,
    title: "A check crashed on this file",
    help: "The process that reads files died here. The file was made to break readers, or it met a fault of this program. The other checks ran.",
    remediation: "Do not load the file. Report it as a vulnerability of this program, with the file.",
    gap: true,
};
const HUNG: Rule = Rule {
    id: "LIM-011",
    severity: Severity::High,
    cwe: 400,
    title: "A check did not end on this file",
    help: "The check took more time than any honest file needs, and was stopped. The other checks ran.",
    remediation: "Do not load the file. Report it as a vulnerability of this program, with the file.",
    gap: true,
};
const MEMORY: Rule = Rule {
    id: "LIM-012",
    severity: Severity::High,
    cwe: 770,
    title: "A check ran out of memory on this file",
    help: "The check wanted more memory than the limit of its process. The other checks ran.",
    remediation: "Do not load the file. Report it as a vulnerability of this program, with the file.",
    gap: true,
};
const EMPTY: Rule = Rule {
    id: "LIM-013",
    severity: Severity::Medium,
    cwe: 693,
    title: "Nothing to audit",
    help: "No regular file was found. An audit of nothing is no pass.",
    remediation: "Give the directory of the adapter.",
    gap: true,
};

/// How a check ended that did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The process died.
    Crashed,
    /// It took too long.
    Hung,
    /// It had too little memory.
    OutOfMemory,
}

/// The finding about a file whose check failed, for the process that watched it.
#[must_use]
pub fn failed(path: &str, check: &str, failure: Failure, message: &str) -> Finding {
    let rule = match failure {
        Failure::Crashed => &CRASHED,
        Failure::Hung => &HUNG,
        Failure::OutOfMemory => &MEMORY,
    };
    Finding::new(rule, path, message).at(format!("check {check}"))
}

/// The finding about a repository without files.
pub(super) fn nothing() -> Finding {
    Finding::new(&EMPTY, ".", "no regular file was found")
}

/// Holds the rules of failures; the findings come from whoever watches the checks.
pub(super) struct Limits;

impl Check for Limits {
    fn name(&self) -> &'static str {
        "limits"
    }

    fn rules(&self) -> &'static [Rule] {
        &[CRASHED, HUNG, MEMORY, EMPTY]
    }

    fn wants(&self, _: &File) -> bool {
        false
    }
}
