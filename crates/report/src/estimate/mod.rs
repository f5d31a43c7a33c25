//! A measured value with its uncertainty: bootstrap intervals of means and exact intervals of proportions.

mod auc;
mod bootstrap;
mod proportion;

pub use bootstrap::Bootstrap;
pub use proportion::{clopper_pearson, wilson};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A value measured on `n` observations, with a confidence interval.
///
/// There is no estimate without data: what cannot be estimated is `None`, never a zero of zero width.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Estimate {
    /// The value on the data at hand.
    pub value: f64,
    /// Lower end of the confidence interval.
    pub lower: f64,
    /// Upper end of the confidence interval.
    pub upper: f64,
    /// Number of observations.
    pub n: usize,
    /// Two-sided level of the interval, for example 0.95.
    pub confidence: f64,
}
