//! The one error type of the crate: what file, what was expected, what was found, what to do.

use std::path::{Path, PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model, an adapter or a tokenizer could not be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to open or read a file.
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The bytes of a file are not what they must be.
    #[error("`{}`: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Expected and found, as a lower-case fragment.
        reason: String,
        /// What the user can do about it.
        hint: Option<String>,
    },
    /// The file is well-formed, but asks for something that is not implemented. Never a pass.
    #[error("`{}`: {reason}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The feature, by its name in the file.
        reason: String,
        /// What the user can do about it.
        hint: Option<String>,
    },
    /// A chat template could not be compiled or rendered.
    #[error("chat template: {0}")]
    Template(String),
    /// A caller asked for something impossible, such as a prompt longer than the context.
    #[error("{0}")]
    Request(String),
    /// The tensor library failed.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn malformed(path: &Path, reason: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_owned(), reason: reason.into(), hint: None }
    }

    pub(crate) fn unsupported(path: &Path, reason: impl Into<String>) -> Self {
        Self::Unsupported { path: path.to_owned(), reason: reason.into(), hint: None }
    }

    /// Adds what the user can do.
    #[must_use]
    pub(crate) fn with_hint(mut self, text: impl Into<String>) -> Self {
        if let Self::Malformed { hint, .. } | Self::Unsupported { hint, .. } = &mut self {
            *hint = Some(text.into());
        }
        self
    }

    /// What the user can do about this error, where we know it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Malformed { hint, .. } | Self::Unsupported { hint, .. } => hint.as_deref(),
            _ => None,
        }
    }
}
