//! CODE: programs in a repository, by their text or by their first bytes. None is ever run.

mod native;
mod notebook;
mod packages;
mod python;
mod shell;
mod startup;

pub(super) use native::NativeCode;
pub(super) use notebook::Notebooks;
pub(super) use packages::Packages;
pub(super) use python::PythonFiles;
pub(super) use shell::{ShellScripts, danger, logical_lines};
pub(super) use startup::StartupFiles;
