//! `triggerfish calibrate`: what a scan finds on benign adapters of a base, for `scan --calibration` to rank findings among.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use report::calibration::{Calibration, SCHEMA_VERSION};
use report::record::Record;
use report::verdict::judge_among;

use crate::args::{GateArguments, ModelArguments, ReportArguments};
use crate::exit::{self, Failure};
use crate::fleet::batch::{self, Batch};
use crate::{Outcome, conclusion, embedded, output, subject};

/// The calibration of the embedded base, with what made it beside it.
const SHIPPED: &str = include_str!("../../fixtures/calibration/embedded-base.json");
/// Its name in the place of a file.
const SHIPPED_NAME: &str = "shipped";

#[derive(Debug, Args)]
pub(crate) struct CalibrateArguments {
    /// Benign adapters of one base, or folders of them, such as `forge` makes. Whether they are benign is yours to know:
    /// a poisoned one among them hides others like it.
    #[arg(value_name = "ADAPTER", required = true)]
    pub(crate) adapters: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) models: ModelArguments,
    /// Depth of the scans, with a budget behind a colon if it searches, such as standard:1e6tok.
    #[arg(long, value_name = "DEPTH", default_value = "quick")]
    pub(crate) depth: String,
    /// Suites, as of `scan`.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "benign,triggers,adversarial")]
    pub(crate) suites: Vec<String>,
    /// What is listened to, as of `scan`.
    #[arg(long, value_name = "LIST", default_value = "payloads")]
    pub(crate) probe: String,
    /// The calibration file.
    #[arg(short, long, value_name = "FILE", default_value = "calibration.json")]
    pub(crate) output: PathBuf,
    /// Folder for plans and results; a run that was stopped goes on there.
    #[arg(long, value_name = "DIR")]
    pub(crate) store: PathBuf,
    /// Scans at a time.
    #[arg(short, long, value_name = "K", default_value = "1")]
    pub(crate) jobs: std::num::NonZeroUsize,
    /// Only errors on standard error.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

pub(crate) fn run(arguments: &CalibrateArguments) -> Outcome {
    let models = &arguments.models;
    subject::base_alone(models, "adapters are named without an option here")?;
    output::check_files([arguments.output.as_path()])?;
    output::make_folder(&arguments.store)?;
    let base = embedded::base_or_in(models, &arguments.store.join("base"), arguments.quiet)?;
    let adapters = named(&arguments.adapters)?;
    let batch = Batch {
        models,
        base: &base,
        adapters: &adapters,
        depth: &arguments.depth,
        suites: &arguments.suites,
        probe: &arguments.probe,
        folder: &arguments.store,
        jobs: arguments.jobs,
        shard: None,
        quiet: arguments.quiet,
    };
    batch.run()?;
    let mut records: Vec<(String, Record)> = Vec::with_capacity(adapters.len());
    for (name, scanned) in batch.results(adapters.keys().map(String::as_str))? {
        match scanned {
            Ok((record, _)) => records.push((name.to_owned(), *record)),
            Err(reason) => {
                return Err(Failure::Input(format!(
                    "`{name}` has no result, and a cohort must be whole: {reason}"
                )));
            }
        }
    }
    let records: Vec<(String, &Record)> =
        records.iter().map(|(name, record)| (name.clone(), record)).collect();
    let calibration = Calibration::of(subject::tool(), &records).map_err(Failure::Input)?;
    output::file(&arguments.output, &output::json(&calibration)?)?;
    if !arguments.quiet {
        let count = calibration.cohort.len();
        output::talk(&format!(
            "{count} benign adapters are in `{}`: no p-value can lie below {:.3}",
            arguments.output.display(),
            1.0 / (count + 1) as f64
        ));
    }
    Ok(exit::PASS)
}

/// The adapters by name: the last part of their path, or of folders of them those below.
fn named(paths: &[PathBuf]) -> Result<BTreeMap<String, PathBuf>, Failure> {
    let mut adapters = BTreeMap::new();
    for path in paths {
        let below = if path.is_dir() && !path.join(inference::adapter::CONFIG_FILE).is_file() {
            batch::adapters_in(path)?
        } else {
            BTreeMap::new()
        };
        let own =
            if below.is_empty() { BTreeMap::from([(subject::file_name(path), path.clone())]) } else { below };
        for (name, path) in own {
            if adapters.insert(name.clone(), path).is_some() {
                return Err(Failure::Input(format!("two adapters are called `{name}`")));
            }
        }
    }
    Ok(adapters)
}

/// Reads a calibration: a file, or the shipped one.
pub(crate) fn load(path: &Path) -> Result<Calibration, Failure> {
    let wrong = |reason: String| Failure::Input(format!("calibration `{}`: {reason}", path.display()));
    let text = if path == Path::new(SHIPPED_NAME) {
        SHIPPED.to_owned()
    } else {
        std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?
    };
    let calibration: Calibration = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let major = |version: &str| version.split('.').next().map(str::to_owned);
    if major(&calibration.schema_version) != major(SCHEMA_VERSION) {
        return Err(wrong(format!(
            "expected version {SCHEMA_VERSION} or another of its major, found {}",
            calibration.schema_version
        )));
    }
    Ok(calibration)
}

/// A record judged beside benign adapters. One of which nothing was measured stays as it is.
pub(crate) fn apply(calibration: &Calibration, record: &Record) -> Result<Record, Failure> {
    let mut record = record.clone();
    calibration.fits(&record).map_err(|reason| Failure::Drift(format!("--calibration: {reason}")))?;
    if record.coverage.candidates_screened == 0 {
        return Ok(record);
    }
    let thresholds = record.judgement.thresholds;
    let ranked = calibration.rank(&record.evidence, &thresholds).map_err(probe::Error::from)?;
    record.judgement = judge_among(&record.evidence, &record.coverage, thresholds, Some(calibration));
    record.judgement.limits.extend(ranked.statements());
    record.calibration = Some(ranked);
    Ok(record)
}

/// The same for a scan, with the exit code of its new verdict.
pub(crate) fn conclude(
    calibration: Option<&Calibration>,
    report: &ReportArguments,
    gate: &GateArguments,
    record: Record,
) -> Result<Record, Failure> {
    let Some(calibration) = calibration else { return Ok(record) };
    let mut record = apply(calibration, &record)?;
    record.exit_code = conclusion::exit_code(report, gate, &record);
    Ok(record)
}
