//! `triggerfish check`: may these versions ship? Audit, scan, and comparison with what was accepted.

use std::path::{Path, PathBuf};
use std::time::Instant;

use probe::corpus;
use probe::suite::{Suite, SuiteFile};
use report::comparison::{Baseline, Comparison, KnownFinding};
use report::escape::escape;
use report::record::Record;
use report::verdict::Verdict;

use crate::args::{CheckArguments, ScanArguments};
use crate::config::{self, Loaded};
use crate::exit::{self, Failure};
use crate::project::{CACHE, check_name};
use crate::scan::{Extras, Measured};
use crate::{Outcome, conclusion, output, progress, rundir, scan, several, subject};

pub(crate) fn run(arguments: &CheckArguments, loaded: Option<&Loaded>) -> Outcome {
    let adapters = adapters(arguments, loaded)?;
    let mut corpus = read_corpus(&arguments.corpus)?;
    let mut worst = exit::PASS;
    let mut lines = Vec::with_capacity(adapters.len());
    for (done, (name, path)) in adapters.iter().enumerate() {
        if progress::stopped() {
            lines.push(format!(
                "stopped: {} of {} adapters were not checked",
                adapters.len() - done,
                adapters.len()
            ));
            worst = exit::worse(worst, exit::INCOMPLETE);
            break;
        }
        let scan = of_one(&arguments.scan, name, path, adapters.len() > 1);
        let (code, line) = match one(arguments, &scan, name, &mut corpus) {
            Ok(checked) => checked,
            Err(failure) => {
                output::talk(&format!("{name}:"));
                output::error(&failure);
                (failure.code(), "could not be checked".to_owned())
            }
        };
        lines.push(format!("{name}: {line} (exit code {code})"));
        worst = exit::worse(worst, code);
    }
    // Only what is through grows the corpus: an interrupted check must find the inputs that it began with.
    write_corpus(&arguments.corpus, &corpus)?;
    if !arguments.scan.report.quiet {
        lines.iter().for_each(|line| output::talk(line));
    }
    Ok(worst)
}

/// Names and paths of what is checked.
fn adapters(arguments: &CheckArguments, loaded: Option<&Loaded>) -> Result<Vec<(String, PathBuf)>, Failure> {
    let known: Vec<(String, PathBuf)> = loaded
        .map(config::adapters)
        .unwrap_or_default()
        .into_iter()
        .map(|(name, path)| (name, path.into()))
        .collect();
    let mut adapters: Vec<(String, PathBuf)> = Vec::new();
    for asked in &arguments.adapters {
        let path = match &asked.path {
            Some(path) => path.clone(),
            None => {
                known.iter().find(|(name, _)| *name == asked.name).map(|(_, path)| path.clone()).ok_or_else(
                    || {
                        Failure::Input(format!(
                            "no adapter `{}` in {}: give NAME=PATH",
                            asked.name,
                            config::FILE_NAME
                        ))
                    },
                )?
            }
        };
        adapters.push((asked.name.clone(), path));
    }
    if let Some(path) = &arguments.scan.models.adapter {
        adapters.push((subject::file_name(path), path.clone()));
    }
    if adapters.is_empty() {
        adapters = known;
    }
    if adapters.is_empty() {
        return Err(Failure::Input(format!(
            "nothing to check: name adapters under [adapters] in {} (`triggerfish init` writes one), or give NAME=PATH",
            config::FILE_NAME
        )));
    }
    if arguments.scan.resume.is_some() && adapters.len() > 1 {
        return Err(Failure::Input(
            "`--resume` is one run's; several adapters have theirs below `--runs`".into(),
        ));
    }
    if arguments.scan.models.base.is_none() {
        return Err(Failure::Input(format!(
            "no base model: name `base` in {}, or add --base PATH",
            config::FILE_NAME
        )));
    }
    for (at, (name, path)) in adapters.iter().enumerate() {
        check_name(name).map_err(Failure::Input)?;
        if adapters[..at].iter().any(|(other, _)| other == name) {
            return Err(Failure::Input(format!("two adapters have the name `{name}`")));
        }
        let inside = inference::adapter::inside(path);
        if let Some(first) = inside.first() {
            return Err(Failure::Input(format!(
                "`{}` holds {} adapters: name each, such as {name}={}",
                path.display(),
                inside.len(),
                path.join(first).display()
            )));
        }
    }
    Ok(adapters)
}

/// The scan of one adapter, with files of its own where there are several.
fn of_one(arguments: &ScanArguments, name: &str, path: &Path, several: bool) -> ScanArguments {
    let mut own = arguments.clone();
    own.models.adapter = Some(path.to_owned());
    own.cache.get_or_insert_with(|| PathBuf::from(CACHE));
    if several {
        let forms = &mut own.report.forms;
        forms.output = forms.output.take().map(|file| several::beside(&file, Path::new(name)));
        for form in &mut forms.report {
            form.file = several::beside(&form.file, Path::new(name));
        }
    }
    own
}

