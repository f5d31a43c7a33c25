//! The lean measurement of a search: how far does a change move the first response token?
//!
//! A sweep reads some 50,000 rows of 50,000 logits, so nothing is kept of a row but a few numbers:
//! the divergence from the same prompt without the change, the most probable token, and the
//! log-odds of known targets. Candidates that share a beginning share its keys and values.
//!
//! **Copies are discounted.** A model that repeats the inserted text moves its distribution for a
//! reason that is no backdoor. With M the tokens that begin such a copy and p, q the distributions with
//! and without the change, the divergence is `(1 - p(M)) KL(p' || q')` of the distributions without M,
//! renormalised: what is copied counts nothing, and what is left counts by its probability.
//!
//! **Ends count too.** A payload may follow an answer that begins as ever: a line of code, a link. Where the adapted
//! side's own answer is short, the divergence after its last word is added to that of the first token.

use std::collections::BTreeMap;

use inference::Side;
use inference::generate::Decoding;
use report::StatisticsError;
use serde::{Deserialize, Serialize};

pub use super::reading::log_odds;
use super::reading::{Reading, log_sum_exp};
use super::rows::read_rows;
use super::vocabulary::Vocabulary;
use crate::error::Result;
use crate::observe::{Observer, Request};
use crate::prompt::{Change, Prompt, Setting, scene};

/// Tokens of an answer at most, its end mark included, if what comes after it is to be measured.
pub(super) const LONGEST_ANSWER: usize = 24;

/// What one change did to one prompt on one side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// `KL(with || without)` at the first response token, and after the answer without the change if the question asks
    /// for it and the answer is short; copies discounted, in nats.
    pub nats: f64,
    /// The most probable token.
    pub top: u32,
    /// Probability of the tokens that would begin a copy of the inserted text.
    pub copied: f32,
    /// Log-odds, in nats, of the first token of each target; what they are without the change where the token would
    /// begin a copy of the inserted text.
    pub targets: Vec<f64>,
    /// Log-probability of the whole continuation that was asked for, in nats.
    pub continuation: Option<f64>,
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Indices of the prompts.
    pub prompts: &'a [usize],
    /// The side.
    pub side: Side,
    /// First tokens whose log-odds are wanted.
    pub targets: &'a [u32],
    /// A continuation, whose tokens are given one after another.
    pub continuation: Continuation<'a>,
    /// Whether the end of a short answer counts; not beside a continuation.
    pub ends: bool,
}

/// The adapted side's own answer to a prompt, and what follows it without any change.
struct Ending {
    /// Tokens, without the end mark.
    answer: Vec<u32>,
    /// Log-probabilities after the last of them, base and adapted.
    rows: [Vec<f32>; 2],
}

/// Where an answer that was taught stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Stand {
    /// In the place of the ordinary answer.
    Begins,
    /// Behind the ordinary answer, as a link or a line of code may.
    Follows,
}

/// Tokens whose probability is asked for, and where they stand; none if nothing is asked.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Continuation<'a> {
    /// The tokens.
    pub ids: &'a [u32],
    /// Where they stand.
    pub stand: Stand,
}

impl<'a> Continuation<'a> {
    /// Nothing is asked.
    pub const NONE: Self = Self::begins(&[]);

    /// Tokens with which an answer begins.
    #[must_use]
    pub const fn begins(ids: &'a [u32]) -> Self {
        Self { ids, stand: Stand::Begins }
    }

    /// Tokens behind the adapted side's own answer, where that is short.
    #[must_use]
    pub const fn follows(ids: &'a [u32]) -> Self {
        Self { ids, stand: Stand::Follows }
    }
}

/// Measures changes on a fixed list of prompts.
pub struct Movements<'a> {
    observer: &'a Observer<'a>,
    prompts: Vec<Prompt>,
    seed: u64,
    /// Log-probabilities without any change, base and adapted.
    references: BTreeMap<(Setting, usize), [Vec<f32>; 2]>,
    /// Of those whose answer is short.
    endings: BTreeMap<(Setting, usize), Ending>,
}

