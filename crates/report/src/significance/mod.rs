//! Tests of significance that assume no distribution: permutation tests, exact McNemar, ranks against a null
//! sample, and corrections for testing many candidates at once.

mod combination;
mod conformal;
mod mcnemar;
mod multiplicity;
mod permutation;

pub use combination::{Combined, TailCombination};
pub use conformal::{EmpiricalP, empirical_p, kept_p};
pub use mcnemar::{mcnemar, mcnemar_counts};
pub use multiplicity::{benjamini_hochberg, benjamini_yekutieli, holm};
pub use permutation::{MonteCarlo, PermutationTest, paired_permutation, two_sample_permutation};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which deviation from the null hypothesis counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Alternative {
    /// The second sample is larger.
    Greater,
    /// The second sample is smaller.
    Less,
    /// Either, at twice the smaller one-sided p-value.
    TwoSided,
}

impl Alternative {
    /// The p-value, given the one-sided ones.
    fn of(self, greater: f64, less: f64) -> f64 {
        match self {
            Self::Greater => greater,
            Self::Less => less,
            Self::TwoSided => (2.0 * greater.min(less)).min(1.0),
        }
    }
}
