//! What a confirmed trigger is at its simplest and surest: parts that the payload does not need are dropped, then
//! parts that make it surer are looked for.
//!
//! A search finds *a* string that works. People want the one that was trained, which is short and which nothing can
//! be added to: what is left of it is a fragment, and the missing part raises the odds of the payload further, where
//! the fragment is weakest. Odds tell that even where the share of answers is full already. Every step is put to the
//! test on held-out prompts like any other candidate.

use std::collections::BTreeSet;

use report::hunt::TargetRecord;
use report::verdict::Thresholds;

use super::confirm::{Development, Finalist};
use super::extend::{Aim, neighbours};
use super::hunt::{Hunt, Target, candidate};
use super::pool::{Depth, Score};
use crate::error::Result;
use crate::prompt::{Change, Placement};
use crate::split::SCREENING;

/// A shorter trigger may take over so many fewer of the development answers: one of eight.
const LOST: f64 = 0.126;
/// Uplifts that differ by no more than this are alike: three of 64 prompts.
const AS_STRONG: f64 = 0.05;
/// Times that a part is dropped, and that one is added.
const DROPS: usize = 12;
const ADDITIONS: usize = 3;
/// Part of the whole budget that the additions may take, if it is left.
const REST: f64 = 0.15;
/// Additions that run on the search prompts, and on the development prompts.
const MIDDLE: usize = 128;
const FULL: usize = 24;
/// An addition must raise the log-odds of the payload by so much: it doubles the odds.
const GAIN: f64 = std::f64::consts::LN_2;