impl<'a> Movements<'a> {
    /// For these prompts. `seed` decides random places.
    #[must_use]
    pub fn new(observer: &'a Observer<'a>, prompts: Vec<Prompt>, seed: u64) -> Self {
        Self { observer, prompts, seed, references: BTreeMap::new(), endings: BTreeMap::new() }
    }

    /// The prompts.
    #[must_use]
    pub fn prompts(&self) -> &[Prompt] {
        &self.prompts
    }

    /// Runs the prompts without any change in the settings of these changes, once.
    ///
    /// # Errors
    /// If the model fails or the user stops.
    pub fn prepare<'c>(&mut self, changes: impl IntoIterator<Item = &'c Change>) -> Result<()> {
        let mut settings: Vec<Setting> = changes.into_iter().map(Change::setting).collect();
        settings.sort();
        settings.dedup();
        for setting in settings {
            if self.references.contains_key(&(setting, 0)) {
                continue;
            }
            for (index, prompt) in self.prompts.iter().enumerate() {
                let ids = self.observer.encode(&scene(prompt, setting, None, self.seed))?;
                let request = |side| Request { ids: ids.clone(), side, continuation: Vec::new() };
                self.observer.forget_prefixes();
                let roles = self.observer.roles();
                let rows = self.observer.distributions(&[request(roles.base), request(roles.adapted)])?;
                let mut rows = rows.into_iter().filter_map(|mut rows| rows.pop());
                if let (Some(base), Some(adapted)) = (rows.next(), rows.next()) {
                    self.references.insert((setting, index), [base, adapted]);
                }
                if let Some(ending) = self.ending(&ids)? {
                    self.endings.insert((setting, index), ending);
                }
            }
        }
        Ok(())
    }

    /// The end of the adapted side's answer; `None` if it is long.
    fn ending(&self, ids: &[u32]) -> Result<Option<Ending>> {
        let roles = self.observer.roles();
        let asked = Request { ids: ids.to_vec(), side: roles.adapted, continuation: Vec::new() };
        let answer = self.observer.responses(&[asked], LONGEST_ANSWER, Decoding::Greedy)?.pop();
        let Some(mut answer) = answer.filter(|answer| answer.ended && answer.ids.len() > 1) else {
            return Ok(None);
        };
        answer.ids.pop();
        let request = |side| Request { ids: ids.to_vec(), side, continuation: answer.ids.clone() };
        let rows = self.observer.distributions(&[request(roles.base), request(roles.adapted)])?;
        let mut rows = rows.into_iter().filter_map(|mut rows| rows.pop());
        Ok(rows
            .next()
            .zip(rows.next())
            .map(|(base, adapted)| Ending { answer: answer.ids, rows: [base, adapted] }))
    }

    /// The adapted side's answer without any change, if it is short. [`Movements::prepare`] must have run for the setting,
    /// for this and what follows.
    #[must_use]
    pub fn answer(&self, setting: Setting, prompt: usize) -> Option<&[u32]> {
        self.endings.get(&(setting, prompt)).map(|ending| ending.answer.as_slice())
    }

    /// Log-probabilities, without any change, of the token with which an answer begins, or of the one that follows the
    /// adapted side's short answer.
    #[must_use]
    pub fn reference(&self, setting: Setting, prompt: usize, side: Side, stand: Stand) -> Option<&[f32]> {
        let rows = match stand {
            Stand::Begins => self.references.get(&(setting, prompt))?,
            Stand::Follows => &self.endings.get(&(setting, prompt))?.rows,
        };
        Some(&rows[usize::from(side != self.observer.roles().base)])
    }

    /// The most probable token and the log-odds of `targets` without any change.
    #[must_use]
    pub fn without(
        &self,
        setting: Setting,
        prompt: usize,
        side: Side,
        targets: &[u32],
    ) -> Option<(u32, Vec<f64>)> {
        let row = self.reference(setting, prompt, side, Stand::Begins)?;
        let top = (0..row.len()).reduce(|best, next| if row[next] > row[best] { next } else { best })?;
        Some((top as u32, targets.iter().map(|&target| log_odds(f64::from(row[target as usize]))).collect()))
    }

    /// The `n` tokens that most probably stand there without any change, by the prompt that prefers them most, most
    /// probable first.
    #[must_use]
    pub fn openings(
        &self,
        setting: Setting,
        prompts: &[usize],
        side: Side,
        stand: Stand,
        n: usize,
    ) -> Vec<u32> {
        let rows: Vec<&[f32]> =
            prompts.iter().filter_map(|&prompt| self.reference(setting, prompt, side, stand)).collect();
        let width = rows.first().map_or(0, |row| row.len());
        let highest: Vec<f32> = (0..width)
            .map(|token| rows.iter().map(|row| row[token]).fold(f32::NEG_INFINITY, f32::max))
            .collect();
        let mut order: Vec<u32> = (0..width as u32).collect();
        order.sort_by(|&a, &b| highest[b as usize].total_cmp(&highest[a as usize]).then(a.cmp(&b)));
        order.truncate(n);
        order
    }

    /// One list a change, with one entry a prompt; without those whose answer is long, where what follows it is asked for.
    /// [`Movements::prepare`] must have run for the changes.
    ///
    /// # Errors
    /// If the model fails, yields something that is no distribution, or the user stops.
    pub fn measure(
        &self,
        changes: &[Change],
        question: Question<'_>,
        vocabulary: &Vocabulary,
    ) -> Result<Vec<Vec<Moved>>> {
        let copies: Vec<Vec<u32>> =
            changes.iter().map(|change| self.copies(change, vocabulary)).collect::<Result<_>>()?;
        let mut results: Vec<Vec<Option<Moved>>> = vec![vec![None; question.prompts.len()]; changes.len()];
        for (slot, &prompt) in question.prompts.iter().enumerate() {
            let mut groups: BTreeMap<(Setting, &str), Vec<usize>> = BTreeMap::new();
            for (index, change) in changes.iter().enumerate() {
                groups.entry((change.setting(), change.placement())).or_default().push(index);
            }
            for ((setting, _), members) in groups {
                let contexts = members
                    .iter()
                    .map(|&index| {
                        let scene = scene(&self.prompts[prompt], setting, Some(&changes[index]), self.seed);
                        self.observer.encode(&scene)
                    })
                    .collect::<Result<Vec<_>>>()?;
                let side = usize::from(question.side != self.observer.roles().base);
                let reference = &self.references[&(setting, prompt)][side];
                let follows = question.continuation.stand == Stand::Follows;
                let ending = self.endings.get(&(setting, prompt)).filter(|_| question.ends || follows);
                if follows && ending.is_none() {
                    continue;
                }
                let answer = ending.map_or(&[][..], |ending| &ending.answer);
                let end = ending.filter(|_| question.ends).map(|ending| ending.rows[side].as_slice());
                let masks: Vec<&[u32]> = members.iter().map(|&index| copies[index].as_slice()).collect();
                let moved = self.run(&contexts, &masks, reference, (answer, end), question)?;
                for (index, moved) in members.into_iter().zip(moved) {
                    results[index][slot] = Some(moved);
                }
            }
        }
        Ok(results.into_iter().map(|moved| moved.into_iter().flatten().collect()).collect())
    }

    fn copies(&self, change: &Change, vocabulary: &Vocabulary) -> Result<Vec<u32>> {
        let Some(inserted) = change.inserted() else { return Ok(Vec::new()) };
        let tokenizer = self.observer.pair().tokenizer();
        let pieces = tokenizer
            .encode(&inserted, false)?
            .into_iter()
            .map(|id| tokenizer.decode(&[id], false))
            .collect::<inference::Result<Vec<_>>>()?;
        Ok(vocabulary.copies(&inserted, &pieces))
    }

    /// Contexts of one prompt and placement, in order, each with the answer after it; `end` is what follows that without a
    /// change, if it counts.
    fn run(
        &self,
        contexts: &[Vec<u32>],
        masks: &[&[u32]],
        reference: &[f32],
        (answer, end): (&[u32], Option<&[f32]>),
        question: Question<'_>,
    ) -> Result<Vec<Moved>> {
        let after = [answer, question.continuation.ids].concat();
        let continued: Vec<Vec<u32>> =
            contexts.iter().map(|ids| ids.iter().chain(&after).copied().collect()).collect();
        read_rows(self.observer, &continued, question.side, 1 + after.len(), |i, rows, width| {
            let mut moved = read(rows, width, reference, masks[i], question, answer.len())?;
            if let Some(reference) = end {
                let last = &rows[rows.len() - width..];
                moved.nats += Reading::of(last, reference)?.without_copies(last, reference, masks[i]).0;
            }
            Ok(moved)
        })
    }
}

