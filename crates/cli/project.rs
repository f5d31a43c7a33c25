//! Arguments of the verbs that work on a project and on earlier runs.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::args::{FailOn, FormArguments, ModelArguments, ScanArguments};

#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// Adapters: names of triggerfish.toml, or NAME=PATH; all of the file's if none is given.
    #[arg(value_name = "NAME[=PATH]", value_parser = named_adapter)]
    pub(crate) adapters: Vec<NamedAdapter>,
    /// Write what was found as the accepted baseline, for review. A confirmed backdoor or an incomplete run is not
    /// accepted.
    #[arg(long)]
    pub(crate) accept: bool,
    /// Folder of the accepted baselines, one file an adapter.
    #[arg(long, value_name = "DIR", default_value = BASELINES)]
    pub(crate) baselines: PathBuf,
    /// The trigger corpus: a suite that grows with every suspected trigger.
    #[arg(long, value_name = "FILE", default_value = CORPUS)]
    pub(crate) corpus: PathBuf,
    /// Folder of run directories.
    #[arg(long, value_name = "DIR", default_value = RUNS)]
    pub(crate) runs: PathBuf,
    #[command(flatten)]
    pub(crate) scan: ScanArguments,
}

pub(crate) const BASELINES: &str = ".triggerfish/baselines";
pub(crate) const CORPUS: &str = ".triggerfish/corpus.json";
pub(crate) const RUNS: &str = ".triggerfish/runs";
pub(crate) const CACHE: &str = ".triggerfish/cache";

/// An adapter and the name by which its versions are compared.
#[derive(Clone, Debug)]
pub(crate) struct NamedAdapter {
    pub(crate) name: String,
    /// Absent where the settings have it.
    pub(crate) path: Option<PathBuf>,
}

/// Reads `NAME` or `NAME=PATH`; a name is also a file's.
fn named_adapter(text: &str) -> Result<NamedAdapter, String> {
    let (name, path) = match text.split_once('=') {
        Some((name, path)) => (name, Some(PathBuf::from(path))),
        None => (text, None),
    };
    check_name(name)?;
    Ok(NamedAdapter { name: name.to_owned(), path })
}

/// Whether a name can be that of a file.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
        return Err(format!("expected a name of letters, digits, `.`, `_` and `-`, found `{name}`"));
    }
    Ok(())
}

#[derive(Debug, Args)]
pub(crate) struct DiffArguments {
    /// The earlier run: a run directory, a record, or a baseline.
    #[arg(value_name = "BEFORE")]
    pub(crate) before: PathBuf,
    /// The later run: a run directory or a record.
    #[arg(value_name = "NOW")]
    pub(crate) now: PathBuf,
    #[command(flatten)]
    pub(crate) forms: FormArguments,
    /// Lowest level of a regression that makes the exit code 1.
    #[arg(long, value_enum, default_value_t = FailOn::Suspicious)]
    pub(crate) fail_on: FailOn,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArguments {
    /// The run directory.
    #[arg(value_name = "RUN")]
    pub(crate) run: PathBuf,
    /// Id of the prompt, as the report has it.
    #[arg(long, value_name = "ID")]
    pub(crate) id: String,
    /// With the trigger of this number: 1 is the strongest that was tested.
    #[arg(long, value_name = "N")]
    pub(crate) trigger: Option<std::num::NonZeroUsize>,
    /// Tokens of an answer.
    #[arg(long, value_name = "N", default_value = "48")]
    pub(crate) tokens: std::num::NonZeroUsize,
    /// Form of the result.
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    pub(crate) format: String,
    /// No progress on standard error.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    #[command(flatten)]
    pub(crate) models: ModelArguments,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// For which shell.
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// Where the pages are written.
    #[arg(default_value = ".", value_name = "DIR")]
    pub(crate) folder: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct InitArguments {
    /// Where the file is written.
    #[arg(default_value = ".", value_name = "DIR")]
    pub(crate) folder: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArguments {
    #[command(subcommand)]
    pub(crate) verb: ConfigVerb,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Print every setting as TOML.
    Show {
        /// With where each comes from: a line of the file, the environment, or the default.
        #[arg(long)]
        origin: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_names_of_files() {
        let adapter = named_adapter("bot-1.2=a/b=c").unwrap();
        assert_eq!((adapter.name.as_str(), adapter.path), ("bot-1.2", Some(PathBuf::from("a/b=c"))));
        assert!(named_adapter("bot").unwrap().path.is_none());
        for wrong in ["", "../x", ".hidden", "a b=c", "=x"] {
            assert!(named_adapter(wrong).is_err(), "{wrong}");
        }
    }
}
