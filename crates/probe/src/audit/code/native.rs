//! Native programs, bytecode and scripts, by their first bytes as well as by their names.

use report::audit::{Finding, Rule, Severity};

use super::shell;
use crate::audit::Check;
use crate::audit::file::File;
use crate::audit::findings::Findings;
use crate::audit::kind::Kind;
use crate::audit::repository::Repository;

const NATIVE: Rule = Rule {
    id: "FS-011",
    severity: Severity::Critical,
    cwe: 829,
    title: "A native program, library or script",
    help: "An adapter is weights and settings. A native library runs when something loads it, a script when somebody starts it, and neither can be checked here. Shell scripts of training are common and reported as low.",
    remediation: "Remove the file. Build what you need from sources that you trust.",
    gap: false,
};
const BYTECODE: Rule = Rule {
    id: "CODE-018",
    severity: Severity::High,
    cwe: 829,
    title: "Compiled Python",
    help: "Python runs bytecode in place of the source beside it, and nobody reads bytecode. A forgotten `__pycache__` of a source that is also there is reported as low.",
    remediation: "Remove the file and every `__pycache__`.",
    gap: false,
};
const KERAS: Rule = Rule {
    id: "CODE-022",
    severity: Severity::Medium,
    cwe: 829,
    title: "A container that can hold code and is not opened",
    help: "HDF5 files of Keras and archives in formats that this program does not open can hold code. Their content was not checked.",
    remediation: "Unpack the archive and audit the folder, or remove the file.",
    gap: true,
};

/// Names that systems run by a click or that packagers unpack and run.
const RUN_BY_NAME: &[&str] = &[
    "exe", "dll", "so", "dylib", "scr", "com", "msi", "app", "apk", "jar", "deb", "rpm", "dmg", "pkg", "lnk",
    "reg", "bat", "cmd", "ps1", "psm1", "vbs", "vbe", "hta", "wsf", "jse", "js", "cpl", "sys", "elf",
    "appimage", "node", "wasm", "pyd", "desktop", "inf", "chm", "iso", "vhd",
];

/// Programs of any kind but Python source.
pub(in crate::audit) struct NativeCode;

impl Check for NativeCode {
    fn name(&self) -> &'static str {
        "native"
    }

    fn rules(&self) -> &'static [Rule] {
        &[NATIVE, BYTECODE, KERAS]
    }

    fn wants(&self, file: &File) -> bool {
        let by_content =
            matches!(file.kind, Kind::Native(_) | Kind::PythonBytecode | Kind::Hdf5 | Kind::Archive(_));
        by_content
            || RUN_BY_NAME.contains(&file.extension().as_str())
            || matches!(file.extension().as_str(), "pyc" | "pyo")
            || (file.text().is_some() && shell::is_script(file))
            || hidden_elf(file).is_some()
    }

    fn file(&self, file: &File, findings: &mut Findings) {
        let extension = file.extension();
        let (rule, severity, message) = match file.kind {
            Kind::Native(format) => {
                (&NATIVE, Severity::Critical, format!("the content is a program ({format})"))
            }
            // Reported across files, where a source may be beside it.
            Kind::PythonBytecode => return,
            Kind::Hdf5 => (&KERAS, KERAS.severity, "an HDF5 container".to_owned()),
            Kind::Archive(format) => {
                (&KERAS, KERAS.severity, format!("an archive ({format}) that was not opened"))
            }
            _ if matches!(extension.as_str(), "pyc" | "pyo") => {
                (&BYTECODE, BYTECODE.severity, "named as compiled Python".to_owned())
            }
            _ => match hidden_elf(file) {
                Some(at) => (&NATIVE, Severity::High, format!("a program (ELF) stands at byte {at}")),
                None if extension == "js" && file.text().is_some() => {
                    (&NATIVE, Severity::Medium, "a script that no adapter needs".to_owned())
                }
                None if RUN_BY_NAME.contains(&extension.as_str()) => {
                    (&NATIVE, Severity::High, format!("a system runs files named `.{extension}`"))
                }
                None => (&NATIVE, Severity::Low, "a script".to_owned()),
            },
        };
        findings.in_file(file, Finding::new(rule, &file.path, message).severity(severity));
    }

    fn repository(&self, repository: &Repository, findings: &mut Findings) {
        for file in repository.files.iter().filter(|file| file.kind == Kind::PythonBytecode) {
            let source = source_of(file);
            let beside =
                source.is_some_and(|source| repository.files.iter().any(|other| other.path == source));
            let (severity, message) = if beside {
                (Severity::Low, "compiled Python whose source is beside it")
            } else {
                (BYTECODE.severity, "compiled Python without its source")
            };
            findings.in_file(file, Finding::new(&BYTECODE, &file.path, message).severity(severity));
        }
    }
}

/// Where the source of a `__pycache__/name.cpython-311.pyc` is.
fn source_of(file: &File) -> Option<String> {
    let folder = file.folder();
    let above = folder.strip_suffix("__pycache__")?;
    let name = file.name().strip_suffix(".pyc")?.split('.').next()?;
    Some(format!("{above}{name}.py"))
}

/// Where an ELF file begins inside of one that is something else: picture, archive without members, unknown data.
fn hidden_elf(file: &File) -> Option<usize> {
    if !matches!(file.kind, Kind::Media(_) | Kind::Binary) || file.is_member() {
        return None;
    }
    let mark = b"\x7fELF";
    // Class, byte order and version must be possible, or any data of some size would have one.
    file.bytes.windows(20).position(|window| {
        window.starts_with(mark)
            && matches!(window[4], 1 | 2)
            && matches!(window[5], 1 | 2)
            && window[6] == 1
            && matches!(window[16], 1..=4)
            && window[17] == 0
    })
}
