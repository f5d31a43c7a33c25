//! `triggerfish scan`: load, run, judge, report.

use std::path::{Path, PathBuf};
use std::time::Instant;

use inference::ModelPair;
use probe::depth::LENGTH;
use probe::memory::Memory;
use probe::scan::{Outcome as Found, Probes, Search};
use probe::suite::Suite;
use probe::trigger::hunt::Options;
use probe::trigger::journal::{self, Inputs, Journal};
use report::audit::RepositoryAudit;
use report::record::{Record, Settings, Subject};

use crate::args::ScanArguments;
use crate::conclusion::{self, Run};
use crate::exit::Failure;
use crate::progress::Bars;
use crate::rundir::{self, Sources};
use crate::{Outcome, calibrate, gate, output, subject, suites};

pub(crate) fn run(arguments: &ScanArguments) -> Outcome {
    let start = Instant::now();
    output::check(&arguments.report.forms)?;
    let Measured { record, directory, .. } = measure(arguments, &Extras::default())?;
    if let Some(directory) = directory {
        rundir::finish(&directory, &record)?;
    }
    conclusion::report(&arguments.report, &record, start)
}

/// What a check adds to a scan.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extras<'a> {
    /// The name by which the project knows the adapter.
    pub(crate) name: Option<&'a str>,
    /// A suite of triggers that were suspected before.
    pub(crate) corpus: Option<&'a Path>,
    /// Folder of run directories; this run's is named after the adapter and everything that decides the result.
    pub(crate) runs: Option<&'a Path>,
}

/// A scan that is over.
pub(crate) struct Measured {
    pub(crate) record: Record,
    /// The run directory, if it has one.
    pub(crate) directory: Option<PathBuf>,
    /// Token-forwards that were really run.
    pub(crate) spent: u64,
}

/// Scans, and judges what was found.
pub(crate) fn measure(arguments: &ScanArguments, extras: &Extras<'_>) -> Result<Measured, Failure> {
    let options = options(arguments)?;
    let calibration = arguments.calibration.as_deref().map(calibrate::load).transpose()?;
    let suites = suites(arguments, extras.corpus)?;
    let mut target = subject::target(&arguments.models, arguments.report.quiet)?;
    if let Some(name) = extras.name {
        target = target.named(name);
    }
    let (report, quiet, thresholds) =
        (&arguments.report, arguments.report.quiet, arguments.thresholds.into());
    let audit = gate::examine(&arguments.gate, &target, &arguments.scope.suites, thresholds, quiet)?;
    let settings = settings(arguments, &suites, options.as_ref());
    if let Some(audit) = audit.clone().filter(gate::refuses) {
        let run = gate::refused(&target, settings, audit);
        let record = conclusion::record(report, &arguments.gate, thresholds, None, run);
        return Ok(Measured { record, directory: None, spent: 0 });
    }
    let bars = Bars::new(quiet)?;
    let pair = subject::load(&arguments.models, &target, &bars)?;
    let about = subject::subject(&target, &pair)?;
    let inputs = subject::inputs(&about, &settings);
    let directory = directory(arguments, extras, &inputs)?;
    let memory = memory(arguments, directory.as_deref(), &about, &settings)?;
    if let (Some(directory), Some(sources)) = (&directory, Sources::of(arguments, &target, extras.corpus)) {
        sources.write(directory)?;
    }
    let journal = match &directory {
        Some(directory) if options.is_some() => Journal::open(directory, &inputs)?,
        _ => Journal::temporary(),
    };
    let ready = Ready { arguments, suites: &suites, settings, subject: about, audit, pair: &pair };
    let record = ready.run(options.map(|options| Search { options, journal }), &memory, &bars)?;
    let record = calibrate::conclude(calibration.as_ref(), report, &arguments.gate, record)?;
    Ok(Measured { record, directory, spent: memory.spent() })
}

/// A scan that can begin: what is asked for, and the models with the adapter alone.
pub(crate) struct Ready<'a> {
    pub(crate) arguments: &'a ScanArguments,
    pub(crate) suites: &'a [Suite],
    pub(crate) settings: Settings,
    pub(crate) subject: Subject,
    pub(crate) audit: Option<RepositoryAudit>,
    pub(crate) pair: &'a ModelPair,
}

