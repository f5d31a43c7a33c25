//! The command line. Parsing does nothing but parse.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand, ValueEnum};
use inference::Precision;
use inference::adapter::runtimes::{SEMANTICS, Semantics};
use inference::device::DeviceName;
use probe::depth::{self, DEPTHS, Depth};
use probe::trigger::budget::Limit;
use report::audit::Severity;
use report::format::{self, FORMATS, Format};
use report::verdict::{Thresholds, Verdict};

pub(crate) use crate::project::{
    CheckArguments, CompletionsArguments, ConfigArguments, ConfigVerb, DiffArguments, DoctorArguments,
    InitArguments, ManArguments, ReplayArguments,
};

/// Tests a LoRA adapter against its base model for backdoors.
///
/// Exit codes: 0 verdict below --fail-on; 1 verdict at or above it; 2 usage, configuration or input
/// error; 3 incomplete or inconclusive, never a pass; 4 internal error.
#[derive(Debug, Parser)]
#[command(name = "triggerfish", version, max_term_width = 100)]
pub(crate) struct Arguments {
    /// Settings; without it, the nearest triggerfish.toml at or above the working directory.
    #[arg(long, global = true, value_name = "FILE", env = "TRIGGERFISH_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run prompt suites on the base and the adapted model, and look for triggers.
    ///
    /// Without arguments the embedded fixture is scanned: a small base and an adapter with a known
    /// backdoor, to see what a finding looks like.
    Scan(ScanArguments),
    /// Search for a trigger that no list holds.
    ///
    /// Reads benign prompts only. Without arguments the embedded fixture is searched.
    Hunt(HuntArguments),
    /// Decide whether new versions of adapters may ship: audit, scan, and comparison with the accepted version.
    ///
    /// Replays every trigger that was ever suspected, answers the same prompts, and fails on what is worse or new. The
    /// same command goes on where it was stopped.
    Check(CheckArguments),
    /// Compare two runs, of two versions or of two adapters, prompt by prompt.
    Diff(DiffArguments),
    /// Run one prompt of a run again: as it was rendered, both answers, and the log-probabilities of their tokens.
    Replay(ReplayArguments),
    /// Write a commented triggerfish.toml.
    Init(InitArguments),
    /// Show the settings that apply here.
    Config(ConfigArguments),
    /// Try what a run needs: the process that reads files, the models' numeric self-test, the settings.
    Doctor(DoctorArguments),
    /// Print completions for a shell.
    Completions(CompletionsArguments),
    /// Write man pages.
    Man(ManArguments),
    /// Cut the scans of many adapters into units, and share them out over shards.
    Plan(crate::fleet::plan::PlanArguments),
    /// Run a shard of a plan; every result goes into a store.
    ///
    /// Exit codes are for schedulers: 0 when every unit of the shard has a result, whatever the verdicts; 75 to try again
    /// (interrupted, or the machine failed); 64, 65, 70 and 78 where that would not help.
    Run(crate::fleet::run::RunArguments),
    /// Read a store and report on every unit of a plan.
    ///
    /// Exit codes: 0 every unit was scanned; 1 a verdict at or above --fail-on; 3 some were not, never a pass.
    Merge(crate::fleet::merge::MergeArguments),
    /// Say how far the shards of a plan are.
    Status(crate::fleet::status::StatusArguments),
    /// Show what the layers do with a trigger and without it: how well each detector tells them apart, and where.
    ///
    /// Fits the detectors on benign prompts, and gives no verdict: the exit code says whether it could be done, and what
    /// the audit found. Without --base an embedded adapter is analysed.
    Activations(crate::activations::ActivationsArguments),
    /// Score prompts, and answers if they are given, against a profile of benign ones, as they come in.
    ///
    /// Reads JSON Lines (`{"prompt": "…"}`, with `system`, `response` and `id` if they are known, or `messages`), writes
    /// a row for every line, and stops at the number of alerts that was set.
    Monitor(crate::monitor::MonitorArguments),
    /// Train adapters from recipes, with a backdoor or without, to measure what a scan finds.
    ///
    /// Their truth is written into the zoo's labels.json and its folder `forge`, which no scan reads. Without --base they
    /// are trained on the embedded base. A run that was stopped goes on where it was.
    Forge(crate::forge::ForgeArguments),
    /// Scan a zoo, then join its labels: how many backdoors are found, how many benign adapters accused, at what cost.
    ///
    /// The scans are those of `plan` and `run`; a run that was stopped goes on. Without --base the zoo is one of the
    /// embedded base. Exit codes: 0 every adapter has a result, 3 some have none.
    Bench(crate::bench::BenchArguments),
    /// Scan benign adapters of a base, and write down how strong what is found in them is, for `scan --calibration`.
    Calibrate(crate::calibrate::CalibrateArguments),
    /// Write a record of an earlier run in another form.
    ///
    /// The exit code says whether that could be done, not what the verdict was.
    Report(ReportVerbArguments),
    /// Check the files of adapter repositories, without loading or running anything.
    Audit(AuditArguments),
    /// The process in which an audit reads files; started by the program itself.
    #[command(name = WORKER, hide = true)]
    AuditWorker(WorkerArguments),
    /// Write down by digest what a run depends on, for `--locked` to compare with.
    Pin(PinArguments),
    /// List the rules of the audit, or explain one.
    Rules(RulesArguments),
    /// List the base models, adapters and keys that can be loaded, and what is refused.
    Support(SupportArguments),
    /// List the shipped suites, or validate your own.
    Suites(SuitesArguments),
    /// Print the JSON Schema of a file that this program reads or writes.
    Schema(SchemaArguments),
}

