//! Standard output is for data, standard error for talk; colours only where a terminal reads.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use report::escape::escape;
use report::format::{Format, Rendered};
use report::record::Record;
use serde::Serialize;

use crate::args::FormArguments;
use crate::exit::Failure;

/// Refuses forms that could not be written, before hours of work are spent on what they say.
pub(crate) fn check(forms: &FormArguments) -> Result<(), Failure> {
    if forms.output.is_none() && forms.format.is_binary() && std::io::stdout().is_terminal() {
        return Err(Failure::Input(format!(
            "a terminal cannot show {}: name a file with `-o`",
            forms.format.name()
        )));
    }
    check_files(forms.report.iter().map(|form| &form.file).chain(&forms.output).map(PathBuf::as_path))
}

/// The same for files by name.
pub(crate) fn check_files<'a>(wanted: impl IntoIterator<Item = &'a Path>) -> Result<(), Failure> {
    let mut files: Vec<&Path> = Vec::new();
    for file in wanted {
        let folder = folder(file);
        if !folder.is_dir() {
            let (file, folder) = (file.display(), folder.display());
            return Err(Failure::Input(format!("cannot write `{file}`: there is no folder `{folder}`")));
        }
        if file.is_dir() {
            return Err(Failure::Input(format!("cannot write `{}`: it is a folder", file.display())));
        }
        if files.contains(&file) {
            return Err(Failure::Input(format!("`{}` is named for two reports", file.display())));
        }
        files.push(file);
    }
    Ok(())
}

/// Writes a record in every form that was asked for. One that cannot be written does not keep the others from it.
pub(crate) fn forms(forms: &FormArguments, record: &Record) -> Result<(), Failure> {
    let render =
        |format: &dyn Format| format.render(record).map_err(|error| Failure::Machine(error.to_string()));
    let mut end = Ok(());
    for form in &forms.report {
        end = end.and(render(form.format).and_then(|report| file_of(&form.file, &report)));
    }
    let report = render(forms.format)?;
    match (&forms.output, &report) {
        (Some(path), report) => file_of(path, report)?,
        (None, Rendered::Text(text)) => data(text)?,
        (None, Rendered::Bytes(bytes)) => print(std::io::stdout().lock(), bytes)?,
    }
    end
}

fn file_of(path: &Path, report: &Rendered) -> Result<(), Failure> {
    match report {
        Rendered::Text(text) => file(path, text),
        Rendered::Bytes(bytes) => write(path, bytes),
    }
}

/// Writes what a run gives to the user's file, or prints it.
pub(crate) fn result(path: Option<&Path>, text: &str) -> Result<(), Failure> {
    path.map_or_else(|| data(text), |path| file(path, text))
}

/// Prints data. A reader that went away (`| head`) is no error.
pub(crate) fn data(text: &str) -> Result<(), Failure> {
    print(anstream::stdout().lock(), text.as_bytes())
}

fn print(mut to: impl std::io::Write, bytes: &[u8]) -> Result<(), Failure> {
    match to.write_all(bytes) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Machine(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes a report to a file by way of a temporary one, so that no reader sees half of it. Colours
/// are stripped.
pub(crate) fn file(path: &Path, text: &str) -> Result<(), Failure> {
    write(path, anstream::adapter::strip_str(text).to_string().as_bytes())
}

/// The same for bytes.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let folder = folder(path);
    let write = || -> std::io::Result<()> {
        // A device or a pipe is written to: a new file in its place would destroy it.
        if std::fs::metadata(path).is_ok_and(|at| !at.is_file()) {
            return std::fs::OpenOptions::new().write(true).open(path)?.write_all(bytes);
        }
        let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
        temporary.write_all(bytes)?;
        temporary.as_file().sync_all()?;
        temporary.persist(path)?;
        Ok(())
    };
    write().map_err(|error| Failure::Machine(format!("cannot write `{}`: {error}", path.display())))
}

/// A value as the JSON that people may read too.
pub(crate) fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value)
        .map(|json| json + "\n")
        .map_err(|error| Failure::Machine(error.to_string()))
}

/// Makes a folder if it is not there.
pub(crate) fn make_folder(path: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(path)
        .map_err(|error| Failure::Machine(format!("cannot make the folder `{}`: {error}", path.display())))
}

/// The folder that a file is in.
pub(crate) fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A line on standard error.
pub(crate) fn talk(text: &str) {
    // Nobody can be told that standard error is gone.
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

/// An error, once.
pub(crate) fn error(failure: &Failure) {
    let style = anstyle::Style::new().bold().fg_color(Some(anstyle::AnsiColor::Red.into()));
    talk(&format!("{style}error{style:#}: {}", escape(&failure.to_string())));
    if let Some(hint) = failure.hint() {
        talk(&format!("  hint: {}", escape(hint)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_device_stays_a_device() {
        use std::os::unix::fs::FileTypeExt as _;
        let null = Path::new("/dev/null");
        assert!(std::fs::metadata(null).unwrap().file_type().is_char_device());
        file(null, "text").unwrap();
        assert!(std::fs::metadata(null).unwrap().file_type().is_char_device());
    }
}
