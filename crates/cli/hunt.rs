//! `triggerfish hunt`: search for a trigger that no list holds.

use std::time::Instant;

use inference::ModelPair;
use inference::adapter::Adapter;
use inference::weights::digest::sha256_file;
use probe::split::Benign;
use probe::suite::{Items, Suite};
use probe::trigger::hunt::{Null, Options, Outcome as Found};
use probe::trigger::journal::Journal;
use probe::trigger::search::{self, SEARCHES, TriggerSearch, by_name};
use report::record::Settings;

use crate::args::HuntArguments;
use crate::conclusion::{self, Run};
use crate::exit::Failure;
use crate::progress::Bars;
use crate::{Outcome, gate, output, subject, suites};

pub(crate) fn run(arguments: &HuntArguments) -> Outcome {
    let start = Instant::now();
    output::check(&arguments.report.forms)?;
    let searches = searches(&arguments.search)?;
    let suites = suites::load(std::slice::from_ref(&arguments.prompts))?;
    if !matches!(suites.first().map(|suite| &suite.items), Some(Items::Prompts(_))) {
        return Err(Failure::Input(format!(
            "`--prompts {}`: expected a suite of benign prompts, found another kind",
            arguments.prompts
        )));
    }
    if !arguments.null_adapter.is_empty() && arguments.models.base.is_none() {
        return Err(Failure::Input("`--null-adapter` needs a base model: add --base PATH".into()));
    }
    let target = subject::target(&arguments.models, arguments.report.quiet)?;
    let audit = gate::examine(
        &arguments.gate,
        &target,
        std::slice::from_ref(&arguments.prompts),
        arguments.thresholds.into(),
        arguments.report.quiet,
    )?;
    if let Some(audit) = audit.clone().filter(gate::refuses) {
        let settings = subject::settings(&arguments.models, &arguments.report, &suites, []);
        let run = gate::refused(&target, settings, audit);
        return conclude(arguments, None, run, start);
    }
    let bars = Bars::new(arguments.report.quiet)?;
    let mut pair = subject::load(&arguments.models, &target, &bars)?;
    let mut nulls: Vec<Null> = arguments.null_base.then(Null::base).into_iter().collect();
    for directory in &arguments.null_adapter {
        let index = pair.add_adapter(directory, &subject::load_options(&arguments.models))?;
        nulls.push(Null::adapter(&subject::file_name(directory), index));
    }
    let about = subject::subject(&target, &pair)?;
    let settings = settings(arguments, &suites, &searches, &nulls, &pair)?;
    let journal = match &arguments.resume {
        Some(directory) => Journal::open(directory, &subject::inputs(&about, &settings))?,
        None => Journal::temporary(),
    };
    let options = Options {
        searches,
        limit: arguments.budget,
        target: arguments.target.clone(),
        length: arguments.length.clone(),
        seed: arguments.models.seed,
        nulls,
    };
    // An adapter that is exactly zero is the base: a hunt could only find nothing, which would look like a pass.
    let found = if pair.adapters()[0].is_zero() {
        Found::default()
    } else {
        probe::trigger::flow::hunt(&pair, &Benign::of(&suites), &options, journal, &bars)?
    };
    bars.finish();
    let run = Run {
        subject: about,
        settings,
        evidence: found.evidence,
        coverage: found.coverage,
        cost: found.cost,
        hunt: Some(found.hunt),
        audit,
    };
    conclude(arguments, Some(&pair.adapters()[0]), run, start)
}

fn conclude(arguments: &HuntArguments, adapter: Option<&Adapter>, run: Run, start: Instant) -> Outcome {
    let (report, gate) = (&arguments.report, &arguments.gate);
    let record = conclusion::record(report, gate, arguments.thresholds.into(), adapter, run);
    conclusion::report(report, &record, start)
}

/// The searches of these names, all of them if none is named.
fn searches(names: &[String]) -> Result<Vec<&'static dyn TriggerSearch>, Failure> {
    if names.is_empty() {
        return Ok(search::searches().collect());
    }
    names
        .iter()
        .map(|name| {
            by_name(name).ok_or_else(|| {
                let known: Vec<_> = SEARCHES.iter().map(|search| search.name()).collect();
                Failure::Input(format!("unknown search `{name}`; known: {}", known.join(", ")))
            })
        })
        .collect()
}

/// The help of `--search`.
pub(crate) fn searches_help() -> String {
    let names: Vec<_> = SEARCHES.iter().map(|search| search.name()).collect();
    let apart: Vec<_> =
        SEARCHES.iter().filter(|search| search.compares()).map(|search| search.name()).collect();
    format!(
        "Searches, comma separated, run in this order: {}; if absent, all of them but `{}`, which others are compared with",
        names.join(", "),
        apart.join("`, `")
    )
}

/// What decides the result of a hunt.
fn settings(
    arguments: &HuntArguments,
    suites: &[Suite],
    searches: &[&dyn TriggerSearch],
    nulls: &[Null],
    pair: &ModelPair,
) -> Result<Settings, Failure> {
    let searches: Vec<_> = searches.iter().map(|search| search.name()).collect();
    let mut null_digests = Vec::with_capacity(nulls.len());
    for null in nulls {
        // With the sides exchanged no adapter is added.
        let added = pair.adapters().get(null.roles.adapted.adapter).filter(|_| null.roles.base.is_base());
        for file in added.into_iter().flat_map(Adapter::files) {
            null_digests.push(sha256_file(file)?);
        }
    }
    let (from, to) = (arguments.length.start(), arguments.length.end());
    let own = [
        ("search", searches.join(",")),
        ("budget", arguments.budget.to_string()),
        ("length", format!("{from}..{to}")),
        ("target", arguments.target.clone().unwrap_or_default()),
        ("null-base", arguments.null_base.to_string()),
        ("null-adapter", null_digests.join(" ")),
    ];
    Ok(subject::settings(&arguments.models, &arguments.report, suites, own))
}
