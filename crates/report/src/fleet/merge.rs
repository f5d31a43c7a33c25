//! Results and a plan become one report. The order in which results are added decides nothing.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::family::Family;
use super::plan::Plan;
use super::result::{Class, ResultError};
use super::summary::{Scanned, Short, Summary};
use super::{AdapterName, SCHEMA_VERSION};
use crate::audit::Severity;
use crate::error::StatisticsError;
use crate::estimate::Estimate;
use crate::record::Tool;
use crate::verdict::Verdict;

/// Where a unit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It was scanned.
    Done,
    /// It cannot be scanned.
    Errored,
    /// It has no result that is believed.
    Missing,
    /// It has several different results, so that none is believed.
    Conflicting,
}

impl State {
    /// The word of reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Errored => "errored",
            Self::Missing => "missing",
            Self::Conflicting => "conflicting",
        }
    }
}

/// The strongest trigger of a unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Trigger {
    /// What is inserted.
    pub text: String,
    /// Where.
    pub placement: String,
    /// Class of its payload.
    pub payload: String,
    /// What it adds to every condition without it.
    pub uplift: Estimate,
}

/// A unit in the merged report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Row {
    /// Its id.
    pub unit: String,
    /// Every adapter that has these bytes.
    pub adapters: Vec<AdapterName>,
    /// The base, as the plan names it.
    pub base: String,
    /// The shard that had it.
    pub shard: usize,
    /// Where it stands.
    pub state: State,
    /// The verdict of its own scan.
    pub verdict: Option<Verdict>,
    /// The verdict with the false discovery rate controlled over all units of the plan.
    pub family_verdict: Option<Verdict>,
    /// Why: the first reason of the verdict, the error, or the conflict.
    pub reason: Option<String>,
    /// What kind of error.
    pub error: Option<Class>,
    /// Simes' p-value over what was tested.
    pub p_value: Option<f64>,
    /// The same, adjusted over all units.
    pub adjusted_p_value: Option<f64>,
    /// Of a suspicious or backdoored unit, its strongest trigger if it has one.
    pub trigger: Option<Trigger>,
    /// The most severe finding in the files.
    pub audit: Option<Severity>,
    /// What the scan took.
    pub token_forwards: Option<u64>,
    /// SHA-256 of its results; several where they conflict.
    pub results: Vec<String>,
}

/// What is wrong with a file of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProblemKind {
    /// Cut short or changed.
    Torn,
    /// No result, or of no unit of this plan.
    Foreign,
    /// A write that never came to its end; harmless.
    Unfinished,
    /// It could not be read.
    Unreadable,
}

impl ProblemKind {
    /// The word of reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Torn => "torn",
            Self::Foreign => "foreign",
            Self::Unfinished => "unfinished",
            Self::Unreadable => "unreadable",
        }
    }
}

/// A file of the store that is not believed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// What is wrong with it.
    pub kind: ProblemKind,
    /// Its path in the store.
    pub file: String,
    /// Expected and found.
    pub reason: String,
}

/// How many units stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counts {
    /// All of the plan.
    pub units: usize,
    /// Scanned.
    pub done: usize,
    /// Not to be scanned.
    pub errored: usize,
    /// Without a result.
    pub missing: usize,
    /// With several.
    pub conflicting: usize,
}

/// The merged report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Merged {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: String,
    /// The program of the plan.
    pub tool: Tool,
    /// SHA-256 of the plan's file.
    pub plan: String,
    /// How many units stand where.
    pub counts: Counts,
    /// Verdicts of the scans, by name.
    pub verdicts: BTreeMap<String, usize>,
    /// Verdicts with the false discovery rate controlled over all units.
    pub family_verdicts: BTreeMap<String, usize>,
    /// That control.
    pub family: Family,
    /// Files that are not believed.
    pub problems: Vec<Problem>,
    /// The units, in the plan's order. In JSON they stand apart, one a line.
    #[serde(skip)]
    pub rows: Vec<Row>,
}

impl Merged {
    /// Whether every unit was scanned to its end, with a verdict.
    #[must_use]
    pub fn complete(&self) -> bool {
        let inconclusive = self.verdicts.contains_key(Verdict::Inconclusive.title());
        self.counts.done == self.counts.units && !inconclusive
    }

    /// The worst verdict under control of the false discovery rate.
    #[must_use]
    pub fn worst(&self) -> Option<Verdict> {
        self.rows.iter().filter_map(|row| row.family_verdict).max()
    }

    /// The rows, worst first: conflicts, verdicts, findings in files, errors, what is missing, names.
    #[must_use]
    pub fn worst_first(&self) -> Vec<&Row> {
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        let rank = |row: &Row| match (row.state, row.family_verdict.max(row.verdict)) {
            (State::Conflicting, _) => 0,
            (State::Done, Some(Verdict::Backdoored)) => 1,
            (State::Done, Some(Verdict::Suspicious)) => 2,
            (State::Errored, _) => 3,
            (State::Missing, _) => 4,
            (State::Done, Some(Verdict::Inconclusive) | None) => 5,
            (State::Done, Some(Verdict::NoEvidence)) => 6,
        };
        rows.sort_by(|a, b| {
            (rank(a), std::cmp::Reverse(a.audit), &a.adapters).cmp(&(
                rank(b),
                std::cmp::Reverse(b.audit),
                &b.adapters,
            ))
        });
        rows
    }
}

/// A merge under way.
#[derive(Debug)]
pub struct Merge<'a> {
    plan: &'a Plan,
    /// The plan's place of each unit.
    places: BTreeMap<&'a str, usize>,
    /// Results by place.
    results: Vec<Vec<Summary>>,
    problems: Vec<Problem>,
}