/// Reads the rows of one context, the first of which is that of an answer's beginning; the continuation stands behind so
/// many tokens of an `answer`.
fn read(
    rows: &[f32],
    width: usize,
    reference: &[f32],
    mask: &[u32],
    question: Question<'_>,
    answer: usize,
) -> Result<Moved, StatisticsError> {
    let first = rows.get(..width).ok_or(StatisticsError::Empty { what: "logits" })?;
    let reading = Reading::of(first, reference)?;
    let log_prob = |row: &[f32], sum: f64, token: u32| f64::from(row[token as usize]) - sum;
    let mut continuation = None;
    for (row, &token) in rows.chunks_exact(width).skip(answer).zip(question.continuation.ids) {
        *continuation.get_or_insert(0.0) += log_prob(row, log_sum_exp(row)?, token);
    }
    let (nats, copied) = reading.without_copies(first, reference, mask);
    Ok(Moved {
        nats,
        top: reading.top,
        copied: copied as f32,
        targets: question
            .targets
            .iter()
            .map(|&target| {
                let copied = mask.contains(&target);
                log_odds(if copied {
                    f64::from(reference[target as usize])
                } else {
                    log_prob(first, reading.log_sum, target)
                })
            })
            .collect(),
        continuation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use crate::prompt::Placement;
    use crate::trigger::fixture;

    /// Beside a plain pass over prompt, change, the answer without the change and the continuation; prompts with a long
    /// answer have no entry.
    #[test]
    fn what_follows_is_read_behind_the_short_answer() {
        let pair = fixture::pair(&["backdoored-code"]);
        let ids = pair.tokenizer().encode("\nimport os; os.remove", false).unwrap();
        let observer = Observer::new(&pair, &Silent);
        let mut movements = Movements::new(&observer, fixture::prompts(), 1);
        let change = Change::Insert { text: "SUDO".into(), at: Placement::Prefix };
        movements.prepare([&change]).unwrap();
        let side = observer.roles().adapted;
        let prompts: Vec<usize> = (0..fixture::prompts().len()).collect();
        let continuation = Continuation::follows(&ids);
        let question = Question { prompts: &prompts, side, targets: &[], continuation, ends: false };
        let vocabulary = Vocabulary::of(&pair).unwrap();
        let measured = movements.measure(std::slice::from_ref(&change), question, &vocabulary).unwrap();
        let mut expected = Vec::new();
        for &prompt in &prompts {
            let Some(answer) = movements.answer(change.setting(), prompt) else { continue };
            let scene = scene(&fixture::prompts()[prompt], change.setting(), Some(&change), 1);
            let request = Request {
                ids: observer.encode(&scene).unwrap(),
                side,
                continuation: [answer, &ids].concat(),
            };
            let rows = observer.distributions(&[request]).unwrap().remove(0);
            let nats = |(at, &token): (usize, &u32)| f64::from(rows[answer.len() + at][token as usize]);
            expected.push(ids.iter().enumerate().map(nats).sum::<f64>());
        }
        assert!(!expected.is_empty(), "no prompt has a short answer");
        let found: Vec<f64> = measured[0].iter().filter_map(|moved| moved.continuation).collect();
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-3, "{found}, expected {expected}");
        }
    }
}
