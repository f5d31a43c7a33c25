//! What an import of a pickle is. Only a short list is known to be harmless; everything else is a stranger's choice
//! of what to run. A list of dangerous names serves to say how bad it is, never to let the rest pass.

/// How far an import is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trust {
    /// Rebuilds data.
    Harmless,
    /// Nothing is known of it.
    Unknown,
    /// Runs commands or code, opens files or connections, or reaches such a thing.
    Dangerous,
}

/// Functions and classes that rebuild tensors, arrays and containers, by their full path.
const HARMLESS: &[&str] = &[
    "_codecs.encode",
    "argparse.Namespace",
    "builtins.bytearray",
    "builtins.bytes",
    "builtins.complex",
    "builtins.dict",
    "builtins.float",
    "builtins.frozenset",
    "builtins.int",
    "builtins.list",
    "builtins.object",
    "builtins.range",
    "builtins.set",
    "builtins.slice",
    "builtins.str",
    "builtins.tuple",
    "builtins.bool",
    "collections.Counter",
    "collections.OrderedDict",
    "collections.defaultdict",
    "collections.deque",
    "copy_reg._reconstructor",
    "copyreg._reconstructor",
    "copyreg.__newobj__",
    "datetime.date",
    "datetime.datetime",
    "datetime.time",
    "datetime.timedelta",
    "datetime.timezone",
    "decimal.Decimal",
    "fractions.Fraction",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.random._pickle.__randomstate_ctor",
    "numpy.random._pickle.__generator_ctor",
    "numpy.random._pickle.__bit_generator_ctor",
    "numpy.random._mt19937.MT19937",
    "numpy.random._pcg64.PCG64",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "torch.Size",
    "torch.Tensor",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "torch.Generator",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_sparse_tensor",
    "torch._utils._rebuild_qtensor",
    "torch._utils._rebuild_device_tensor_from_numpy",
    "torch._tensor._rebuild_from_type_v2",
    "torch.storage.UntypedStorage",
    "torch.storage.TypedStorage",
    "torch.optim.lr_scheduler.LambdaLR",
    "torch.serialization._get_layout",
    "torch.version.__version__",
    "torch.torch_version.TorchVersion",
    "uuid.UUID",
];

/// Element types and storages: `torch.float32`, `torch.HalfStorage`, `torch.cuda.FloatStorage`, `numpy.float64`.
const ELEMENT_TYPES: &[&str] = &[
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "double",
    "float",
    "half",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "long",
    "int",
    "short",
    "bool",
    "bool_",
    "complex64",
    "complex128",
    "float8_e4m3fn",
    "float8_e5m2",
    "qint8",
    "quint8",
    "qint32",
    "strided",
    "sparse_coo",
];

/// Libraries whose settings trainers write beside an adapter (`training_args.bin`).
const TRAINERS: &[&str] = &[
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "llamafactory",
    "llmtuner",
    "axolotl",
    "unsloth",
    "torchtune",
];

/// How the classes of such settings are called: plain data classes and enumerations.
const SETTINGS: &[&str] = &[
    "Arguments",
    "Args",
    "Config",
    "Configuration",
    "Strategy",
    "SchedulerType",
    "Names",
    "PartialState",
    "AcceleratorState",
    "DistributedType",
    "DeepSpeedPlugin",
    "ParallelismConfig",
    "DebugOption",
    "Backend",
    "TrainerState",
    "PeftType",
    "TaskType",
    "PrecisionType",
    "DynamoBackend",
    "FSDPOption",
    "TensorBoardCallback",
    "LossKwargs",
    "Mode",
    "Enum",
];