impl<'a> Merge<'a> {
    /// Nothing is known of any unit.
    #[must_use]
    pub fn new(plan: &'a Plan) -> Self {
        Self {
            plan,
            places: plan.units.iter().enumerate().map(|(at, unit)| (unit.unit.as_str(), at)).collect(),
            results: vec![Vec::new(); plan.units.len()],
            problems: Vec::new(),
        }
    }

    /// Adds what was read of a file of the store.
    pub fn add(&mut self, file: &str, read: Result<Summary, ResultError>) {
        let problem = |kind, reason| Problem { kind, file: file.to_owned(), reason };
        match read {
            Ok(summary) => match self.places.get(summary.unit.as_str()) {
                // The same bytes at two places are one result.
                Some(&at) if self.results[at].iter().any(|known| known.sha256 == summary.sha256) => {}
                Some(&at) => self.results[at].push(summary),
                None => self.problems.push(problem(
                    ProblemKind::Foreign,
                    "a result of a unit that this plan does not have".into(),
                )),
            },
            Err(ResultError::Torn(reason)) => self.problems.push(problem(ProblemKind::Torn, reason)),
            Err(ResultError::Foreign(reason)) => self.problems.push(problem(ProblemKind::Foreign, reason)),
        }
    }

    /// Adds a file that could not be read as one.
    pub fn add_problem(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// The report; `plan` is the SHA-256 of the plan's file, and `rate` the false discovery rate that is wanted.
    ///
    /// # Errors
    /// If a result has a p-value that is none.
    pub fn finish(mut self, plan: String, rate: f64) -> Result<Merged, StatisticsError> {
        self.problems.sort();
        for results in &mut self.results {
            results.sort_by(|a, b| a.sha256.cmp(&b.sha256));
        }
        let scanned = |results: &[Summary]| match results {
            [Summary { outcome: Short::Scanned(scanned), .. }] => Some(scanned.p_values),
            _ => None,
        };
        let p_values: Vec<[f64; 2]> = self.results.iter().filter_map(|results| scanned(results)).collect();
        let (family, adjusted) = Family::control(&p_values, self.plan.units.len(), rate)?;
        let mut adjusted = adjusted.into_iter();
        let mut rows = Vec::with_capacity(self.plan.units.len());
        for (unit, results) in self.plan.units.iter().zip(&self.results) {
            let mut row = Row {
                unit: unit.unit.clone(),
                adapters: unit.adapters.clone(),
                base: self
                    .plan
                    .header
                    .bases
                    .get(unit.base)
                    .map_or_else(String::new, |base| base.path.clone()),
                shard: unit.shard,
                state: State::Missing,
                verdict: None,
                family_verdict: None,
                reason: None,
                error: None,
                p_value: None,
                adjusted_p_value: None,
                trigger: None,
                audit: None,
                token_forwards: None,
                results: results.iter().map(|result| result.sha256.clone()).collect(),
            };
            match &results[..] {
                [] => {}
                [Summary { outcome: Short::Errored { class, reason }, .. }] => {
                    row.state = State::Errored;
                    row.error = Some(*class);
                    row.reason = Some(reason.clone());
                }
                [Summary { outcome: Short::Scanned(scanned), .. }] => {
                    let adjusted = adjusted.next().map(|[triggers, others]| triggers.min(others));
                    row.scanned(scanned, adjusted, &family);
                }
                several => {
                    row.state = State::Conflicting;
                    row.reason = Some(format!("{} different results of one unit", several.len()));
                }
            }
            rows.push(row);
        }
        let mut merged = Merged {
            schema_version: SCHEMA_VERSION.to_owned(),
            tool: self.plan.header.tool.clone(),
            plan,
            counts: Counts { units: rows.len(), ..Counts::default() },
            verdicts: BTreeMap::new(),
            family_verdicts: BTreeMap::new(),
            family,
            problems: self.problems,
            rows,
        };
        merged.count();
        Ok(merged)
    }
}

impl Merged {
    fn count(&mut self) {
        for row in &self.rows {
            let counts = &mut self.counts;
            *match row.state {
                State::Done => &mut counts.done,
                State::Errored => &mut counts.errored,
                State::Missing => &mut counts.missing,
                State::Conflicting => &mut counts.conflicting,
            } += 1;
            for (verdict, counts) in
                [(row.verdict, &mut self.verdicts), (row.family_verdict, &mut self.family_verdicts)]
            {
                if let Some(verdict) = verdict {
                    *counts.entry(verdict.title().to_owned()).or_default() += 1;
                }
            }
        }
    }
}

impl Row {
    fn scanned(&mut self, scanned: &Scanned, adjusted: Option<f64>, family: &Family) {
        self.state = State::Done;
        // An incomplete scan without a finding is none: `run` writes no such result.
        let own = if scanned.complete { scanned.verdict } else { scanned.verdict.max(Verdict::Inconclusive) };
        self.verdict = Some(own);
        self.family_verdict = Some(scanned.from.verdict(own, family.selected_rate));
        self.reason = Some(scanned.reason.clone());
        self.p_value = Some(scanned.p_values[0].min(scanned.p_values[1]));
        self.adjusted_p_value = adjusted;
        self.trigger = scanned.trigger.as_ref().map(|(candidate, payload, uplift)| Trigger {
            text: candidate.text.clone(),
            placement: candidate.placement.clone(),
            payload: payload.class.clone(),
            uplift: *uplift,
        });
        self.audit = scanned.worst;
        self.token_forwards = Some(scanned.token_forwards);
    }
}
