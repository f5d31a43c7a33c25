//! SER: serialization that runs code when it is loaded.

use report::audit::{Finding, Rule, Severity};

use super::imports::{Trust, trust};
use super::{Walk, walk};
use crate::audit::Check;
use crate::audit::file::File;
use crate::audit::findings::Findings;
use crate::audit::kind::Kind;

const DANGEROUS: Rule = Rule {
    id: "SER-001",
    severity: Severity::Critical,
    cwe: 502,
    title: "A pickle that runs code when it is loaded",
    help: "The pickle imports or calls something that is not needed to rebuild data: commands, evaluation of code, files, connections, or a name that nobody vouches for. Loading it runs that with the rights of the user. The opcodes were listed, never run.",
    remediation: "Do not load the file, also not to look into it. Report the repository, and ask the author for safetensors.",
    gap: false,
};
const DISGUISED: Rule = Rule {
    id: "SER-002",
    severity: Severity::Critical,
    cwe: 434,
    title: "A pickle or archive under the name of something else",
    help: "The content is a pickle, or an archive with one, but the name says otherwise: safetensors, text, a picture. Loaders that look at the content run it.",
    remediation: "Do not load the file; ask the author for real safetensors.",
    gap: false,
};
const DAMAGED: Rule = Rule {
    id: "SER-003",
    severity: Severity::High,
    cwe: 20,
    title: "A pickle that is damaged behind its imports",
    help: "The opcodes cannot be read to their end. A loader runs everything before the damage, which is why such files are made: scanners that give up on the error report nothing.",
    remediation: "Do not load the file; download it again if you trust its author.",
    gap: false,
};
const BOMB: Rule = Rule {
    id: "SER-004",
    severity: Severity::High,
    cwe: 400,
    title: "A pickle that grows without bound",
    help: "Containers that hold the same earlier container several times, over and over: a small file that fills the memory of whoever loads it.",
    remediation: "Do not load the file.",
    gap: false,
};
const LEFTOVER: Rule = Rule {
    id: "SER-005",
    severity: Severity::Low,
    cwe: 502,
    title: "A pickle that rebuilds data only",
    help: "The pickle imports nothing but tensors, arrays, containers and settings of trainers, as training leaves them behind. Nothing of it is needed to use the adapter.",
    remediation: "Leave it out of what you deploy; if you need it, load it with `weights_only=True`.",
    gap: false,
};

/// Pickles, by their content.
pub(in crate::audit) struct Pickles;

/// Names under which pickles are expected.
const EXTENSIONS: &[&str] =
    &["bin", "pt", "pth", "pkl", "pickle", "p", "ckpt", "joblib", "npy", "npz", "data", "pt2", "mar"];

/// A pickle and what follows it: checkpoints of the older form are several in a row.
const IN_A_ROW: usize = 64;

impl Check for Pickles {
    fn name(&self) -> &'static str {
        "pickles"
    }

    fn rules(&self) -> &'static [Rule] {
        &[DANGEROUS, DISGUISED, DAMAGED, BOMB, LEFTOVER]
    }

    fn wants(&self, file: &File) -> bool {
        file.kind == Kind::Pickle
    }

    fn file(&self, file: &File, findings: &mut Findings) {
        let mut offset = 0;
        let mut worst = Trust::Harmless;
        for _ in 0..IN_A_ROW {
            let rest = &file.bytes[offset..];
            if rest.is_empty() || (offset > 0 && !super::is_pickle(rest)) {
                break;
            }
            let walk = walk(rest);
            worst = worst.max(judge(file, offset, &walk, findings));
            if !walk.stopped {
                break;
            }
            offset += walk.end;
        }
        if !file.is_member() && !EXTENSIONS.contains(&file.extension().as_str()) {
            let message = format!("`{}` is a Python pickle by its content", file.name());
            findings.in_file(file, Finding::new(&DISGUISED, &file.path, message));
        }
        if worst == Trust::Harmless {
            let message = "it rebuilds tensors, arrays and settings, and imports nothing else";
            findings.in_file(file, Finding::new(&LEFTOVER, &file.path, message));
        }
    }
}

/// Findings of one walk; how far its worst import is understood.
fn judge(file: &File, offset: usize, walk: &Walk, findings: &mut Findings) -> Trust {
    let mut worst = Trust::Harmless;
    let mut seen = std::collections::BTreeSet::new();
    for import in &walk.imports {
        let level = if import.literal { trust(&import.module, &import.name) } else { Trust::Dangerous };
        worst = worst.max(level);
        if level == Trust::Harmless || !seen.insert(import.path()) {
            continue;
        }
        let does = if import.used { "imports and calls" } else { "imports" };
        let message = if import.literal {
            format!("it {does} `{}`", import.path())
        } else {
            format!("it {does} something whose name is computed while it loads (`{}`)", import.path())
        };
        let severity = if level == Trust::Dangerous { Severity::Critical } else { Severity::High };
        let mut finding = Finding::new(&DANGEROUS, &file.path, message)
            .at(format!("byte {}", offset + import.offset))
            .severity(severity);
        if !import.arguments.is_empty() {
            finding = finding.evidence(import.arguments.join(" "));
        }
        findings.in_file(file, finding);
    }
    if walk.doublings >= 16 {
        let message = format!("{} containers hold an earlier one several times", walk.doublings);
        findings.in_file(file, Finding::new(&BOMB, &file.path, message));
        worst = worst.max(Trust::Unknown);
    }
    if let Some(error) = walk.error {
        let message = format!("after {} opcodes, {error}", walk.opcodes);
        let at = format!("byte {}", offset + walk.end);
        findings.in_file(file, Finding::new(&DAMAGED, &file.path, message).at(at));
        worst = worst.max(Trust::Unknown);
    }
    worst
}
