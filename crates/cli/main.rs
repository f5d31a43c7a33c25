//! The `triggerfish` program: parse, dispatch, print an error once, exit with a documented code.

mod activations;
mod allocator;
mod args;
mod audit;
mod conclusion;
mod embedded;
mod exit;
mod gate;
mod hunt;
mod output;
mod pin;
mod progress;
mod render;
mod rules;
mod scan;
mod several;
mod subject;
mod suites;
mod support;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Arguments, Command};

use exit::Failure;

fn main() -> ExitCode {
    allocator::keep_freed_memory();
    let arguments = Arguments::parse();
    let result = match &arguments.command {
        Command::Scan(scan) => several::run(scan),
        Command::Hunt(hunt) => hunt::run(hunt),
        Command::Activations(activations) => activations::run(activations),
        Command::Report(arguments) => render::run(arguments),
        Command::Audit(audit) => audit::run(audit),
        Command::AuditWorker(worker) => audit::worker::run(worker),
        Command::Pin(pin) => pin::run(pin),
        Command::Rules(rules) => rules::run(rules),
        Command::Support(support) => support::run(support),
        Command::Suites(suites) => suites::run(suites),
        Command::Schema(schema) => suites::schema(schema),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            output::error(&failure);
            ExitCode::from(failure.code())
        }
    }
}

/// What a verb gives back: an exit code, or a failure that is printed once.
type Outcome = Result<u8, Failure>;
