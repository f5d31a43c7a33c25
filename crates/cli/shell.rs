//! `triggerfish completions` and `triggerfish man`: what shells and `man` know of the command line.

use std::path::Path;

use clap::CommandFactory as _;

use crate::args::{Arguments, CompletionsArguments, ManArguments};
use crate::exit::{self, Failure};
use crate::{Outcome, output};

pub(crate) fn completions(arguments: &CompletionsArguments) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), env!("CARGO_PKG_NAME"), &mut script);
    output::data(&String::from_utf8_lossy(&script))?;
    Ok(exit::PASS)
}

/// One page a verb, as `triggerfish-scan.1`, and one for all.
pub(crate) fn man(arguments: &ManArguments) -> Outcome {
    let mut command = Arguments::command();
    command.build();
    let name = env!("CARGO_PKG_NAME");
    page(&arguments.folder, name, &command)?;
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
        page(&arguments.folder, &format!("{name}-{}", verb.get_name()), verb)?;
    }
    Ok(exit::PASS)
}

fn page(folder: &Path, name: &str, command: &clap::Command) -> Result<(), Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .title(name)
        .render(&mut page)
        .map_err(|error| Failure::Machine(format!("cannot write the page of `{name}`: {error}")))?;
    output::file(&folder.join(format!("{name}.1")), &String::from_utf8_lossy(&page))
}
