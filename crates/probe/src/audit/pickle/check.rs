//! SER: serialization that runs code when it is loaded.

use report::audit::{Finding, Rule, Severity};

use super::arrays::Search;
use super::imports::{Trust, trust};
use super::machine::Import;
use super::rules::{
    self, BOMB, DAMAGED, DANGEROUS, DECOYS, DISGUISED, HIDDEN, LEFTOVER, OBJECT_ARRAY, ONLY_PICKLE, PROGRAM,
    SHADOW,
};
use super::{Walk, arrays, walk};
use crate::audit::Check;
use crate::audit::file::File;
use crate::audit::findings::Findings;
use crate::audit::kind::Kind;
use crate::audit::repository::Repository;

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
        rules::ALL
    }

    fn wants(&self, file: &File) -> bool {
        match file.kind {
            Kind::Pickle | Kind::Npy | Kind::Zip | Kind::Hdf5 | Kind::Binary | Kind::Media(_) => true,
            Kind::Text => file.whole,
            _ => false,
        }
    }

    fn file(&self, file: &File, findings: &mut Findings) {
        match file.kind {
            Kind::Pickle => pickle(file, findings),
            Kind::Npy => array(file, findings),
            Kind::Hdf5 if contains(&file.bytes, b"\"Lambda\"") => {
                let message = "a Keras model with a Lambda layer, whose code is stored in it";
                findings.in_file(file, Finding::new(&PROGRAM, &file.path, message));
            }
            Kind::Text => {
                if let Some(text) = file.text() {
                    searched(file, &arrays::encoded(text), "as base64", findings);
                }
                let keras = file.name() == "config.json"
                    && file.text().is_some_and(|text| text.contains("\"class_name\": \"Lambda\""));
                if keras {
                    let message = "a Keras model with a Lambda layer, whose code is stored in it";
                    findings.in_file(file, Finding::new(&PROGRAM, &file.path, message));
                }
            }
            Kind::Binary | Kind::Media(_) => {
                searched(file, &arrays::hidden(&file.bytes), "in other data", findings);
            }
            _ => {}
        }
    }

    fn repository(&self, repository: &Repository, findings: &mut Findings) {
        for file in &repository.files {
            if is_torchscript(repository, file) {
                let message = "a TorchScript archive, which holds programs";
                findings.in_file(file, Finding::new(&PROGRAM, &file.path, message));
            }
            if is_disguised_archive(repository, file) {
                let message = format!("{} with a Python pickle in it", file.kind.name());
                findings.in_file(file, Finding::new(&DISGUISED, &file.path, message));
            }
            if !is_pickled_weights(file) {
                continue;
            }
            let folder = file.folder();
            let safe = repository.files.iter().any(|other| {
                other.kind == Kind::Safetensors && other.folder() == folder && !other.is_member()
            });
            let (rule, message) = if safe {
                (&SHADOW, "weights as a pickle beside safetensors")
            } else {
                (&ONLY_PICKLE, "weights as a pickle, and no safetensors beside them")
            };
            findings.in_file(file, Finding::new(rule, &file.path, message));
        }
    }
}

/// How files of weights are called, whatever follows: not the states of optimizers and trainers.
const WEIGHTS: &[&str] = &[
    "adapter_model",
    "adapters",
    "adapter.",
    "adapter_weights",
    "pytorch_model",
    "pytorch_lora",
    "model.",
    "model-",
    "lora",
    "consolidated",
    "non_lora_trainables",
    "value_head",
    "weights",
    "tf_model",
    "flax_model",
];

/// Whether a file is weights in a format that is a pickle.
fn is_pickled_weights(file: &File) -> bool {
    let extension = file.extension();
    let named = matches!(extension.as_str(), "bin" | "pt" | "pth" | "ckpt" | "pkl" | "pickle");
    let name = file.name().to_lowercase();
    !file.is_member()
        && named
        && matches!(file.kind, Kind::Pickle | Kind::Zip | Kind::Tar)
        && WEIGHTS.iter().any(|start| name.starts_with(start))
}

/// Names under which archives are expected, besides those of pickles.
const ARCHIVES: &[&str] = &["zip", "tar", "gz", "tgz", "z", "keras", "nemo", "whl", "egg"];

/// Whether an archive with a pickle in it goes by a name that promises something else.
fn is_disguised_archive(repository: &Repository, file: &File) -> bool {
    let extension = file.extension();
    matches!(file.kind, Kind::Zip | Kind::Tar | Kind::Gzip | Kind::Zlib)
        && !file.is_member()
        && !EXTENSIONS.contains(&extension.as_str())
        && !ARCHIVES.contains(&extension.as_str())
        && repository.files.iter().any(|member| {
            let inside = member.path.strip_prefix(&file.path).is_some_and(|rest| rest.starts_with("!/"));
            inside && member.kind == Kind::Pickle
        })
}

/// TorchScript archives have a folder of code beside their constants.
fn is_torchscript(repository: &Repository, file: &File) -> bool {
    file.kind == Kind::Zip
        && repository.files.iter().any(|member| {
            let inside = member.path.strip_prefix(&file.path).and_then(|rest| rest.strip_prefix("!/"));
            inside.is_some_and(|path| {
                path.contains("code/__torch__")
                    || path.ends_with(".debug_pkl")
                    || path.ends_with("/constants.pkl")
            })
        })
}

/// One pickle or several in a row.
fn pickle(file: &File, findings: &mut Findings) {
    let worst = row(file, 0, findings);
    if !file.is_member() && !EXTENSIONS.contains(&file.extension().as_str()) {
        let message = format!("`{}` is a Python pickle by its content", file.name());
        findings.in_file(file, Finding::new(&DISGUISED, &file.path, message));
    }
    if worst == Trust::Harmless {
        let message = "it rebuilds tensors, arrays and settings, and imports nothing else";
        findings.in_file(file, Finding::new(&LEFTOVER, &file.path, message));
    }
}

/// The worst import of pickles in a row from an offset.
fn row(file: &File, mut offset: usize, findings: &mut Findings) -> Trust {
    let mut worst = Trust::Harmless;
    for _ in 0..IN_A_ROW {
        let rest = file.bytes.get(offset..).unwrap_or_default();
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
    worst
}

fn array(file: &File, findings: &mut Findings) {
    if let Some(pickle) = arrays::objects(&file.bytes) {
        findings.in_file(file, Finding::new(&OBJECT_ARRAY, &file.path, "its elements are pickled objects"));
        row(file, file.bytes.len() - pickle.len(), findings);
    }
}

fn searched(file: &File, search: &Search, how: &str, findings: &mut Findings) {
    match search {
        Search::Found(at, walk) => {
            let calls: Vec<String> =
                walk.imports.iter().filter(|import| import.used).map(Import::path).collect();
            let message = format!("a pickle {how} that calls {}", calls.join(", "));
            findings.in_file(file, Finding::new(&HIDDEN, &file.path, message).at(format!("byte {at}")));
        }
        Search::Exhausted => {
            let message = format!("too much {how} looks like the beginning of a pickle");
            findings.in_file(file, Finding::new(&DECOYS, &file.path, message));
        }
        Search::Nothing => {}
    }
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
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
