//! Why a probe could not run.

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a probe could not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model, an adapter or a tokenizer.
    #[error(transparent)]
    Inference(#[from] inference::Error),
    /// A suite file.
    #[error("suite `{name}`: {reason}")]
    Suite {
        /// File or name of the suite.
        name: String,
        /// Expected and found.
        reason: String,
    },
    /// Numbers that no statistic fits, such as NaN logits.
    #[error("statistics: {0}")]
    Statistics(#[from] report::StatisticsError),
    /// A file of a run directory, or of the cache.
    #[error("run directory `{}`: {reason}", path.display())]
    Journal {
        /// The file.
        path: std::path::PathBuf,
        /// Expected and found.
        reason: String,
    },
    /// The user asked to stop. What was measured so far is kept.
    #[error("stopped by the user")]
    Stopped,
}
