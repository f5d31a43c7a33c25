//! One unit: from an adapter on a base that is loaded already to a result.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use inference::ModelPair;
use probe::memory::Memory;
use probe::scan::Search;
use probe::suite::Suite;
use probe::trigger::journal::Journal;
use report::fleet::{Class, Manifest, Outcome, PlannedUnit};
use report::record::{Artifact, Record};

use super::failure::{Consequence, consequence};
use super::plan::adapter_manifest;
use crate::args::ScanArguments;
use crate::exit::Failure;
use crate::progress::{self, Bars};
use crate::scan::{self, Ready};
use crate::subject::{self, Target};
use crate::{conclusion, gate};

/// What the units of one base share.
pub(crate) struct Workplace<'a> {
    pub(crate) arguments: &'a ScanArguments,
    pub(crate) suites: &'a [Suite],
    pub(crate) base: PathBuf,
    pub(crate) base_manifest: &'a Manifest,
    pub(crate) pair: ModelPair,
    /// What is known of the base.
    pub(crate) known: Memory,
}

/// What became of a unit.
pub(crate) enum Done {
    /// It has a result, for which so many token-forwards were run.
    Result(Outcome, u64),
    /// It was dropped, because the process is to stop.
    Dropped,
    /// Somebody should try again.
    Retry(String),
    /// The files are not those that were planned.
    Changed(String),
}

impl Workplace<'_> {
    /// Scans one adapter. A panic is a result too, so that one adapter does not take the others of its shard with it.
    pub(crate) fn run(&mut self, unit: &PlannedUnit, adapter: &Path) -> Done {
        match adapter_manifest(adapter) {
            Ok(found) if found == unit.manifest => {}
            Ok(found) => return Done::Changed(difference(&unit.manifest, &found)),
            Err(error) => return Done::Retry(format!("cannot read `{}`: {error}", adapter.display())),
        }
        let memory = Memory::sharing(&self.known);
        let scanned = catch_unwind(AssertUnwindSafe(|| self.scan(unit, adapter, &memory)));
        // A step that the signal took from the audit's process, or a scan that was cut short, is no result.
        if progress::stopped() {
            return Done::Dropped;
        }
        match scanned {
            Ok(Ok(record)) => Done::Result(Outcome::Scanned(Box::new(record)), memory.spent()),
            Ok(Err(failure)) => {
                let places = [(adapter, "adapter"), (self.base.as_path(), "base")];
                match consequence(&failure, &places) {
                    Consequence::Errored(class, reason) => {
                        Done::Result(Outcome::Errored { class, reason }, memory.spent())
                    }
                    Consequence::Retry(reason) => Done::Retry(reason),
                }
            }
            Err(panic) => {
                let reason = message(&*panic);
                Done::Result(Outcome::Errored { class: Class::Internal, reason }, memory.spent())
            }
        }
    }

    fn scan(&mut self, unit: &PlannedUnit, adapter: &Path, memory: &Memory) -> Result<Record, Failure> {
        let arguments = self.arguments;
        let base = (self.base.clone(), self.base_manifest.name());
        let target = Target::of(base, (adapter.to_owned(), unit.manifest.name()));
        let thresholds = arguments.thresholds.into();
        let audit = gate::examine(&arguments.gate, &target, &arguments.scope.suites, thresholds, true)?;
        let options = scan::options(arguments)?;
        let settings = scan::settings(arguments, self.suites, options.as_ref());
        if let Some(audit) = audit.clone().filter(gate::refuses) {
            let run = gate::refused(&target, settings, audit);
            return Ok(conclusion::record(&arguments.report, &arguments.gate, thresholds, None, run));
        }
        self.pair.remove_adapters();
        self.pair.add_adapter(adapter, &subject::load_options(&arguments.models))?;
        let of_base = Artifact { name: self.base_manifest.name(), files: self.base_manifest.files.clone() };
        let about = subject::subject_on(of_base, &target, &self.pair)?;
        let ready =
            Ready { arguments, suites: self.suites, settings, subject: about, audit, pair: &self.pair };
        let search = options.map(|options| Search { options, journal: Journal::temporary() });
        ready.run(search, memory, &Bars::new(true)?)
    }
}

/// What a panic said.
fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    format!("the program failed on this adapter: {text}")
}

/// The first file that is not as it was planned.
pub(crate) fn difference(planned: &Manifest, found: &Manifest) -> String {
    for file in &planned.files {
        match found.files.iter().find(|other| other.name == file.name) {
            None => return format!("`{}` is gone", file.name),
            Some(other) if other != file => {
                return format!(
                    "`{}` was {} bytes with sha256 {}, and is {} bytes with {} now",
                    file.name, file.bytes, file.sha256, other.bytes, other.sha256
                );
            }
            Some(_) => {}
        }
    }
    let new = found.files.iter().find(|file| !planned.files.contains(file));
    new.map_or_else(
        || "its links or special files are others".to_owned(),
        |file| format!("`{}` was not there", file.name),
    )
}
