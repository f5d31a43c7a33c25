//! What a Python program must not do when a model is loaded, by the paths of the functions that do it.

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

/// Paths by rule; a path that ends with `.` covers everything below it, one that ends with `*` everything it begins.
const SINKS: &[(&Rule, &[&str])] = &[
    (
        &PROCESS,
        &[
            "subprocess.",
            "pty.spawn",
            "pty.fork",
            "asyncio.create_subprocess*",
            "asyncio.subprocess.",
            "pexpect.",
            "plumbum.",
            "fabric.",
            "invoke.run",
            "sh.",
            "commands.get*",
            "popen2.",
            "distutils.spawn.",
            "IPython.get_ipython",
            "IPython.utils.process.",
            "multiprocessing.popen_*",
            "_posixsubprocess.",
            "concurrent.futures.process._*",
        ],
    ),
    (
        &SHELL,
        &[
            "os.system",
            "os.popen*",
            "os.exec*",
            "os.spawn*",
            "os.posix_spawn*",
            "os.startfile",
            "os.fork*",
            "posix.system",
            "posix.popen",
            "posix.exec*",
            "posix.fork*",
            "posix.spawn*",
            "nt.system",
            "nt.startfile",
            "platform.popen",
            "platform.os.",
            "shutil.os.",
            "torch.os.",
            "numpy.os.",
            "random._os.",
            "webbrowser.open*",
        ],
    ),
    (
        &SOCKET,
        &[
            "socket.",
            "_socket.",
            "socketserver.",
            "ssl.",
            "asyncio.open_connection",
            "asyncio.start_server",
            "ftplib.",
            "smtplib.",
            "telnetlib.",
            "poplib.",
            "imaplib.",
            "nntplib.",
            "paramiko.",
            "zmq.",
            "scapy.",
            "dns.",
            "pwn.",
            "websockets.",
            "multiprocessing.connection.",
        ],
    ),
    (
        &URLLIB,
        &[
            "urllib.request.",
            "urllib.urlopen",
            "urllib.urlretrieve",
            "urllib2.",
            "http.client.",
            "http.server.",
            "httplib.",
            "urllib3.",
            "xmlrpc.",
            "pycurl.",
            "wget.download",
            "torch.hub.",
            "six.moves.urllib.request.",
            "gdown.",
            "boto3.",
            "telegram.",
            "discord.",
        ],
    ),
    (
        &REQUESTS,
        &[
            "requests.",
            "httpx.",
            "aiohttp.",
            "websocket.",
            "grequests.",
            "treq.",
            "requests_html.",
            "mechanize.",
        ],
    ),
    (
        &EXEC,
        &[
            "exec",
            "compile",
            "execfile",
            "builtins.exec",
            "runpy.",
            "code.interact",
            "code.Interactive*",
            "codeop.",
            "types.CodeType",
            "types.FunctionType",
            "cProfile.run*",
            "profile.run*",
            "pdb.run*",
            "bdb.",
            "timeit.timeit",
            "timeit.repeat",
            "timeit.Timer",
            "trace.Trace",
            "doctest.run*",
            "marshal.load*",
            "pip.main",
            "pip._internal.",
            "ensurepip.",
            "idlelib.",
            "test.support.script_helper.",
            "venv.",
            "zipimport.",
            "lib2to3.",
            "site.addpackage",
            "setuptools.sandbox.",
            "pydoc.pipepager",
            "antigravity",
        ],
    ),
    (
        &EVAL,
        &["eval", "builtins.eval", "numexpr.evaluate", "pandas.eval", "sympy.sympify", "numpy.testing.*"],
    ),
    (
        &DECODE,
        &[
            "base64.b64decode",
            "base64.b32decode",
            "base64.b16decode",
            "base64.b85decode",
            "base64.a85decode",
            "base64.decode*",
            "base64.urlsafe_b64decode",
            "base64.standard_b64decode",
            "codecs.decode",
            "codecs.getdecoder",
            "zlib.decompress*",
            "lzma.decompress",
            "bz2.decompress",
            "gzip.decompress",
            "binascii.unhexlify",
            "binascii.a2b_*",
            "bytes.fromhex",
            "bytearray.fromhex",
            "cryptography.",
            "Crypto.",
            "Cryptodome.",
            "marshal.load*",
        ],
    ),
    (
        &NATIVE,
        &[
            "ctypes.",
            "_ctypes.",
            "cffi.",
            "_cffi_backend.",
            "cppyy.",
            "numpy.ctypeslib.",
            "torch.ops.load_library",
            "torch.classes.load_library",
            "torch.utils.cpp_extension.",
            "tensorflow.load_op_library",
            "tensorflow.load_library",
            "mmap.",
            "gc.get_objects",
            "pyximport.",
            "weave.",
        ],
    ),
    (
        &IMPORT,
        &[
            "importlib.import_module",
            "importlib.__import__",
            "importlib.reload",
            "importlib.machinery.",
            "importlib._bootstrap*",
            "importlib.util.spec_from_*",
            "importlib.util.module_from_spec",
            "importlib.abc.",
            "__import__",
            "imp.load_*",
            "imp.find_module",
            "imp.create_dynamic",
            "pkgutil.",
            "__builtins__",
            "__loader__",
            "sys.meta_path",
            "sys.path_hooks",
            "sys.modules",
            "sys.settrace",
            "sys.setprofile",
            "sys.addaudithook",
            "globals.",
            "inspect.stack",
            "inspect.currentframe",
            "sys._getframe",
        ],
    ),
    (
        &UNPICKLE,
        &[
            "pickle.load*",
            "pickle.Unpickler",
            "_pickle.load*",
            "cPickle.load*",
            "dill.load*",
            "cloudpickle.load*",
            "joblib.load",
            "shelve.",
            "torch.load",
            "numpy.load",
            "np.load",
            "yaml.load",
            "yaml.load_all",
            "yaml.unsafe_load*",
            "yaml.full_load*",
            "pandas.read_pickle",
            "torch.serialization.",
            "torch.package.",
            "jsonpickle.",
            "skops.",
            "tensorflow.keras.models.load_model",
            "keras.models.load_model",
        ],
    ),
    (
        &SECRETS,
        &[
            "pynput.",
            "keyboard.",
            "pyperclip.",
            "PIL.ImageGrab.",
            "mss.",
            "getpass.getpass",
            "keyring.",
            "win32clipboard.",
            "winreg.",
            "browser_cookie3.",
            "pyautogui.",
            "cv2.VideoCapture",
            "sounddevice.",
            "shutil.rmtree",
            "os.chmod",
            "os.setuid",
            "os.kill",
            "os.killpg",
        ],
    ),
];
/// Below the paths above, what is harmless.
const HARMLESS: &[&str] = &[
    "socket.gethostname",
    "socket.getfqdn",
    "socket.error",
    "socket.timeout",
    "subprocess.PIPE",
    "subprocess.DEVNULL",
    "subprocess.STDOUT",
    "subprocess.CalledProcessError",
    "subprocess.TimeoutExpired",
    "subprocess.SubprocessError",
    "requests.exceptions.",
    "requests.Response",
    "urllib3.exceptions.",
    "urllib3.disable_warnings",
    "ssl.SSLError",
    "ctypes.c_*",
    "ctypes.Structure",
    "ctypes.sizeof",
    "torch.hub.get_dir",
    "torch.hub.set_dir",
    "sys.modules.keys",
    "torch.serialization.add_safe_globals",
    "httpx.Timeout",
    "aiohttp.ClientError",
    "importlib.machinery.ModuleSpec",
];

