//! `triggerfish merge`: a report on every unit of a plan, from the store alone.

use std::path::{Path, PathBuf};

use clap::Args;
use rayon::prelude::*;
use report::fleet::format::{FORMATS, MergedFormat};
use report::fleet::{Merge, Merged, Plan, Problem, ProblemKind, ResultError, Summary};
use report::format::Rendered;

use super::store::Store;
use super::{plan_digest, read_plan};
use crate::args::FailOn;
use crate::exit::{self, Failure};
use crate::{Outcome, output};

#[derive(Debug, Args)]
pub(crate) struct MergeArguments {
    /// The plan.
    #[arg(long, value_name = "FILE", default_value = "plan.jsonl")]
    pub(crate) plan: PathBuf,
    /// The results.
    #[arg(long, value_name = "DIR")]
    pub(crate) store: PathBuf,
    /// Folder for the report in every form: summary.txt, summary.json, units.jsonl, adapters.csv, findings.sarif and
    /// index.html, and adapters.parquet of a program that was built with `--features parquet`. It is made if it is not there.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    /// Lowest verdict over all units that makes the exit code 1.
    #[arg(long, value_enum, default_value_t = FailOn::Never)]
    pub(crate) fail_on: FailOn,
    /// Exit with 0 instead of 3 when units are missing, errored, conflicting or inconclusive.
    #[arg(long)]
    pub(crate) incomplete_ok: bool,
}

/// Files that are read together: their results are reduced before the next are read.
const AT_A_TIME: usize = 4_096;

pub(crate) fn run(arguments: &MergeArguments) -> Outcome {
    let plan = read_plan(&arguments.plan, |_| true)?;
    let rate = rate(&plan)?;
    let merged = merge(&plan, &Store::at(&arguments.store))?
        .finish(plan_digest(&arguments.plan)?, rate)
        .map_err(|error| Failure::Probe(error.into()))?;
    if let Some(folder) = &arguments.output {
        write(folder, &merged)?;
    }
    if let Rendered::Text(text) = render(FORMATS[0], &merged)? {
        output::data(&text)?;
    }
    let found = merged.worst().is_some_and(|worst| arguments.fail_on.fails(worst));
    Ok(match (found, merged.complete() || arguments.incomplete_ok) {
        (true, _) => exit::FOUND,
        (false, true) => exit::PASS,
        (false, false) => exit::INCOMPLETE,
    })
}

/// The false discovery rate that was planned.
fn rate(plan: &Plan) -> Result<f64, Failure> {
    let rate = plan.header.arguments.get("false-discovery-rate").and_then(|rate| rate.parse().ok());
    rate.filter(|rate| (0.0..=1.0).contains(rate))
        .ok_or_else(|| Failure::Input("the plan has no `false-discovery-rate`".into()))
}

/// Reads every file of the store.
fn merge<'a>(plan: &'a Plan, store: &Store) -> Result<Merge<'a>, Failure> {
    let root = store.root().display().to_string();
    if !store.exists() {
        return Err(Failure::Input(format!("there is no store at `{root}`")));
    }
    let (files, problems) = store
        .files()
        .map_err(|error| Failure::Machine(format!("cannot read the store `{root}`: {error}")))?;
    let mut merge = Merge::new(plan);
    problems.into_iter().for_each(|problem| merge.add_problem(problem));
    for some in files.chunks(AT_A_TIME) {
        let read: Vec<_> = some.par_iter().map(|file| read(store.root(), file)).collect();
        for (file, read) in some.iter().zip(read) {
            match read {
                Ok(summary) => merge.add(file, summary),
                Err(problem) => merge.add_problem(problem),
            }
        }
    }
    Ok(merge)
}

fn read(root: &Path, file: &str) -> Result<Result<Summary, ResultError>, Problem> {
    let bytes = std::fs::read(root.join(file)).map_err(|error| Problem {
        kind: ProblemKind::Unreadable,
        file: file.to_owned(),
        reason: error.to_string(),
    })?;
    let name = file.rsplit('/').next().unwrap_or_default();
    Ok(Summary::read(name, &bytes))
}

fn render(format: &dyn MergedFormat, merged: &Merged) -> Result<Rendered, Failure> {
    format.render(merged).map_err(|error| Failure::Machine(error.to_string()))
}

fn write(folder: &Path, merged: &Merged) -> Result<(), Failure> {
    output::make_folder(folder)?;
    for format in FORMATS {
        let path = folder.join(format.file());
        match render(*format, merged)? {
            Rendered::Text(text) => output::file(&path, &text)?,
            Rendered::Bytes(bytes) => output::write(&path, &bytes)?,
        }
    }
    Ok(())
}
