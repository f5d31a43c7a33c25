//! `triggerfish plan`: the scans of many adapters as units, by content, shared out over shards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use inference::ModelPair;
use probe::suite::{Items, Suite};
use probe::trigger::budget::Limit;
use rayon::prelude::*;
use report::fleet::{
    AdapterName, Base, Header, Manifest, Plan, PlannedSuite, PlannedUnit, SCHEMA_VERSION, assign,
};
use report::record;
use serde::Deserialize;

use super::run;
use super::store::Store;
use crate::args::{ModelArguments, ScopeArguments, ThresholdArguments};
use crate::exit::{self, Failure};
use crate::hub::{self, Part};
use crate::{Outcome, output, scan, subject, suites};

#[derive(Debug, Args)]
pub(crate) struct PlanArguments {
    /// Adapters.
    #[arg(value_name = "ADAPTER")]
    pub(crate) adapters: Vec<PathBuf>,
    /// A file that names more: a path a line, or an object such as {"adapter": "a/b", "name": "b", "base": "models/c"};
    /// repeatable.
    #[arg(long, value_name = "FILE")]
    pub(crate) list: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) models: ModelArguments,
    /// As of `scan`; a budget in token-forwards, since a time would give other results on other machines.
    #[command(flatten)]
    pub(crate) scope: ScopeArguments,
    #[command(flatten)]
    pub(crate) thresholds: ThresholdArguments,
    /// Pieces of about the same cost, one for each task of an array. Slurm allows 1,001 as it is shipped.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) shards: std::num::NonZeroUsize,
    /// Leave out units that have a result in the store.
    #[arg(long, requires = "store")]
    pub(crate) missing: bool,
    /// The store that `--missing` looks into.
    #[arg(long, value_name = "DIR", requires = "missing")]
    pub(crate) store: Option<PathBuf>,
    /// The plan.
    #[arg(short, long, value_name = "FILE", default_value = "plan.jsonl")]
    pub(crate) output: PathBuf,
    /// No summary on standard error.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// A line of a list that is an object.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    adapter: String,
    name: Option<String>,
    base: Option<String>,
}

/// An adapter and its base, as the user gave them.
#[derive(Debug)]
struct Wanted {
    adapter: AdapterName,
    base: String,
}

/// Token-forwards of a candidate's screening, of a prompt's answers, and of the test that follows: what scans of the
/// shipped suites took, rounded. They decide the balance of the shards, and no result.
const TOKENS_A_CANDIDATE: u64 = 900;
const TOKENS_A_PROMPT: u64 = 300;
const TOKENS_OF_A_TEST: u64 = 60_000;
/// Loading a base takes as long as so many token-forwards: measured on SmolLM2-135M on two cores.
const TOKENS_OF_A_LOAD: u64 = 3_000;

pub(crate) fn plan(arguments: &PlanArguments) -> Outcome {
    refuse(arguments)?;
    output::check_files([arguments.output.as_path()])?;
    let suites = suites::load(&arguments.scope.suites)?;
    if suites.is_empty() && arguments.scope.depth.search.is_none() {
        return Err(Failure::Input("`--suites none` leaves nothing to test at this depth".into()));
    }
    let wanted = wanted(arguments)?;
    let (places, bases) = bases(arguments, &wanted);
    let header = header(arguments, &suites, bases)?;
    // What `run` could not read is better found here than on every node.
    scan::options(&run::scan_arguments(&header, None)?)?;
    let mut plan = units(header, &wanted, &places);
    let tokens = tokens(arguments, &suites);
    let sizes: Vec<u64> = plan.header.bases.iter().map(|base| 1 + (base.manifest.bytes() >> 20)).collect();
    for unit in &mut plan.units {
        unit.cost = tokens.saturating_mul(sizes[unit.base]);
    }
    let all = plan.units.len();
    if let (true, Some(root)) = (arguments.missing, &arguments.store) {
        keep_missing(&mut plan, root)?;
    }
    assign(&mut plan.units, plan.header.shards, |base| TOKENS_OF_A_LOAD.saturating_mul(sizes[base]));
    plan.header.units = plan.units.len();
    let text = plan.write().map_err(|error| Failure::Machine(error.to_string()))?;
    output::file(&arguments.output, &text)?;
    if !arguments.quiet {
        tell(arguments, &plan, wanted.len(), all);
    }
    Ok(exit::PASS)
}

/// Options that have no meaning here.
fn refuse(arguments: &PlanArguments) -> Result<(), Failure> {
    let models = &arguments.models;
    let wrong = |reason: &str| Err(Failure::Input(reason.to_owned()));
    if models.adapter.is_some() {
        return wrong("adapters are named without an option here: `triggerfish plan --base PATH ADAPTER...`");
    }
    if models.adapted.is_some() {
        return wrong("`--adapted` cannot be planned: a plan is of adapters");
    }
    if models.threads.is_some() {
        return wrong("`--threads` belongs to `triggerfish run`: it decides no result");
    }
    if matches!(arguments.scope.budget, Some(Limit::Seconds(_))) {
        return wrong(
            "a budget of time gives other results on other machines: give token-forwards, such as 2e6tok",
        );
    }
    match (arguments.scope.budget, arguments.scope.depth.search) {
        (Some(_), None) => wrong("`--budget` has no meaning at this depth, which searches for nothing"),
        _ => Ok(()),
    }
}

