//! A run directory: what was measured (written as it is measured), what it was about, and the record at its end.

use std::path::{Path, PathBuf};

use report::comparison::{self, Baseline};
use report::record::Record;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::args::ScanArguments;
use crate::exit::Failure;
use crate::subject::Target;
use crate::{output, render, subject};

/// The record of a run that came to its end.
pub(crate) const RECORD: &str = "record.json";
/// Where the run's models and suites are on this machine.
const SOURCES: &str = "sources.json";

/// What a run was about, by path: for running a prompt of it again. Records name no paths.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sources {
    pub(crate) base: PathBuf,
    pub(crate) adapter: PathBuf,
    /// Whether the adapted side is a whole checkpoint.
    pub(crate) merged: bool,
    pub(crate) allow_pickle: bool,
    pub(crate) semantics: String,
    pub(crate) template: String,
    pub(crate) memory: u64,
    /// Shipped names and files.
    pub(crate) suites: Vec<String>,
}

impl Sources {
    /// What the arguments name. Nothing of the embedded example stays on the disk.
    pub(crate) fn of(arguments: &ScanArguments, target: &Target, corpus: Option<&Path>) -> Option<Self> {
        arguments.models.base.as_ref()?;
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let named = |name: &String| {
            let path = Path::new(name);
            if path.exists() { absolute(path).display().to_string() } else { name.clone() }
        };
        let mut suites: Vec<String> = arguments.scope.suites.iter().map(named).collect();
        suites.extend(corpus.map(|corpus| absolute(corpus).display().to_string()));
        Some(Self {
            base: absolute(target.base()),
            adapter: absolute(target.adapter()),
            merged: target.merged(),
            allow_pickle: arguments.models.allow_pickle,
            semantics: subject::semantics_option(arguments.models.semantics).to_owned(),
            template: named(&arguments.models.template),
            memory: arguments.models.memory,
            suites,
        })
    }

    /// Writes them into a run directory.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), Failure> {
        output::file(&directory.join(SOURCES), &output::json(self)?)
    }

    /// Reads those of a run directory.
    pub(crate) fn read(directory: &Path) -> Result<Self, Failure> {
        let path = directory.join(SOURCES);
        let wrong = |reason: String| Failure::Input(format!("run `{}`: {reason}", path.display()));
        let text = std::fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))
    }
}

/// Writes the record of a run that is over. One that was stopped has none: it goes on.
pub(crate) fn finish(directory: &Path, record: &Record) -> Result<(), Failure> {
    if !record.coverage.complete {
        return Ok(());
    }
    output::file(&directory.join(RECORD), &output::json(record)?)
}

/// The record of a run directory, or a record's own file.
pub(crate) fn record(path: &Path) -> Result<Record, Failure> {
    render::read(&record_file(path)?)
}

fn record_file(path: &Path) -> Result<PathBuf, Failure> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let file = path.join(RECORD);
    if file.is_file() {
        return Ok(file);
    }
    Err(Failure::Input(format!(
        "`{}` has no {RECORD}: the run did not come to its end, or it is no run directory; the command that began it \
         goes on where it was",
        path.display()
    )))
}

/// A baseline, or what a run would be as one.
pub(crate) fn baseline(path: &Path) -> Result<Baseline, Failure> {
    let file = record_file(path)?;
    let wrong = |reason: String| Failure::Input(format!("`{}`: {reason}", file.display()));
    let text = std::fs::read_to_string(&file).map_err(|error| wrong(error.to_string()))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if value.get("judgement").is_some() {
        return Ok(Baseline::of(&render::read(&file)?));
    }
    let version = value.get("schema_version").and_then(Value::as_str).unwrap_or_default();
    let major = |version: &str| version.split('.').next().map(str::to_owned);
    if major(version) != major(comparison::SCHEMA_VERSION) {
        return Err(wrong(format!(
            "expected a record, or a baseline of version {} or another of its major, found `{version}`",
            comparison::SCHEMA_VERSION
        )));
    }
    serde_json::from_value(value).map_err(|error| wrong(error.to_string()))
}