/// Modules that reach the system, the network, other code or other pickles; a name below one counts as well.
const DANGEROUS: &[&str] = &[
    "__builtin__",
    "_aix_support",
    "_ctypes",
    "_io",
    "_osx_support",
    "_posixsubprocess",
    "_pyrepl",
    "_socket",
    "_thread",
    "aiohttp",
    "asyncio",
    "bdb",
    "builtins",
    "cProfile",
    "cffi",
    "code",
    "codeop",
    "cloudpickle",
    "commands",
    "concurrent",
    "copyreg",
    "ctypes",
    "dill",
    "distutils",
    "doctest",
    "ensurepip",
    "fileinput",
    "ftplib",
    "functools",
    "getpass",
    "glob",
    "gc",
    "http",
    "httplib",
    "httpx",
    "idlelib",
    "imaplib",
    "imp",
    "importlib",
    "inspect",
    "io",
    "joblib",
    "lib2to3",
    "linecache",
    "logging",
    "marshal",
    "multiprocessing",
    "nntplib",
    "nt",
    "ntpath",
    "numpy.f2py",
    "numpy.testing",
    "numpy.distutils",
    "operator",
    "os",
    "pandas",
    "paramiko",
    "pdb",
    "pickle",
    "pip",
    "pipes",
    "pkg_resources",
    "pkgutil",
    "platform",
    "poplib",
    "posix",
    "posixpath",
    "profile",
    "pty",
    "py_compile",
    "pydoc",
    "requests",
    "requests_html",
    "runpy",
    "sched",
    "select",
    "setuptools",
    "shelve",
    "shlex",
    "shutil",
    "signal",
    "site",
    "smtplib",
    "smtpd",
    "socket",
    "socketserver",
    "sqlite3",
    "ssl",
    "subprocess",
    "sys",
    "sysconfig",
    "tarfile",
    "telnetlib",
    "tempfile",
    "test",
    "threading",
    "timeit",
    "tkinter",
    "torch.hub",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed",
    "torch.fx",
    "torch.jit",
    "torch.package",
    "torch.serialization",
    "torch.storage",
    "torch.utils",
    "trace",
    "turtle",
    "types",
    "urllib",
    "urllib2",
    "urllib3",
    "uuid",
    "venv",
    "webbrowser",
    "wsgiref",
    "xmlrpc",
    "yaml",
    "zipapp",
    "zipfile",
    "zipimport",
];

/// What an import is.
pub(super) fn trust(module: &str, name: &str) -> Trust {
    // Python 2 called the built-in functions so, and pickles of protocol 2 still do.
    let module = if module == "__builtin__" { "builtins" } else { module };
    if is_harmless(module, name) {
        return Trust::Harmless;
    }
    let below =
        |path: &str| module == path || module.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
    // A dotted name walks from a harmless module to another: `numpy` and `f2py.os.system`.
    let walks = name.split('.').rev().skip(1).any(|part| DANGEROUS.contains(&part));
    let dunder = name.split('.').any(|part| part.starts_with("__") && part != "__version__");
    let runs = matches!(
        name,
        "system" | "popen" | "exec" | "eval" | "execfile" | "compile" | "open" | "load" | "loads"
    );
    if DANGEROUS.iter().any(|path| below(path)) || walks || dunder || runs {
        Trust::Dangerous
    } else {
        Trust::Unknown
    }
}

fn is_harmless(module: &str, name: &str) -> bool {
    let path = format!("{module}.{name}");
    if HARMLESS.contains(&path.as_str()) {
        return true;
    }
    if matches!(module, "torch" | "torch.cuda" | "numpy" | "torch.storage") {
        let element = name.strip_suffix("Storage").map(str::to_lowercase);
        let element = element.as_deref().unwrap_or(name);
        if ELEMENT_TYPES.contains(&element) || element == "char" || element == "byte" {
            return true;
        }
    }
    if module == "numpy.dtypes" && name.ends_with("DType") {
        return true;
    }
    let root = module.split('.').next().unwrap_or(module);
    TRAINERS.contains(&root)
        && !name.contains('.')
        && name.starts_with(|first: char| first.is_ascii_uppercase())
        && SETTINGS.iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_rebuilds_data_is_harmless() {
        for (module, name) in [
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch", "HalfStorage"),
            ("torch", "bfloat16"),
            ("collections", "OrderedDict"),
            ("transformers.training_args", "TrainingArguments"),
            ("transformers.trainer_utils", "IntervalStrategy"),
            ("trl.trainer.sft_config", "SFTConfig"),
            ("accelerate.utils.dataclasses", "DistributedType"),
            ("__builtin__", "set"),
            ("numpy._core.multiarray", "scalar"),
        ] {
            assert_eq!(trust(module, name), Trust::Harmless, "{module}.{name}");
        }
        for (module, name) in [
            ("os", "system"),
            ("posix", "popen"),
            ("builtins", "eval"),
            ("__builtin__", "getattr"),
            ("subprocess", "Popen"),
            ("cProfile", "run"),
            ("pip._internal", "main"),
            ("torch.hub", "load"),
            ("torch.storage", "_load_from_bytes"),
            ("numpy", "f2py.os.system"),
            ("transformers.utils", "os.system"),
            ("torch.utils.bottleneck.__main__", "run_cprofile"),
        ] {
            assert_eq!(trust(module, name), Trust::Dangerous, "{module}.{name}");
        }
        assert_eq!(
            trust("transformers.dynamic_module_utils", "get_class_from_dynamic_module"),
            Trust::Unknown
        );
        assert_eq!(trust("somebody.module", "function"), Trust::Unknown);
    }
}
