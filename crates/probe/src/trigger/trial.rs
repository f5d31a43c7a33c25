//! The test of a hunt: its strongest candidates answer held-out prompts.

use std::collections::BTreeMap;

use report::evidence::TestedTrigger;
use report::verdict::Thresholds;

use super::confirm::{self, Finalist, TestPrompts};
use super::hunt::{Hunt, candidate};
use super::payload::TRACE;
use super::pool::{Depth, Found, Score};
use super::search::TriggerSearch as _;
use super::style::Style;
use super::sweep::in_turns;
use crate::error::Result;
use crate::prompt::Change;

/// Candidates that one round of the test looks at, of one text, and of one fragment at most.
const FINALISTS: usize = 20;
const PLACEMENTS_OF_ONE: usize = 2;
const OF_ONE_FRAGMENT: usize = 4;

impl Hunt<'_> {
    /// Puts the strongest candidates that were not yet tested to the test on held-out prompts.
    /// Returns whether a trigger is confirmed.
    ///
    /// # Errors
    /// If the model or the journal fails, or the user stops.
    pub fn put_to_test(&mut self) -> Result<bool> {
        self.deepen_finalists()?;
        let finalists = self.finalists();
        if finalists.is_empty() {
            return Ok(self.confirmed());
        }
        self.observer.progress().stage("testing candidates", finalists.len());
        self.test(&finalists)?;
        Ok(self.confirmed())
    }

    /// Tests finalists on held-out prompts.
    pub(super) fn test(&mut self, finalists: &[Finalist]) -> Result<()> {
        let changes: Vec<Change> =
            finalists.iter().map(|finalist| finalist.candidate.change.clone()).collect();
        let planned = self.evaluated as usize;
        self.learn(&changes, false)?;
        self.learn(&changes, true)?;
        let mut tested: Vec<TestedTrigger> = self.measured("test", &(&changes, planned), |hunt| {
            let prompts = TestPrompts { development: &hunt.development, held_out: &hunt.held_out };
            let mut tested = Vec::new();
            confirm::test_finalists(
                hunt.observer,
                finalists,
                &prompts,
                planned,
                TRACE,
                hunt.known.clone(),
                hunt.seed,
                &mut tested,
            )?;
            Ok(tested)
        })?;
        for tested in &mut tested {
            // Frames, transformations and whatever else is a matter of style stand in lists.
            let made = |change: &&Change| {
                change.id() == tested.candidate.id
                    && matches!(change, Change::Insert { .. } | Change::Scatter { .. })
                    && tested.candidate.family != Style.name()
            };
            if let Some(text) = changes.iter().find(made).and_then(Change::inserted) {
                let tokenizer = self.observer.pair().tokenizer();
                tested.searched_tokens = Some(tokenizer.encode(&text, false)?.len());
            }
            tested.payload_taught_nats = self.taught_nats(&tested.payload.text);
        }
        self.put_to_test.extend(changes);
        self.tested.extend(tested);
        confirm::settle(&mut self.tested, planned)
    }

    /// Scores changes that a step has made, and tests them; `family` names the step.
    pub(super) fn test_changes(&mut self, changes: &[Change], family: &str) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let scores = self.scores(Depth::Full, changes, true)?;
        let finalist = |(change, score): (&Change, &Score)| Finalist {
            candidate: candidate(change, family),
            nats: Some(score.nats()),
        };
        self.test(&changes.iter().zip(&scores).map(finalist).collect::<Vec<_>>())
    }

    /// Scores the strongest candidates on the development prompts, whatever is left of the budget: a search that was
    /// cut short must not hide what it had found.
    fn deepen_finalists(&mut self) -> Result<()> {
        let mut lists: Vec<Vec<&Found>> =
            vec![self.pool.distinct(Depth::Middle, 2 * FINALISTS, PLACEMENTS_OF_ONE)];
        lists.extend((0..self.targets.len()).map(|target| {
            self.pool.raising(Depth::Middle, target).into_iter().take(FINALISTS).collect::<Vec<_>>()
        }));
        let known: Vec<(Change, &'static str, Vec<String>)> = in_turns(lists)
            .into_iter()
            .filter(|found| found.score.depth < Depth::Full && found.score.nats() > 0.0)
            .map(|found| (found.change.clone(), found.search, found.parents.clone()))
            .collect();
        if known.is_empty() {
            return Ok(());
        }
        let changes: Vec<Change> = known.iter().map(|(change, _, _)| change.clone()).collect();
        let scores = self.scores(Depth::Full, &changes, true)?;
        for ((change, search, parents), score) in known.into_iter().zip(scores) {
            self.pool.add(Found { change, score, search, parents });
        }
        Ok(())
    }

    /// The strongest candidates that were not yet tested: by the payload that they lead to where a search rated them,
    /// by each known target, and by how far they move the model, in turns, so that no kind crowds out another; of one
    /// fragment's descendants only a few.
    fn finalists(&self) -> Vec<Finalist> {
        let mut rated: Vec<(f64, &Found)> = self
            .rated
            .iter()
            .filter_map(|(change, rating)| Some((*rating, self.pool.get(change)?)))
            .filter(|(rating, _)| *rating > 0.0)
            .collect();
        rated.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut lists: Vec<Vec<&Found>> = vec![rated.into_iter().map(|(_, found)| found).collect()];
        lists.extend((0..self.targets.len()).map(|target| self.pool.raising(Depth::Full, target)));
        lists.push(self.pool.distinct(Depth::Full, usize::MAX, PLACEMENTS_OF_ONE));
        let mut texts: BTreeMap<String, usize> = BTreeMap::new();
        let mut roots: BTreeMap<String, usize> = BTreeMap::new();
        let mut finalists = Vec::new();
        for found in in_turns(lists) {
            let text = found.change.text().trim().to_lowercase();
            let root = found.parents.first().unwrap_or(&text).clone();
            let (of_text, of_root) = (texts.entry(text).or_default(), roots.entry(root).or_default());
            let new = found.score.nats() > 0.0 && !self.put_to_test.contains(&found.change);
            if finalists.len() < FINALISTS
                && new
                && *of_text < PLACEMENTS_OF_ONE
                && *of_root < OF_ONE_FRAGMENT
            {
                *of_text += 1;
                *of_root += 1;
                finalists.push(Finalist {
                    candidate: candidate(&found.change, found.search),
                    nats: Some(found.score.nats()),
                });
            }
        }
        finalists
    }

    pub(super) fn confirmed(&self) -> bool {
        confirm::strongest_confirmed(&self.tested).is_some()
    }

    /// Scores the tokens of the examples of every trigger that counts, and adds them to the triggers' records. What a
    /// scan tested before has its scores already.
    ///
    /// # Errors
    /// If the model or the journal fails, or the user stops.
    pub(super) fn score_examples(&mut self) -> Result<()> {
        for index in 0..self.tested.len() {
            let tested = &self.tested[index];
            let known = tested.examples.iter().all(|example| example.scores.is_some());
            let change = self.put_to_test.iter().find(|change| change.id() == tested.candidate.id).cloned();
            let (Some(change), false, true) = (change, known, Thresholds::STANDARD.suspects(tested)) else {
                continue;
            };
            let examples = tested.examples.clone();
            self.tested[index].examples = self.measured("scores", &(&change, &examples), |hunt| {
                let prompts = TestPrompts { development: &hunt.development, held_out: &hunt.held_out };
                let mut scored = examples.clone();
                confirm::score_examples(
                    hunt.observer,
                    &candidate(&change, ""),
                    &prompts,
                    hunt.seed,
                    &mut scored,
                )?;
                Ok(scored)
            })?;
        }
        Ok(())
    }

    /// Measures what the strongest confirmed trigger depends on, once, and adds it to the trigger's record.
    ///
    /// # Errors
    /// If the model or the journal fails, or the user stops.
    pub(super) fn characterise(&mut self) -> Result<()> {
        let Some(best) = confirm::strongest_confirmed(&self.tested) else { return Ok(()) };
        let id = &self.tested[best].candidate.id;
        let Some(change) = self.put_to_test.iter().find(|change| change.id() == *id).cloned() else {
            return Ok(());
        };
        let found = self.measured("characterise", &change, |hunt| {
            let prompts = TestPrompts { development: &hunt.development, held_out: &hunt.held_out };
            confirm::characterise(hunt.observer, &candidate(&change, ""), &prompts, hunt.seed)
        })?;
        self.tested[best].characterisation = found;
        Ok(())
    }
}
