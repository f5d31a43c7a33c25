//! GGUF: the layout of GGUF files. Their chat templates are handed to the checks of templates.

mod header;

use report::audit::{Finding, Rule, Severity};

use self::header::{Fault, Header};
use super::Check;
use super::file::File;
use super::findings::Findings;
use super::kind::Kind;

const COUNT: Rule = Rule {
    id: "GGUF-001",
    severity: Severity::High,
    cwe: 789,
    title: "A count that the file cannot hold",
    help: "A number of keys, tensors, characters or elements is larger than what follows in the file. Readers that trust it allocate without bound or read past the end.",
    remediation: "Do not load the file; download it again if you trust its author.",
    gap: true,
};
const VERSION: Rule = Rule {
    id: "GGUF-002",
    severity: Severity::High,
    cwe: 434,
    title: "Not the GGUF file that its name says",
    help: "The magic number or the version is another one, so what the file holds is not known.",
    remediation: "Do not load the file; ask the author what it is.",
    gap: true,
};
const LAYOUT: Rule = Rule {
    id: "GGUF-003",
    severity: Severity::High,
    cwe: 190,
    title: "A tensor that cannot be where the header says",
    help: "Dimensions whose product overflows, data beyond the end of the file, or offsets that are not aligned.",
    remediation: "Do not load the file.",
    gap: false,
};
const NESTING: Rule = Rule {
    id: "GGUF-004",
    severity: Severity::High,
    cwe: 674,
    title: "Arrays nested too deeply",
    help: "Arrays of arrays of arrays, which no writer makes. Readers that recurse run out of stack.",
    remediation: "Do not load the file.",
    gap: true,
};
const DUPLICATE: Rule = Rule {
    id: "GGUF-005",
    severity: Severity::High,
    cwe: 436,
    title: "A key or tensor name that stands twice",
    help: "Readers differ in which of the two they use.",
    remediation: "Do not load the file.",
    gap: false,
};
const TYPE: Rule = Rule {
    id: "GGUF-006",
    severity: Severity::Medium,
    cwe: 20,
    title: "An unknown type of value or tensor",
    help: "The format has no such type; what the bytes mean is not known.",
    remediation: "Ask the author which program wrote the file.",
    gap: true,
};
const HIDDEN: Rule = Rule {
    id: "GGUF-007",
    severity: Severity::High,
    cwe: 506,
    title: "Tensors that overlap, or bytes that no tensor owns",
    help: "The data section is not covered by the tensors exactly once: bytes between or behind them carry something that no reader shows, or two tensors share theirs.",
    remediation: "Do not load the file; ask the author how it was made.",
    gap: false,
};
const NOT_IN_MEMORY: Rule = Rule {
    id: "GGUF-008",
    severity: Severity::Medium,
    cwe: 693,
    title: "A header too long to be read",
    help: "The header reaches beyond what is read of a long file, so its layout was not checked.",
    remediation: "Ask the author for a file with an ordinary header.",
    gap: true,
};

/// GGUF files.
pub(super) struct Gguf;

impl Check for Gguf {
    fn name(&self) -> &'static str {
        "gguf"
    }

    fn rules(&self) -> &'static [Rule] {
        &[COUNT, VERSION, LAYOUT, NESTING, DUPLICATE, TYPE, HIDDEN, NOT_IN_MEMORY]
    }

    fn wants(&self, file: &File) -> bool {
        file.kind == Kind::Gguf || (file.extension() == "gguf" && file.kind != Kind::LfsPointer)
    }

    fn file(&self, file: &File, findings: &mut Findings) {
        if file.kind != Kind::Gguf {
            let message = format!("expected GGUF, found {}", file.kind.name());
            findings.in_file(file, Finding::new(&VERSION, &file.path, message));
            return;
        }
        let header = header::read(&file.bytes, file.size);
        for fault in &header.faults {
            let (rule, message) = match fault {
                Fault::Version(message) => (&VERSION, message.clone()),
                Fault::Count(message) => (&COUNT, message.clone()),
                Fault::Nesting(message) => (&NESTING, message.clone()),
                Fault::Duplicate(name) => (&DUPLICATE, format!("`{name}` stands twice")),
                Fault::Type(message) => (&TYPE, message.clone()),
                Fault::Layout(message) => (&LAYOUT, message.clone()),
                Fault::NotInMemory => {
                    (&NOT_IN_MEMORY, format!("it is longer than {} bytes", file.bytes.len()))
                }
            };
            findings.in_file(file, Finding::new(rule, &file.path, message));
        }
        let broken = header.faults.iter().any(|fault| !matches!(fault, Fault::Duplicate(_)));
        if !broken {
            coverage(file, &header, findings);
        }
    }
}

/// Whether the tensors cover the data exactly once, but for padding.
fn coverage(file: &File, header: &Header, findings: &mut Findings) {
    let mut end = 0u64;
    let mut add = |message: String, at: u64| {
        let place = format!("byte {}", header.data_start.saturating_add(at));
        findings.in_file(file, Finding::new(&HIDDEN, &file.path, message).at(place));
    };
    for tensor in &header.tensors {
        if tensor.start < end && tensor.bytes > 0 {
            add(format!("`{}` begins inside another tensor", tensor.name), tensor.start);
        } else if tensor.start > end.next_multiple_of(header.alignment) {
            add(format!("{} bytes belong to no tensor", tensor.start - end), end);
        }
        end = end.max(tensor.start + tensor.bytes);
    }
    let data = file.size.saturating_sub(header.data_start);
    if end > data {
        let message = format!("the tensors need {end} bytes of data, found {data}");
        findings.in_file(file, Finding::new(&LAYOUT, &file.path, message));
    } else if data > end.next_multiple_of(header.alignment) {
        add(format!("{} bytes follow the last tensor", data - end), end);
    }
}

/// Chat templates of the metadata, as name and content.
pub(super) fn templates(file: &File) -> Vec<(String, Vec<u8>)> {
    header::read(&file.bytes, file.size)
        .texts
        .into_iter()
        .filter(|(key, _)| key.contains("chat_template"))
        .map(|(key, text)| (format!("{key}.jinja"), text.into_bytes()))
        .collect()
}
