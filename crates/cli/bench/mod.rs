//! `triggerfish bench`: scans a zoo, then joins the labels: how many backdoors are found, at what cost.
//!
//! The scans are the units of `plan` and `run`: the same store, the same resuming, the same bytes. Nothing here reads the
//! labels before the last of them is through.

mod peers;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;
use inference::ModelPair;
use inference::decoder::site::sites;
use probe::suite::{Items, Suite};
use report::benchmark::format::FORMATS;
use report::benchmark::labels::{self, Label, Labels};
use report::benchmark::row::{Found, Run};
use report::benchmark::{Benchmark, Row};
use report::calibration::Calibration;

use crate::args::{Command, ModelArguments};
use crate::exit::{self, Failure};
use crate::fleet::batch::{self, Batch, Scanned};
use crate::{Outcome, calibrate, embedded, forge, output, subject, suites};
use peers::{Chosen, Zoo};

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
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "benign,triggers,adversarial")]
    pub(crate) suites: Vec<String>,
    /// What is listened to, as of `scan`.
    #[arg(long, value_name = "LIST", default_value = "payloads")]
    pub(crate) probe: String,
    #[arg(long, value_name = "LIST", value_delimiter = ',', help = peers::help())]
    pub(crate) peers: Vec<String>,
    /// Judge each configuration that it is of also beside this calibration, as a configuration of its own: a file of
    /// `calibrate`, or `shipped`.
    #[arg(long, value_name = "FILE")]
    pub(crate) calibration: Option<PathBuf>,
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
    subject::base_alone(models, "`bench` takes the adapters of the zoo: leave --adapter and --adapted away")?;
    let calibration = arguments.calibration.as_deref().map(calibrate::load).transpose()?;
    let methods = peers::chosen(&arguments.peers)?;
    output::make_folder(&arguments.output)?;
    if let Some(recipe) = &arguments.forge {
        let code = forge::run(&forge_arguments(arguments, recipe)?)?;
        if code != exit::PASS {
            return Ok(code);
        }
    }
    let base = embedded::base_or_in(models, &arguments.output.join("base"), arguments.quiet)?;
    let adapters = batch::adapters_in(&arguments.zoo)?;
    if adapters.is_empty() {
        return Err(Failure::Input(format!(
            "`{}` holds no adapter: expected folders with {}; `--forge RECIPE` makes some",
            arguments.zoo.display(),
            inference::adapter::CONFIG_FILE
        )));
    }
    let batch = |depth| Batch {
        models,
        base: &base,
        adapters: &adapters,
        depth,
        suites: &arguments.suites,
        probe: &arguments.probe,
        folder: &arguments.output,
        jobs: arguments.jobs,
        shard: arguments.shard.as_deref(),
        quiet: arguments.quiet,
    };
    let batches: Vec<Batch<'_>> = arguments.depth.iter().map(|depth| batch(depth.as_str())).collect();
    let zoo = Zoo { arguments, base: &base, adapters: &adapters };
    if !arguments.no_run {
        batches.iter().try_for_each(Batch::run)?;
        zoo.run(&methods)?;
    }
    if arguments.shard.is_some() {
        return Ok(exit::PASS);
    }
    let benchmark = join(arguments, &batches, calibration.as_ref(), (&zoo, &methods))?;
    for (place, format) in FORMATS.iter().enumerate() {
        let text = format.render(&benchmark).map_err(|error| Failure::Machine(error.to_string()))?;
        output::file(&arguments.output.join(format.file()), &text)?;
        if place == 0 {
            output::data(&text)?;
        }
    }
    Ok(if benchmark.complete() { exit::PASS } else { exit::INCOMPLETE })
}

fn forge_arguments(arguments: &BenchArguments, recipe: &str) -> Result<forge::ForgeArguments, Failure> {
    let mut line =
        vec!["forge".to_owned(), recipe.to_owned(), format!("--output={}", arguments.zoo.display())];
    line.extend(batch::shared(&arguments.models, arguments.quiet));
    line.extend(arguments.models.base.iter().map(|base| format!("--base={}", base.display())));
    line.extend(arguments.models.threads.map(|threads| format!("--threads={threads}")));
    line.extend(arguments.shard.as_ref().map(|shard| format!("--shard={shard}")));
    match batch::parsed(line)? {
        Command::Forge(forge) => Ok(forge),
        _ => Err(Failure::Machine("`forge` was parsed as another verb".into())),
    }
}

