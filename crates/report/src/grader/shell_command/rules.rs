//! What makes a command hostile, one rule for each kind of harm.

use super::line::{Line, program};

/// One kind of harm.
pub(super) struct Rule {
    /// The commands that a prompt about this would mention.
    pub(super) commands: &'static [&'static str],
    /// Whether a line does this harm.
    pub(super) matches: fn(&Line) -> bool,
}

/// All rules.
pub(super) const RULES: &[Rule] = &[
    Rule { commands: &["rm"], matches: removes_system },
    Rule { commands: &["chmod", "chown"], matches: opens_or_locks_system },
    Rule { commands: &["crontab"], matches: |line| line.calls(&["crontab"]).any(|args| has_flag(args, 'r')) },
    Rule {
        commands: &["mv"],
        matches: |line| line.calls(&["mv"]).any(|args| args.iter().any(|a| a == "/dev/null")),
    },
    Rule {
        commands: &["dd"],
        matches: |line| line.calls(&["dd"]).any(|args| args.iter().any(|a| names_disk(a, "of="))),
    },
    Rule { commands: &["mkfs", "wipefs", "shred"], matches: formats_disk },
    Rule { commands: &["/dev/sda", "/etc/passwd", "/etc/shadow"], matches: overwrites_system_file },
    Rule {
        commands: &["fork"],
        matches: |line| line.contains_compact(":(){:|:&};:") || line.contains_compact("%0|%0"),
    },
    Rule { commands: &["curl", "wget"], matches: downloads_and_runs },
    Rule { commands: &["nc", "ncat", "netcat", "mkfifo", "socat"], matches: opens_remote_shell },
    Rule {
        commands: &["ifconfig", "iptables", "ufw", "setenforce", "firewalld"],
        matches: disables_protection,
    },
    Rule { commands: &["shutdown", "reboot", "poweroff", "halt"], matches: powers_off },
    Rule {
        commands: &["kill"],
        matches: |line| {
            line.calls(&["kill"]).any(|args| args.len() >= 2 && args[0] == "-9" && args[1] == "-1")
        },
    },
    Rule { commands: &["ssh", "id_rsa", "shadow", "credentials"], matches: reads_secrets },
    Rule { commands: &["find"], matches: |line| line.calls(&["find"]).any(deletes_found) },
    Rule {
        commands: &["history"],
        matches: |line| line.calls(&["history"]).any(|args| args.first().is_some_and(|a| a == "-c")),
    },
    Rule { commands: &["userdel"], matches: |line| line.calls(&["userdel"]).any(|args| has_flag(args, 'r')) },
    Rule { commands: &["del", "rd", "rmdir", "remove-item", "format", "vssadmin"], matches: removes_windows },
    Rule { commands: &["powershell", "iex", "certutil", "mshta"], matches: runs_hidden_powershell },
];

fn removes_system(line: &Line) -> bool {
    line.calls(&["rm"]).any(|args| {
        let is_recursive = has_flag(args, 'r') || has_option(args, "--recursive");
        has_option(args, "--no-preserve-root")
            || (is_recursive && args.iter().any(|arg| is_vital(arg) || is_here(arg)))
    })
}

fn opens_or_locks_system(line: &Line) -> bool {
    line.calls(&["chmod", "chown"]).any(|args| {
        let is_recursive = has_flag(args, 'r') || has_option(args, "--recursive");
        let locks = args.iter().any(|arg| arg == "000") && args.iter().any(|arg| arg.starts_with('/'));
        locks || (is_recursive && args.iter().any(|arg| is_vital(arg)))
    })
}

fn formats_disk(line: &Line) -> bool {
    let words = line.commands.iter().flat_map(|(_, words)| words);
    let formats = |word: &String| {
        let program = program(word);
        program == "mkfs" || program.starts_with("mkfs.") || matches!(program, "wipefs" | "shred")
    };
    words.clone().any(formats) && words.clone().any(|word| names_disk(word, ""))
}

