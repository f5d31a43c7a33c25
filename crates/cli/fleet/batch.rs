//! Scans of many adapters by one command: planned, run here, and read back from the store.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use report::fleet::{Outcome as UnitOutcome, Plan, PlannedUnit};
use report::record::Record;

use super::store::{Sidecar, Store};
use super::{plan, read_plan, run};
use crate::args::{Arguments, Command, ModelArguments};
use crate::exit::{self, Failure, scheduled};
use crate::{output, subject};

/// What is scanned, and how.
pub(crate) struct Batch<'a> {
    pub(crate) models: &'a ModelArguments,
    pub(crate) base: &'a Path,
    /// Adapters by name.
    pub(crate) adapters: &'a BTreeMap<String, PathBuf>,
    /// A depth, with a budget behind a colon if it searches.
    pub(crate) depth: &'a str,
    pub(crate) suites: &'a [String],
    pub(crate) probe: &'a str,
    /// Folder for plan and results.
    pub(crate) folder: &'a Path,
    /// Scans at a time.
    pub(crate) jobs: NonZeroUsize,
    /// One part of the scans alone, such as 0/4.
    pub(crate) shard: Option<&'a str>,
    pub(crate) quiet: bool,
}

/// What became of an adapter: its record and how it was run, or why there is none.
pub(crate) type Scanned = Result<(Box<Record>, Option<Sidecar>), String>;

/// The arguments of another verb, as the command line would give them.
pub(crate) fn parsed(line: Vec<String>) -> Result<Command, Failure> {
    let line = std::iter::once(env!("CARGO_PKG_NAME").to_owned()).chain(line);
    Arguments::try_parse_from(line)
        .map(|parsed| parsed.command)
        .map_err(|error| Failure::Input(error.to_string()))
}

/// The options of models that other verbs are given too.
pub(crate) fn shared(models: &ModelArguments, quiet: bool) -> Vec<String> {
    let mut line = vec![
        format!("--template={}", models.template),
        format!("--device={}", models.device),
        format!("--dtype={}", models.dtype),
        format!("--memory={}", models.memory),
        format!("--seed={}", models.seed),
        format!("--semantics={}", subject::semantics_option(models.semantics)),
    ];
    if models.allow_pickle {
        line.push("--allow-pickle".into());
    }
    if quiet {
        line.push("--quiet".into());
    }
    line
}

/// The folders below one that hold an adapter, by name.
pub(crate) fn adapters_in(folder: &Path) -> Result<BTreeMap<String, PathBuf>, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::Input(format!("cannot read the folder `{}`: {error}", folder.display()))
    };
    let mut adapters = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path();
        if path.join(inference::adapter::CONFIG_FILE).is_file() {
            adapters.insert(entry.file_name().to_string_lossy().into_owned(), path);
        }
    }
    Ok(adapters)
}

impl Batch<'_> {
    fn plan_file(&self) -> PathBuf {
        self.folder.join(format!("plan-{}.jsonl", self.depth.replace(':', "-")))
    }

    fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    /// Plans the scans, and runs those that have no result yet. What cannot be scanned has an error for its result; what
    /// is worth another try is an error here.
    pub(crate) fn run(&self) -> Result<(), Failure> {
        self.plan()?;
        let mut line = vec![
            "run".to_owned(),
            format!("--plan={}", self.plan_file().display()),
            format!("--store={}", self.store().display()),
        ];
        line.push(match self.shard {
            Some(shard) => format!("--shard={shard}"),
            None => format!("--jobs={}", self.jobs),
        });
        line.extend(self.models.threads.map(|threads| format!("--threads={threads}")));
        if self.quiet {
            line.push("--quiet".into());
        }
        let code = match parsed(line)? {
            Command::Run(arguments) => run::run(&arguments)?,
            _ => return Err(Failure::Machine("`run` was parsed as another verb".into())),
        };
        if code == scheduled::RETRY || code == scheduled::DATA {
            return Err(Failure::Scheduled(
                exit::INCOMPLETE,
                "the scans were stopped, or some are to be tried again: the same command goes on".into(),
            ));
        }
        Ok(())
    }

    fn plan(&self) -> Result<(), Failure> {
        let list = self.folder.join("adapters.jsonl");
        let lines: Vec<String> = self
            .adapters
            .iter()
            .map(|(name, path)| serde_json::json!({"adapter": path, "name": name}).to_string() + "\n")
            .collect();
        output::file(&list, &lines.concat())?;
        let (name, budget) =
            self.depth.split_once(':').map_or((self.depth, None), |(name, budget)| (name, Some(budget)));
        let shards = match self.shard.and_then(|shard| shard.split_once('/')) {
            Some((_, of)) => of.to_owned(),
            None => self.jobs.to_string(),
        };
        let mut line = vec![
            "plan".to_owned(),
            format!("--list={}", list.display()),
            format!("--base={}", self.base.display()),
            format!("--depth={name}"),
            format!("--suites={}", self.suites.join(",")),
            format!("--probe={}", self.probe),
            format!("--shards={shards}"),
            format!("--output={}", self.plan_file().display()),
        ];
        line.extend(budget.map(|budget| format!("--budget={budget}")));
        line.extend(shared(self.models, self.quiet));
        match parsed(line)? {
            Command::Plan(arguments) => plan::plan(&arguments).map(drop),
            _ => Err(Failure::Machine("`plan` was parsed as another verb".into())),
        }
    }

    /// The results of some adapters, in the order of their names.
    pub(crate) fn results<'n>(
        &self,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Result<Vec<(&'n str, Scanned)>, Failure> {
        let store = Store::at(&self.store());
        let plan = read_plan(&self.plan_file(), |_| true)?;
        names.into_iter().map(|name| Ok((name, result(&store, &plan, name)?))).collect()
    }
}

fn result(store: &Store, plan: &Plan, name: &str) -> Result<Scanned, Failure> {
    let named = |unit: &&PlannedUnit| unit.adapters.iter().any(|adapter| adapter.name == name);
    let Some(unit) = plan.units.iter().find(named) else {
        return Ok(Err("there is no such adapter".to_owned()));
    };
    let found = store
        .result(&unit.unit)
        .map_err(|error| Failure::Machine(format!("cannot read the store: {error}")))?;
    Ok(match found.map(|found| found.outcome) {
        Some(UnitOutcome::Scanned(record)) => Ok((record, store.sidecar(&unit.unit))),
        Some(UnitOutcome::Errored { class, reason }) => Err(format!("{}: {reason}", class.name())),
        None => Err("it was not scanned".to_owned()),
    })
}
