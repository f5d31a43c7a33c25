//! A scan of a repository that holds several adapters: one scan each, one after the other.

use std::path::{Path, PathBuf};

use report::escape::escape;

use crate::args::ScanArguments;
use crate::{Outcome, exit, output, progress, scan};

/// Scans the adapter that the arguments name, or each that lies in the folder they name.
pub(crate) fn run(arguments: &ScanArguments) -> Outcome {
    let (Some(repository), Some(_)) = (&arguments.models.adapter, &arguments.models.base) else {
        return scan::run(arguments);
    };
    let inside = inference::adapter::inside(repository);
    if inside.is_empty() {
        return scan::run(arguments);
    }
    if !arguments.report.quiet {
        output::talk(&format!(
            "`{}` holds {} adapters; each is scanned",
            escape(&repository.display().to_string()),
            inside.len()
        ));
    }
    let mut worst = exit::PASS;
    for (done, inner) in inside.iter().enumerate() {
        if progress::stopped() {
            output::talk(&format!(
                "stopped: {} of {} adapters were not scanned",
                inside.len() - done,
                inside.len()
            ));
            return Ok(exit::worse(worst, exit::INCOMPLETE));
        }
        let code = scan::run(&of_one(arguments, repository, inner)).unwrap_or_else(|failure| {
            output::talk(&format!("{}:", escape(&inner.display().to_string())));
            output::error(&failure);
            failure.code()
        });
        worst = exit::worse(worst, code);
    }
    Ok(worst)
}

/// The same scan of one of the adapters, with files of its own.
fn of_one(arguments: &ScanArguments, repository: &Path, inner: &Path) -> ScanArguments {
    let mut own = arguments.clone();
    own.models.adapter = Some(repository.join(inner));
    own.resume = own.resume.map(|folder| folder.join(inner));
    let forms = &mut own.report.forms;
    forms.output = forms.output.take().map(|file| beside(&file, inner));
    for form in &mut forms.report {
        form.file = beside(&form.file, inner);
    }
    own
}

/// The file of one of several adapters: `report.json` for `checkpoint-500` is `report.checkpoint-500.json`. A device takes all reports.
pub(crate) fn beside(file: &Path, inner: &Path) -> PathBuf {
    if std::fs::metadata(file).is_ok_and(|at| !at.is_file()) {
        return file.to_owned();
    }
    let name =
        inner.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("-");
    let end = file.extension().map(|end| format!(".{}", end.to_string_lossy())).unwrap_or_default();
    let stem = file.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
    file.with_file_name(format!("{stem}.{name}{end}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_adapter_has_a_file_of_its_own() {
        let of = |file: &str, inner: &str| beside(Path::new(file), Path::new(inner)).display().to_string();
        assert_eq!(of("out/report.json", "checkpoint-500"), "out/report.checkpoint-500.json");
        assert_eq!(of("report", "a/b"), "report.a-b");
    }
}
