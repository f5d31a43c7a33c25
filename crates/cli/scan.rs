//! `triggerfish scan`: load, run, judge, report.

use std::time::Instant;

use probe::depth::LENGTH;
use probe::scan::{Outcome as Found, Search};
use probe::suite::Suite;
use probe::trigger::hunt::Options;
use probe::trigger::journal::Journal;

use crate::args::ScanArguments;
use crate::conclusion::{self, Run};
use crate::exit::Failure;
use crate::progress::Bars;
use crate::{Outcome, gate, output, subject, suites};

pub(crate) fn run(arguments: &ScanArguments) -> Outcome {
    let start = Instant::now();
    output::check(&arguments.report.forms)?;
    let options = options(arguments)?;
    let suites = suites(arguments)?;
    let target = subject::target(&arguments.models, arguments.report.quiet)?;
    let audit = gate::examine(&arguments.gate, &target, &arguments.suites, arguments.report.quiet)?;
    let budget = options.as_ref().map_or(String::new(), |options| options.limit.to_string());
    let own = [
        ("suites", arguments.suites.len().to_string()),
        ("depth", arguments.depth.name.to_owned()),
        ("budget", budget),
    ];
    let settings = subject::settings(&arguments.models, &arguments.report, &suites, own);
    if let Some(audit) = audit.clone().filter(gate::refuses) {
        return gate::refuse(&arguments.report, &arguments.gate, &target, settings, audit, start);
    }
    let bars = Bars::new(arguments.report.quiet)?;
    let pair = subject::load(&arguments.models, &target, &bars)?;
    let about = subject::subject(&target, &pair)?;
    let journal = match &arguments.resume {
        Some(directory) => Journal::open(directory, &subject::inputs(&about, &settings))?,
        None => Journal::temporary(),
    };
    // An adapter that is exactly zero is the base: a scan could only find nothing, which would look like a pass.
    let zero = pair.adapters()[0].is_zero();
    let found = if zero {
        Found::default()
    } else {
        let search = options.map(|options| Search { options, journal });
        probe::scan::scan(&pair, &suites, arguments.models.seed, search, &bars)?
    };
    bars.finish();
    let run = Run {
        subject: about,
        settings,
        evidence: found.evidence,
        coverage: found.coverage,
        cost: found.cost,
        hunt: found.hunt,
        audit,
    };
    conclusion::conclude(&arguments.report, &arguments.gate, Some(&pair.adapters()[0]), run, start)
}

/// What a depth searches for, within the user's budget or its own.
fn options(arguments: &ScanArguments) -> Result<Option<Options>, Failure> {
    let Some(stage) = arguments.depth.search else {
        let given = [("--budget", arguments.budget.is_some()), ("--resume", arguments.resume.is_some())];
        return match given.into_iter().find(|(_, given)| *given) {
            None => Ok(None),
            Some((option, _)) => Err(needs_search(arguments, option, "has no meaning")),
        };
    };
    Ok(Some(Options {
        searches: stage.searches(),
        limit: arguments.budget.unwrap_or(stage.limit),
        target: None,
        length: LENGTH,
        seed: arguments.models.seed,
        nulls: Vec::new(),
    }))
}

/// The suites that the arguments name. Without any, a search still needs benign prompts, but reads no list of triggers.
fn suites(arguments: &ScanArguments) -> Result<Vec<Suite>, Failure> {
    let suites = suites::load(&arguments.suites)?;
    if !suites.is_empty() {
        return Ok(suites);
    }
    if arguments.depth.search.is_none() {
        return Err(needs_search(arguments, "--suites none", "leaves nothing to test"));
    }
    suites::load(&[suites::BENIGN.to_owned()])
}

fn needs_search(arguments: &ScanArguments, option: &str, what: &str) -> Failure {
    Failure::Input(format!(
        "`{option}` {what} at `--depth {}`, which searches for nothing: add `--depth standard` or `--depth deep`",
        arguments.depth.name
    ))
}