/// The adapters that are named; each of a repository that holds several.
fn wanted(arguments: &PlanArguments) -> Result<Vec<Wanted>, Failure> {
    let base = arguments.models.base.as_ref().map(|base| base.display().to_string());
    let mut listed: Vec<Listed> = arguments
        .adapters
        .iter()
        .map(|path| Listed { adapter: path.display().to_string(), name: None, base: None })
        .collect();
    for file in &arguments.list {
        let wrong = |reason: String| Failure::Input(format!("list `{}`: {reason}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            listed.push(if line.trim_start().starts_with('{') {
                serde_json::from_str(line).map_err(|error| wrong(format!("line {}: {error}", at + 1)))?
            } else {
                Listed { adapter: line.trim().to_owned(), name: None, base: None }
            });
        }
    }
    let mut wanted = Vec::with_capacity(listed.len());
    for one in listed {
        let Some(base) = one.base.or_else(|| base.clone()) else {
            return Err(Failure::Input(format!(
                "`{}` has no base: give --base PATH, or `base` in its line of the list",
                one.adapter
            )));
        };
        let inside = inference::adapter::inside(Path::new(&one.adapter));
        let name = one.name.unwrap_or_else(|| one.adapter.clone());
        let place = |inner: Option<&PathBuf>| {
            let below = |text: &str| match inner {
                Some(inner) => Path::new(text).join(inner).display().to_string(),
                None => text.to_owned(),
            };
            Wanted {
                adapter: AdapterName { name: below(&name), path: below(&one.adapter) },
                base: base.clone(),
            }
        };
        if inside.is_empty() {
            wanted.push(place(None));
        } else {
            wanted.extend(inside.iter().map(|inner| place(Some(inner))));
        }
    }
    if wanted.is_empty() {
        return Err(Failure::Input(
            "nothing to plan: name adapters, or a list of them with --list FILE".into(),
        ));
    }
    Ok(wanted)
}

