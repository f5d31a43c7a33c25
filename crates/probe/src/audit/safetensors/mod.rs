//! ST: the layout of safetensors files, before the reference reader sees them.

pub(super) mod header;

use report::audit::{Finding, Rule, Severity};

use self::header::{Entry, Fault, Header};
use super::Check;
use super::file::File;
use super::findings::Findings;
use super::kind::Kind;

const LENGTH: Rule = Rule {
    id: "ST-001",
    severity: Severity::High,
    cwe: 789,
    title: "A header length that cannot be",
    help: "The first eight bytes give a header that is longer than the file or than the format allows. Readers that trust it allocate without bound.",
    remediation: "Do not load the file; download it again if you trust its author.",
    gap: true,
};
const TRUNCATED: Rule = Rule {
    id: "ST-002",
    severity: Severity::High,
    cwe: 125,
    title: "Tensors beyond the end of the file",
    help: "The header describes data that is not there: the file is cut off, or made to let readers read past its end.",
    remediation: "Download the file again.",
    gap: true,
};
const OVERLAP: Rule = Rule {
    id: "ST-003",
    severity: Severity::High,
    cwe: 119,
    title: "Tensors that share bytes",
    help: "Two tensors overlap in the file, which the format forbids: readers disagree about their content.",
    remediation: "Do not load the file; ask the author how it was made.",
    gap: false,
};
const HIDDEN: Rule = Rule {
    id: "ST-004",
    severity: Severity::High,
    cwe: 506,
    title: "Bytes that no tensor owns",
    help: "Between or behind the tensors lie bytes that the header does not describe, which the format forbids. They can carry a program, another archive or data that should not be seen.",
    remediation: "Do not load the file; ask the author how it was made.",
    gap: false,
};
const LAYOUT: Rule = Rule {
    id: "ST-005",
    severity: Severity::High,
    cwe: 190,
    title: "A shape or an offset that cannot be",
    help: "Negative, fractional or overflowing sizes, offsets that contradict the shape, or a description of the wrong form.",
    remediation: "Do not load the file.",
    gap: false,
};
const DTYPE: Rule = Rule {
    id: "ST-006",
    severity: Severity::Medium,
    cwe: 20,
    title: "An unknown element type",
    help: "The format has no such type; what the bytes mean is not known.",
    remediation: "Ask the author which program wrote the file.",
    gap: true,
};
const METADATA: Rule = Rule {
    id: "ST-007",
    severity: Severity::High,
    cwe: 506,
    title: "Metadata that is more than a note",
    help: "The header's `__metadata__` holds code, encoded data, values that are no text, or more than metadata needs.",
    remediation: "Do not pass the metadata to anything; ask the author what it is for.",
    gap: false,
};
const DUPLICATE: Rule = Rule {
    id: "ST-008",
    severity: Severity::High,
    cwe: 436,
    title: "A tensor name that stands twice",
    help: "Readers differ in which of the two they load, so a scanner can be shown another tensor than the model gets.",
    remediation: "Do not load the file.",
    gap: false,
};
const NAME: Rule = Rule {
    id: "ST-009",
    severity: Severity::High,
    cwe: 22,
    title: "A tensor name that is no name",
    help: "The name is a path, holds code or characters that are not seen, or is very long. Programs that use names as paths or print them act on it.",
    remediation: "Do not load the file.",
    gap: false,
};
const SYNTAX: Rule = Rule {
    id: "ST-010",
    severity: Severity::High,
    cwe: 20,
    title: "A header that is not what the format wants",
    help: "The header is no JSON object, nests too deeply, has text behind it, or does not begin with a brace.",
    remediation: "Do not load the file; download it again if you trust its author.",
    gap: true,
};
const OTHER: Rule = Rule {
    id: "ST-011",
    severity: Severity::High,
    cwe: 434,
    title: "A file named safetensors that is none",
    help: "The content is of another format. Loaders that look at the content treat it as that.",
    remediation: "Do not load the file; ask the author for real safetensors.",
    gap: true,
};
const NO_TENSORS: Rule = Rule {
    id: "ST-012",
    severity: Severity::Medium,
    cwe: 20,
    title: "A safetensors file without tensors",
    help: "There is nothing to load, so whatever loads it does something else than its user expects.",
    remediation: "Ask the author for the weights.",
    gap: false,
};

