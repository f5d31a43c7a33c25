//! `triggerfish diff`: two runs, prompt by prompt.

use report::comparison::{Baseline, Comparison};

use crate::args::DiffArguments;
use crate::exit::{self, Failure};
use crate::{Outcome, output, rundir};

pub(crate) fn run(arguments: &DiffArguments) -> Outcome {
    output::check(&arguments.forms)?;
    let before = rundir::baseline(&arguments.before)?;
    let mut record = rundir::record(&arguments.now)?;
    let comparison = Comparison::between(&before, &Baseline::of(&record), &record.judgement.thresholds)
        .map_err(|error| Failure::Input(format!("the runs cannot be compared: {error}")))?;
    let code = match comparison.worst() {
        Some(worst) if arguments.fail_on.fails(worst) => exit::FOUND,
        _ if comparison.prompts == 0 => exit::INCOMPLETE,
        _ => exit::PASS,
    };
    record.exit_code = code;
    record.comparison = Some(comparison);
    output::forms(&arguments.forms, &record)?;
    Ok(code)
}