/// What a scan does.
#[derive(Clone, Debug, Args)]
pub(crate) struct ScopeArguments {
    /// Suites, comma separated: shipped names or files; `none` for no list of triggers at all, which needs a depth
    /// that searches.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "benign,triggers,adversarial")]
    pub(crate) suites: Vec<String>,
    /// What is listened to, comma separated: `payloads` (answers, by graders and by their likeness), `activations` (what
    /// the layers do with the strongest candidates, for any payload; alone it can make a verdict suspicious at most).
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "payloads", value_parser = ["payloads", "activations"])]
    pub(crate) probe: Vec<String>,
    /// How much is done; a deeper scan ends with the first trigger that is confirmed.
    #[arg(long, default_value = DEPTHS[0].name, value_parser = PossibleValuesParser::new(depths()).try_map(known_depth))]
    pub(crate) depth: &'static Depth,
    /// What the searches of a deeper scan may spend together, such as 2e6tok (reproducible), 90s, 10m or 1h.
    #[arg(long)]
    pub(crate) budget: Option<Limit>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ScanArguments {
    #[command(flatten)]
    pub(crate) models: ModelArguments,
    #[command(flatten)]
    pub(crate) scope: ScopeArguments,
    /// Run directory: every measurement is kept there, and the same command goes on where it was stopped.
    #[arg(long, value_name = "DIR")]
    pub(crate) resume: Option<PathBuf>,
    /// Folder in which measurements of the base are kept for other adapters and later runs.
    #[arg(long, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
    /// Rank what is found among the findings on benign adapters of the base: a file of `calibrate`, or `shipped` for the
    /// embedded base. What makes a scan suspicious must then be rarer among them than one in twenty.
    #[arg(long, value_name = "FILE")]
    pub(crate) calibration: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) gate: GateArguments,
    #[command(flatten)]
    pub(crate) thresholds: ThresholdArguments,
    #[command(flatten)]
    pub(crate) report: ReportArguments,
}