/// Metadata of real adapters is a word or two; training tools that record their settings stay below this.
const METADATA_BYTES: usize = 64 << 10;
/// Real names are paths of modules.
const NAME_BYTES: usize = 512;

/// Safetensors files.
pub(super) struct Safetensors;

impl Check for Safetensors {
    fn name(&self) -> &'static str {
        "safetensors"
    }

    fn rules(&self) -> &'static [Rule] {
        &[
            LENGTH, TRUNCATED, OVERLAP, HIDDEN, LAYOUT, DTYPE, METADATA, DUPLICATE, NAME, SYNTAX, OTHER,
            NO_TENSORS,
        ]
    }

    fn wants(&self, file: &File) -> bool {
        file.kind == Kind::Safetensors || file.extension() == "safetensors"
    }

    fn file(&self, file: &File, findings: &mut Findings) {
        match file.kind {
            // The content is there; only its header may be wrong.
            Kind::Safetensors | Kind::Binary => {}
            // Reported as what it is.
            Kind::LfsPointer => return,
            other => {
                let message = format!("expected safetensors, found {}", other.name());
                findings.in_file(file, Finding::new(&OTHER, &file.path, message));
                return;
            }
        }
        let header = header::read(&file.bytes, file.size);
        faults(file, &header, findings);
        layout(file, &header, findings);
        names(file, &header, findings);
        metadata(file, &header, findings);
    }
}

fn faults(file: &File, header: &Header, findings: &mut Findings) {
    for fault in &header.faults {
        let (rule, place, message) = match fault {
            Fault::Length(message) => (&LENGTH, None, message.clone()),
            Fault::NotInMemory => (&SYNTAX, None, "the header is longer than what is parsed".into()),
            Fault::Syntax(message) => (&SYNTAX, None, message.clone()),
            Fault::Duplicate(name) => (&DUPLICATE, Some(name), "the name stands twice".into()),
            Fault::Layout { tensor, what } => (&LAYOUT, Some(tensor), what.clone()),
            Fault::Dtype { tensor, dtype } => {
                (&DTYPE, Some(tensor), format!("expected a type of the format, found `{dtype}`"))
            }
            Fault::Metadata { key, what } => (&METADATA, Some(key), what.clone()),
        };
        let mut finding = Finding::new(rule, &file.path, message);
        if let Some(place) = place {
            finding = finding.at(place);
        }
        findings.in_file(file, finding);
    }
    if header.faults.is_empty() && header.entries.is_empty() {
        findings.in_file(file, Finding::new(&NO_TENSORS, &file.path, "the header describes no tensor"));
    }
}

/// Overlaps, holes, what lies behind the last tensor, and tensors beyond the end: one finding of each.
fn layout(file: &File, header: &Header, findings: &mut Findings) {
    let broken =
        header.faults.iter().any(|fault| !matches!(fault, Fault::Duplicate(_) | Fault::Metadata { .. }));
    let beyond: Vec<&Entry> = header.entries.iter().filter(|entry| entry.end > header.data_bytes).collect();
    if let Some(last) = beyond.iter().max_by_key(|entry| entry.end) {
        let message = format!(
            "{} of {} tensors reach beyond the end: expected {} bytes of data, found {}",
            beyond.len(),
            header.entries.len(),
            last.end,
            header.data_bytes
        );
        findings.in_file(file, Finding::new(&TRUNCATED, &file.path, message).at(&last.name));
    }
    let mut overlaps = 0;
    let mut first: Option<&Entry> = None;
    let mut gaps: Vec<(u64, u64)> = Vec::new();
    let mut end = 0u64;
    for entry in &header.entries {
        if entry.start < end && entry.end > entry.start {
            overlaps += 1;
            first = first.or(Some(entry));
        }
        if entry.start > end {
            gaps.push((end, entry.start.min(header.data_bytes)));
        }
        end = end.max(entry.end);
    }
    if let Some(first) = first {
        let message = format!("{overlaps} tensors begin inside another one");
        findings.in_file(file, Finding::new(&OVERLAP, &file.path, message).at(&first.name));
    }
    // Of a description that could not be read, the bytes may be its tensor's.
    if broken {
        return;
    }
    if end < header.data_bytes {
        gaps.push((end, header.data_bytes));
    }
    for (from, to) in gaps.into_iter().filter(|(from, to)| from < to) {
        let place = format!("byte {}", header.data_start + from);
        let hidden = file.bytes.get(
            (header.data_start + from) as usize..((header.data_start + to) as usize).min(file.bytes.len()),
        );
        let what = hidden.map_or("not in memory", |hidden| {
            if hidden.iter().all(|byte| *byte == 0) { "zeros" } else { Kind::of(hidden, to - from).name() }
        });
        let message = format!("{} bytes belong to no tensor ({what})", to - from);
        findings.in_file(file, Finding::new(&HIDDEN, &file.path, message).at(place));
    }
}

