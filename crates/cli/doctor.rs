//! `triggerfish doctor`: does everything work here that a run needs?

use std::path::Path;

use inference::kernels::Tier;
use inference::weights::cache;
use probe::audit::Options;
use probe::observe::Observer;
use probe::progress::Silent;
use probe::split::{Benign, Split};
use report::escape::escape;

use crate::args::ModelArguments;
use crate::audit::worker;
use crate::config::{self, Loaded};
use crate::embedded::Embedded;
use crate::exit::{self, Failure};
use crate::progress::Bars;
use crate::{Outcome, output, subject, suites};

/// One thing that was tried: what, and how it went.
type Tried = (&'static str, Result<String, Failure>);

pub(crate) fn run(models: &ModelArguments, loaded: Option<&Loaded>) -> Outcome {
    let tried: Vec<Tried> = vec![
        ("program", Ok(program())),
        ("processor", Ok(processor())),
        ("audit", audit()),
        ("models", self_test(models)),
        ("suites", shipped_suites()),
        ("settings", settings(loaded)),
    ];
    let mut worst = exit::PASS;
    let mut text = String::new();
    for (what, found) in tried {
        let (mark, words) = match found {
            Ok(words) => ("ok   ", words),
            Err(failure) => {
                worst = exit::worse(worst, failure.code());
                ("WRONG", failure.to_string())
            }
        };
        text.push_str(&format!("{mark}  {what:<10} {}\n", escape(&words)));
    }
    output::data(&text)?;
    Ok(worst)
}

fn program() -> String {
    let cuda = if cfg!(feature = "cuda") { "with" } else { "without" };
    format!("{} {}, {cuda} CUDA", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
}

fn processor() -> String {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    format!("{} kernels, {threads} threads", Tier::detect().name())
}

/// The process under limits reads the embedded adapter.
fn audit() -> Result<String, Failure> {
    let embedded = Embedded::unpack(None)?;
    let base = embedded.base();
    let options = Options { base: Some(&base), ..Options::default() };
    let found = worker::audit(&embedded.adapter(), embedded.adapter_name, &options)?;
    if !found.complete() {
        return Err(Failure::Machine("the process that reads files under limits did not get through".into()));
    }
    Ok(format!("{} files read in a process of its own", found.files.len()))
}

/// The embedded models, on the device and in the precision of the settings.
fn self_test(models: &ModelArguments) -> Result<String, Failure> {
    let embedded = ModelArguments { base: None, adapter: None, adapted: None, ..models.clone() };
    let target = subject::target(&embedded, true)?;
    let pair = subject::load(&embedded, &target, &Bars::new(true)?)?;
    let observer = Observer::new(&pair, &Silent);
    let benign = Benign::of(&suites::load(&[suites::BENIGN.to_owned()])?);
    let split = Split::of(&observer, &benign, models.seed)?;
    let tests = probe::selftest::run(&observer, &split.screening, models.seed)?;
    match tests.iter().find(|test| !test.passed()) {
        None => Ok(format!("the numeric self-test passes on {} in {}", models.device, models.dtype)),
        Some(failed) => Err(Failure::Machine(format!(
            "numeric self-test `{}` is off by {:.1e}, at most {:.1e}",
            failed.name, failed.difference, failed.tolerance
        ))),
    }
}

fn shipped_suites() -> Result<String, Failure> {
    let names: Vec<String> = probe::suite::EMBEDDED.iter().map(|(name, _)| (*name).to_owned()).collect();
    suites::load(&names)?;
    Ok(names.join(", "))
}

/// What the settings name is there.
fn settings(loaded: Option<&Loaded>) -> Result<String, Failure> {
    let Some(loaded) = loaded else {
        return Ok(format!("no {} here or above; `triggerfish init` writes one", config::FILE_NAME));
    };
    for (name, path) in config::adapters(loaded) {
        if !cache::resolve(Path::new(&path))?.exists() {
            return Err(Failure::Input(format!(
                "{}: adapter `{name}`: there is nothing at `{path}`",
                loaded.place(&format!("adapters.{name}"))
            )));
        }
    }
    Ok(loaded.path.display().to_string())
}
