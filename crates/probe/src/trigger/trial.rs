//! The end of a hunt: its strongest candidates answer held-out prompts, and a trigger that is confirmed loses what
//! it does not need.

use std::collections::BTreeMap;

use report::evidence::TestedTrigger;
use report::verdict::Thresholds;

use super::confirm::{self, Finalist, TestPrompts};
use super::hunt::{Hunt, candidate};
use super::pool::{Depth, Found};
use crate::error::Result;
use crate::prompt::Change;

/// Candidates that one round of the test looks at, and of one text at most.
const FINALISTS: usize = 10;
const PLACEMENTS_OF_ONE: usize = 2;
/// Candidates with this part of the strongest one's score are nearly alike.
const ALIKE: f64 = 0.9;
/// A shorter trigger may take over so many fewer of the development answers: one of eight.
const LOST: f64 = 0.126;
/// Times that a part is dropped.
const DROPS: usize = 12;

impl Hunt<'_> {
    /// Puts the strongest candidates that were not yet tested to the test on held-out prompts.
    /// Returns whether a trigger is confirmed.
    ///
    /// # Errors
    /// If the model or the journal fails, or the user stops.
    pub fn put_to_test(&mut self) -> Result<bool> {
        self.deepen_finalists()?;
        let finalists = self.finalists()?;
        if finalists.is_empty() {
            return Ok(self.confirmed());
        }
        self.observer.progress().stage("testing candidates", finalists.len());
        self.test(&finalists)?;
        Ok(self.confirmed())
    }

    /// Tests finalists on held-out prompts.
    fn test(&mut self, finalists: &[Finalist]) -> Result<()> {
        let changes: Vec<Change> =
            finalists.iter().map(|finalist| finalist.candidate.change.clone()).collect();
        let planned = self.evaluated as usize;
        let tested: Vec<TestedTrigger> = self.measured("test", &(&changes, planned), |hunt| {
            let prompts = TestPrompts { development: &hunt.development, held_out: &hunt.held_out };
            let mut tested = Vec::new();
            confirm::test_finalists(hunt.observer, finalists, &prompts, planned, hunt.seed, &mut tested)?;
            Ok(tested)
        })?;
        self.put_to_test.extend(changes);
        self.tested.extend(tested);
        confirm::settle(&mut self.tested, planned)
    }

    /// Scores the strongest candidates on the development prompts, whatever is left of the budget: a search that was
    /// cut short must not hide what it had found.
    fn deepen_finalists(&mut self) -> Result<()> {
        let known: Vec<(Change, &'static str, Vec<String>)> = self
            .pool
            .distinct(Depth::Middle, 2 * FINALISTS, PLACEMENTS_OF_ONE)
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

    /// The strongest candidates that were not yet tested, of those that are nearly alike the shortest first:
    /// what can be left out of a trigger is no part of it.
    fn finalists(&self) -> Result<Vec<Finalist>> {
        let distinct = self.pool.distinct(Depth::Full, usize::MAX, PLACEMENTS_OF_ONE);
        // By the payload that they lead to, where there is one; else by how far they move the model.
        let mut scored: Vec<(f64, &Found)> = match self.rated.is_empty() {
            true => distinct.into_iter().map(|found| (found.score.nats(), found)).collect(),
            false => self
                .rated
                .iter()
                .filter_map(|(change, rating)| Some((*rating, self.pool.get(change)?)))
                .collect(),
        };
        scored.retain(|(score, found)| *score > 0.0 && !self.put_to_test.contains(&found.change));
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        let strongest = scored.first().map_or(0.0, |(score, _)| *score);
        let tokenizer = self.observer.pair().tokenizer();
        let mut keyed = Vec::new();
        for (rank, (score, found)) in scored.into_iter().enumerate() {
            let alike = score >= ALIKE * strongest;
            let length = match &found.change {
                Change::Insert { text, .. } => tokenizer.encode(text.trim(), false)?.len(),
                Change::Scatter { .. } | Change::Frame { .. } | Change::Transform { .. } => 0,
            };
            keyed.push(((!alike, if alike { length } else { 0 }, rank), found));
        }
        keyed.sort_by_key(|(key, _)| *key);
        let mut used: BTreeMap<String, usize> = BTreeMap::new();
        let mut finalists = Vec::new();
        for (_, found) in keyed {
            let used = used.entry(found.change.text().trim().to_lowercase()).or_default();
            if finalists.len() < FINALISTS && *used < PLACEMENTS_OF_ONE {
                *used += 1;
                finalists.push(Finalist {
                    candidate: candidate(&found.change, found.search),
                    nats: Some(found.score.nats()),
                });
            }
        }
        Ok(finalists)
    }

    fn confirmed(&self) -> bool {
        self.tested.iter().any(|tested| Thresholds::STANDARD.confirms(tested))
    }

    /// Drops from the strongest confirmed trigger what its payload does not need, judged by the answers to development
    /// prompts, and puts what is left to the test. Divergence would not do: more text moves a model further.
    ///
    /// # Errors
    /// If the model or the journal fails, or the user stops.
    pub(super) fn reduce(&mut self) -> Result<()> {
        let confirmed = self.tested.iter().find(|tested| Thresholds::STANDARD.confirms(tested));
        let Some(start) = confirmed.and_then(|tested| {
            self.put_to_test.iter().find(|change| change.id() == tested.candidate.id).cloned()
        }) else {
            return Ok(());
        };
        let Some(Some(whole)) = self.develop(std::slice::from_ref(&start))?.pop() else { return Ok(()) };
        let mut current = start.clone();
        for _ in 0..DROPS {
            let shorter = self.shorter(&current)?;
            let developed = self.develop(&shorter)?;
            let enough = shorter.into_iter().zip(developed).filter_map(|(change, developed)| {
                let developed = developed?;
                let same = developed.payload.class == whole.payload.class;
                (same && developed.excess >= whole.excess - LOST).then_some((change, developed.excess))
            });
            // The most certain of the shortest.
            let best = enough.min_by(|(a, a_excess), (b, b_excess)| {
                let length = |change: &Change| change.text().chars().count();
                length(a).cmp(&length(b)).then(b_excess.total_cmp(a_excess))
            });
            match best {
                Some((change, _)) => current = change,
                None => break,
            }
        }
        if current == start || self.put_to_test.contains(&current) {
            return Ok(());
        }
        self.observer().progress().note(&format!(
            "enough of it: {} ({})",
            report::escape::excerpt(&current.text(), 40),
            current.placement()
        ));
        let nats = self.scores(Depth::Full, std::slice::from_ref(&current), true)?;
        self.test(&[Finalist {
            candidate: candidate(&current, "reduce"),
            nats: nats.first().map(super::pool::Score::nats),
        }])
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

    /// A change with one part, word or token less, in every way.
    fn shorter(&self, change: &Change) -> Result<Vec<Change>> {
        let mut shorter: Vec<Change> = Vec::new();
        let mut add = |change: Change| {
            if !shorter.contains(&change) {
                shorter.push(change);
            }
        };
        match change {
            Change::Scatter { parts } if parts.len() > 1 => {
                for dropped in 0..parts.len() {
                    let mut parts = parts.clone();
                    parts.remove(dropped);
                    add(Change::scattered(parts));
                }
            }
            Change::Insert { text, at } => {
                let mut texts = Vec::new();
                let words: Vec<&str> = text.split(' ').collect();
                let tokenizer = self.observer().pair().tokenizer();
                let tokens = tokenizer.encode(text, false)?;
                for dropped in 0..words.len() {
                    let rest = words.iter().enumerate().filter(|(index, _)| *index != dropped);
                    texts.push(rest.map(|(_, word)| *word).collect::<Vec<_>>().join(" "));
                }
                for dropped in 0..tokens.len() {
                    let mut tokens = tokens.clone();
                    tokens.remove(dropped);
                    texts.push(tokenizer.decode(&tokens, false)?);
                }
                for rest in texts {
                    if !rest.trim().is_empty() && rest.len() < text.len() {
                        add(Change::Insert { text: rest, at: *at });
                    }
                }
            }
            Change::Scatter { .. } | Change::Frame { .. } | Change::Transform { .. } => {}
        }
        Ok(shorter)
    }
}
