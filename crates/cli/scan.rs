//! `triggerfish scan`: load, run, judge, report.

use std::collections::BTreeMap;
use std::time::Instant;

use probe::scan::Outcome as Found;
use probe::suite::Suite;
use report::record::Settings;

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
    let run = Run {
        subject: subject::subject(&target, &pair)?,
        settings: settings(arguments, &suites),
        evidence: found.evidence,
        coverage: found.coverage,
        cost: found.cost,
        hunt: None,
    };
    conclusion::conclude(&arguments.report, &pair.adapters()[0], run, start)
}

/// Everything that decides the result, defaults included; no paths, which differ by machine.
fn settings(arguments: &ScanArguments, suites: &[Suite]) -> Settings {
    let (models, report) = (&arguments.models, &arguments.report);
    Settings {
        device: models.device.to_string(),
        dtype: models.dtype.to_string(),
        seed: models.seed,
        suites: suites.iter().map(|suite| (suite.name.clone(), suite.sha256.clone())).collect(),
        arguments: BTreeMap::from([
            ("template".to_owned(), subject::template_name(&models.template)),
            // Decides no result, but which shared beginnings are kept, and so the cost.
            ("memory".to_owned(), models.memory.to_string()),
            ("fail-on".to_owned(), format!("{:?}", report.fail_on).to_lowercase()),
            ("incomplete-ok".to_owned(), report.incomplete_ok.to_string()),
            ("suites".to_owned(), arguments.suites.len().to_string()),
        ]),
    }
}
