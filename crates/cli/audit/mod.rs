//! `triggerfish audit`: the files of repositories, without a model. Every scan and hunt begins with it.

mod baseline;
pub(crate) mod suppressions;
pub(crate) mod worker;

use std::path::Path;

use probe::audit::Options;
use rayon::prelude::*;
use report::audit::format;
use report::audit::{AuditReport, RepositoryAudit, SCHEMA_VERSION};

use crate::args::AuditArguments;
use crate::exit::{self, Failure};
use crate::{Outcome, output, pin, subject};

pub(crate) fn run(arguments: &AuditArguments) -> Outcome {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(arguments.jobs.get())
        .build()
        .map_err(|error| Failure::Machine(format!("cannot start threads: {error}")))?;
    let paths = repositories(arguments);
    if arguments.signature.is_some() && paths.len() > 1 {
        return Err(Failure::Input(format!(
            "`--signature` is of one repository, found {}: audit them one at a time",
            paths.len()
        )));
    }
    let signature = worker::signature(arguments.signature.as_deref(), arguments.key.as_deref());
    let options = Options { base: arguments.base.as_deref(), signature, skip: &[] };
    let mut repositories: Vec<RepositoryAudit> = pool.install(|| {
        paths
            .par_iter()
            .map(|path| worker::audit(path, &path.display().to_string(), &options))
            .collect::<Result<_, _>>()
    })?;
    if let Some(path) = &arguments.suppressions {
        suppressions::apply(path, &mut repositories)?;
    }
    if let Some(path) = &arguments.baseline {
        baseline::apply(path, &mut repositories)?;
    }
    let exit_code = exit::of_audits(&repositories, arguments.fail_on, arguments.incomplete_ok);
    let report = AuditReport {
        schema_version: SCHEMA_VERSION.to_owned(),
        tool: subject::tool(),
        exit_code,
        limits: worker::limits(),
        repositories,
    };
    let Some(format) = format::by_name(&arguments.format) else {
        return Err(Failure::Input(format!("unknown format `{}`", arguments.format)));
    };
    let text = format.render(&report, &probe::audit::rules());
    output::result(arguments.output.as_deref(), &text)?;
    if let Some(lock) = &arguments.locked {
        pin::verify_audits(lock, &report.repositories)?;
    }
    Ok(exit_code)
}

/// What is audited, each once, in the order in which it was given.
fn repositories(arguments: &AuditArguments) -> Vec<&Path> {
    let mut paths: Vec<&Path> = Vec::with_capacity(arguments.paths.len());
    for path in &arguments.paths {
        // A directory that was named is meant as it is.
        let path = if arguments.folders && !path.is_dir() { output::folder(path) } else { path.as_path() };
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths
}

/// Audits what a run is about, before anything of it is loaded.
pub(crate) fn before(
    adapter: &Path,
    name: &str,
    base: &Path,
    suppressions: Option<&Path>,
) -> Result<RepositoryAudit, Failure> {
    let mut audit = worker::audit(adapter, name, &Options { base: Some(base), ..Options::default() })?;
    if let Some(path) = suppressions {
        suppressions::apply(path, std::slice::from_mut(&mut audit))?;
    }
    Ok(audit)
}
