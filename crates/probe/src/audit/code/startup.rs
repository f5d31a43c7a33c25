//! CODE-021: files that a tool runs by itself, without anybody asking for it.

use report::audit::{Finding, Rule, Severity};

use crate::audit::Check;
use crate::audit::file::File;
use crate::audit::findings::Findings;

const STARTUP: Rule = Rule {
    id: "CODE-021",
    severity: Severity::High,
    cwe: 829,
    title: "A file that a tool runs by itself",
    help: "Python runs `.pth` lines, `sitecustomize` and `usercustomize` at start; git runs what its configuration names; editors run tasks when a folder is opened. Nobody has to load the adapter.",
    remediation: "Remove the file before you open or use the folder.",
    gap: false,
};

/// Keys of a git configuration whose value is a program.
const GIT_PROGRAMS: &[&str] = &[
    "fsmonitor",
    "sshcommand",
    "hookspath",
    "editor",
    "pager",
    "askpass",
    "gitproxy",
    "helper",
    "clean",
    "smudge",
    "process",
    "textconv",
    "command",
    "cmd",
    "driver",
    "uploadpack",
    "receivepack",
    "external",
    "program",
    "attributesfile",
];
/// Of these, what git itself or git-lfs writes.
const ORDINARY: &[&str] =
    &["git-lfs", "store", "cache", "osxkeychain", "manager", "libsecret", "wincred", "!gh auth"];

/// Start-up files of Python, git and editors.
pub(in crate::audit) struct StartupFiles;

impl Check for StartupFiles {
    fn name(&self) -> &'static str {
        "startup"
    }

    fn rules(&self) -> &'static [Rule] {
        &[STARTUP]
    }

    fn wants(&self, file: &File) -> bool {
        let name = file.name();
        file.text().is_some()
            && (file.extension() == "pth"
                || matches!(
                    name,
                    "sitecustomize.py"
                        | "usercustomize.py"
                        | ".gitmodules"
                        | ".pythonrc"
                        | ".lldbinit"
                        | ".gdbinit"
                        | ".npmrc"
                        | "pip.conf"
                        | ".pdbrc"
                        | ".vimrc"
                        | ".exrc"
                        | ".bashrc"
                        | ".profile"
                )
                || file.path.ends_with(".git/config")
                || file.path.ends_with(".vscode/tasks.json")
                || file.path.ends_with(".devcontainer/devcontainer.json")
                || file.path.ends_with(".devcontainer.json"))
    }

    fn file(&self, file: &File, findings: &mut Findings) {
        let Some(text) = file.text() else { return };
        let mut add = |line: Option<usize>, message: String, evidence: &str| {
            let finding = Finding::new(&STARTUP, &file.path, message).evidence(evidence);
            findings.in_file(
                file,
                match line {
                    Some(line) => finding.line(line),
                    None => finding,
                },
            );
        };
        let numbered = || text.lines().enumerate().map(|(index, line)| (index + 1, line));
        match file.name() {
            "config" | ".gitmodules" => {
                for (number, line) in numbered() {
                    if let Some(why) = git_runs(line) {
                        // A URL may have a password; the key is enough.
                        add(Some(number), why, "");
                    }
                }
            }
            "tasks.json" | "devcontainer.json" | ".devcontainer.json" => {
                let marks = [
                    "folderOpen",
                    "postCreateCommand",
                    "postStartCommand",
                    "initializeCommand",
                    "onCreateCommand",
                    "postAttachCommand",
                ];
                if let Some(mark) = marks.iter().find(|mark| text.contains(**mark)) {
                    add(None, format!("`{mark}` runs a command when the folder is opened"), "");
                }
            }
            _ if file.extension() == "pth" => {
                // A checkpoint in text form is no path file; lines that import are run.
                for (number, line) in numbered() {
                    if line.starts_with("import ") || line.starts_with("import\t") {
                        add(
                            Some(number),
                            "Python runs this line at start, wherever the file lies among its packages"
                                .into(),
                            line,
                        );
                    }
                }
            }
            name => add(None, format!("a tool runs `{name}` at start"), text.lines().next().unwrap_or("")),
        }
    }
}

/// What a line of a git configuration runs, if it runs anything.
fn git_runs(line: &str) -> Option<String> {
    let line = line.trim();
    if line.starts_with(['#', ';']) {
        return None;
    }
    let (key, value) = line.split_once('=')?;
    let key = key.trim().rsplit([' ', '.', ']']).next().unwrap_or(key).trim().to_lowercase();
    let value = value.trim().trim_matches('"').trim();
    let ordinary = value.is_empty()
        || ORDINARY.iter().any(|word| value.starts_with(word))
        || matches!(value, "false" | "true");
    if GIT_PROGRAMS.contains(&key.as_str()) && !ordinary {
        return Some(format!("git runs the value of `{key}`"));
    }
    if value.starts_with('!') {
        return Some(format!("git runs the alias or update `{key}`"));
    }
    if key == "url" && (value.starts_with("ext::") || value.starts_with("fd::") || value.starts_with('-')) {
        return Some("git runs the address as a command".to_owned());
    }
    (key == "path" && value.starts_with('-')).then(|| "git takes the path for an option".to_owned())
}

#[cfg(test)]
mod tests {
    use super::git_runs;

    #[test]
    fn programs_in_git_configurations() {
        for line in [
            "\tsshCommand = sh -c id",
            "fsmonitor = \"id\"",
            "[core] hooksPath = x",
            "\tx = !sh",
            "url = ext::sh -c id",
        ] {
            assert!(git_runs(line).is_some(), "{line}");
        }
        for line in [
            "\tclean = git-lfs clean -- %f",
            "url = https://huggingface.co/a/b",
            "bare = false",
            "helper = store",
            "# editor = x",
        ] {
            assert_eq!(git_runs(line), None, "{line}");
        }
    }
}
