//! Standard output is for data, standard error for talk; colours only where a terminal reads.

use std::io::Write as _;
use std::path::Path;

use report::escape::escape;

use crate::exit::Failure;

/// Prints data. A reader that went away (`| head`) is no error.
pub(crate) fn data(text: &str) -> Result<(), Failure> {
    match anstream::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Machine(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes a report to a file by way of a temporary one, so that no reader sees half of it. Colours
/// are stripped.
pub(crate) fn file(path: &Path, text: &str) -> Result<(), Failure> {
    let plain = anstream::adapter::strip_str(text).to_string();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
        temporary.write_all(plain.as_bytes())?;
        temporary.as_file().sync_all()?;
        temporary.persist(path)?;
        Ok(())
    };
    write().map_err(|error| Failure::Machine(format!("cannot write `{}`: {error}", path.display())))
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
