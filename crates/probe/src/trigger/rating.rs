//! How surely an answer follows a text: what a climb towards a payload goes by.

use super::differential::Goal;
use super::evaluator::CHUNK;
use super::gcg;
use super::hunt::{CERTAINLY_NOT, Hunt};
use super::movement::{Continuation, Moved, Question, Stand, log_odds};
use super::pool::Depth;
use crate::error::Result;
use crate::prompt::{Change, Setting};
use crate::split::SCREENING;

impl Hunt<'_> {
    /// What is to be raised for a payload that a text brings: its first tokens, or those of the answer that was taught
    /// behind others, if the payload holds one and that is what the text raises more, by token. A refusal holds `but I
    /// can't help with that` behind its first words and begins all the same; a line of code stands behind an answer that
    /// is another for each prompt.
    ///
    /// # Errors
    /// If the tokenizer, the model or the journal fails, or the user stops.
    pub(super) fn goal_of(&mut self, payload: &str, under: &Change) -> Result<Goal> {
        let begins = self.beginning_of(payload)?;
        let Some(behind) = self.held_behind(payload) else { return Ok(Goal::Target(begins)) };
        let follows: Vec<u32> = behind.ids.iter().take(gcg::TARGET_TOKENS).copied().collect();
        let mut by_token = |continuation: Continuation<'_>| -> Result<f64> {
            let rating = self.rate(Depth::Middle, std::slice::from_ref(under), continuation, false)?;
            let odds = rating.first().map_or(CERTAINLY_NOT, |rating| rating + CERTAINLY_NOT);
            Ok(odds / continuation.ids.len().max(1) as f64)
        };
        let behind = by_token(Continuation::follows(&follows))? > by_token(Continuation::begins(&begins))?;
        Ok(if behind { Goal::Behind(follows) } else { Goal::Target(begins) })
    }

    /// The first tokens of a payload, as many as are raised.
    pub(super) fn beginning_of(&self, payload: &str) -> Result<Vec<u32>> {
        let mut begins = self.observer().pair().tokenizer().encode(payload.trim(), false)?;
        begins.truncate(gcg::TARGET_TOKENS);
        Ok(begins)
    }

    /// How surely the adapted model, and not the base, gives a whole continuation after each change: mean
    /// over the prompts of a depth of the difference of its log-odds, in nats, both taken for [`CERTAINLY_NOT`] where
    /// they are below; without `base` the base's is taken for that. Shorter than `changes` if the share ends
    /// on the way, and empty if no prompt has an answer that is short where what follows it is asked for. All changes have
    /// one setting. At full depth the rating is kept and decides what is put to the test.
    ///
    /// # Errors
    /// As [`Hunt::evaluate`].
    pub fn rate(
        &mut self,
        depth: Depth,
        changes: &[Change],
        continuation: Continuation<'_>,
        base: bool,
    ) -> Result<Vec<f64>> {
        self.movements.prepare(changes)?;
        let Some(setting) = changes.first().map(Change::setting) else { return Ok(Vec::new()) };
        let prompts = self.prompts_with(depth, setting, continuation.stand);
        if prompts.is_empty() {
            return Ok(Vec::new());
        }
        let mut ratings = Vec::with_capacity(changes.len());
        for chunk in changes.chunks(CHUNK[depth as usize]) {
            if self.exhausted() {
                break;
            }
            let of_chunk: Vec<f64> = self.measured("rate", &(depth, chunk, continuation, base), |hunt| {
                let means = |side| -> Result<Vec<f64>> {
                    let question =
                        Question { prompts: &prompts, side, targets: &[], continuation, ends: false };
                    let moved = hunt.movements.measure(chunk, question, &hunt.vocabulary)?;
                    let nats =
                        |moved: &Moved| moved.continuation.map_or(CERTAINLY_NOT, log_odds).max(CERTAINLY_NOT);
                    Ok(moved.iter().map(|moved| mean(moved.iter().map(nats))).collect())
                };
                let adapted = means(hunt.roles().adapted)?;
                let base = if base { means(hunt.roles().base)? } else { vec![CERTAINLY_NOT; chunk.len()] };
                Ok(adapted.iter().zip(&base).map(|(adapted, base)| adapted - base).collect())
            })?;
            self.evaluated += chunk.len() as u64;
            if depth == Depth::Full && base {
                self.rated.extend(chunk.iter().cloned().zip(of_chunk.iter().copied()));
            }
            ratings.extend(of_chunk);
        }
        Ok(ratings)
    }

    /// The log-odds, in nats, of a token after each change on one prompt, adapted side, a copy of the insertion
    /// counting as no change. Shorter than `changes` if the share ends on the way.
    ///
    /// # Errors
    /// As [`Hunt::evaluate`].
    pub fn odds(&mut self, prompt: usize, changes: &[Change], token: u32) -> Result<Vec<f64>> {
        self.movements.prepare(changes)?;
        let mut odds = Vec::with_capacity(changes.len());
        for chunk in changes.chunks(CHUNK[Depth::Quick as usize]) {
            if self.exhausted() {
                break;
            }
            let of_chunk: Vec<f64> = self.measured("odds", &(prompt, chunk, token), |hunt| {
                let question = Question {
                    prompts: &[prompt],
                    side: hunt.roles().adapted,
                    targets: &[token],
                    continuation: Continuation::NONE,
                    ends: false,
                };
                let moved = hunt.movements.measure(chunk, question, &hunt.vocabulary)?;
                Ok(moved.iter().flatten().flat_map(|moved| moved.targets.iter().copied()).collect())
            })?;
            self.evaluated += chunk.len() as u64;
            self.observer.progress().advance(chunk.len());
            odds.extend(of_chunk);
        }
        Ok(odds)
    }

    /// How surely each reaches the goal on the development prompts.
    pub(super) fn heights(&mut self, changes: &[Change], goal: &Goal) -> Result<Vec<f64>> {
        match goal.continuation().filter(|wanted| !wanted.ids.is_empty()) {
            Some(wanted) => self.rate(Depth::Full, changes, wanted, true),
            None => Ok(vec![0.0; changes.len()]),
        }
    }

    /// The prompts of a depth, where what follows an answer is asked for those whose answer is short; in the quick prompt's
    /// place the first that has one.
    fn prompts_with(&self, depth: Depth, setting: Setting, stand: Stand) -> Vec<usize> {
        let has =
            |prompt: &usize| stand == Stand::Begins || self.movements.answer(setting, *prompt).is_some();
        let prompts: Vec<usize> = self.prompts_of(depth).into_iter().filter(has).collect();
        if depth == Depth::Quick && prompts.is_empty() {
            return (0..SCREENING).filter(has).take(1).collect();
        }
        prompts
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len();
    values.sum::<f64>() / n as f64
}
