//! `triggerfish run`: the units of one shard, one base after the other.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use clap::{Args, Parser as _};
use inference::ModelPair;
use inference::kernels::Tier;
use probe::memory::Memory;
use probe::suite::Suite;
use report::escape::escape;
use report::fleet::{Base, Class, Header, Manifest, Outcome as Found, Plan, PlannedUnit, UnitResult};
use report::record;

use super::failure::{Consequence, consequence};
use super::store::{Sidecar, Store};
use super::unit::{Done, Workplace, difference};
use super::{local, on_machine, read_plan, shard};
use crate::args::{Arguments, Command, ScanArguments};
use crate::exit::{self, Failure, scheduled};
use crate::hub::Part;
use crate::progress::{self, Bars};
use crate::{Outcome, output, subject, suites};

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// The plan.
    #[arg(long, value_name = "FILE", default_value = "plan.jsonl")]
    pub(crate) plan: PathBuf,
    /// Where results are kept; several machines may share it.
    #[arg(long, value_name = "DIR")]
    pub(crate) store: PathBuf,
    /// The shard, counted from 0: I or I/N. Without it, the number of an array's task: SLURM_ARRAY_TASK_ID,
    /// JOB_COMPLETION_INDEX, HQ_TASK_ID or PBS_ARRAY_INDEX.
    #[arg(long, value_name = "I[/N]", allow_hyphen_values = true)]
    pub(crate) shard: Option<String>,
    /// All shards on this machine, so many at a time.
    #[arg(short, long, value_name = "K", conflicts_with = "shard")]
    pub(crate) jobs: Option<NonZeroUsize>,
    /// Folder that relative paths of the plan are below; the working directory if absent.
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Worker threads; the number of cores if absent, and shared out with --jobs.
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Only errors on standard error.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

pub(crate) fn run(arguments: &RunArguments) -> Outcome {
    progress::heed_scheduler()?;
    // The header comes first, since the shard's number is one of so many.
    let header = read_plan(&arguments.plan, |_| false).map_err(as_data)?.header;
    same_program(&header)?;
    let store = Store::at(&arguments.store);
    store.prepare().map_err(|error| unusable(&store, &error))?;
    if let Some(jobs) = arguments.jobs {
        return local::run(arguments, header.shards, jobs);
    }
    let index = shard::index(arguments.shard.as_deref(), header.shards, |name| std::env::var(name).ok())?;
    let plan = read_plan(&arguments.plan, |unit| unit.shard == index).map_err(as_data)?;
    let scan = scan_arguments(&plan.header, arguments.threads)?;
    let suites = suites::load(&scan.scope.suites).and_then(|suites| {
        if suites.is_empty() { suites::load(&[suites::BENIGN.to_owned()]) } else { Ok(suites) }
    });
    let suites = suites.map_err(as_data)?;
    for planned in &plan.header.suites {
        if !suites.iter().any(|suite| suite.name == planned.name && suite.sha256 == planned.sha256) {
            return Err(Failure::Scheduled(
                scheduled::DATA,
                format!(
                    "suite `{}` is not as it was planned: `{}` has other bytes",
                    planned.name, planned.source
                ),
            ));
        }
    }
    let mut shard = Shard {
        arguments,
        plan: &plan,
        scan: &scan,
        suites: &suites,
        store,
        index,
        end: End::default(),
        through: 0,
    };
    for base in 0..plan.header.bases.len() {
        shard.base(base)?;
        if progress::stopped() {
            break;
        }
    }
    Ok(shard.end())
}

/// A plan or a suite that is wrong stays so.
fn as_data(failure: Failure) -> Failure {
    match failure {
        Failure::Input(_) | Failure::Probe(_) => Failure::Scheduled(scheduled::DATA, failure.to_string()),
        other => other,
    }
}

/// A store that cannot be written to. Without the right to, nobody need try again.
fn unusable(store: &Store, error: &std::io::Error) -> Failure {
    use std::io::ErrorKind::{NotADirectory, PermissionDenied, ReadOnlyFilesystem};
    let lasting = matches!(error.kind(), PermissionDenied | NotADirectory | ReadOnlyFilesystem);
    let code = if lasting { scheduled::CONFIGURATION } else { scheduled::RETRY };
    Failure::Scheduled(code, format!("cannot write to the store `{}`: {error}", store.root().display()))
}