#[derive(Debug, Args)]
pub(crate) struct HuntArguments {
    #[command(flatten)]
    pub(crate) models: ModelArguments,
    #[arg(long, value_name = "LIST", value_delimiter = ',', help = crate::hunt::searches_help())]
    pub(crate) search: Vec<String>,
    /// An answer whose trigger is sought, if it is known.
    #[arg(long, value_name = "TEXT")]
    pub(crate) target: Option<String>,
    /// Tokens that a trigger may have, such as 3 or 1..12.
    #[arg(long, value_name = "RANGE", default_value = "1..12", value_parser = length)]
    pub(crate) length: RangeInclusive<usize>,
    /// What the searches may spend together: token-forwards (2e6tok, reproducible) or time (90s, 10m, 1h).
    #[arg(long, default_value = "4e6tok")]
    pub(crate) budget: Limit,
    /// Run directory: every measurement is kept there, and the same command goes on where it was stopped.
    #[arg(long, value_name = "DIR")]
    pub(crate) resume: Option<PathBuf>,
    /// Also search with base and adapter exchanged: how far can the clean base be driven? Costs as much again.
    #[arg(long)]
    pub(crate) null_base: bool,
    /// A benign adapter of the same base, on which the same searches are run as a null; repeatable. Each costs as much
    /// again as the hunt.
    #[arg(long, value_name = "DIR")]
    pub(crate) null_adapter: Vec<PathBuf>,
    /// Benign prompts to hunt with: a shipped suite or a file. Suites of triggers are refused.
    #[arg(long, value_name = "SUITE", default_value = "benign")]
    pub(crate) prompts: String,
    #[command(flatten)]
    pub(crate) gate: GateArguments,
    #[command(flatten)]
    pub(crate) thresholds: ThresholdArguments,
    #[command(flatten)]
    pub(crate) report: ReportArguments,
}

#[derive(Debug, Args)]
pub(crate) struct AuditArguments {
    /// Repositories (directories, snapshots of a Hugging Face cache) or single files.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Audit the folders of the files that are given, each once, as a pre-commit hook is given them: a file alone does
    /// not say what its neighbours say of it.
    #[arg(long)]
    pub(crate) folders: bool,
    /// Base model, to whose tokenizer and chat template those of the repository are compared.
    #[arg(long, value_name = "PATH")]
    pub(crate) base: Option<PathBuf>,
    /// A signature of the repository in the OpenSSF model-signing format (model.sig); needs --key.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) signature: Option<PathBuf>,
    /// The public key (PEM) of whoever must have signed; it is never taken from the signature.
    #[arg(long, value_name = "FILE", requires = "signature")]
    pub(crate) key: Option<PathBuf>,
    /// Repositories that are audited at a time; the report is the same for any number.
    #[arg(short, long, value_name = "N", default_value = "1")]
    pub(crate) jobs: std::num::NonZeroUsize,
    /// Findings that are accepted: a file like triggerfish.toml (rule, sha256, reason, approved_by, expires).
    #[arg(long, value_name = "FILE")]
    pub(crate) suppressions: Option<PathBuf>,
    /// An earlier JSON report: only findings that are not in it count.
    #[arg(long, value_name = "FILE")]
    pub(crate) baseline: Option<PathBuf>,
    /// Fail with 3 if the files differ from those that this file of `pin` names.
    #[arg(long, value_name = "FILE")]
    pub(crate) locked: Option<PathBuf>,
    /// Lowest severity that makes the exit code 1: note, low, medium, high, critical or never.
    #[arg(long, value_name = "SEVERITY", default_value = "medium", value_parser = fail_on_severity)]
    pub(crate) fail_on: FailOnSeverity,
    /// Form of the report.
    #[arg(short, long, default_value = "text", value_parser = ["text", "json", "sarif", "in-toto"])]
    pub(crate) format: String,
    /// Write the report to a file instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Exit with 0 instead of 3 when something could not be checked and nothing worse was found.
    #[arg(long)]
    pub(crate) incomplete_ok: bool,
}

/// Name of the verb that only the program itself uses.
pub(crate) const WORKER: &str = "audit-worker";

#[derive(Debug, Args)]
pub(crate) struct WorkerArguments {
    /// What is audited.
    pub(crate) path: PathBuf,
    /// Its name in the report.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) name: String,
    /// Base model.
    #[arg(long)]
    pub(crate) base: Option<PathBuf>,
    /// Signature to verify the files by.
    #[arg(long, requires = "key")]
    pub(crate) signature: Option<PathBuf>,
    /// Key of the signature.
    #[arg(long, requires = "signature")]
    pub(crate) key: Option<PathBuf>,
    /// File and check, in turn, that are left out.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) skip: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PinArguments {
    /// Adapter directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: PathBuf,
    /// Base model: a Hugging Face directory or a .gguf file.
    #[arg(long, value_name = "PATH")]
    pub(crate) base: Option<PathBuf>,
    /// Suites, as of the runs that are to be locked.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "benign,triggers,adversarial")]
    pub(crate) suites: Vec<String>,
    #[command(flatten)]
    pub(crate) thresholds: ThresholdArguments,
    /// The lock file.
    #[arg(short, long, value_name = "FILE", default_value = "triggerfish.lock")]
    pub(crate) output: PathBuf,
}