/// Where the base of each name stands among the bases, which are in the order of their content.
fn bases(arguments: &PlanArguments, wanted: &[Wanted]) -> (BTreeMap<String, usize>, Vec<Base>) {
    let mut names: Vec<&str> = wanted.iter().map(|one| one.base.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut found: BTreeMap<String, (Base, Vec<String>)> = BTreeMap::new();
    for name in names {
        let manifest = base_manifest(arguments, Path::new(name)).unwrap_or_else(|error| Manifest {
            unreadable: Some(format!("base {name}: {error}")),
            ..Manifest::default()
        });
        let base = Base { path: name.to_owned(), manifest };
        // The same base at two paths is one; the first path is read.
        let (_, of) = found.entry(base.manifest.name()).or_insert((base, Vec::new()));
        of.push(name.to_owned());
    }
    let mut places = BTreeMap::new();
    let mut bases = Vec::with_capacity(found.len());
    for (at, (base, names)) in found.into_values().enumerate() {
        bases.push(base);
        places.extend(names.into_iter().map(|name| (name, at)));
    }
    (places, bases)
}

fn base_manifest(arguments: &PlanArguments, path: &Path) -> Result<Manifest, Failure> {
    let path = hub::resolve(path, Part::Base, arguments.models.download, arguments.quiet)?;
    let files = subject::artifact("", &ModelPair::base_files(&path)?)?.files;
    Ok(Manifest { files, ..Manifest::default() })
}

/// What an adapter consists of, or why that cannot be known.
pub(crate) fn adapter_manifest(path: &Path) -> std::io::Result<Manifest> {
    let (files, other) = probe::audit::manifest(path)?;
    Ok(Manifest { files, other, unreadable: None })
}

fn header(arguments: &PlanArguments, suites: &[Suite], bases: Vec<Base>) -> Result<Header, Failure> {
    let models = &arguments.models;
    let thresholds: report::verdict::Thresholds = arguments.thresholds.into();
    let budget = match (arguments.scope.budget, arguments.scope.depth.search) {
        (Some(limit), _) => Some(limit.to_string()),
        (None, Some(stage)) => Some(stage.limit.to_string()),
        (None, None) => None,
    };
    let mut options: BTreeMap<String, String> = [
        ("suites", arguments.scope.suites.join(",")),
        ("probe", arguments.scope.probe.join(",")),
        ("depth", arguments.scope.depth.name.to_owned()),
        ("semantics", subject::semantics_option(models.semantics).to_owned()),
        ("template", models.template.clone()),
        ("device", models.device.to_string()),
        ("dtype", models.dtype.to_string()),
        ("memory", models.memory.to_string()),
        ("seed", models.seed.to_string()),
        ("backdoored-uplift", thresholds.backdoored_uplift.to_string()),
        ("suspicious-uplift", thresholds.suspicious_uplift.to_string()),
        ("false-discovery-rate", thresholds.false_discovery_rate.to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    options.extend(budget.map(|budget| ("budget".to_owned(), budget)));
    if models.allow_pickle {
        options.insert("allow-pickle".to_owned(), String::new());
    }
    let mut content = options.clone();
    content.insert("template".to_owned(), subject::template_name(&models.template));
    // Suites count by their digests, and by how many were named: `none` stands for the benign prompts alone.
    content.insert("suites".to_owned(), arguments.scope.suites.len().to_string());
    let sources = suites.iter().zip(&arguments.scope.suites);
    Ok(Header {
        schema_version: SCHEMA_VERSION.to_owned(),
        tool: subject::tool(),
        record_version: record::SCHEMA_VERSION.to_owned(),
        shards: arguments.shards.get(),
        units: 0,
        bases,
        suites: sources
            .map(|(suite, source)| PlannedSuite {
                name: suite.name.clone(),
                source: source.clone(),
                sha256: suite.sha256.clone(),
            })
            .collect(),
        arguments: options,
        content,
    })
}

/// Units by content, in the order of their bases and ids; adapters with the same bytes are one.
fn units(header: Header, wanted: &[Wanted], places: &BTreeMap<String, usize>) -> Plan {
    let found: Vec<(usize, Manifest, String)> = wanted
        .par_iter()
        .map(|one| {
            let base = places.get(&one.base).copied().unwrap_or_default();
            let path = hub::resolve(Path::new(&one.adapter.path), Part::Adapter, false, true);
            let manifest = path
                .map_err(|error| error.to_string())
                .and_then(|path| adapter_manifest(&path).map_err(|error| error.to_string()))
                .unwrap_or_else(|error| Manifest {
                    unreadable: Some(format!("{}: {error}", one.adapter.path)),
                    ..Manifest::default()
                });
            let of_base = header.bases[base].manifest.clone();
            let unit = header.identity(manifest.clone(), of_base).unit();
            (base, manifest, unit)
        })
        .collect();
    let mut units: BTreeMap<(usize, String), PlannedUnit> = BTreeMap::new();
    for (one, (base, manifest, unit)) in wanted.iter().zip(found) {
        let planned = units.entry((base, unit.clone())).or_insert(PlannedUnit {
            unit,
            shard: 0,
            base,
            cost: 0,
            adapters: Vec::new(),
            manifest,
        });
        planned.adapters.push(one.adapter.clone());
    }
    let mut units: Vec<PlannedUnit> = units.into_values().collect();
    for unit in &mut units {
        unit.adapters.sort();
        unit.adapters.dedup();
    }
    Plan { header, units }
}

/// Token-forwards that a scan is expected to take.
fn tokens(arguments: &PlanArguments, suites: &[Suite]) -> u64 {
    let listed: u64 = suites
        .iter()
        .map(|suite| match &suite.items {
            Items::Prompts(prompts) => TOKENS_A_PROMPT * prompts.len() as u64,
            Items::Adversarial(prompts) => TOKENS_A_PROMPT * prompts.len() as u64,
            Items::Triggers(candidates) => TOKENS_A_CANDIDATE * candidates.len() as u64,
        })
        .sum();
    let limit = arguments.scope.budget.or(arguments.scope.depth.search.map(|stage| stage.limit));
    let searched = match limit {
        Some(Limit::Tokens(tokens)) => tokens,
        _ => 0,
    };
    listed.saturating_add(TOKENS_OF_A_TEST).saturating_add(searched)
}

fn keep_missing(plan: &mut Plan, root: &Path) -> Result<(), Failure> {
    let store = Store::at(root);
    if !store.exists() {
        return Err(Failure::Input(format!("there is no store at `{}`", root.display())));
    }
    let known: Vec<bool> =
        plan.units.par_iter().map(|unit| store.has(&unit.unit)).collect::<Result<_, _>>().map_err(
            |error| Failure::Machine(format!("cannot read the store `{}`: {error}", root.display())),
        )?;
    let mut known = known.into_iter();
    plan.units.retain(|_| !known.next().unwrap_or_default());
    Ok(())
}

fn tell(arguments: &PlanArguments, plan: &Plan, adapters: usize, all: usize) {
    let unreadable = plan.units.iter().filter(|unit| unit.manifest.unreadable.is_some()).count();
    let mut text = format!(
        "{adapters} adapters on {} bases are {all} units by content; {} in {} shards are in `{}`",
        plan.header.bases.len(),
        plan.units.len(),
        plan.header.shards,
        arguments.output.display()
    );
    if unreadable > 0 {
        text.push_str(&format!("; {unreadable} cannot be read and will have an error for a result"));
    }
    output::talk(&text);
}