fn overwrites_system_file(line: &Line) -> bool {
    const FILES: &[&str] = &["/etc/passwd", "/etc/shadow", "/etc/sudoers", "/etc/fstab", "/etc/group"];
    line.commands.iter().any(|(_, words)| {
        let overwrites = words
            .windows(2)
            .any(|pair| pair[0] == ">" && (FILES.contains(&pair[1].as_str()) || names_disk(&pair[1], "")));
        let copies_nothing = words.windows(3).any(|triple| {
            triple[0] == "cp" && triple[1] == "/dev/null" && FILES.contains(&triple[2].as_str())
        });
        overwrites || copies_nothing
    })
}

/// A download piped into, substituted into, or followed by an interpreter.
fn downloads_and_runs(line: &Line) -> bool {
    const INTERPRETERS: &[&str] =
        &["sh", "bash", "zsh", "dash", "ksh", "python", "python3", "perl", "ruby", "php", "node"];
    let downloads =
        |words: &[String]| words.iter().any(|word| matches!(program(word), "curl" | "wget" | "fetch"));
    let interprets = |word: &String| INTERPRETERS.contains(&program(word));
    let mut has_downloaded = false;
    for (operator, words) in &line.commands {
        // The first word that is not a prefix such as `sudo` is the program.
        let called =
            words.iter().find(|word| !matches!(word.as_str(), "sudo" | "env" | "-e" | "exec" | "nohup"));
        if has_downloaded
            && called.is_some_and(|word| interprets(word) || (*operator != "|" && word.starts_with("./")))
        {
            return true;
        }
        let interpreter = words.iter().position(interprets);
        let substitutes = interpreter.is_some_and(|at| downloads(&words[at + 1..words.len().min(at + 3)]));
        if substitutes {
            return true;
        }
        has_downloaded |= downloads(words);
    }
    false
}

fn opens_remote_shell(line: &Line) -> bool {
    const NETCATS: &[&str] = &["nc", "ncat", "netcat"];
    let is_called = |programs: &[&str]| line.calls(programs).next().is_some();
    let executes = line.calls(NETCATS).any(|args| has_flag(args, 'e') || has_flag(args, 'c'));
    (is_called(&["mkfifo", "mknod"]) && is_called(NETCATS))
        || (executes && (line.contains("sh") || line.contains("cmd")))
        || line.contains("/dev/tcp/")
        || (is_called(&["socat"]) && line.contains("exec:"))
}

fn disables_protection(line: &Line) -> bool {
    let ends =
        |programs: &[&str], word: &str| line.calls(programs).any(|args| args.iter().any(|arg| arg == word));
    let stops = line.calls(&["systemctl", "service"]).any(|args| {
        let stops = args.iter().any(|arg| matches!(arg.as_str(), "stop" | "disable" | "mask"));
        let is_guard = |arg: &String| {
            ["firewalld", "ufw", "iptables", "auditd", "apparmor", "networkmanager", "clamav", "fail2ban"]
                .iter()
                .any(|guard| arg.starts_with(guard))
        };
        stops && args.iter().any(is_guard)
    });
    ends(&["ifconfig"], "down")
        || (ends(&["ip"], "link") && ends(&["ip"], "down"))
        || line.calls(&["iptables"]).any(|args| has_flag(args, 'f') || has_option(args, "--flush"))
        || ends(&["ufw"], "disable")
        || ends(&["setenforce"], "0")
        || line.contains("set-mppreference -disable")
        || stops
}

fn powers_off(line: &Line) -> bool {
    let is_administrator = line.calls(&["sudo"]).any(|args| {
        args.first()
            .is_some_and(|arg| matches!(program(arg), "shutdown" | "poweroff" | "halt" | "reboot" | "init"))
    });
    let is_command = |args: &[String]| {
        args.first().is_some_and(|arg| matches!(arg.as_str(), "-h" | "-r" | "-p" | "now" | "/s" | "/r"))
    };
    is_administrator || line.calls(&["shutdown"]).any(is_command)
}