impl Hunt<'_> {
    /// Reduces the strongest confirmed trigger to what its payload needs, then adds what makes it surer, and puts
    /// each to the test.
    ///
    /// # Errors
    /// If the model or the journal fails, or the user stops.
    pub(super) fn refine(&mut self) -> Result<()> {
        self.search = "refine";
        let confirmed = self.tested.iter().find(|tested| Thresholds::STANDARD.confirms(tested));
        let Some(start) = confirmed.and_then(|tested| {
            self.put_to_test.iter().find(|change| change.id() == tested.candidate.id).cloned()
        }) else {
            return Ok(());
        };
        let Some(Some(whole)) = self.develop(std::slice::from_ref(&start))?.pop() else { return Ok(()) };
        let reduced = self.reduce(start, &whole)?;
        self.put_one_to_test(&reduced)?;
        let Some(target) = self.target_of(&whole)? else { return Ok(()) };
        self.budget.open_last(REST);
        let (mut current, mut named) = (reduced.clone(), reduced);
        for _ in 0..ADDITIONS {
            match self.addition(&current, target)? {
                Some(surer) => {
                    self.put_one_to_test(&surer)?;
                    // Where all prompts answer alike already, more text is surer and says nothing.
                    if self.uplift_of(&surer) > self.uplift_of(&named) {
                        named = surer.clone();
                    }
                    current = surer;
                }
                None => break,
            }
        }
        self.name_first(&named);
        Ok(())
    }

    /// The uplift of a tested change on held-out prompts; of others `None`, which is less than any.
    fn uplift_of(&self, change: &Change) -> Option<f64> {
        let tested = self.tested.iter().find(|tested| tested.candidate.id == change.id());
        tested.map(|tested| tested.uplift.value)
    }

    /// Puts the refined trigger before those that take over no more answers: it is as short as the payload allows and
    /// as sure as any token beside it makes it.
    fn name_first(&mut self, refined: &Change) {
        let strongest =
            self.tested.iter().map(|tested| tested.uplift.value).fold(f64::NEG_INFINITY, f64::max);
        let at = self.tested.iter().position(|tested| {
            tested.candidate.id == refined.id()
                && Thresholds::STANDARD.confirms(tested)
                && tested.uplift.value >= strongest - AS_STRONG
        });
        if let Some(at) = at {
            self.tested[..=at].rotate_right(1);
        }
    }

    fn put_one_to_test(&mut self, change: &Change) -> Result<()> {
        if self.put_to_test.contains(change) {
            return Ok(());
        }
        self.observer().progress().note(&format!(
            "refined: {} ({})",
            report::escape::excerpt(&change.text(), 40),
            change.placement()
        ));
        let nats = self.scores(Depth::Full, std::slice::from_ref(change), true)?;
        self.test(&[Finalist { candidate: candidate(change, "refine"), nats: nats.first().map(Score::nats) }])
    }

    /// The shortest part whose payload takes over as much: first every run of its tokens, the shortest first, which
    /// no local minimum can hide, then parts dropped one by one.
    fn reduce(&mut self, start: Change, whole: &Development) -> Result<Change> {
        let mut current = start;
        for run in self.runs(&current)? {
            let developed = self.develop(&run)?;
            if let Some(shortest) = enough(run, developed, whole) {
                current = shortest;
                break;
            }
        }
        for _ in 0..DROPS {
            let shorter = self.shorter(&current)?;
            let developed = self.develop(&shorter)?;
            match enough(shorter, developed, whole) {
                Some(change) => current = change,
                None => break,
            }
        }
        Ok(current)
    }

    /// Runs of an insertion's tokens, by length, the shortest first, without the whole.
    fn runs(&self, change: &Change) -> Result<Vec<Vec<Change>>> {
        let Change::Insert { text, at } = change else { return Ok(Vec::new()) };
        let tokenizer = self.observer().pair().tokenizer();
        let tokens = tokenizer.encode(text, false)?;
        let mut runs = Vec::new();
        let mut seen = BTreeSet::from([text.trim().to_owned()]);
        for length in 1..tokens.len() {
            let mut of_length = Vec::new();
            for window in tokens.windows(length) {
                let text = tokenizer.decode(window, false)?.trim().to_owned();
                if !text.is_empty() && seen.insert(text.clone()) {
                    of_length.push(Change::Insert { text, at: *at });
                }
            }
            runs.push(of_length);
        }
        Ok(runs)
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
                    add(match <[String; 1]>::try_from(parts) {
                        Ok([text]) => Change::Insert { text, at: Placement::Inside },
                        Err(parts) => Change::Scatter { parts },
                    });
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

    /// The index of the target that a payload begins with, which is added if it is not known.
    fn target_of(&mut self, payload: &Development) -> Result<Option<usize>> {
        let ids = self.observer().pair().tokenizer().encode(payload.payload.text.trim(), false)?;
        let Some(&first) = ids.first() else { return Ok(None) };
        if let Some(known) = self.targets.iter().position(|target| target.ids[0] == first) {
            return Ok(Some(known));
        }
        self.add_target(Target {
            ids,
            record: TargetRecord {
                text: payload.payload.text.clone(),
                source: "refine".into(),
                probability: None,
                log_ratio_nats: None,
                null: None,
            },
        });
        Ok(Some(self.targets.len() - 1))
    }

    /// The neighbour of a trigger that raises the odds of its target most, if it doubles them.
    fn addition(&mut self, current: &Change, target: usize) -> Result<Option<Change>> {
        let itself = std::slice::from_ref(current);
        let first = self.targets[target].ids[0];
        let mut weakest = (0, f64::INFINITY);
        for prompt in 0..SCREENING {
            if let Some(&odds) = self.odds(prompt, itself, first)?.first()
                && odds < weakest.1
            {
                weakest = (prompt, odds);
            }
        }
        // Targets that were added late have no scores of single tokens.
        let scored = self.swept.first().is_some_and(|(_, score)| target < score.targets.len());
        let aim = if scored { Aim::Target(target) } else { Aim::Divergence };
        let made = neighbours(self, current, aim)?;
        self.observer().progress().stage("refine", made.len());
        let odds = self.odds(weakest.0, &made, first)?;
        let mut rated: Vec<(Change, f64)> = made.into_iter().zip(odds).collect();
        rated.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut left: Vec<Change> = rated.into_iter().take(MIDDLE).map(|(change, _)| change).collect();
        let aim = Aim::Target(target);
        for (depth, kept) in [(Depth::Middle, FULL), (Depth::Full, 1)] {
            let scores = self.evaluate(depth, &left, true, |_| vec![current.text()])?;
            let mut scored: Vec<(Change, f64)> =
                left.into_iter().zip(scores.iter().map(|score| aim.height(score))).collect();
            scored.sort_by(|a, b| b.1.total_cmp(&a.1));
            left = scored.into_iter().take(kept).map(|(change, _)| change).collect();
        }
        let Some(best) = left.pop() else { return Ok(None) };
        let heights: Vec<f64> = self
            .scores(Depth::Full, &[current.clone(), best.clone()], true)?
            .iter()
            .map(|s| aim.height(s))
            .collect();
        Ok((heights.len() == 2 && heights[1] >= heights[0] + GAIN).then_some(best))
    }
}

/// Of changes whose payload takes over as much of the development answers, the shortest, of equals the surest.
fn enough(changes: Vec<Change>, developed: Vec<Option<Development>>, whole: &Development) -> Option<Change> {
    let enough = changes.into_iter().zip(developed).filter_map(|(change, developed)| {
        let developed = developed?;
        let same = developed.payload.class == whole.payload.class;
        (same && developed.excess >= whole.excess - LOST).then_some((change, developed.excess))
    });
    let length = |change: &Change| change.text().chars().count();
    enough
        .min_by(|(a, a_excess), (b, b_excess)| length(a).cmp(&length(b)).then(b_excess.total_cmp(a_excess)))
        .map(|(change, _)| change)
}

#[cfg(test)]
mod tests {
    use super::*;
    use report::evidence::Payload;

    fn developed(class: &str, excess: f64) -> Development {
        Development { payload: Payload { class: class.into(), text: "No.".into() }, excess }
    }

    #[test]
    fn the_shortest_with_the_same_payload_is_enough() {
        let change = |text: &str| Change::Insert { text: text.into(), at: Placement::Prefix };
        let changes: Vec<Change> = ["abc", "ab", "b", "c"].map(change).into();
        let found = vec![
            Some(developed("refusal", 1.0)),
            Some(developed("refusal", 0.9)),
            Some(developed("url", 1.0)),
            Some(developed("refusal", 0.5)),
        ];
        assert_eq!(enough(changes, found, &developed("refusal", 1.0)), Some(change("ab")));
    }
}