/// Another version may measure otherwise, and its results would be under wrong ids.
fn same_program(header: &Header) -> Result<(), Failure> {
    let own = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"), record::SCHEMA_VERSION);
    let planned = (header.tool.name.as_str(), header.tool.version.as_str(), header.record_version.as_str());
    if own == planned {
        return Ok(());
    }
    Err(Failure::Scheduled(
        scheduled::CONFIGURATION,
        format!(
            "the plan is for {} {} with records {}, this is {} {} with {}: plan again",
            planned.0, planned.1, planned.2, own.0, own.1, own.2
        ),
    ))
}

/// The scan that a plan describes, as the command line would give it.
pub(crate) fn scan_arguments(
    header: &Header,
    threads: Option<NonZeroUsize>,
) -> Result<ScanArguments, Failure> {
    let mut line = vec![env!("CARGO_PKG_NAME").to_owned(), "scan".to_owned(), "--quiet".to_owned()];
    for (name, value) in &header.arguments {
        // Nothing that writes files or turns a check off may come out of a plan.
        const KNOWN: [&str; 14] = [
            "allow-pickle",
            "backdoored-uplift",
            "budget",
            "depth",
            "device",
            "dtype",
            "false-discovery-rate",
            "memory",
            "probe",
            "seed",
            "semantics",
            "suites",
            "suspicious-uplift",
            "template",
        ];
        if !KNOWN.contains(&name.as_str()) {
            return Err(Failure::Scheduled(
                scheduled::DATA,
                format!("the plan has an unknown argument `{name}`"),
            ));
        }
        line.push(if value.is_empty() { format!("--{name}") } else { format!("--{name}={value}") });
    }
    line.extend(threads.map(|threads| format!("--threads={threads}")));
    match Arguments::try_parse_from(line).map(|parsed| parsed.command) {
        Ok(Command::Scan(scan)) => Ok(scan),
        Ok(_) => Err(Failure::Scheduled(scheduled::SOFTWARE, "a scan was parsed as another verb".into())),
        Err(error) => Err(Failure::Scheduled(scheduled::DATA, format!("the plan's arguments: {error}"))),
    }
}

/// What is to be told at the end.
#[derive(Debug, Default)]
struct End {
    retry: bool,
    changed: bool,
    internal: bool,
}

/// Why a base was not loaded.
enum Unloaded {
    /// It cannot be, and so none of its adapters be scanned.
    Errored(Class, String),
    Retry(String),
    Changed(String),
}

struct Shard<'a> {
    arguments: &'a RunArguments,
    plan: &'a Plan,
    scan: &'a ScanArguments,
    suites: &'a [Suite],
    store: Store,
    index: usize,
    end: End,
    /// Units that have a result.
    through: usize,
}

impl<'a> Shard<'a> {
    /// Runs the units of one base that have no result yet.
    fn base(&mut self, base: usize) -> Result<(), Failure> {
        let plan = self.plan;
        let planned = &plan.header.bases[base];
        let mut waiting = Vec::new();
        for unit in plan.units.iter().filter(|unit| unit.base == base) {
            if self.store.has(&unit.unit).map_err(|error| unusable(&self.store, &error))? {
                self.through += 1;
            } else if let Some(reason) =
                unit.manifest.unreadable.as_ref().or(planned.manifest.unreadable.as_ref())
            {
                self.keep(unit, errored(Class::Unreadable, reason), 0, Instant::now())?;
            } else {
                waiting.push(unit);
            }
        }
        if waiting.is_empty() {
            return Ok(());
        }
        let mut place = match self.workplace(planned) {
            Ok(place) => place,
            Err(Unloaded::Errored(class, reason)) => {
                return waiting
                    .into_iter()
                    .try_for_each(|unit| self.keep(unit, errored(class, &reason), 0, Instant::now()));
            }
            Err(Unloaded::Retry(reason)) => {
                self.end.retry = true;
                complain(&format!("base `{}`: {reason}", planned.path));
                return Ok(());
            }
            Err(Unloaded::Changed(reason)) => {
                self.end.changed = true;
                complain(&format!("base `{}` is not as it was planned: {reason}", planned.path));
                return Ok(());
            }
        };
        for unit in waiting {
            if progress::stopped() {
                break;
            }
            self.unit(unit, &mut place)?;
        }
        Ok(())
    }

