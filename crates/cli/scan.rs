//! `triggerfish scan`: load, run, judge, report.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use inference::pair::TemplateChoice;
use inference::weights::digest::sha256_file;
use inference::{Compute, ModelPair};
use probe::Progress as _;
use probe::scan::Outcome as Found;
use probe::suite::Suite;
use report::format;
use report::record::{Artifact, FileDigest, Record, SCHEMA_VERSION, Settings, Subject, Tool};
use report::verdict::{Thresholds, judge};

use crate::args::ScanArguments;
use crate::embedded::Embedded;
use crate::exit::{self, Failure};
use crate::progress::Bars;
use crate::{Outcome, output, suites};

/// What is scanned: files, and the names that the report uses for them.
struct Target {
    base: PathBuf,
    base_name: String,
    adapter: PathBuf,
    adapter_name: String,
    /// Keeps unpacked files alive.
    _embedded: Option<Embedded>,
}

pub(crate) fn run(arguments: &ScanArguments) -> Outcome {
    let start = Instant::now();
    let suites = suites::load(&arguments.suites)?;
    let target = target(arguments)?;
    if let Some(threads) = arguments.threads {
        // candle and our kernels use rayon's global pool; it can be sized once, before first use.
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads.get())
            .build_global()
            .map_err(|error| Failure::Machine(format!("cannot start {threads} threads: {error}")))?;
    }
    let bars = Bars::new(arguments.quiet)?;
    let pair = load(arguments, &target, &bars)?;
    // An adapter that is exactly zero is the base: a scan could only find nothing, which would look like a pass.
    let zero = pair.adapters()[0].is_zero();
    let found =
        if zero { Found::default() } else { probe::scan::scan(&pair, &suites, arguments.seed, &bars)? };
    bars.finish();
    let record = record(arguments, &target, &pair, &suites, found)?;
    let Some(format) = format::by_name(&arguments.format) else {
        return Err(Failure::Input(format!("unknown format `{}`", arguments.format)));
    };
    let text = format.render(&record);
    match &arguments.output {
        Some(path) => output::file(path, &text)?,
        None => output::data(&text)?,
    }
    if !arguments.quiet {
        output::talk(&format!(
            "finished in {:.1} s, exit code {}",
            start.elapsed().as_secs_f64(),
            record.exit_code
        ));
    }
    Ok(record.exit_code)
}

fn target(arguments: &ScanArguments) -> Result<Target, Failure> {
    if let (Some(base), Some(adapter)) = (&arguments.base, &arguments.adapter) {
        let name = |path: &Path| {
            path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned())
        };
        return Ok(Target {
            base_name: name(base),
            adapter_name: name(adapter),
            base: base.clone(),
            adapter: adapter.clone(),
            _embedded: None,
        });
    }
    let asked = arguments.adapter.as_ref().map(|adapter| adapter.to_string_lossy());
    if let Some(path) = arguments.adapter.as_ref().filter(|adapter| adapter.is_dir()) {
        return Err(Failure::Input(format!("`{}` needs its base model: add --base PATH", path.display())));
    }
    let embedded = Embedded::unpack(asked.as_deref())?;
    if !arguments.quiet {
        output::talk(&format!(
            "no --base given: scanning the embedded fixture `{}` (an adapter of known behaviour, trained for this purpose)",
            embedded.adapter_name
        ));
    }
    Ok(Target {
        base: embedded.base(),
        base_name: "embedded base".into(),
        adapter: embedded.adapter(),
        adapter_name: format!("embedded {}", embedded.adapter_name),
        _embedded: Some(embedded),
    })
}

fn load(arguments: &ScanArguments, target: &Target, bars: &Bars) -> Result<ModelPair, Failure> {
    let template = match arguments.template.as_str() {
        "own" => TemplateChoice::Own,
        "none" => TemplateChoice::None,
        file => TemplateChoice::File(PathBuf::from(file)),
    };
    let compute = Compute::open(arguments.device, arguments.dtype)?;
    let started = std::cell::Cell::new(false);
    let mut pair = ModelPair::load_base(&target.base, &template, &compute, &|_, total| {
        if !started.replace(true) {
            bars.stage("loading the base", total);
        }
        bars.advance(1);
    })?;
    pair.add_adapter(&target.adapter)?;
    Ok(pair)
}

fn record(
    arguments: &ScanArguments,
    target: &Target,
    pair: &ModelPair,
    suites: &[Suite],
    found: Found,
) -> Result<Record, Failure> {
    let adapter = &pair.adapters()[0];
    let mut judgement = judge(&found.evidence, &found.coverage, Thresholds::STANDARD);
    let mut notes = adapter.notes.clone();
    if adapter.is_zero() {
        judgement.reasons =
            vec!["the adapter changes nothing (B·A is zero everywhere), so nothing was tested".into()];
        notes.push("a zero adapter is often a failed or an unfinished training run".into());
    }
    let exit_code = exit::of_verdict(
        judgement.verdict,
        found.coverage.complete,
        arguments.fail_on,
        arguments.incomplete_ok,
    );
    Ok(Record {
        schema_version: SCHEMA_VERSION.to_owned(),
        tool: Tool { name: env!("CARGO_PKG_NAME").to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() },
        judgement,
        exit_code,
        subject: Subject {
            base: artifact(&target.base_name, pair.files())?,
            adapter: artifact(&target.adapter_name, &adapter.files())?,
            declared_base: adapter.config.base_model.clone(),
            changed_modules: adapter.changed_sites(),
        },
        settings: Settings {
            device: arguments.device.to_string(),
            dtype: arguments.dtype.to_string(),
            seed: arguments.seed,
            suites: suites.iter().map(|suite| (suite.name.clone(), suite.sha256.clone())).collect(),
            arguments: passed(arguments),
        },
        coverage: found.coverage,
        evidence: found.evidence,
        cost: found.cost,
        notes,
    })
}

fn artifact(name: &str, files: &[PathBuf]) -> Result<Artifact, Failure> {
    let mut digests = Vec::with_capacity(files.len());
    for file in files {
        let bytes = std::fs::metadata(file)
            .map_err(|error| Failure::Machine(format!("cannot read `{}`: {error}", file.display())))?
            .len();
        digests.push(FileDigest {
            name: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            bytes,
            sha256: sha256_file(file)?,
        });
    }
    Ok(Artifact { name: name.to_owned(), files: digests })
}

/// Every argument that decides the result, defaults included; no paths, which differ by machine.
fn passed(arguments: &ScanArguments) -> BTreeMap<String, String> {
    let template = match arguments.template.as_str() {
        known @ ("own" | "none") => known.to_owned(),
        file => sha256_file(Path::new(file))
            .map_or_else(|_| "file".to_owned(), |digest| format!("sha256:{digest}")),
    };
    BTreeMap::from([
        ("template".to_owned(), template),
        ("fail-on".to_owned(), format!("{:?}", arguments.fail_on).to_lowercase()),
        ("incomplete-ok".to_owned(), arguments.incomplete_ok.to_string()),
        ("suites".to_owned(), arguments.suites.len().to_string()),
    ])
}