/// Checks one adapter: exit code and what to say of it.
fn one(
    arguments: &CheckArguments,
    scan: &ScanArguments,
    name: &str,
    corpus: &mut SuiteFile,
) -> Result<(u8, String), Failure> {
    let start = Instant::now();
    output::check(&scan.report.forms)?;
    let file = arguments.baselines.join(format!("{name}.json"));
    let accepted = if file.symlink_metadata().is_ok() { Some(rundir::baseline(&file)?) } else { None };
    let extras = Extras {
        name: Some(name),
        corpus: arguments.corpus.is_file().then_some(arguments.corpus.as_path()),
        runs: Some(&arguments.runs),
    };
    let Measured { mut record, directory, spent } = scan::measure(scan, &extras)?;
    let found = Baseline::of(&record);
    match &accepted {
        Some(accepted) => {
            let comparison = Comparison::between(accepted, &found, &record.judgement.thresholds).map_err(|error| {
                Failure::Input(format!("`{}` cannot be compared with: {error}", file.display()))
            })?;
            record.comparison = Some(comparison);
            record.exit_code = exit_code(scan, &record, accepted);
        }
        None => record.notes.push(format!(
            "no version of `{name}` was accepted before, so nothing was compared; `triggerfish check --accept` records this one"
        )),
    }
    if let Some(directory) = &directory {
        rundir::finish(directory, &record)?;
    }
    conclusion::report(&scan.report, &record, start)?;
    grow(corpus, &record, name);
    if !scan.report.quiet {
        let all = record.cost.token_forwards;
        output::talk(&format!("{name}: {spent} of {all} token-forwards were run, the rest was known"));
    }
    if arguments.accept { accept(&file, &found, &record) } else { Ok((record.exit_code, line(&record))) }
}

/// The exit code of a version beside the accepted one: what was accepted does not fail, what is worse or new does.
fn exit_code(scan: &ScanArguments, record: &Record, accepted: &Baseline) -> u8 {
    let severity = scan.gate.audit_fail_on.0;
    let files = record.audit.iter().flat_map(|audit| audit.active()).any(|finding| {
        severity.is_some_and(|least| finding.severity >= least)
            && !accepted.findings.iter().any(|known| known.covers(&KnownFinding::of(finding)))
    });
    let worst = record.comparison.as_ref().and_then(Comparison::worst);
    if files || worst.is_some_and(|worst| scan.report.fail_on.fails(worst)) {
        return exit::FOUND;
    }
    let other_base = !accepted.base.same_content(&record.subject.base);
    let told = record.judgement.verdict != Verdict::Inconclusive && record.coverage.complete;
    if other_base || (!told && !scan.report.incomplete_ok) { exit::INCOMPLETE } else { exit::PASS }
}

/// The outcome in one line.
fn line(record: &Record) -> String {
    let verdict = record.judgement.verdict.title();
    match &record.comparison {
        None => format!("{verdict}; no accepted version to compare with"),
        Some(comparison) => match comparison.regressions.first() {
            Some(first) => format!(
                "{verdict}; {} worse or new than what was accepted: {}",
                comparison.regressions.len(),
                escape(&first.what)
            ),
            None => format!("{verdict}; nothing is worse or new than what was accepted"),
        },
    }
}

/// Writes the baseline, unless nobody should accept it.
fn accept(file: &Path, found: &Baseline, record: &Record) -> Result<(u8, String), Failure> {
    let critical = record.audit.as_ref().is_some_and(crate::gate::refuses);
    if record.judgement.verdict == Verdict::Backdoored || critical {
        return Ok((exit::FOUND, format!("not accepted: {}", line(record))));
    }
    if record.judgement.verdict == Verdict::Inconclusive || !record.coverage.complete {
        return Ok((exit::INCOMPLETE, "not accepted: too little was measured".to_owned()));
    }
    make_folder(file)?;
    output::file(file, &output::json(found)?)?;
    Ok((exit::PASS, format!("accepted as `{}`: review it and commit it", file.display())))
}

/// Adds what this run suspects.
fn grow(corpus: &mut SuiteFile, record: &Record, name: &str) {
    let thresholds = &record.judgement.thresholds;
    let weights = record.subject.adapter.files.iter().max_by_key(|file| file.bytes);
    let digest = weights.map_or("", |file| file.sha256.as_str());
    for tested in record.evidence.tested.iter().filter(|tested| thresholds.suspects(tested)) {
        let how = if thresholds.condemns(tested, &record.evidence) { "confirmed" } else { "suspected" };
        let source = format!(
            "{how} in {name} (sha256 {}), proposed by {}: {}",
            digest.get(..16).unwrap_or(digest),
            tested.candidate.family,
            tested.payload.class
        );
        if corpus::add(corpus, &tested.candidate, &source) {
            output::talk(&format!("the trigger corpus gains `{}`", escape(&tested.candidate.text)));
        }
    }
}

fn read_corpus(path: &Path) -> Result<SuiteFile, Failure> {
    if path.symlink_metadata().is_err() {
        return Ok(corpus::empty());
    }
    Suite::from_file(path)?;
    let wrong = |reason: String| Failure::Input(format!("trigger corpus `{}`: {reason}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))
}

/// Writes the corpus if it has grown.
fn write_corpus(path: &Path, corpus: &SuiteFile) -> Result<(), Failure> {
    let text = output::json(corpus)?;
    if corpus.candidates.is_empty() || std::fs::read_to_string(path).is_ok_and(|known| known == text) {
        return Ok(());
    }
    make_folder(path)?;
    output::file(path, &text)
}

fn make_folder(file: &Path) -> Result<(), Failure> {
    let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    output::make_folder(folder)
}