    /// Loads a base, if it is the one that was planned.
    fn workplace(&self, planned: &'a Base) -> Result<Workplace<'a>, Unloaded> {
        let retry = |failure: Failure| Unloaded::Retry(failure.to_string());
        let base = on_machine(self.arguments.root.as_deref(), &planned.path, Part::Base).map_err(retry)?;
        // It was there when the plan was made: a disk is not mounted.
        if !base.exists() {
            return Err(Unloaded::Retry(format!("there is nothing at `{}`", base.display())));
        }
        let unloaded = |failure: Failure| match consequence(&failure, &[(base.as_path(), "base")]) {
            Consequence::Errored(class, reason) => Unloaded::Errored(class, reason),
            Consequence::Retry(reason) => Unloaded::Retry(reason),
        };
        let files = ModelPair::base_files(&base).map_err(|error| unloaded(error.into()))?;
        let files = subject::artifact("", &files).map_err(retry)?.files;
        let found = Manifest { files, ..Manifest::default() };
        if found != planned.manifest {
            return Err(Unloaded::Changed(difference(&planned.manifest, &found)));
        }
        let bars = Bars::new(true).map_err(retry)?;
        let pair = subject::load_base(&self.scan.models, &base, &bars).map_err(unloaded)?;
        Ok(Workplace {
            arguments: self.scan,
            suites: self.suites,
            base,
            base_manifest: &planned.manifest,
            pair,
            known: Memory::of_process(),
        })
    }

    fn unit(&mut self, unit: &PlannedUnit, place: &mut Workplace<'_>) -> Result<(), Failure> {
        let start = Instant::now();
        let Some(adapter) = unit.adapters.first() else { return Ok(()) };
        let done = match on_machine(self.arguments.root.as_deref(), &adapter.path, Part::Adapter) {
            Ok(path) => place.run(unit, &path),
            Err(failure) => Done::Retry(failure.to_string()),
        };
        match done {
            Done::Result(outcome, spent) => {
                self.end.internal |= matches!(outcome, Found::Errored { class: Class::Internal, .. });
                self.keep(unit, outcome, spent, start)?;
            }
            Done::Dropped => {}
            Done::Retry(reason) => {
                self.end.retry = true;
                complain(&format!("{}: {reason}", unit.name()));
            }
            Done::Changed(reason) => {
                self.end.changed = true;
                complain(&format!("{} is not as it was planned: {reason}", unit.name()));
            }
        }
        Ok(())
    }

    /// Puts a result into the store.
    fn keep(
        &mut self,
        unit: &PlannedUnit,
        outcome: Found,
        spent: u64,
        start: Instant,
    ) -> Result<(), Failure> {
        let what = match &outcome {
            Found::Scanned(record) => record.judgement.verdict.title().to_owned(),
            Found::Errored { class, .. } => class.name().to_owned(),
        };
        let base = self.plan.header.bases[unit.base].manifest.clone();
        let result = UnitResult::of(self.plan.header.identity(unit.manifest.clone(), base), outcome);
        self.store.keep(&result).map_err(|error| unusable(&self.store, &error))?;
        self.through += 1;
        let seconds = start.elapsed().as_secs_f64();
        let finished = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let sidecar = Sidecar {
            unit: result.unit,
            outcome: what.clone(),
            host: host(),
            process: std::process::id(),
            kernels: Tier::detect().name().to_owned(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            shard: self.index,
            seconds,
            token_forwards: spent,
            peak_bytes: peak_bytes(),
            finished,
        };
        // No result depends on it.
        if let Err(error) = self.store.note(&sidecar) {
            complain(&format!("how the unit was run is not kept: {error}"));
        }
        if !self.arguments.quiet {
            output::talk(&format!(
                "shard {}: {} of {} {}: {what}, {seconds:.1} s",
                self.index,
                self.through,
                self.plan.units.len(),
                escape(unit.name())
            ));
        }
        Ok(())
    }

    /// The exit code: what can be mended by another try first.
    fn end(self) -> u8 {
        let all = self.plan.units.len();
        if progress::stopped() && self.through < all {
            complain(&format!("stopped: {} of {all} units have a result; run it again", self.through));
            return scheduled::RETRY;
        }
        match self.end {
            End { retry: true, .. } => scheduled::RETRY,
            End { changed: true, .. } => scheduled::DATA,
            End { internal: true, .. } => scheduled::SOFTWARE,
            End { .. } => exit::PASS,
        }
    }
}

fn errored(class: Class, reason: &str) -> Found {
    Found::Errored { class, reason: reason.to_owned() }
}

fn complain(text: &str) {
    output::talk(&escape(text));
}

#[cfg(unix)]
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_default()
}

/// Most memory that this process has held so far, where the system tells (Linux).
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
