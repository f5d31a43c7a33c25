//! Settings by file, environment and command line: `triggerfish.toml`, `triggerfish init`, `triggerfish config show`.

mod file;
mod keys;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};

pub(crate) use file::{ConfigFile, FILE_NAME, Loaded, parse};
pub(crate) use keys::adapters;

use crate::args::{Arguments, Command, ConfigArguments, ConfigVerb, InitArguments, ModelArguments};
use crate::exit::{self, Failure};
use crate::{Outcome, output};
use keys::{KEYS, check, prepare};

/// What `init` writes.
const TEMPLATE: &str = include_str!("template.toml");
/// Verbs that read the file.
const VERBS: &[&str] = &["scan", "hunt", "audit", "check", "pin", "config", "doctor"];
const VARIABLE: &str = "TRIGGERFISH_CONFIG";

/// The arguments, and the file that some of them come from.
pub(crate) struct Parsed {
    pub(crate) arguments: Arguments,
    pub(crate) loaded: Option<Loaded>,
}

/// Parses the command line over the environment over the file. Ends the process on `--help` and usage errors, as clap
/// does.
///
/// # Errors
/// If the file is wrong.
pub(crate) fn arguments() -> Result<Parsed, Failure> {
    let line: Vec<OsString> = std::env::args_os().collect();
    let loaded = load(&line)?;
    if let Some(loaded) = &loaded {
        check(&prepare(Arguments::command(), None), loaded)?;
    }
    let parsed = parse_line(&line, loaded.as_ref());
    let examined = examined(&parsed.0, loaded.as_ref());
    // A file in what is examined is its author's, who could accept his own findings with it.
    let foreign = loaded
        .as_ref()
        .filter(|loaded| named(&line).is_none() && examined.iter().any(|path| lies_in(&loaded.path, path)));
    if let Some(foreign) = foreign {
        output::talk(&format!(
            "`{}` is not read: it lies in what is examined; `--config` would",
            foreign.path.display()
        ));
        return Ok(Parsed { arguments: parse_line(&line, None).0, loaded: None });
    }
    Ok(Parsed { arguments: parsed.0, loaded })
}

fn parse_line(line: &[OsString], loaded: Option<&Loaded>) -> (Arguments, ArgMatches) {
    let mut command = prepare(Arguments::command(), loaded);
    let matches = command.clone().get_matches_from(line);
    match Arguments::from_arg_matches(&matches) {
        Ok(arguments) => (arguments, matches),
        Err(error) => error.format(&mut command).exit(),
    }
}

