//! `triggerfish audit`: the files of repositories, without a model.

use std::path::Path;

use rayon::prelude::*;
use report::audit::format;
use report::audit::{AuditReport, RepositoryAudit, SCHEMA_VERSION};
use report::record::Tool;

use crate::args::AuditArguments;
use crate::exit::{self, Failure};
use crate::{Outcome, output, worker};

pub(crate) fn run(arguments: &AuditArguments) -> Outcome {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(arguments.jobs.get())
        .build()
        .map_err(|error| Failure::Machine(format!("cannot start threads: {error}")))?;
    let base = arguments.base.as_deref();
    let repositories: Vec<RepositoryAudit> =
        pool.install(|| arguments.paths.par_iter().map(|path| audit(path, base)).collect::<Result<_, _>>())?;
    let exit_code = exit::of_audits(&repositories, arguments.fail_on, arguments.incomplete_ok);
    let report = AuditReport {
        schema_version: SCHEMA_VERSION.to_owned(),
        tool: Tool { name: env!("CARGO_PKG_NAME").to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() },
        exit_code,
        limits: worker::limits(),
        repositories,
    };
    let Some(format) = format::by_name(&arguments.format) else {
        return Err(Failure::Input(format!("unknown format `{}`", arguments.format)));
    };
    let text = format.render(&report, &probe::audit::rules());
    match &arguments.output {
        Some(path) => output::file(path, &text)?,
        None => output::data(&text)?,
    }
    Ok(exit_code)
}

/// Audits one path in a process of its own.
pub(crate) fn audit(path: &Path, base: Option<&Path>) -> Result<RepositoryAudit, Failure> {
    worker::audit(path, &path.display().to_string(), base)
}