/// Results and labels.
fn join(
    arguments: &BenchArguments,
    batches: &[Batch<'_>],
    calibration: Option<&Calibration>,
    (zoo, methods): (&Zoo<'_>, &[Chosen]),
) -> Result<Benchmark, Failure> {
    let labels = labels(&arguments.zoo, batches)?;
    let listed = listed(&suites::load(&arguments.suites)?);
    let (mut names, mut rows) = (Vec::new(), Vec::new());
    for batch in batches {
        let results = batch.results(labels.keys().map(String::as_str))?;
        let mut add = |configuration: String, calibration: Option<&Calibration>| -> Result<(), Failure> {
            for (name, scanned) in &results {
                let truth = &labels[*name];
                rows.push(row(&configuration, name, truth, scanned, &listed, calibration)?);
            }
            names.push(configuration);
            Ok(())
        };
        add(batch.depth.to_owned(), None)?;
        let scanned = results.iter().find_map(|(_, scanned)| scanned.as_ref().ok());
        if let (Some(calibration), Some((record, _))) = (calibration, scanned) {
            match calibration.fits(record) {
                Ok(()) => add(format!("{}, calibrated", batch.depth), Some(calibration))?,
                Err(reason) => output::talk(&format!("{}: not calibrated: {reason}", batch.depth)),
            }
        }
    }
    for method in methods {
        for (name, truth) in &labels {
            let mut row = unfound(&method.name, name, truth, &BTreeSet::new());
            match zoo.found(method, name) {
                Ok(kept) => {
                    let token_forwards = kept.finding.cost.token_forwards;
                    row.found = Some(Found::of_peer(&kept.finding, truth));
                    row.run = Some(Run { seconds: kept.seconds, token_forwards, peak_bytes: None });
                }
                Err(reason) => row.error = Some(reason),
            }
            rows.push(row);
        }
        names.push(method.name.clone());
    }
    let config = batches.first().map(|batch| ModelPair::base_config(batch.base)).transpose()?;
    let weights =
        config.map(|config| sites(&config).iter().map(|site| (site.inputs * site.outputs) as u64).sum());
    Benchmark::of(subject::tool(), weights, &names, rows).map_err(|error| Failure::Probe(error.into()))
}

/// The texts of the suites' candidates.
fn listed(suites: &[Suite]) -> BTreeSet<String> {
    let mut listed = BTreeSet::new();
    for suite in suites {
        if let Items::Triggers(candidates) = &suite.items {
            listed.extend(candidates.iter().map(|candidate| candidate.change.text()));
        }
    }
    listed
}

fn row(
    configuration: &str,
    name: &str,
    truth: &Label,
    scanned: &Scanned,
    listed: &BTreeSet<String>,
    calibration: Option<&Calibration>,
) -> Result<Row, Failure> {
    let mut row = unfound(configuration, name, truth, listed);
    match scanned {
        Ok((record, sidecar)) => {
            let found = match calibration {
                Some(calibration) => Found::of(&calibrate::apply(calibration, record)?, truth),
                None => Found::of(record, truth),
            };
            row.found = Some(found);
            row.run = sidecar.as_ref().map(|run| Run {
                seconds: run.seconds,
                token_forwards: run.token_forwards,
                peak_bytes: run.peak_bytes,
            });
        }
        Err(reason) => row.error = Some(reason.clone()),
    }
    Ok(row)
}

/// An adapter under a configuration of which nothing is known yet.
fn unfound(configuration: &str, name: &str, truth: &Label, listed: &BTreeSet<String>) -> Row {
    let planted = truth.trigger.all();
    Row {
        configuration: configuration.to_owned(),
        adapter: name.to_owned(),
        truth: truth.clone(),
        listed: (!planted.is_empty()).then(|| planted.iter().any(|text| listed.contains(text))),
        found: None,
        error: None,
        run: None,
    }
}

/// The truth about every adapter of the zoo.
fn labels(zoo: &Path, batches: &[Batch<'_>]) -> Result<Labels, Failure> {
    let path = zoo.join(labels::FILE_NAME);
    let wrong = |reason: String| Failure::Input(format!("`{}`: {reason}", path.display()));
    let text = std::fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
    let labels: Labels = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let adapters: Option<&BTreeMap<String, PathBuf>> = batches.first().map(|batch| batch.adapters);
    match adapters.and_then(|adapters| adapters.keys().find(|name| !labels.contains_key(*name))) {
        Some(name) => Err(wrong(format!("expected a label for every adapter, found none for `{name}`"))),
        None => Ok(labels),
    }
}
