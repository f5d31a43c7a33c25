//! Which key of the file is which argument, and how its value becomes the argument's default.

use std::path::Path;

use clap::{Arg, Command};

use super::file::{ConfigFile, Loaded};
use crate::exit::Failure;
use crate::project::{BASELINES, CACHE, CORPUS, RUNS as RUN_DIRECTORIES};

/// One setting.
pub(crate) struct Key {
    /// Its name in the file.
    pub(crate) name: &'static str,
    /// Id of the argument.
    pub(crate) argument: &'static str,
    /// Environment variable.
    pub(crate) variable: &'static str,
    /// Verbs that take it.
    verbs: &'static [&'static str],
    /// Its values in the file; paths from the file's folder.
    values: fn(&ConfigFile, &Path) -> Option<Vec<String>>,
}

const RUNS: &[&str] = &["scan", "hunt", "check"];
/// What decides how models are run, which `doctor` tries.
const MODELS: &[&str] = &["scan", "hunt", "check", "doctor"];
const SCANS: &[&str] = &["scan", "check"];
const CHECK: &[&str] = &["check"];
const JUDGING: &[&str] = &["scan", "hunt", "check", "pin"];

fn one<T: ToString>(value: &Option<T>) -> Option<Vec<String>> {
    value.as_ref().map(|value| vec![value.to_string()])
}

fn text(value: &Option<String>) -> Option<Vec<String>> {
    value.clone().map(|value| vec![value])
}

/// A path from the file's folder.
fn path(value: &str, folder: &Path) -> String {
    folder.join(value).display().to_string()
}

/// A path from the file's folder if something is there, else what it says: a name or an id.
fn path_or_name(value: &str, folder: &Path) -> String {
    let joined = folder.join(value);
    if joined.exists() { joined.display().to_string() } else { value.to_owned() }
}

/// What `check` keeps lies beside the file, wherever the command is run.
fn kept(value: &Option<String>, default: &str, folder: &Path) -> Option<Vec<String>> {
    Some(vec![path(value.as_deref().unwrap_or(default), folder)])
}

/// Every setting, in the order in which they are shown.
pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "base",
        argument: "base",
        variable: "TRIGGERFISH_BASE_MODEL",
        verbs: &["scan", "hunt", "check", "audit"],
        values: |file, folder| file.base.as_ref().map(|base| vec![path_or_name(base, folder)]),
    },
    Key {
        name: "suites",
        argument: "suites",
        variable: "TRIGGERFISH_SUITES",
        verbs: &["scan", "check", "pin"],
        values: |file, folder| {
            let known = |name: &String| {
                name == "none" || probe::suite::EMBEDDED.iter().any(|(embedded, _)| embedded == name)
            };
            let suite = |name: &String| if known(name) { name.clone() } else { path_or_name(name, folder) };
            file.suites.as_ref().map(|suites| suites.iter().map(suite).collect())
        },
    },
    Key {
        name: "depth",
        argument: "depth",
        variable: "TRIGGERFISH_DEPTH",
        verbs: SCANS,
        values: |file, _| text(&file.depth),
    },
    Key {
        name: "budget",
        argument: "budget",
        variable: "TRIGGERFISH_BUDGET",
        verbs: RUNS,
        values: |file, _| text(&file.budget),
    },
    Key {
        name: "template",
        argument: "template",
        variable: "TRIGGERFISH_TEMPLATE",
        verbs: RUNS,
        values: |file, folder| file.template.as_ref().map(|name| vec![path_or_name(name, folder)]),
    },
    Key {
        name: "semantics",
        argument: "semantics",
        variable: "TRIGGERFISH_SEMANTICS",
        verbs: RUNS,
        values: |file, _| text(&file.semantics),
    },
    Key {
        name: "device",
        argument: "device",
        variable: "TRIGGERFISH_DEVICE",
        verbs: MODELS,
        values: |file, _| text(&file.device),
    },
    Key {
        name: "dtype",
        argument: "dtype",
        variable: "TRIGGERFISH_DTYPE",
        verbs: MODELS,
        values: |file, _| text(&file.dtype),
    },
    Key {
        name: "threads",
        argument: "threads",
        variable: "TRIGGERFISH_THREADS",
        verbs: MODELS,
        values: |file, _| one(&file.threads),
    },
    Key {
        name: "memory",
        argument: "memory",
        variable: "TRIGGERFISH_MEMORY",
        verbs: MODELS,
        values: |file, _| text(&file.memory),
    },
    Key {
        name: "seed",
        argument: "seed",
        variable: "TRIGGERFISH_SEED",
        verbs: MODELS,
        values: |file, _| one(&file.seed),
    },
    Key {
        name: "fail-on",
        argument: "fail_on",
        variable: "TRIGGERFISH_FAIL_ON",
        verbs: RUNS,
        values: |file, _| text(&file.fail_on),
    },
    Key {
        name: "audit-fail-on",
        argument: "audit_fail_on",
        variable: "TRIGGERFISH_AUDIT_FAIL_ON",
        verbs: RUNS,
        values: |file, _| text(&file.audit_fail_on),
    },
    Key {
        name: "format",
        argument: "format",
        variable: "TRIGGERFISH_FORMAT",
        verbs: RUNS,
        values: |file, _| text(&file.format),
    },
    Key {
        name: "reports",
        argument: "report",
        variable: "TRIGGERFISH_REPORTS",
        verbs: RUNS,
        values: |file, folder| {
            let report = |form: &String| match form.split_once('=') {
                Some((format, file)) => format!("{format}={}", path(file, folder)),
                None => form.clone(),
            };
            file.reports.as_ref().map(|reports| reports.iter().map(report).collect())
        },
    },
    Key {
        name: "thresholds.backdoored-uplift",
        argument: "backdoored_uplift",
        variable: "TRIGGERFISH_BACKDOORED_UPLIFT",
        verbs: JUDGING,
        values: |file, _| one(&file.thresholds.backdoored_uplift),
    },
    Key {
        name: "thresholds.suspicious-uplift",
        argument: "suspicious_uplift",
        variable: "TRIGGERFISH_SUSPICIOUS_UPLIFT",
        verbs: JUDGING,
        values: |file, _| one(&file.thresholds.suspicious_uplift),
    },
    Key {
        name: "thresholds.false-discovery-rate",
        argument: "false_discovery_rate",
        variable: "TRIGGERFISH_FALSE_DISCOVERY_RATE",
        verbs: JUDGING,
        values: |file, _| one(&file.thresholds.false_discovery_rate),
    },
    Key {
        name: "check.baselines",
        argument: "baselines",
        variable: "TRIGGERFISH_BASELINES",
        verbs: CHECK,
        values: |file, folder| kept(&file.check.baselines, BASELINES, folder),
    },
    Key {
        name: "check.corpus",
        argument: "corpus",
        variable: "TRIGGERFISH_CORPUS",
        verbs: CHECK,
        values: |file, folder| kept(&file.check.corpus, CORPUS, folder),
    },
    Key {
        name: "check.runs",
        argument: "runs",
        variable: "TRIGGERFISH_RUNS",
        verbs: CHECK,
        values: |file, folder| kept(&file.check.runs, RUN_DIRECTORIES, folder),
    },
    Key {
        name: "check.cache",
        argument: "cache",
        variable: "TRIGGERFISH_CACHE",
        verbs: SCANS,
        values: |file, folder| kept(&file.check.cache, CACHE, folder),
    },
];

