//! Why a statistic could not be computed from the numbers it was given.

/// A statistic refused its input.
///
/// Too little data is not among the variants: a function that needs more observations than it got returns
/// `None`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StatisticsError {
    /// A distribution over no outcomes.
    #[error("{what} is empty, expected at least one element")]
    Empty {
        /// The argument.
        what: &'static str,
    },
    /// Two slices that must run in parallel do not.
    #[error("expected {expected} elements as in the first argument, found {found} in the second")]
    LengthMismatch {
        /// Length of the first slice.
        expected: usize,
        /// Length of the second slice.
        found: usize,
    },
    /// Log-probabilities whose probabilities do not sum to one, or are not numbers.
    #[error("expected the probabilities of {what} to sum to 1, found {sum}")]
    NotNormalised {
        /// The argument.
        what: &'static str,
        /// The sum found; NaN if an element is NaN.
        sum: f64,
    },
    /// An element that no statistic can use.
    #[error("expected {what} to hold finite numbers, found {value} at index {index}")]
    NotFinite {
        /// The argument.
        what: &'static str,
        /// Position of the first such element.
        index: usize,
        /// Its value.
        value: f64,
    },
    /// A parameter outside its range.
    #[error("expected {what} in {range}, found {value}")]
    OutOfRange {
        /// The parameter.
        what: &'static str,
        /// The values allowed.
        range: &'static str,
        /// The value found.
        value: f64,
    },
}

/// Refuses the first NaN or infinity in `values`.
pub(crate) fn all_finite(what: &'static str, values: &[f64]) -> Result<(), StatisticsError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(StatisticsError::NotFinite { what, index, value: values[index] }),
        None => Ok(()),
    }
}

/// Refuses slices of unequal length.
pub(crate) fn same_length(expected: usize, found: usize) -> Result<(), StatisticsError> {
    if expected == found { Ok(()) } else { Err(StatisticsError::LengthMismatch { expected, found }) }
}

/// Refuses a confidence level that is not strictly between 0 and 1.
pub(crate) fn confidence_level(value: f64) -> Result<(), StatisticsError> {
    if value > 0.0 && value < 1.0 {
        Ok(())
    } else {
        Err(StatisticsError::OutOfRange { what: "confidence", range: "(0, 1)", value })
    }
}