fn names(file: &File, header: &Header, findings: &mut Findings) {
    for entry in &header.entries {
        let name = &entry.name;
        let what = if name.is_empty() {
            "the name is empty"
        } else if name.len() > NAME_BYTES {
            "the name is longer than any module path"
        } else if report::escape::escape(name) != *name {
            "the name has control or invisible characters"
        } else if name.starts_with(['/', '~', '\\']) || name.contains("..") || name.contains('\\') {
            "the name is a path"
        } else if name.contains(['(', ')', '{', '}', '<', '>', ';', '`', '$', '|', '&', '"', '\'']) {
            "the name has characters of code"
        } else {
            continue;
        };
        findings.in_file(file, Finding::new(&NAME, &file.path, what).at(name));
    }
}

fn metadata(file: &File, header: &Header, findings: &mut Findings) {
    let total: usize = header.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    if total > METADATA_BYTES {
        let message = format!("{total} bytes of metadata, expected at most {METADATA_BYTES}");
        findings.in_file(file, Finding::new(&METADATA, &file.path, message));
    }
    for (key, value) in &header.metadata {
        let Some(what) = suspicious(value).or_else(|| suspicious(key)) else { continue };
        let finding = Finding::new(&METADATA, &file.path, format!("the value {what}"));
        findings.in_file(file, finding.at(format!("__metadata__/{key}")).evidence(value));
    }
}

/// Words that stand in programs and not in notes about a training run.
const CODE: &[&str] = &[
    "import os",
    "import sys",
    "import subprocess",
    "__import__",
    "exec(",
    "eval(",
    "os.system",
    "subprocess.",
    "base64",
    "b64decode",
    "powershell",
    "#!/",
    "<script",
    "javascript:",
    "curl http",
    "wget http",
    "/bin/sh",
    "/bin/bash",
    "cmd.exe",
    "pickle.loads",
    "marshal.loads",
    "socket.socket",
    "getattr(",
    "compile(",
    "lambda ",
    "importlib",
    "{{",
    "{%",
];
/// Longest run of letters and digits in an honest value: a SHA-512 in hex.
const ENCODED_RUN: usize = 128;

/// What a piece of metadata is that it should not be.
fn suspicious(value: &str) -> Option<&'static str> {
    let lower = value.to_lowercase();
    if CODE.iter().any(|word| lower.contains(word)) {
        return Some("holds code");
    }
    if report::escape::escape(value.trim()) != value.trim()
        && value.chars().any(|character| {
            !character.is_whitespace()
                && report::escape::escape(&character.to_string()) != character.to_string()
        })
    {
        return Some("has control or invisible characters");
    }
    let run = value
        .split(|character: char| !(character.is_ascii_alphanumeric() || "+/=_-".contains(character)))
        .map(str::len)
        .max()
        .unwrap_or(0);
    (run > ENCODED_RUN).then_some("holds a long run of encoded data")
}
