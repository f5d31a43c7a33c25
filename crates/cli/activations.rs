//! `triggerfish activations`: what the layers do with a trigger and without it.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use probe::activation::analysis::{Options, Outcome as Found, analyse};
use probe::activation::profile::Profile;
use probe::prompt::{Change, Placement};
use probe::split::Benign;
use probe::suite::{Candidate, Items, Suite};
use report::activation::{ActivationReport, SCHEMA_VERSION};
use report::verdict::Thresholds;

use crate::args::{self, GateArguments, ModelArguments};
use crate::exit::{self, Failure};
use crate::progress::Bars;
use crate::{Outcome, gate, output, subject, suites};

#[derive(Debug, Args)]
pub(crate) struct ActivationsArguments {
    #[command(flatten)]
    pub(crate) models: ModelArguments,
    /// Benign prompts to fit, calibrate and measure on: a shipped suite or a file.
    #[arg(long, value_name = "SUITE", default_value = "benign")]
    pub(crate) prompts: String,
    /// A text to measure as a trigger; repeatable.
    #[arg(long, value_name = "TEXT")]
    pub(crate) trigger: Vec<String>,
    /// Where the texts of --trigger are put: prefix, suffix, inside, system or second-turn.
    #[arg(long, value_name = "PLACE", default_value = "prefix", value_parser = placement)]
    pub(crate) at: Placement,
    /// Suites of candidate triggers to measure too, comma separated: shipped names or files.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "none")]
    pub(crate) suites: Vec<String>,
    /// The answer that the texts of --trigger are suspected to bring, for their dose-response; without it, the adapted
    /// model's own answers with them.
    #[arg(long, value_name = "TEXT", requires = "trigger")]
    pub(crate) payload: Option<String>,
    /// Also rank the prompts of a broad set by what the adapter does to them: a shipped suite or a file.
    #[arg(long, value_name = "SUITE", num_args = 0..=1, default_missing_value = "topics")]
    pub(crate) rank: Option<String>,
    /// A prompt is flagged by a p-value of at most this: the promised rate of false positives.
    #[arg(long, value_name = "P", default_value_t = 0.05, value_parser = args::level)]
    pub(crate) level: f64,
    /// Also write what the benign prompts do to this file, for `monitor` to compare traffic with.
    #[arg(long, value_name = "FILE")]
    pub(crate) profile: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) gate: GateArguments,
    /// Form of the report.
    #[arg(short, long, default_value = "text", value_parser = ["text", "json", "html"])]
    pub(crate) format: String,
    /// Write the report to a file instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// No progress on standard error.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

fn placement(name: &str) -> Result<Placement, String> {
    Placement::by_name(name)
        .ok_or_else(|| "expected prefix, suffix, inside, system or second-turn".to_owned())
}

pub(crate) fn run(arguments: &ActivationsArguments) -> Outcome {
    let start = Instant::now();
    output::check_files(arguments.output.as_deref().into_iter().chain(arguments.profile.as_deref()))?;
    let prompts = suites::load(std::slice::from_ref(&arguments.prompts))?;
    if !matches!(prompts.first().map(|suite| &suite.items), Some(Items::Prompts(_))) {
        return Err(Failure::Input(format!(
            "`--prompts {}`: expected a suite of benign prompts, found another kind",
            arguments.prompts
        )));
    }
    let listed = suites::load(&arguments.suites)?;
    let candidates = candidates(arguments, &listed)?;
    let mut ranked = suites::load(arguments.rank.as_slice())?;
    let target = subject::target(&arguments.models, arguments.quiet)?;
    let mut names = vec![arguments.prompts.clone()];
    if !listed.is_empty() {
        names.extend(arguments.suites.iter().cloned());
    }
    names.extend(arguments.rank.iter().cloned());
    let audit = gate::examine(&arguments.gate, &target, &names, Thresholds::STANDARD, arguments.quiet)?;
    if gate::stops(audit.as_ref()) {
        return Ok(exit::FOUND);
    }
    let all: Vec<Suite> = prompts.iter().chain(&listed).chain(&ranked).cloned().collect();
    let settings = subject::settings_of(
        &arguments.models,
        &all,
        [
            ("trigger", arguments.trigger.join("\n")),
            ("at", arguments.at.name().to_owned()),
            ("level", arguments.level.to_string()),
            ("payload", arguments.payload.clone().unwrap_or_default()),
            ("rank", arguments.rank.clone().unwrap_or_default()),
        ],
    );
    let bars = Bars::new(arguments.quiet)?;
    let mut pair = subject::load(&arguments.models, &target, &bars)?;
    let options = Options {
        candidates,
        level: arguments.level,
        localised: arguments.trigger.len(),
        payload: arguments.payload.clone(),
        ranked: ranked.pop(),
        seed: arguments.models.seed,
        profile: arguments.profile.is_some(),
    };
    let mut found = if pair.adapters()[0].is_zero() {
        let note = "the adapter changes nothing (B·A is zero everywhere), so nothing was measured";
        Found { notes: vec![note.to_owned()], ..Found::default() }
    } else {
        analyse(&mut pair, &Benign::of(&prompts), &options, &bars)?
    };
    bars.finish();
    found.notes.extend(pair.adapters()[0].notes.iter().cloned());
    let subject = subject::subject(&target, &pair)?;
    if let (Some(path), Some(samples)) = (&arguments.profile, found.samples) {
        let pins = subject::features(&subject, &settings);
        let seed = arguments.models.seed;
        let profile = Profile { pins, seed, samples, responses: found.responses };
        let bytes = profile.to_bytes().map_err(|error| Failure::Machine(error.to_string()))?;
        output::write(path, &bytes)?;
    }
    let report = ActivationReport {
        schema_version: SCHEMA_VERSION.to_owned(),
        tool: subject::tool(),
        subject,
        settings,
        self_tests: found.self_tests,
        analysis: found.analysis,
        cost: found.cost,
        notes: found.notes,
    };
    let text = match arguments.format.as_str() {
        "json" => output::json(&report)?,
        "html" => report.html().map_err(|error| Failure::Machine(error.to_string()))?,
        _ => report.text(),
    };
    output::result(arguments.output.as_deref(), &text)?;
    if !arguments.quiet {
        output::talk(&format!("finished in {:.1} s", start.elapsed().as_secs_f64()));
    }
    let files = exit::of_audits(audit.as_slice(), arguments.gate.audit_fail_on, true);
    Ok(match report.analysis {
        _ if files == exit::FOUND => exit::FOUND,
        Some(_) => exit::PASS,
        None => exit::INCOMPLETE,
    })
}

/// The texts that were given, then the candidates of the suites.
fn candidates(arguments: &ActivationsArguments, suites: &[Suite]) -> Result<Vec<Candidate>, Failure> {
    let given = |text: &String| {
        let change = Change::Insert { text: text.clone(), at: arguments.at };
        Candidate { id: change.id(), family: "given".into(), change }
    };
    let mut candidates: Vec<Candidate> = arguments.trigger.iter().map(given).collect();
    if arguments.trigger.iter().any(|text| text.trim().is_empty()) {
        return Err(Failure::Input("`--trigger`: expected a text, found none".into()));
    }
    for suite in suites {
        match &suite.items {
            Items::Triggers(listed) => candidates.extend(listed.iter().cloned()),
            _ => {
                return Err(Failure::Input(format!(
                    "`--suites`: expected suites of candidate triggers, found another kind in `{}`",
                    suite.name
                )));
            }
        }
    }
    Ok(candidates)
}
