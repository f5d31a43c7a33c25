//! `triggerfish bench`: scans a zoo, then joins the labels: how many backdoors are found, at what cost.
//!
//! The scans are the units of `plan` and `run`: the same store, the same resuming, the same bytes. Nothing here reads the
//! labels before the last of them is through.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Parser as _};
use inference::decoder::site::sites;
use report::benchmark::format::FORMATS;
use report::benchmark::labels::{self, Label, Labels};
use report::benchmark::row::{Found, Run};
use report::benchmark::{Benchmark, Row};
use report::fleet::Outcome as UnitOutcome;
use report::record::Tool;

use crate::args::{Arguments, Command, ModelArguments};
use crate::embedded;
use crate::exit::{self, Failure, scheduled};
use crate::fleet::{self, read_plan, store::Store};
use crate::hub::{self, Part};
use crate::progress::Bars;
use crate::{Outcome, forge, output, subject};

#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// A zoo: a folder of adapters with `labels.json`, such as `forge` makes.
    #[arg(value_name = "ZOO")]
    pub(crate) zoo: PathBuf,
    /// Make the adapters of this recipe first that the zoo does not have.
    #[arg(long, value_name = "RECIPE")]
    pub(crate) forge: Option<String>,
    #[command(flatten)]
    pub(crate) models: ModelArguments,
    /// Configurations of the scan, comma separated: depths, each with a budget if it searches, such as
    /// quick,standard:5e5tok,standard:2e6tok.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "quick")]
    pub(crate) depth: Vec<String>,
    /// Suites, as of `scan`.
    #[arg(long, value_name = "LIST", default_value = "benign,triggers,adversarial")]
    pub(crate) suites: String,
    /// What is listened to, as of `scan`.
    #[arg(long, value_name = "LIST", default_value = "payloads")]
    pub(crate) probe: String,
    /// Folder for plans, results and reports; a run that was stopped goes on there.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Scans at a time.
    #[arg(short, long, value_name = "K", default_value = "1")]
    pub(crate) jobs: std::num::NonZeroUsize,
    /// Run one part of the scans, such as 0/4, and report nothing: for several machines on one folder.
    #[arg(long, value_name = "I/N")]
    pub(crate) shard: Option<String>,
    /// Report on what the folder holds, without running anything.
    #[arg(long, conflicts_with = "shard")]
    pub(crate) no_run: bool,
    /// Only errors on standard error.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

pub(crate) fn run(arguments: &BenchArguments) -> Outcome {
    let models = &arguments.models;
    if models.adapter.is_some() || models.adapted.is_some() {
        return Err(Failure::Input(
            "`bench` takes the adapters of the zoo: leave --adapter and --adapted away".into(),
        ));
    }
    std::fs::create_dir_all(&arguments.output).map_err(|error| {
        Failure::Machine(format!("cannot make the folder `{}`: {error}", arguments.output.display()))
    })?;
    if let Some(recipe) = &arguments.forge {
        forge::run(&forge_arguments(arguments, recipe)?)?;
    }
    let base = match &models.base {
        Some(base) => hub::resolve(base, Part::Base, models.download, arguments.quiet)?,
        None => embedded::base_in(&arguments.output.join("base"))?,
    };
    let adapters = adapters(&arguments.zoo)?;
    let store = arguments.output.join("store");
    for depth in &arguments.depth {
        if !arguments.no_run {
            plan(arguments, &base, depth, &adapters)?;
            let code = scan(arguments, depth, &store)?;
            // What cannot be scanned is a row of the report; what is worth another try is not.
            if code == scheduled::RETRY || code == scheduled::DATA {
                return Err(Failure::Scheduled(
                    exit::INCOMPLETE,
                    "the scans were stopped, or some are to be tried again: the same command goes on".into(),
                ));
            }
        }
    }
    if arguments.shard.is_some() {
        return Ok(exit::PASS);
    }
    let benchmark = join(arguments, &base, &adapters, &store)?;
    for format in FORMATS {
        let text = format.render(&benchmark).map_err(|error| Failure::Machine(error.to_string()))?;
        output::file(&arguments.output.join(format.file()), &text)?;
    }
    output::data(&FORMATS[0].render(&benchmark).map_err(|error| Failure::Machine(error.to_string()))?)?;
    Ok(if benchmark.complete() { exit::PASS } else { exit::INCOMPLETE })
}