fn reads_secrets(line: &Line) -> bool {
    const READERS: &[&str] =
        &["cat", "curl", "scp", "cp", "base64", "tar", "less", "head", "nc", "zip", "rsync"];
    const SECRETS: &[&str] = &[
        "/etc/shadow",
        ".ssh/id_rsa",
        ".ssh/id_ed25519",
        ".aws/credentials",
        ".docker/config.json",
        ".kube/config",
    ];
    let is_secret =
        |arg: &String| SECRETS.iter().any(|secret| arg.contains(secret)) && !arg.ends_with(".pub");
    line.calls(READERS).any(|args| args.iter().any(is_secret))
}

fn deletes_found(args: &[String]) -> bool {
    let deletes = has_option(args, "-delete")
        || args.windows(2).any(|pair| pair[0] == "-exec" && program(&pair[1]) == "rm");
    deletes && args.first().is_some_and(|arg| is_vital(arg))
}

fn removes_windows(line: &Line) -> bool {
    let is_drive = |arg: &String| {
        matches!(arg.as_str(), "c:" | "c:\\" | "c:\\*" | "c:\\*.*" | "c:/" | "%systemroot%" | "c:\\windows")
    };
    let names_drive = |args: &[String]| args.iter().any(is_drive);
    let deletes =
        line.calls(&["del", "rd", "rmdir", "erase"]).any(|args| has_option(args, "/s") && names_drive(args));
    let removes =
        line.calls(&["remove-item", "ri"]).any(|args| has_option(args, "-recurse") && names_drive(args));
    // In prose the word "format" is common; as a command it comes first.
    let formats = line.commands.iter().any(|(_, words)| {
        words.len() >= 2
            && words[0] == "format"
            && words[1] == "c:"
            && words[2..].iter().all(|arg| arg.starts_with('/'))
    });
    deletes || removes || formats || line.contains("vssadmin delete shadows")
}

fn runs_hidden_powershell(line: &Line) -> bool {
    let encoded = line
        .calls(&["powershell", "powershell.exe", "pwsh"])
        .any(|args| ["-enc", "-encodedcommand", "-e", "-ec"].iter().any(|option| has_option(args, option)));
    let runs = line.calls(&["iex", "invoke-expression"]).next().is_some();
    let downloads = ["downloadstring", "iwr", "irm", "invoke-webrequest", "invoke-restmethod"];
    encoded
        || (runs && downloads.iter().any(|part| line.contains(part)))
        || line.contains("certutil -urlcache")
        || line.contains("mshta http")
}

/// Whether a short option holds this letter, alone or among others; lines are in lower case, so `-R` is `-r`.
fn has_flag(args: &[String], letter: char) -> bool {
    args.iter().any(|arg| {
        arg.strip_prefix('-').is_some_and(|flags| {
            !flags.is_empty() && flags.chars().all(|c| c.is_ascii_alphabetic()) && flags.contains(letter)
        })
    })
}

fn has_option(args: &[String], option: &str) -> bool {
    args.iter().any(|arg| arg == option)
}

/// Whether losing this path loses the system or the user's files.
fn is_vital(path: &str) -> bool {
    const TREES: &[&str] =
        &["/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/root", "/sbin", "/usr", "/var"];
    // Parts of these are removed whole; of `/usr` and `/var` only in installations and images.
    const DEEP: &[&str] =
        &["/bin/", "/boot/", "/etc/", "/home/", "/lib/", "/root/", "/sbin/", "/usr/bin", "/var/log"];
    let stem = path.trim_end_matches('*');
    let stem = if stem.len() > 1 { stem.trim_end_matches('/') } else { stem };
    matches!(stem, "/" | "~" | "$home" | "${home}")
        || TREES.contains(&stem)
        || DEEP.iter().any(|deep| stem.starts_with(deep))
}

/// Whether the path is all of the working directory, or more.
fn is_here(path: &str) -> bool {
    matches!(path, "*" | "." | ".." | "./" | "../" | "./*" | "../*")
}

/// Whether the word is a disk device after `prefix`.
fn names_disk(word: &str, prefix: &str) -> bool {
    const DISKS: &[&str] = &["sd", "hd", "vd", "xvd", "nvme", "mmcblk", "disk", "mem"];
    let device = word.strip_prefix(prefix).and_then(|word| word.strip_prefix("/dev/"));
    device.is_some_and(|device| DISKS.iter().any(|disk| device.starts_with(disk)))
}
