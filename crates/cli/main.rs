//! The `triggerfish` program: parse, dispatch, print an error once, exit with a documented code.

mod activations;
mod allocator;
mod args;
mod audit;
mod bench;
mod calibrate;
mod check;
mod conclusion;
mod config;
mod diff;
mod doctor;
mod embedded;
mod exit;
mod fleet;
mod forge;
mod gate;
mod hub;
mod hunt;
mod monitor;
mod output;
mod pin;
mod progress;
mod project;
mod render;
mod replay;
mod rules;
mod rundir;
mod scan;
mod several;
mod shell;
mod subject;
mod suites;
mod support;

use std::process::ExitCode;

use args::Command;

use exit::Failure;

fn main() -> ExitCode {
    allocator::keep_freed_memory();
    match config::arguments().and_then(|parsed| run(&parsed)) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            output::error(&failure);
            ExitCode::from(failure.code())
        }
    }
}

fn run(parsed: &config::Parsed) -> Outcome {
    let loaded = parsed.loaded.as_ref();
    match &parsed.arguments.command {
        Command::Scan(scan) => several::run(scan),
        Command::Check(check) => check::run(check, loaded),
        Command::Diff(diff) => diff::run(diff),
        Command::Replay(replay) => replay::run(replay),
        Command::Doctor(doctor) => doctor::run(&doctor.models, loaded),
        Command::Completions(completions) => shell::completions(completions),
        Command::Man(man) => shell::man(man),
        Command::Init(init) => config::init(init),
        Command::Config(config) => config::run(config, loaded),
        Command::Hunt(hunt) => hunt::run(hunt),
        Command::Forge(forge) => forge::run(forge),
        Command::Bench(bench) => bench::run(bench),
        Command::Calibrate(calibrate) => calibrate::run(calibrate),
        Command::Plan(plan) => fleet::plan::plan(plan),
        Command::Run(run) => fleet::run::run(run),
        Command::Merge(merge) => fleet::merge::run(merge),
        Command::Status(status) => fleet::status::run(status),
        Command::Activations(activations) => activations::run(activations),
        Command::Monitor(monitor) => monitor::run(monitor),
        Command::Report(arguments) => render::run(arguments),
        Command::Audit(audit) => audit::run(audit),
        Command::AuditWorker(worker) => audit::worker::run(worker),
        Command::Pin(pin) => pin::run(pin),
        Command::Rules(rules) => rules::run(rules),
        Command::Support(support) => support::run(support),
        Command::Suites(suites) => suites::run(suites),
        Command::Schema(schema) => suites::schema(schema),
    }
}

/// What a verb gives back: an exit code, or a failure that is printed once.
type Outcome = Result<u8, Failure>;