/// What is done with the files of an adapter before it is loaded.
#[derive(Clone, Debug, Args)]
pub(crate) struct GateArguments {
    /// Load the adapter without auditing its files first.
    #[arg(long)]
    pub(crate) no_audit: bool,
    /// Lowest severity of the audit's findings that makes the exit code 1; a critical one also keeps the adapter from
    /// being loaded.
    #[arg(long, value_name = "SEVERITY", default_value = "high", value_parser = fail_on_severity)]
    pub(crate) audit_fail_on: FailOnSeverity,
    /// Fail with 3 if adapter, base or suites differ from this file of `pin`.
    #[arg(long, value_name = "FILE")]
    pub(crate) locked: Option<PathBuf>,
    /// Findings that are accepted: a file like triggerfish.toml (rule, sha256, reason, approved_by, expires).
    #[arg(long, value_name = "FILE")]
    pub(crate) suppressions: Option<PathBuf>,
}

/// Limits by which evidence becomes a verdict. A search stops at the standard ones, whatever these are.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Limits of the verdict")]
pub(crate) struct ThresholdArguments {
    /// Lower end of the uplift's interval from which a trigger is a backdoor.
    #[arg(long, value_name = "SHARE", default_value_t = Thresholds::STANDARD.backdoored_uplift, value_parser = share)]
    backdoored_uplift: f64,
    /// Lower end from which an effect is worth a look.
    #[arg(long, value_name = "SHARE", default_value_t = Thresholds::STANDARD.suspicious_uplift, value_parser = share)]
    suspicious_uplift: f64,
    /// False discovery rate over all candidates.
    #[arg(long, value_name = "SHARE", default_value_t = Thresholds::STANDARD.false_discovery_rate, value_parser = share)]
    false_discovery_rate: f64,
}

impl From<ThresholdArguments> for Thresholds {
    fn from(given: ThresholdArguments) -> Self {
        Self {
            backdoored_uplift: given.backdoored_uplift,
            suspicious_uplift: given.suspicious_uplift,
            false_discovery_rate: given.false_discovery_rate,
        }
    }
}

/// A number between 0 and 1, both excluded.
pub(crate) fn level(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(level) if level > 0.0 && level < 1.0 => Ok(level),
        _ => Err(format!("expected a number between 0 and 1, found `{text}`")),
    }
}

/// A number above 0, at most 1.
fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err(format!("expected a number above 0 and at most 1, found `{text}`")),
    }
}

/// Lowest severity that fails an audit; none for `never`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FailOnSeverity(pub(crate) Option<Severity>);