impl Ready<'_> {
    /// Runs it, and judges what was found.
    pub(crate) fn run(self, search: Option<Search>, memory: &Memory, bars: &Bars) -> Result<Record, Failure> {
        let (arguments, adapter) = (self.arguments, &self.pair.adapters()[0]);
        // An adapter that is exactly zero is the base: a scan could only find nothing, which would look like a pass.
        let found = if adapter.is_zero() {
            Found::default()
        } else {
            let (suites, seed) = (self.suites, arguments.models.seed);
            probe::scan::scan(self.pair, suites, probes(arguments), seed, search, memory, bars)?
        };
        bars.finish();
        let run = Run {
            subject: self.subject,
            settings: self.settings,
            evidence: found.evidence,
            coverage: found.coverage,
            cost: found.cost,
            hunt: found.hunt,
            audit: self.audit,
        };
        let thresholds = arguments.thresholds.into();
        Ok(conclusion::record(&arguments.report, &arguments.gate, thresholds, Some(adapter), run))
    }
}

/// Everything that decides the result of a scan besides the models.
pub(crate) fn settings(arguments: &ScanArguments, suites: &[Suite], options: Option<&Options>) -> Settings {
    let own = [
        ("suites", arguments.scope.suites.len().to_string()),
        ("depth", arguments.scope.depth.name.to_owned()),
        ("budget", options.map_or(String::new(), |options| options.limit.to_string())),
        ("probe", arguments.scope.probe.join(",")),
    ];
    subject::settings(&arguments.models, &arguments.report, suites, own)
}

/// The run directory that the user names, or the one of these inputs.
fn directory(
    arguments: &ScanArguments,
    extras: &Extras<'_>,
    inputs: &Inputs,
) -> Result<Option<PathBuf>, Failure> {
    let (Some(runs), None) = (extras.runs, &arguments.resume) else { return Ok(arguments.resume.clone()) };
    let name = extras.name.unwrap_or("run");
    Ok(Some(runs.join(format!("{name}-{}", &journal::key(inputs)?[..12]))))
}

/// What is known already, of this run and of the base.
fn memory(
    arguments: &ScanArguments,
    directory: Option<&Path>,
    about: &Subject,
    settings: &Settings,
) -> Result<Memory, Failure> {
    let mut memory = Memory::none();
    if let Some(directory) = directory {
        memory = memory.with_run(directory, &subject::inputs(about, settings))?;
        if memory.known() > 0 && !arguments.report.quiet {
            output::talk(&format!(
                "going on with an interrupted run: {} measurements are known",
                memory.known()
            ));
        }
    }
    if let Some(cache) = &arguments.cache {
        memory = memory.with_cache(cache, &subject::base_inputs(about, settings))?;
    }
    Ok(memory)
}

/// What the scan listens to.
fn probes(arguments: &ScanArguments) -> Probes {
    let named = |name: &str| arguments.scope.probe.iter().any(|probe| probe == name);
    Probes { payloads: named("payloads"), activations: named("activations") }
}

/// What a depth searches for, within the user's budget or its own.
pub(crate) fn options(arguments: &ScanArguments) -> Result<Option<Options>, Failure> {
    let Some(stage) = arguments.scope.depth.search else {
        return match arguments.scope.budget {
            None => Ok(None),
            Some(_) => Err(needs_search(arguments, "--budget", "has no meaning")),
        };
    };
    if !probes(arguments).payloads {
        return Err(Failure::Input(format!(
            "`--depth {}` searches for triggers by their payloads: add `payloads` to `--probe`, or leave the depth at quick",
            arguments.scope.depth.name
        )));
    }
    Ok(Some(Options {
        searches: stage.searches(),
        limit: arguments.scope.budget.unwrap_or(stage.limit),
        target: None,
        length: LENGTH,
        seed: arguments.models.seed,
        nulls: Vec::new(),
    }))
}

/// The suites that the arguments name, and the corpus. Without any, a search still needs benign prompts, but reads no list
/// of triggers.
pub(crate) fn suites(arguments: &ScanArguments, corpus: Option<&Path>) -> Result<Vec<Suite>, Failure> {
    let mut suites = suites::load(&arguments.scope.suites)?;
    if suites.is_empty() {
        if arguments.scope.depth.search.is_none() {
            return Err(needs_search(arguments, "--suites none", "leaves nothing to test"));
        }
        suites = suites::load(&[suites::BENIGN.to_owned()])?;
    }
    if let Some(corpus) = corpus {
        let mut corpus = Suite::from_file(corpus)?;
        if suites.iter().any(|suite| suite.name == corpus.name) {
            return Err(Failure::Input(format!("two suites have the name `{}`", corpus.name)));
        }
        probe::corpus::without_known(&mut corpus, &suites);
        suites.push(corpus);
    }
    Ok(suites)
}

fn needs_search(arguments: &ScanArguments, option: &str, what: &str) -> Failure {
    Failure::Input(format!(
        "`{option}` {what} at `--depth {}`, which searches for nothing: add `--depth standard` or `--depth deep`",
        arguments.scope.depth.name
    ))
}
