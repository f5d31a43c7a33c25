//! The `triggerfish` program: parse, dispatch, print an error once, exit with a documented code.

mod args;
mod conclusion;
mod embedded;
mod exit;
mod hunt;
mod output;
mod progress;
mod scan;
mod subject;
mod suites;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Arguments, Command};

/// Large activations come and go with every step; the system's allocator would map and unmap each.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use exit::Failure;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.command {
        Command::Scan(scan) => scan::run(scan),
        Command::Hunt(hunt) => hunt::run(hunt),
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
