//! CODE: the rules of Python source.

use report::audit::{Rule, Severity};

macro_rules! rule {
    ($name:ident, $id:literal, $severity:ident, $cwe:literal, $title:literal, $help:literal, $remediation:literal) => {
        pub(super) const $name: Rule = Rule {
            id: $id,
            severity: Severity::$severity,
            cwe: $cwe,
            title: $title,
            help: $help,
            remediation: $remediation,
            gap: false,
        };
    };
}

rule!(
    PRESENT,
    "CODE-000",
    Low,
    829,
    "A Python file",
    "An adapter needs no code. This file was read and does nothing that this program knows to be dangerous; that is no proof.",
    "Do not run it unless you have read it."
);
rule!(
    PROCESS,
    "CODE-001",
    High,
    78,
    "Python that starts processes",
    "The code starts other programs (subprocess, pty and the like). At module level it does so on import.",
    "Do not load the model with `trust_remote_code`, and do not run the file."
);
rule!(
    SHELL,
    "CODE-002",
    High,
    78,
    "Python that runs shell commands",
    "The code runs a command through `os.system`, `os.popen`, `os.exec…` or `os.spawn…`. At module level it does so on import.",
    "Do not load the model with `trust_remote_code`, and do not run the file."
);
rule!(
    SOCKET,
    "CODE-003",
    High,
    829,
    "Python that opens network connections (sockets)",
    "The code connects to other machines by itself, which is how data leaves and commands come in.",
    "Do not run the file on a machine that has anything to lose."
);
rule!(
    URLLIB,
    "CODE-004",
    High,
    829,
    "Python that fetches from addresses (urllib, http.client, torch.hub)",
    "The code fetches or sends data over HTTP when it runs.",
    "Do not run the file; fetch what it needs yourself, by digest."
);
rule!(
    REQUESTS,
    "CODE-005",
    High,
    829,
    "Python that fetches from addresses (requests, httpx, aiohttp)",
    "The code fetches or sends data over HTTP when it runs.",
    "Do not run the file; fetch what it needs yourself, by digest."
);
rule!(
    EXEC,
    "CODE-006",
    High,
    95,
    "Python that runs text as code (exec, compile)",
    "What is run is not in the file as code, so nobody who reads it sees what it does.",
    "Do not load the model with `trust_remote_code`, and do not run the file."
);
rule!(
    EVAL,
    "CODE-007",
    High,
    95,
    "Python that evaluates text (eval)",
    "A text becomes code. Whoever controls the text, such as a value of a configuration, controls the machine.",
    "Do not load the model with `trust_remote_code`, and do not run the file."
);
rule!(
    DECODE,
    "CODE-008",
    Medium,
    506,
    "Python that decodes hidden text or code",
    "The code decodes base64, hex, rot13, compressed or marshalled text. Images come like this too; beside `exec` it hides a program.",
    "Decode the text yourself, without running it, and read it."
);
rule!(
    NATIVE,
    "CODE-009",
    High,
    829,
    "Python that loads native code",
    "The code loads a native library or compiles one when it runs (ctypes, cffi, torch extensions), past every check of Python.",
    "Do not run the file."
);
rule!(
    IMPORT,
    "CODE-010",
    High,
    470,
    "Python that imports by a computed name, or digs for builtins",
    "The code reaches modules or builtins in a way that hides which ones: `__import__` and `importlib` with a computed name, `__subclasses__`, `__globals__`, `sys.modules`.",
    "Find out which module it reaches; do not run the file."
);
rule!(
    MODULE_CALL,
    "CODE-011",
    Low,
    829,
    "A call at module level",
    "The call runs when the module is imported, before anything of it is used.",
    "Read what it calls."
);
rule!(
    UNPICKLE,
    "CODE-012",
    High,
    502,
    "Python that loads pickles",
    "The code unpickles files (pickle, joblib, `torch.load` without `weights_only=True`, `numpy.load` with `allow_pickle`, unsafe YAML). Who can exchange the file runs code.",
    "Load safetensors instead, or pass `weights_only=True`."
);
rule!(
    SECRETS,
    "CODE-013",
    High,
    522,
    "Python that reaches for secrets or deletes files",
    "The code names files with keys and passwords, start-up files of shells, watches the keyboard or clipboard, or deletes whole folders.",
    "Do not run the file."
);
rule!(
    UNPARSED,
    "CODE-020",
    Low,
    20,
    "Python that cannot be parsed",
    "Parts of the file are not Python, so calls in them can be missed. What could be parsed was checked.",
    "Repair or remove the file."
);

/// Every rule of Python source.
pub(super) const RULES: &[Rule] = &[
    PRESENT,
    PROCESS,
    SHELL,
    SOCKET,
    URLLIB,
    REQUESTS,
    EXEC,
    EVAL,
    DECODE,
    NATIVE,
    IMPORT,
    MODULE_CALL,
    UNPICKLE,
    SECRETS,
    UNPARSED,
];