/// The file that the command line or the environment names.
fn named(line: &[OsString]) -> Option<PathBuf> {
    let mut words = line.iter();
    while let Some(word) = words.next() {
        let word = word.to_string_lossy();
        if word == "--config" {
            return words.next().map(PathBuf::from);
        }
        if let Some(path) = word.strip_prefix("--config=") {
            return Some(PathBuf::from(path));
        }
    }
    std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The file for this command line, if its verb reads one.
fn load(line: &[OsString]) -> Result<Option<Loaded>, Failure> {
    let words: Vec<_> = line.iter().skip(1).map(|word| word.to_string_lossy()).collect();
    let mut verbs = words.iter().enumerate().filter(|(at, word)| {
        !word.starts_with('-') && at.checked_sub(1).is_none_or(|before| words[before] != "--config")
    });
    if !verbs.next().is_some_and(|(_, verb)| VERBS.contains(&verb.as_ref())) {
        return Ok(None);
    }
    match named(line) {
        Some(path) => Loaded::read(&path).map(Some),
        None => {
            let here = std::env::current_dir()
                .map_err(|error| Failure::Machine(format!("there is no working directory: {error}")))?;
            Loaded::discover(&here)
        }
    }
}

/// What a command examines, adapters that the file itself names included.
fn examined(arguments: &Arguments, loaded: Option<&Loaded>) -> Vec<PathBuf> {
    let sides = |models: &ModelArguments| models.adapter.iter().chain(&models.adapted).cloned().collect();
    match &arguments.command {
        Command::Scan(scan) => sides(&scan.models),
        Command::Hunt(hunt) => sides(&hunt.models),
        Command::Check(check) => {
            let mut paths: Vec<PathBuf> = sides(&check.scan.models);
            paths.extend(check.adapters.iter().filter_map(|adapter| adapter.path.clone()));
            paths.extend(loaded.map(adapters).unwrap_or_default().into_iter().map(|(_, path)| path.into()));
            paths
        }
        Command::Audit(audit) => audit.paths.clone(),
        Command::Pin(pin) => vec![pin.adapter.clone()],
        _ => Vec::new(),
    }
}

fn lies_in(file: &Path, folder: &Path) -> bool {
    match (file.canonicalize(), folder.canonicalize()) {
        (Ok(file), Ok(folder)) => file.starts_with(folder),
        _ => false,
    }
}

/// `triggerfish init`.
pub(crate) fn init(arguments: &InitArguments) -> Outcome {
    let path = arguments.folder.join(FILE_NAME);
    if path.symlink_metadata().is_ok() {
        return Err(Failure::Input(format!("`{}` is there already; it is left as it is", path.display())));
    }
    output::file(&path, TEMPLATE)?;
    output::talk(&format!(
        "wrote `{}`: name the base and your adapters there, then run `triggerfish check`",
        path.display()
    ));
    Ok(exit::PASS)
}

/// `triggerfish config`.
pub(crate) fn run(arguments: &ConfigArguments, loaded: Option<&Loaded>) -> Outcome {
    let ConfigVerb::Show { origin } = arguments.verb;
    let command = prepare(Arguments::command(), loaded);
    let matches = command
        .try_get_matches_from(["triggerfish", "check"])
        .map_err(|error| Failure::Input(error.to_string()))?;
    let Some((_, matches)) = matches.subcommand() else {
        return Err(Failure::Machine("the command line has no verb".to_owned()));
    };
    let mut text = String::new();
    let mut section = "";
    for key in KEYS {
        let (table, name) = key.name.rsplit_once('.').unwrap_or(("", key.name));
        if table != section {
            text.push_str(&format!("\n[{table}]\n"));
            section = table;
        }
        let (value, from) = value(key, matches, loaded);
        let shown = value.map_or_else(|| format!("# {name} is not set"), |value| format!("{name} = {value}"));
        let from = if origin { format!("  # {from}") } else { String::new() };
        text.push_str(&format!("{shown}{from}\n"));
    }
    if let Some(loaded) = loaded {
        text.push_str("\n[adapters]\n");
        for (name, path) in adapters(loaded) {
            let from = if origin {
                format!("  # {}", loaded.place(&format!("adapters.{name}")))
            } else {
                String::new()
            };
            text.push_str(&format!("{} = {}{from}\n", quoted(&name), quoted(&path)));
        }
        let count = loaded.file.suppress.len();
        if count > 0 {
            text.push_str(&format!("\n# {count} [[suppress]] entries in {}\n", loaded.path.display()));
        }
    }
    output::data(&text)?;
    Ok(exit::PASS)
}

/// A value as TOML, and where it comes from.
fn value(key: &keys::Key, matches: &ArgMatches, loaded: Option<&Loaded>) -> (Option<String>, String) {
    let values: Option<Vec<String>> = matches
        .get_raw(key.argument)
        .map(|values| values.map(|value| value.to_string_lossy().into_owned()).collect());
    let from = match matches.value_source(key.argument) {
        Some(ValueSource::EnvVariable) => format!("environment {}", key.variable),
        Some(ValueSource::CommandLine) => "command line".to_owned(),
        _ => match loaded.filter(|loaded| key.of_file(loaded).is_some()) {
            Some(loaded) => loaded.place(key.name),
            None => "default".to_owned(),
        },
    };
    let list = matches!(key.name, "suites" | "reports");
    let value = values.filter(|values| !values.is_empty()).map(|values| match &values[..] {
        [one] if !list => plain(one),
        several => format!("[{}]", several.iter().map(|value| quoted(value)).collect::<Vec<_>>().join(", ")),
    });
    (value, from)
}

/// Numbers as they are, everything else as text.
fn plain(value: &str) -> String {
    let number = value.parse::<u64>().is_ok() || (value.contains('.') && value.parse::<f64>().is_ok());
    if number { value.to_owned() } else { quoted(value) }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_names_every_key_and_is_valid_with_each_of_them() {
        let file = parse(TEMPLATE).unwrap();
        assert!(file.base.is_none() && file.adapters.is_empty(), "everything is commented out");
        let all: String = TEMPLATE
            .lines()
            .map(|line| match line.strip_prefix("#:") {
                Some(setting) => format!("{setting}\n"),
                None => format!("{line}\n"),
            })
            .collect();
        parse(&all).unwrap_or_else(|reason| panic!("{reason}\n{all}"));
        for key in KEYS {
            let name = key.name.rsplit('.').next().unwrap_or_default();
            assert!(all.contains(&format!("\n{name} = ")), "{name}");
        }
    }

    #[test]
    fn every_key_is_an_argument_of_its_verbs() {
        let command = prepare(Arguments::command(), None);
        command.debug_assert();
        let mut names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KEYS.len());
    }
}
