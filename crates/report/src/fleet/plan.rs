//! The plan: every unit with its shard, as JSON lines under a header, so that a shard reads it without holding it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::unit::{Identity, Manifest, is_digest};
use super::{SCHEMA_VERSION, is_readable};
use crate::record::Tool;

/// The first line of a plan: what all of its units have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: String,
    /// The program that must run it.
    pub tool: Tool,
    /// Version of the records that it writes.
    pub record_version: String,
    /// Shards; they are counted from 0.
    pub shards: usize,
    /// Units, one a line after this one.
    pub units: usize,
    /// Base models, in the order of their content.
    pub bases: Vec<Base>,
    /// Suites.
    pub suites: Vec<PlannedSuite>,
    /// Options of `scan`, defaults included.
    pub arguments: BTreeMap<String, String>,
    /// The same where a file is given, by its digest: what decides the result.
    pub content: BTreeMap<String, String>,
}

/// A base model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// Where it is, as the user gave it.
    pub path: String,
    /// What it consists of.
    pub manifest: Manifest,
}

/// A suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlannedSuite {
    /// Its own name.
    pub name: String,
    /// A shipped name or a file, as the user gave it.
    pub source: String,
    /// SHA-256 of its file.
    pub sha256: String,
}

/// One line: a unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlannedUnit {
    /// [`Identity::unit`].
    pub unit: String,
    /// The shard that runs it.
    pub shard: usize,
    /// Where its base stands in the header.
    pub base: usize,
    /// Estimated cost, in a unit that only compares.
    pub cost: u64,
    /// Every adapter that has these bytes; the first one is read.
    pub adapters: Vec<AdapterName>,
    /// What the adapter consists of.
    pub manifest: Manifest,
}

/// An adapter as the user knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdapterName {
    /// Its name.
    pub name: String,
    /// Where it is, as the user gave it.
    pub path: String,
}

/// A plan, or those of its units that were wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The first line.
    pub header: Header,
    /// The units, in the order of the file.
    pub units: Vec<PlannedUnit>,
}

/// A file that is no whole plan.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct PlanError {
    /// Counted from 1.
    line: usize,
    /// Expected and found.
    reason: String,
}

impl Header {
    /// Everything that decides the result of a unit.
    #[must_use]
    pub fn identity(&self, adapter: Manifest, base: Manifest) -> Identity {
        Identity {
            record_version: self.record_version.clone(),
            tool: self.tool.clone(),
            adapter,
            base,
            suites: self.suites.iter().map(|suite| (suite.name.clone(), suite.sha256.clone())).collect(),
            arguments: self.content.clone(),
        }
    }
}

impl Plan {
    /// Reads a plan, and keeps the units that are wanted. Every line is checked: a plan that was cut short, or whose
    /// units are not what their ids say, is refused.
    ///
    /// # Errors
    /// If it is malformed; the error names the line.
    pub fn read(file: impl BufRead, wanted: impl Fn(&PlannedUnit) -> bool) -> Result<Self, PlanError> {
        let mut lines = file.lines().enumerate();
        let wrong = |line: usize, reason: String| PlanError { line: line + 1, reason };
        let (_, first) =
            lines.next().ok_or_else(|| wrong(0, "expected a plan, found an empty file".into()))?;
        let first = first.map_err(|error| wrong(0, error.to_string()))?;
        let version = serde_json::from_str::<serde_json::Value>(&first)
            .ok()
            .and_then(|value| value.get("schema_version")?.as_str().map(str::to_owned))
            .ok_or_else(|| wrong(0, "expected the header of a plan with its `schema_version`".into()))?;
        if !is_readable(&version) {
            return Err(wrong(
                0,
                format!("expected version {SCHEMA_VERSION} or another of its major, found {version}"),
            ));
        }
        let header: Header = serde_json::from_str(&first).map_err(|error| wrong(0, error.to_string()))?;
        let mut units = Vec::new();
        let mut ids = BTreeSet::new();
        for (at, line) in lines {
            let line = line.map_err(|error| wrong(at, error.to_string()))?;
            let unit: PlannedUnit =
                serde_json::from_str(&line).map_err(|error| wrong(at, error.to_string()))?;
            unit.check(&header).map_err(|reason| wrong(at, reason))?;
            // The first half of a digest tells a hundred thousand units apart as well as all of it.
            if !ids.insert(unit.unit[..32].to_owned()) {
                return Err(wrong(at, format!("unit {} stands there twice", unit.unit)));
            }
            if wanted(&unit) {
                units.push(unit);
            }
        }
        if ids.len() != header.units {
            return Err(wrong(
                ids.len(),
                format!(
                    "the header announces {} units, found {}: the file was cut short",
                    header.units,
                    ids.len()
                ),
            ));
        }
        Ok(Self { header, units })
    }

    /// The plan as text.
    ///
    /// # Errors
    /// Never with what a plan can hold.
    pub fn write(&self) -> Result<String, serde_json::Error> {
        let mut text = serde_json::to_string(&self.header)? + "\n";
        for unit in &self.units {
            text.push_str(&serde_json::to_string(unit)?);
            text.push('\n');
        }
        Ok(text)
    }
}

impl PlannedUnit {
    fn check(&self, header: &Header) -> Result<(), String> {
        let Some(base) = header.bases.get(self.base) else {
            return Err(format!("there are {} bases, found one of number {}", header.bases.len(), self.base));
        };
        if self.shard >= header.shards {
            return Err(format!("there are {} shards, found one of number {}", header.shards, self.shard));
        }
        if self.adapters.is_empty() {
            return Err("expected the adapter's name and path, found none".into());
        }
        if !is_digest(&self.unit) {
            return Err(format!("expected a SHA-256 as the unit's id, found `{}`", self.unit));
        }
        let found = header.identity(self.manifest.clone(), base.manifest.clone()).unit();
        if found != self.unit {
            return Err(format!("the unit's id is {}, what it is made of has {found}", self.unit));
        }
        Ok(())
    }

    /// Its name for people.
    #[must_use]
    pub fn name(&self) -> &str {
        self.adapters.first().map_or("", |adapter| adapter.name.as_str())
    }
}

/// Shares units out over shards: units in the order of their bases are laid in one line as long as their costs, and the
/// line is cut into pieces of equal length. So shards cost about the same, no shard has more bases than it must (all
/// together load at most one base a shard and one for each further base), and the same units give the same plan.
///
/// `units` must be in the order of their bases; `load` is the cost of loading a base, which counts where it begins.
pub fn assign(units: &mut [PlannedUnit], shards: usize, load: impl Fn(usize) -> u64) {
    let mut before = None;
    let mut ends = Vec::with_capacity(units.len());
    let mut end: u128 = 0;
    for unit in units.iter() {
        if before != Some(unit.base) {
            end += u128::from(load(unit.base));
            before = Some(unit.base);
        }
        end += u128::from(unit.cost.max(1));
        ends.push(end);
    }
    let shards_wide = shards.max(1) as u128;
    for (unit, end_of_unit) in units.iter_mut().zip(ends) {
        // By the middle of the unit; the line's own end would be one shard too far.
        let middle = 2 * end_of_unit - u128::from(unit.cost.max(1));
        let shard = (middle * shards_wide) / (2 * end.max(1));
        unit.shard = (shard as usize).min(shards.saturating_sub(1));
    }
}
