//! `triggerfish scan`: load, run, judge, report.

use std::time::Instant;

use probe::scan::Outcome as Found;

use crate::args::ScanArguments;
use crate::conclusion::{self, Run};
use crate::progress::Bars;
use crate::{Outcome, subject, suites};

pub(crate) fn run(arguments: &ScanArguments) -> Outcome {
    let start = Instant::now();
    let suites = suites::load(&arguments.suites)?;
    let target = subject::target(&arguments.models, arguments.report.quiet)?;
    let bars = Bars::new(arguments.report.quiet)?;
    let pair = subject::load(&arguments.models, &target, &bars)?;
    // An adapter that is exactly zero is the base: a scan could only find nothing, which would look like a pass.
    let zero = pair.adapters()[0].is_zero();
    let found = if zero {
        Found::default()
    } else {
        probe::scan::scan(&pair, &suites, arguments.models.seed, &bars)?
    };
    bars.finish();
    let own = [("suites", arguments.suites.len().to_string())];
    let run = Run {
        subject: subject::subject(&target, &pair)?,
        settings: subject::settings(&arguments.models, &arguments.report, &suites, own),
        evidence: found.evidence,
        coverage: found.coverage,
        cost: found.cost,
        hunt: None,
    };
    conclusion::conclude(&arguments.report, &pair.adapters()[0], run, start)
}
