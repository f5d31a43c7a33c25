//! `triggerfish report`: a record of an earlier run in another form.

use std::io::Read as _;
use std::path::Path;

use report::record::{Record, SCHEMA_VERSION};

use crate::args::ReportVerbArguments;
use crate::exit::{self, Failure};
use crate::{Outcome, output};

pub(crate) fn run(arguments: &ReportVerbArguments) -> Outcome {
    output::check(&arguments.forms)?;
    let record = read(&arguments.record)?;
    output::forms(&arguments.forms, &record)?;
    Ok(exit::PASS)
}

pub(crate) fn read(path: &Path) -> Result<Record, Failure> {
    let name = path.display();
    let mut bytes = Vec::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    read.map_err(|error| Failure::Input(format!("cannot read `{name}`: {error}")))?;
    // The version first: a record of another major need not have the fields of this one.
    let known = serde_json::from_slice::<serde_json::Value>(&bytes)
        .map_err(|error| Failure::Input(format!("`{name}` is no record: {error}")))?;
    let version = known.get("schema_version").and_then(|version| version.as_str());
    let major = |version: &str| version.split('.').next().map(str::to_owned);
    match version {
        Some(version) if major(version) == major(SCHEMA_VERSION) => {}
        Some(version) => {
            return Err(Failure::Input(format!(
                "`{name}`: expected a record of version {SCHEMA_VERSION} or an earlier one of the same major, found {version}"
            )));
        }
        None => return Err(Failure::Input(format!("`{name}` is no record: it has no `schema_version`"))),
    }
    serde_json::from_value(known).map_err(|error| Failure::Input(format!("`{name}` is no record: {error}")))
}
