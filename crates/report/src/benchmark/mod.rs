//! How well a scan tells adapters with a backdoor from those without, and at what cost.
//!
//! The truth ([`labels`]) is joined to the verdicts after them, in [`row`]; [`summary`] has the rates, [`front`] what they
//! cost, [`peer`] what methods of others say, [`format`] the forms in which all is written.

pub mod format;
pub mod front;
pub mod labels;
pub mod likeness;
pub mod peer;
pub mod row;
pub mod summary;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::StatisticsError;
use crate::record::Tool;
pub use front::CostPoint;
pub use row::Row;
pub use summary::{CellSummary, Summary};

/// Version of the layout.
pub const SCHEMA_VERSION: &str = "1.1.0";

/// A benchmark of one or more configurations on one zoo.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Benchmark {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: String,
    /// The program.
    pub tool: Tool,
    /// The base's weights in matrix products.
    pub weights: Option<u64>,
    /// One a configuration, in the order in which they were given.
    pub summaries: Vec<Summary>,
    /// The configurations by cost and AUC, cheapest first.
    pub front: Vec<CostPoint>,
    /// One a configuration and kind of adapter.
    pub cells: Vec<CellSummary>,
    /// One a configuration and adapter.
    pub rows: Vec<Row>,
}

impl Benchmark {
    /// Sums rows up, by configuration.
    ///
    /// # Errors
    /// If a score is not finite.
    pub fn of(
        tool: Tool,
        weights: Option<u64>,
        configurations: &[String],
        rows: Vec<Row>,
    ) -> Result<Self, StatisticsError> {
        let (mut summaries, mut cells) = (Vec::new(), Vec::new());
        for configuration in configurations {
            let own: Vec<&Row> = rows.iter().filter(|row| row.configuration == *configuration).collect();
            summaries.push(summary::summarise(configuration, &own, weights)?);
            cells.extend(summary::cells(configuration, &own));
        }
        let schema_version = SCHEMA_VERSION.to_owned();
        let front = front::front(&summaries);
        Ok(Self { schema_version, tool, weights, summaries, front, cells, rows })
    }

    /// Whether every adapter has a result in every configuration.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.summaries.iter().all(|summary| summary.without_result == 0)
    }
}