/// The arguments of another verb, as the command line would give them.
fn parsed(line: Vec<String>) -> Result<Command, Failure> {
    let line = std::iter::once(env!("CARGO_PKG_NAME").to_owned()).chain(line);
    Arguments::try_parse_from(line)
        .map(|parsed| parsed.command)
        .map_err(|error| Failure::Input(error.to_string()))
}

/// The options of the models that other verbs are given.
fn shared(arguments: &BenchArguments) -> Vec<String> {
    let models = &arguments.models;
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
    if arguments.quiet {
        line.push("--quiet".into());
    }
    line
}

fn forge_arguments(arguments: &BenchArguments, recipe: &str) -> Result<forge::ForgeArguments, Failure> {
    let mut line =
        vec!["forge".to_owned(), recipe.to_owned(), format!("--output={}", arguments.zoo.display())];
    line.extend(shared(arguments));
    line.extend(arguments.models.base.iter().map(|base| format!("--base={}", base.display())));
    line.extend(arguments.models.threads.map(|threads| format!("--threads={threads}")));
    line.extend(arguments.shard.as_ref().map(|shard| format!("--shard={shard}")));
    match parsed(line)? {
        Command::Forge(forge) => Ok(forge),
        _ => Err(Failure::Machine("`forge` was parsed as another verb".into())),
    }
}

/// The folders of a zoo that hold an adapter, by name. The labels are not asked.
fn adapters(zoo: &Path) -> Result<BTreeMap<String, PathBuf>, Failure> {
    let unreadable =
        |error: std::io::Error| Failure::Input(format!("cannot read the zoo `{}`: {error}", zoo.display()));
    let mut adapters = BTreeMap::new();
    for entry in std::fs::read_dir(zoo).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path();
        if path.join(inference::adapter::CONFIG_FILE).is_file() {
            adapters.insert(entry.file_name().to_string_lossy().into_owned(), path);
        }
    }
    if adapters.is_empty() {
        return Err(Failure::Input(format!(
            "`{}` holds no adapter: expected folders with {}; `--forge RECIPE` makes some",
            zoo.display(),
            inference::adapter::CONFIG_FILE
        )));
    }
    Ok(adapters)
}

fn plan_file(arguments: &BenchArguments, depth: &str) -> PathBuf {
    arguments.output.join(format!("plan-{}.jsonl", depth.replace(':', "-")))
}

/// Plans the scans of one configuration.
fn plan(
    arguments: &BenchArguments,
    base: &Path,
    depth: &str,
    adapters: &BTreeMap<String, PathBuf>,
) -> Result<(), Failure> {
    let list = arguments.output.join("adapters.jsonl");
    let lines: Vec<String> = adapters
        .iter()
        .map(|(name, path)| serde_json::json!({"adapter": path, "name": name}).to_string() + "\n")
        .collect();
    output::file(&list, &lines.concat())?;
    let (name, budget) = depth.split_once(':').map_or((depth, None), |(name, budget)| (name, Some(budget)));
    let shards = match arguments.shard.as_deref().and_then(|shard| shard.split_once('/')) {
        Some((_, of)) => of.to_owned(),
        None => arguments.jobs.to_string(),
    };
    let mut line = vec![
        "plan".to_owned(),
        format!("--list={}", list.display()),
        format!("--base={}", base.display()),
        format!("--depth={name}"),
        format!("--suites={}", arguments.suites),
        format!("--probe={}", arguments.probe),
        format!("--shards={shards}"),
        format!("--output={}", plan_file(arguments, depth).display()),
    ];
    line.extend(budget.map(|budget| format!("--budget={budget}")));
    line.extend(shared(arguments));
    match parsed(line)? {
        Command::Plan(plan) => fleet::plan::plan(&plan).map(drop),
        _ => Err(Failure::Machine("`plan` was parsed as another verb".into())),
    }
}