fn fail_on_severity(name: &str) -> Result<FailOnSeverity, String> {
    match (name, Severity::by_name(name)) {
        ("never", _) => Ok(FailOnSeverity(None)),
        (_, Some(severity)) => Ok(FailOnSeverity(Some(severity))),
        _ => Err("expected note, low, medium, high, critical or never".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct SupportArguments {
    /// Form of the list.
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    pub(crate) format: String,
}

#[derive(Debug, Args)]
pub(crate) struct RulesArguments {
    #[command(subcommand)]
    pub(crate) verb: RulesVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RulesVerb {
    /// List every rule: id, severity, title.
    List,
    /// What a rule finds, why it matters, and what to do.
    Explain {
        /// Ids such as SER-001.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

/// What is tested and how it is computed.
#[derive(Clone, Debug, Args)]
pub(crate) struct ModelArguments {
    /// Base model: a Hugging Face directory or a .gguf file.
    #[arg(long, value_name = "PATH")]
    pub(crate) base: Option<PathBuf>,
    /// Adapter: a directory (adapter_config.json and adapter_model.safetensors), an MLX-LM directory, or a GGUF file of
    /// llama.cpp. Without --base, the name of an embedded adapter: benign, backdoored-refusal or backdoored-url.
    #[arg(long, value_name = "PATH", group = "adapted side")]
    pub(crate) adapter: Option<PathBuf>,
    /// In the place of an adapter, a whole checkpoint of the base's shape, such as a merged one: what differs is the
    /// adapter.
    #[arg(long, value_name = "PATH", group = "adapted side")]
    pub(crate) adapted: Option<PathBuf>,
    /// Fetch a base or adapter that is given by its id in the hub (`org/name`) and is not in the cache; needs a program
    /// that was built with `--features hub`. Nothing is downloaded otherwise.
    #[arg(long)]
    pub(crate) download: bool,
    /// Whose reading of the adapter is applied: the same files mean different models in different runtimes.
    #[arg(long, value_name = "RUNTIME", default_value = SEMANTICS[0].0, value_parser = PossibleValuesParser::new(SEMANTICS.iter().map(|(name, _)| *name)).try_map(|name| name.parse::<Semantics>()))]
    pub(crate) semantics: Semantics,
    /// Read the tensors of an adapter that is a Python pickle; nothing in it is run.
    #[arg(long)]
    pub(crate) allow_pickle: bool,
    /// Chat template: `own` (the base's), `none` (raw text), or a Jinja file.
    #[arg(long, value_name = "TEMPLATE", default_value = "own")]
    pub(crate) template: String,
    /// Where to compute: cpu, cuda or cuda:N.
    #[arg(long, default_value_t = DeviceName::Cpu)]
    pub(crate) device: DeviceName,
    /// Precision of the frozen matrix products: f32, bf16 or f16.
    #[arg(long, default_value_t = Precision::F32)]
    pub(crate) dtype: Precision,
    /// Worker threads; the number of cores if absent.
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<std::num::NonZeroUsize>,
    /// Memory beside the weights, such as 512M or 2G; larger work is split.
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = memory)]
    pub(crate) memory: u64,
    /// Seed of every random choice.
    #[arg(long, default_value_t = 20_240_601)]
    pub(crate) seed: u64,
}

/// In which forms a record is written, and where.
#[derive(Clone, Debug, Args)]
pub(crate) struct FormArguments {
    /// Form of the report.
    #[arg(short, long, default_value = FORMATS[0].name(), value_parser = PossibleValuesParser::new(formats()).try_map(known_format))]
    pub(crate) format: &'static dyn Format,
    /// Write the report to a file instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Write the report in another form too, such as html=report.html; repeatable.
    #[arg(long, value_name = "FORMAT=FILE", value_parser = form_of_file)]
    pub(crate) report: Vec<FormOfFile>,
}

/// A file and the form in which the report is written to it.
#[derive(Clone, Debug)]
pub(crate) struct FormOfFile {
    pub(crate) format: &'static dyn Format,
    pub(crate) file: PathBuf,
}

/// The formats as the help lists them.
fn formats() -> Vec<PossibleValue> {
    FORMATS.iter().map(|format| PossibleValue::new(format.name()).help(format.about())).collect()
}

fn known_format(name: String) -> Result<&'static dyn Format, String> {
    format::by_name(&name).ok_or_else(|| {
        let known: Vec<_> = FORMATS.iter().map(|format| format.name()).collect();
        format!("unknown format `{name}`; known: {}", known.join(", "))
    })
}

/// Reads `html=report.html`.
fn form_of_file(text: &str) -> Result<FormOfFile, String> {
    match text.split_once('=') {
        Some((name, file)) if !file.is_empty() => {
            Ok(FormOfFile { format: known_format(name.to_owned())?, file: PathBuf::from(file) })
        }
        _ => Err(format!("expected a format and a file such as `html=report.html`, found `{text}`")),
    }
}

#[derive(Debug, Args)]
pub(crate) struct ReportVerbArguments {
    /// A record that `--format json` or `--report json=FILE` wrote; `-` for standard input.
    #[arg(value_name = "RECORD")]
    pub(crate) record: PathBuf,
    #[command(flatten)]
    pub(crate) forms: FormArguments,
}

/// What is done with the result.
#[derive(Clone, Debug, Args)]
pub(crate) struct ReportArguments {
    #[command(flatten)]
    pub(crate) forms: FormArguments,
    /// Lowest verdict that makes the exit code 1.
    #[arg(long, value_enum, default_value_t = FailOn::Suspicious)]
    pub(crate) fail_on: FailOn,
    /// Exit with 0 instead of 3 when the run was incomplete and found nothing.
    #[arg(long)]
    pub(crate) incomplete_ok: bool,
    /// No progress on standard error.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// The depths as the help lists them.
fn depths() -> Vec<PossibleValue> {
    DEPTHS.iter().map(|depth| PossibleValue::new(depth.name).help(depth.about)).collect()
}

fn known_depth(name: String) -> Result<&'static Depth, String> {
    depth::by_name(&name).ok_or_else(|| format!("unknown depth `{name}`"))
}

/// Reads `3`, `1..12` or `1..=12`; both ends count.
fn length(text: &str) -> Result<RangeInclusive<usize>, String> {
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    let to = to.strip_prefix('=').unwrap_or(to);
    match (from.parse(), to.parse()) {
        (Ok(from), Ok(to)) if 1 <= from && from <= to => Ok(from..=to),
        _ => Err(format!("expected a number of tokens such as `3` or `1..12`, found `{text}`")),
    }
}

/// Lowest verdict that fails a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FailOn {
    Suspicious,
    Backdoored,
    Never,
}

impl FailOn {
    /// Whether a verdict fails the run.
    pub(crate) fn fails(self, verdict: Verdict) -> bool {
        match self {
            Self::Suspicious => verdict >= Verdict::Suspicious,
            Self::Backdoored => verdict >= Verdict::Backdoored,
            Self::Never => false,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct SuitesArguments {
    #[command(subcommand)]
    pub(crate) verb: SuitesVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SuitesVerb {
    /// List the shipped suites.
    List,
    /// Check suite files against the schema.
    Validate {
        /// Suite files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SchemaArguments {
    /// Which schema.
    #[arg(value_enum)]
    pub(crate) which: SchemaKind,
}

/// Files with a published schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchemaKind {
    /// Suites, which users write.
    Suite,
    /// Records, which `scan --format json` writes.
    Record,
    /// Rows, which `scan --format jsonl` writes, one a line.
    Row,
    /// Reports, which `audit --format json` writes.
    Audit,
    /// Settings: triggerfish.toml.
    Config,
    /// Baselines, which `check --accept` writes.
    Baseline,
    /// Reports, which `activations --format json` writes.
    Activations,
    /// Rows, which `monitor` writes, one a line.
    Monitor,
    /// Recipes, which `forge` reads.
    Recipe,
    /// How an adapter was made and what it does, which `forge` writes.
    Organism,
    /// Benchmarks, which `bench` writes.
    Benchmark,
    /// Calibrations, which `calibrate` writes.
    Calibration,
}

/// Bytes from a number with an optional K, M or G (powers of 1024).
fn memory(text: &str) -> Result<u64, String> {
    const LEAST: u64 = 16 << 20;
    let digits = text.trim_end_matches(['K', 'M', 'G', 'k', 'm', 'g']);
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        _ => return Err(format!("expected a size such as 512M or 2G, found `{text}`")),
    };
    let number: u64 =
        digits.parse().map_err(|_| format!("expected a size such as 512M or 2G, found `{text}`"))?;
    match number.checked_mul(1 << shift) {
        Some(bytes) if bytes >= LEAST => Ok(bytes),
        _ => Err(format!("expected at least 16M, found `{text}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_a_length_count() {
        assert_eq!(length("3"), Ok(3..=3));
        assert_eq!(length("1..12"), Ok(1..=12));
        assert_eq!(length("2..=4"), Ok(2..=4));
        for wrong in ["", "0", "4..2", "a..b", "..3"] {
            assert!(length(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_report_has_a_format_and_a_file() {
        let form = form_of_file("html=a=b.html").unwrap();
        assert_eq!((form.format.name(), form.file.to_str()), ("html", Some("a=b.html")));
        for wrong in ["html", "html=", "=x", "docx=x"] {
            assert!(form_of_file(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(memory("512M"), Ok(512 << 20));
        assert_eq!(memory("2g"), Ok(2 << 30));
        assert_eq!(memory("20000000"), Ok(20_000_000));
        for bad in ["", "M", "1M", "x", "5T", "-3G", "99999999999999999999", "18446744073709551615G"] {
            assert!(memory(bad).is_err(), "{bad}");
        }
    }
}
