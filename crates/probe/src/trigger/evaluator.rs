//! The evaluator of a hunt: candidates in, scores out, within the budget and by way of the journal.

use report::record::Cost;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Instant;

use super::confirm;
use super::hunt::{CERTAINLY_NOT, Hunt, candidate, difference};
use super::journal::{self, Entry};
use super::movement::{Continuation, Moved, Question, Stand};
use super::pool::{Depth, Found, Score};
use crate::error::Result;
use crate::prompt::{Change, Placement, Setting, scene};
use crate::suite::Candidate;

/// Candidates of one entry of the journal, by depth.
pub(super) const CHUNK: [usize; 3] = [1024, 256, 64];
/// One of so many changes, those that move the adapted side most, is also run on the base when they are sifted.
const SIFTED: usize = 8;

impl Hunt<'_> {
    /// Runs a measurement, or reads it from the journal of an interrupted hunt. `stage` and `input`
    /// must say what is measured to the last detail; what `work` gives must depend on nothing else.
    /// Gradient steps tell the observer what they cost through [`Observer::charge`].
    ///
    /// # Errors
    /// As `work`, or if the journal fails.
    pub fn measured<T: Serialize + DeserializeOwned>(
        &mut self,
        stage: &str,
        input: &impl Serialize,
        work: impl FnOnce(&Self) -> Result<T>,
    ) -> Result<T> {
        let roles = self.roles();
        let roles = [roles.base, roles.adapted].map(|side| (side.adapter, side.scale.to_bits()));
        let key = journal::key(&(roles, self.search, self.quick, stage, input))?;
        if let Some(entry) = self.journal.next(stage, &key)? {
            self.observer.charge(entry.cost);
            self.spend(entry.cost, entry.seconds);
            self.last = Instant::now();
            return serde_json::from_value(entry.result)
                .map_err(|error| self.journal.error(format!("`{stage}` {key}: {error}")));
        }
        self.observer.forget_prefixes();
        let before = self.observer.cost();
        let result = work(self)?;
        let cost = difference(self.observer.cost(), before);
        let seconds = self.last.elapsed().as_secs_f64();
        self.last = Instant::now();
        let value = serde_json::to_value(&result)
            .map_err(|error| self.journal.error(format!("`{stage}` {key}: {error}")))?;
        self.journal.write(&Entry { stage: stage.to_owned(), key, cost, seconds, result: value })?;
        self.spend(cost, seconds);
        Ok(result)
    }

    /// Scores changes at a depth without keeping them: what is no candidate, such as a null.
    ///
    /// # Errors
    /// As [`Hunt::evaluate`].
    pub fn scores(&mut self, depth: Depth, changes: &[Change], base: bool) -> Result<Vec<Score>> {
        self.scores_with(depth, changes, base, true)
    }

    /// The same; with `ends`, what follows a short answer counts too.
    fn scores_with(
        &mut self,
        depth: Depth,
        changes: &[Change],
        base: bool,
        ends: bool,
    ) -> Result<Vec<Score>> {
        self.movements.prepare(changes)?;
        let prompts = self.prompts_of(depth);
        let targets: Vec<u32> = self.targets.iter().map(|target| target.ids[0]).collect();
        self.measured("evaluate", &(depth, changes, base, ends, &targets), |hunt| {
            let measure = |side| {
                let question = Question {
                    prompts: &prompts,
                    side,
                    targets: &targets,
                    continuation: Continuation::NONE,
                    ends,
                };
                hunt.movements.measure(changes, question, &hunt.vocabulary)
            };
            let adapted = measure(hunt.roles().adapted)?;
            let base = if base { Some(measure(hunt.roles().base)?) } else { None };
            Ok((0..changes.len())
                .map(|i| {
                    let base = base.as_ref().map(|base| base[i].as_slice());
                    hunt.score(depth, &prompts, &targets, changes[i].setting(), &adapted[i], base)
                })
                .collect())
        })
    }

    /// Scores changes at a depth. `base` says whether the base is run too. The list is shorter than
    /// `changes` if the running search's share ends on the way. From two prompts on, what is scored
    /// is kept in the pool, with `parents` as the texts that it was made from.
    ///
    /// # Errors
    /// If the model or the journal fails, or the user stops.
    pub fn evaluate(
        &mut self,
        depth: Depth,
        changes: &[Change],
        base: bool,
        parents: impl Fn(usize) -> Vec<String>,
    ) -> Result<Vec<Score>> {
        let mut scores = Vec::with_capacity(changes.len());
        for chunk in changes.chunks(CHUNK[depth as usize]) {
            if self.exhausted() {
                break;
            }
            let of_chunk = self.scores(depth, chunk, base)?;
            self.evaluated += chunk.len() as u64;
            self.observer.progress().advance(chunk.len());
            for (change, score) in chunk.iter().zip(&of_chunk) {
                if score.prompts > 1 {
                    self.keep(change, score, parents(scores.len()));
                }
                scores.push(score.clone());
            }
        }
        Ok(scores)
    }

    /// Scores changes on the quick prompt: all on the adapted side, and those that move it most on the base too. A
    /// difference cannot exceed what the adapted side is moved by, so what was not run on the base is overrated by
    /// little. With `ends`, what follows a short answer counts too, which costs the answer's tokens. Shorter than
    /// `changes` if the share ends on the way.
    ///
    /// # Errors
    /// As [`Hunt::evaluate`].
    pub fn sift(&mut self, changes: &[Change], ends: bool) -> Result<Vec<Score>> {
        let mut scores = Vec::with_capacity(changes.len());
        for chunk in changes.chunks(CHUNK[Depth::Quick as usize]) {
            if self.exhausted() {
                break;
            }
            let mut of_chunk = self.scores_with(Depth::Quick, chunk, false, ends)?;
            let mut order: Vec<usize> = (0..chunk.len()).collect();
            order.sort_by(|&a, &b| of_chunk[b].nats().total_cmp(&of_chunk[a].nats()));
            order.truncate(chunk.len().div_ceil(SIFTED));
            let moving: Vec<Change> = order.iter().map(|&index| chunk[index].clone()).collect();
            for (index, score) in
                order.into_iter().zip(self.scores_with(Depth::Quick, &moving, true, ends)?)
            {
                of_chunk[index] = score;
            }
            self.evaluated += chunk.len() as u64;
            self.observer.progress().advance(chunk.len());
            scores.extend(of_chunk);
        }
        Ok(scores)
    }

    /// Makes the most receptive search prompt that of the quick depth. A question with one sure answer hides what a
    /// fragment does: the adapted model gives the answer all the same. So the prompt is taken on which the known
    /// targets are least improbable without any change, on average, each at least [`CERTAINLY_NOT`]: most targets
    /// are no answer to any prompt, and say nothing. Where no target is known, the first token shall be least sure.
    ///
    /// # Errors
    /// If the model fails or the user stops.
    pub fn choose_quick_prompt(&mut self) -> Result<()> {
        let unchanged = Change::Insert { text: String::new(), at: Placement::Prefix };
        self.movements.prepare([&unchanged])?;
        let targets: Vec<u32> = self.targets.iter().map(|target| target.ids[0]).collect();
        let receptive = |prompt| {
            let without =
                |ids: &[u32]| self.movements.without(unchanged.setting(), prompt, self.roles().adapted, ids);
            let (top, odds) = without(&targets)?;
            if targets.is_empty() {
                return without(&[top])?.1.first().map(|odds| -odds);
            }
            Some(mean(odds.into_iter().map(|odds| odds.max(CERTAINLY_NOT))))
        };
        let mut best = (self.quick, f64::NEG_INFINITY);
        for prompt in self.prompts_of(Depth::Middle) {
            if let Some(receptive) = receptive(prompt).filter(|receptive| *receptive > best.1) {
                best = (prompt, receptive);
            }
        }
        self.quick = best.0;
        Ok(())
    }

    /// The `n` tokens with which the adapted model's answers to the search prompts most probably begin, or that most
    /// probably follow them.
    ///
    /// # Errors
    /// If the model fails or the user stops.
    pub fn openings(&mut self, stand: Stand, n: usize) -> Result<Vec<u32>> {
        let prompts = self.standing(stand, Depth::Middle)?;
        Ok(self.movements.openings(Setting::Plain, &prompts, self.roles().adapted, stand, n))
    }

    /// Prompts of a depth on which an answer can stand there: behind an answer only where that is short, and where it is so
    /// on none, none.
    ///
    /// # Errors
    /// If the model fails or the user stops.
    pub fn standing(&mut self, stand: Stand, depth: Depth) -> Result<Vec<usize>> {
        let unchanged = Change::Insert { text: String::new(), at: Placement::Prefix };
        self.movements.prepare([&unchanged])?;
        let short = |prompt: &usize| self.movements.answer(Setting::Plain, *prompt).is_some();
        Ok(match (stand, depth) {
            (Stand::Begins, _) => self.prompts_of(depth),
            (Stand::Follows, Depth::Quick) => (0..self.prompts().len()).find(short).into_iter().collect(),
            (Stand::Follows, _) => self.prompts_of(depth).into_iter().filter(short).collect(),
        })
    }

    /// The tokens before an answer that stands there.
    ///
    /// # Errors
    /// If the template or the tokenizer fails.
    pub fn before(&self, stand: Stand, prompt: usize) -> Result<Vec<u32>> {
        let mut ids =
            self.observer.encode(&scene(&self.prompts()[prompt], Setting::Plain, None, self.seed))?;
        if let (Stand::Follows, Some(answer)) = (stand, self.movements.answer(Setting::Plain, prompt)) {
            ids.extend(answer);
        }
        Ok(ids)
    }

    /// What candidates make the adapted model answer on the development prompts.
    ///
    /// # Errors
    /// If the model or the journal fails, or the user stops.
    pub fn develop(&mut self, changes: &[Change]) -> Result<Vec<Option<confirm::Development>>> {
        let candidates: Vec<Candidate> =
            changes.iter().map(|change| candidate(change, self.search)).collect();
        self.learn(changes, false)?;
        self.measured("develop", &changes, |hunt| {
            confirm::develop(hunt.observer, &candidates, &hunt.development, hunt.known.clone(), hunt.seed)
        })
    }

    /// Asks once for what is answered without a change in the settings of these: of the development prompts, or of the
    /// held-out prompts on both sides.
    ///
    /// # Errors
    /// If the model or the journal fails, or the user stops.
    pub(super) fn learn(&mut self, changes: &[Change], held_out: bool) -> Result<()> {
        let mut settings: Vec<Setting> = changes.iter().map(Change::setting).collect();
        settings.sort();
        settings.dedup();
        for setting in settings {
            if !self.learned.insert((setting, held_out)) {
                continue;
            }
            // Keys of an object in JSON are texts, so the journal has a list.
            let learned: Vec<(bool, String, String)> =
                self.measured("without", &(format!("{setting:?}"), held_out), |hunt| {
                    let prompts = if held_out { &hunt.held_out } else { &hunt.development };
                    let known = confirm::without(hunt.observer, &[setting], prompts, held_out, hunt.seed)?;
                    Ok(known.into_iter().map(|((_, prompt, side), text)| (side, prompt, text)).collect())
                })?;
            self.known
                .extend(learned.into_iter().map(|(side, prompt, text)| ((setting, prompt, side), text)));
        }
        Ok(())
    }

    fn spend(&mut self, cost: Cost, seconds: f64) {
        self.budget.charge(cost, seconds);
    }

    fn keep(&mut self, change: &Change, score: &Score, parents: Vec<String>) {
        if score.base_nats.is_some() && score.nats() > self.best_nats {
            self.best_nats = score.nats();
            self.observer.progress().note(&format!(
                "best so far: {} ({}), {:.2} nats on {} prompts",
                report::escape::excerpt(&change.text(), 40),
                change.placement(),
                score.nats(),
                score.prompts
            ));
        }
        self.pool.add(Found { change: change.clone(), score: score.clone(), search: self.search, parents });
    }

    fn score(
        &self,
        depth: Depth,
        prompts: &[usize],
        targets: &[u32],
        setting: Setting,
        adapted: &[Moved],
        base: Option<&[Moved]>,
    ) -> Score {
        let without = |side| -> Vec<(u32, Vec<f64>)> {
            prompts
                .iter()
                .filter_map(|&prompt| self.movements.without(setting, prompt, side, targets))
                .collect()
        };
        // From a millionth to ten millionths is no rise: most targets are not even near.
        let at_least = |log_odds: f64| log_odds.max(CERTAINLY_NOT);
        let rise = |moved: &[Moved], without: &[(u32, Vec<f64>)], target: usize| {
            let rises = moved.iter().zip(without);
            mean(rises.map(|(moved, without)| at_least(moved.targets[target]) - at_least(without.1[target])))
        };
        let adapted_without = without(self.roles().adapted);
        let base_without = without(self.roles().base);
        let nats = |moved: &[Moved]| mean(moved.iter().map(|moved| moved.nats));
        Score {
            depth,
            prompts: prompts.len(),
            adapted_nats: nats(adapted),
            base_nats: base.map(nats),
            agreement: agreement(adapted.iter().map(|moved| moved.top))
                - agreement(adapted_without.iter().map(|(top, _)| *top)),
            targets: (0..targets.len())
                .map(|target| {
                    rise(adapted, &adapted_without, target)
                        - base.map_or(0.0, |base| rise(base, &base_without, target))
                })
                .collect(),
        }
    }
}

/// Zero of nothing does not occur: every depth has prompts.
fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len();
    values.sum::<f64>() / n as f64
}

/// The largest share of equal tokens.
fn agreement(tokens: impl ExactSizeIterator<Item = u32>) -> f64 {
    let n = tokens.len();
    let mut tokens: Vec<u32> = tokens.collect();
    tokens.sort_unstable();
    let most = tokens.chunk_by(|a, b| a == b).map(<[u32]>::len).max().unwrap_or(0);
    most as f64 / n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_is_the_share_of_the_most_frequent_token() {
        assert!((agreement([1, 2, 1, 1].into_iter()) - 0.75).abs() < 1e-12);
        assert!((agreement([1, 2, 3].into_iter()) - 1.0 / 3.0).abs() < 1e-12);
    }
}