/// Runs the scans of one configuration that have no result yet.
fn scan(arguments: &BenchArguments, depth: &str, store: &Path) -> Outcome {
    let mut line = vec![
        "run".to_owned(),
        format!("--plan={}", plan_file(arguments, depth).display()),
        format!("--store={}", store.display()),
    ];
    line.push(match &arguments.shard {
        Some(shard) => format!("--shard={shard}"),
        None => format!("--jobs={}", arguments.jobs),
    });
    line.extend(arguments.models.threads.map(|threads| format!("--threads={threads}")));
    if arguments.quiet {
        line.push("--quiet".into());
    }
    match parsed(line)? {
        Command::Run(run) => fleet::run::run(&run),
        _ => Err(Failure::Machine("`run` was parsed as another verb".into())),
    }
}

/// Results and labels.
fn join(
    arguments: &BenchArguments,
    base: &Path,
    adapters: &BTreeMap<String, PathBuf>,
    store: &Path,
) -> Result<Benchmark, Failure> {
    let store = Store::at(store);
    let labels = labels(&arguments.zoo, adapters)?;
    let mut rows = Vec::new();
    for depth in &arguments.depth {
        let plan = read_plan(&plan_file(arguments, depth), |_| true)?;
        let unit_of = |name: &str| {
            let named =
                |unit: &&report::fleet::PlannedUnit| unit.adapters.iter().any(|adapter| adapter.name == name);
            plan.units.iter().find(named).map(|unit| unit.unit.as_str())
        };
        for (name, truth) in &labels {
            rows.push(row(&store, depth, name, truth, unit_of(name))?);
        }
    }
    let tool =
        Tool { name: env!("CARGO_PKG_NAME").to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let bars = Bars::new(true)?;
    let pair = subject::load_base(&arguments.models, base, &bars)?;
    let weights = sites(pair.config()).iter().map(|site| (site.inputs * site.outputs) as u64).sum();
    Benchmark::of(tool, Some(weights), &arguments.depth, rows).map_err(|error| Failure::Probe(error.into()))
}

fn row(store: &Store, depth: &str, name: &str, truth: &Label, unit: Option<&str>) -> Result<Row, Failure> {
    let unreadable = |error| Failure::Machine(format!("cannot read the store: {error}"));
    let result = unit.map(|unit| store.result(unit).map_err(unreadable)).transpose()?.flatten();
    let (found, error) = match result.map(|result| result.outcome) {
        Some(UnitOutcome::Scanned(record)) => (Some(Found::of(&record, truth)), None),
        Some(UnitOutcome::Errored { class, reason }) => (None, Some(format!("{}: {reason}", class.name()))),
        None if unit.is_none() => (None, Some("the zoo has a label for it, and no adapter".to_owned())),
        None => (None, Some("it was not scanned".to_owned())),
    };
    let run = unit.and_then(|unit| store.sidecar(unit)).map(|run| Run {
        seconds: run.seconds,
        token_forwards: run.token_forwards,
        peak_bytes: run.peak_bytes,
    });
    Ok(Row {
        configuration: depth.to_owned(),
        adapter: name.to_owned(),
        truth: truth.clone(),
        run: run.filter(|_| found.is_some()),
        found,
        error,
    })
}

/// The truth about every adapter of the zoo.
fn labels(zoo: &Path, adapters: &BTreeMap<String, PathBuf>) -> Result<Labels, Failure> {
    let path = zoo.join(labels::FILE_NAME);
    let wrong = |reason: String| Failure::Input(format!("`{}`: {reason}", path.display()));
    let text = std::fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
    let labels: Labels = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    match adapters.keys().find(|name| !labels.contains_key(*name)) {
        Some(name) => Err(wrong(format!("expected a label for every adapter, found none for `{name}`"))),
        None => Ok(labels),
    }
}