fn covers(pattern: &str, path: &str) -> bool {
    if let Some(start) = pattern.strip_suffix('*') {
        return path.starts_with(start);
    }
    match pattern.strip_suffix('.') {
        Some(module) => path == module || path.strip_prefix(module).is_some_and(|rest| rest.starts_with('.')),
        None => {
            path.strip_prefix(pattern).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '(']))
        }
    }
}

/// The rule that a path falls under. A module by itself is none: using something of it is.
pub(super) fn rule(path: &str) -> Option<&'static Rule> {
    if HARMLESS.iter().any(|pattern| covers(pattern, path)) {
        return None;
    }
    let found = SINKS.iter().find(|(_, patterns)| patterns.iter().any(|pattern| covers(pattern, path)))?.0;
    // The bare name of a module stands in every `import`.
    let is_module = SINKS
        .iter()
        .any(|(_, patterns)| patterns.iter().any(|pattern| pattern.strip_suffix('.') == Some(path)));
    (!is_module).then_some(found)
}

/// Attributes that only somebody who looks for a way around reads.
pub(super) const DIGGING: &[&str] = &[
    "__subclasses__",
    "__globals__",
    "__builtins__",
    "__mro__",
    "__code__",
    "__closure__",
    "gi_frame",
    "f_globals",
    "f_builtins",
    "f_back",
    "__reduce__",
    "__reduce_ex__",
    "co_code",
    "__loader__",
];

/// Pieces of paths to secrets and to what a machine runs by itself.
pub(super) const SECRET_PLACES: &[&str] = &[
    ".ssh/",
    "id_rsa",
    "id_ed25519",
    ".aws/credentials",
    ".aws/config",
    ".netrc",
    ".git-credentials",
    ".gitconfig",
    ".bashrc",
    ".bash_profile",
    ".bash_history",
    ".zshrc",
    ".zsh_history",
    ".profile",
    "/etc/passwd",
    "/etc/shadow",
    "/etc/cron",
    "/etc/hosts",
    "/etc/ld.so",
    "authorized_keys",
    "known_hosts",
    ".docker/config.json",
    ".kube/config",
    ".huggingface/token",
    "huggingface/token",
    ".npmrc",
    ".pypirc",
    "LaunchAgents",
    "Login Data",
    "wallet.dat",
    ".config/gcloud",
    "/proc/self/environ",
    "/proc/self/mem",
    "/var/run/docker.sock",
    "sitecustomize",
    "169.254.169.254",
    "metadata.google.internal",
    ".gnupg",
    ".mozilla/firefox",
    "CurrentVersion\\Run",
    "Start Menu\\Programs\\Startup",
];
