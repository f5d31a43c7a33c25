//! `triggerfish suites` and `triggerfish schema`.

use std::path::Path;

use probe::suite::{EMBEDDED, Items, Suite, SuiteFile};
use report::activation::ActivationReport;
use report::audit::AuditReport;
use report::comparison::Baseline;
use report::format::Row;
use report::record::Record;

use crate::args::{SchemaArguments, SchemaKind, SuitesArguments, SuitesVerb};
use crate::config::ConfigFile;
use crate::exit::{self, Failure};
use crate::{Outcome, output};

/// The shipped suite of benign prompts, on which every search needs to run.
pub(crate) const BENIGN: &str = "benign";

pub(crate) fn run(arguments: &SuitesArguments) -> Outcome {
    match &arguments.verb {
        SuitesVerb::List => {
            let mut lines = String::new();
            for (name, _) in EMBEDDED {
                if let Some(suite) = Suite::embedded(name) {
                    lines.push_str(&describe(&suite?));
                }
            }
            output::data(&lines)?;
        }
        SuitesVerb::Validate { files } => {
            for file in files {
                output::data(&describe(&Suite::from_file(file)?))?;
            }
        }
    }
    Ok(exit::PASS)
}

pub(crate) fn schema(arguments: &SchemaArguments) -> Outcome {
    let schema = match arguments.which {
        SchemaKind::Suite => schemars::schema_for!(SuiteFile),
        SchemaKind::Activations => schemars::schema_for!(ActivationReport),
        SchemaKind::Monitor => schemars::schema_for!(report::activation::monitor::Row),
        SchemaKind::Recipe => schemars::schema_for!(probe::organism::RecipeSchema),
        SchemaKind::Organism => schemars::schema_for!(probe::organism::record::OrganismRecord),
        SchemaKind::Benchmark => schemars::schema_for!(report::benchmark::Benchmark),
        SchemaKind::Calibration => schemars::schema_for!(report::calibration::Calibration),
        SchemaKind::Audit => schemars::schema_for!(AuditReport),
        SchemaKind::Record => schemars::schema_for!(Record),
        SchemaKind::Config => schemars::schema_for!(ConfigFile),
        SchemaKind::Baseline => schemars::schema_for!(Baseline),
        SchemaKind::Row => schemars::schema_for!(Row<'_>),
    };
    output::data(&output::json(&schema)?)?;
    Ok(exit::PASS)
}

/// The suites that `--suites` names.
pub(crate) fn load(names: &[String]) -> Result<Vec<Suite>, Failure> {
    if names.iter().any(|name| name == "none") {
        return match names {
            [_] => Ok(Vec::new()),
            _ => Err(Failure::Input("`--suites none` stands alone".into())),
        };
    }
    let mut suites: Vec<Suite> = Vec::new();
    for name in names {
        let suite = match Suite::embedded(name) {
            Some(suite) => suite?,
            None if Path::new(name).exists() => Suite::from_file(Path::new(name))?,
            None => {
                let known: Vec<_> = EMBEDDED.iter().map(|(name, _)| *name).collect();
                return Err(Failure::Input(format!(
                    "`{name}` is neither a shipped suite ({}) nor a file",
                    known.join(", ")
                )));
            }
        };
        if suites.iter().any(|other| other.name == suite.name) {
            return Err(Failure::Input(format!("two suites have the name `{}`", suite.name)));
        }
        suites.push(suite);
    }
    Ok(suites)
}

fn describe(suite: &Suite) -> String {
    let (kind, what) = match &suite.items {
        Items::Prompts(_) => ("prompts", "prompts"),
        Items::Adversarial(_) => ("adversarial", "prompts"),
        Items::Triggers(_) => ("triggers", "candidates at their placements"),
    };
    format!("{:<14} {kind:<12} {:>4} {what}  sha256 {}\n", suite.name, suite.items.len(), &suite.sha256[..16])
}