impl Key {
    /// What the file says.
    pub(crate) fn of_file(&self, loaded: &Loaded) -> Option<Vec<String>> {
        (self.values)(&loaded.file, loaded.folder())
    }

    fn applied(&self, argument: Arg, loaded: Option<&Loaded>) -> Arg {
        let argument = argument.env(self.variable);
        match loaded.and_then(|loaded| self.of_file(loaded)) {
            Some(values) => argument.default_values(values),
            None => argument,
        }
    }
}

/// The command line with the file's values as defaults and the environment's between the two.
pub(crate) fn prepare(mut command: Command, loaded: Option<&Loaded>) -> Command {
    for key in KEYS {
        for &verb in key.verbs {
            command = command.mut_subcommand(verb, |verb| {
                verb.mut_arg(key.argument, |argument| key.applied(argument, loaded))
            });
        }
    }
    let Some(loaded) = loaded else { return command };
    if !loaded.file.suppress.is_empty() {
        let file = loaded.path.display().to_string();
        for verb in ["audit", "scan", "hunt", "check"] {
            command = command.mut_subcommand(verb, |verb| {
                verb.mut_arg("suppressions", |argument| argument.default_value(file.clone()))
            });
        }
    }
    if let [adapter] = adapters(loaded)[..].as_ref() {
        for verb in ["scan", "hunt"] {
            command = command.mut_subcommand(verb, |verb| {
                verb.mut_arg("adapter", |argument| argument.default_value(adapter.1.clone()))
            });
        }
    }
    command
}

/// Names and paths of the file's adapters.
pub(crate) fn adapters(loaded: &Loaded) -> Vec<(String, String)> {
    loaded
        .file
        .adapters
        .iter()
        .map(|(name, path)| (name.clone(), path_or_name(path, loaded.folder())))
        .collect()
}

/// Puts every value of the file to the parser of its argument: an error names the line of the file and not an option that
/// nobody has typed.
///
/// # Errors
/// If a parser refuses a value.
pub(crate) fn check(command: &Command, loaded: &Loaded) -> Result<(), Failure> {
    for key in KEYS {
        let Some(values) = key.of_file(loaded) else { continue };
        let option = format!("--{}", key.argument.replace('_', "-"));
        let typed = values.iter().map(|value| format!("{option}={value}"));
        let verb = key.verbs.iter().find(|verb| **verb == "check").or(key.verbs.first()).copied();
        let line = ["triggerfish".to_owned()].into_iter().chain(verb.map(str::to_owned)).chain(typed);
        if let Err(error) = command.clone().try_get_matches_from(line) {
            let message = error.to_string();
            let first = message.lines().next().unwrap_or_default().trim_start_matches("error: ");
            return Err(Failure::Input(format!("{}: key `{}`: {first}", loaded.place(key.name), key.name)));
        }
    }
    Ok(())
}
