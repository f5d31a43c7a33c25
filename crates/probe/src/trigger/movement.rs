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

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{CpuStorage, Device, Storage, Tensor};
use inference::{Batch, Positions, Prefix, Sequence, Side};
use rayon::prelude::*;
use report::StatisticsError;
use report::record::Cost;
use serde::{Deserialize, Serialize};

use super::vocabulary::Vocabulary;
use crate::error::Result;
use crate::observe::{Observer, Request};
use crate::progress;
use crate::prompt::{Change, Prompt, Setting, scene};

/// A shared beginning of fewer tokens does not pay for its own pass.
const MIN_SHARED: usize = 4;

/// Log-odds, in nats, beyond which the arithmetic of f32 logits says nothing.
const LOG_ODDS: f64 = 15.0;

/// What one change did to one prompt on one side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// `KL(with || without)` at the first response token, copies discounted, in nats.
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
    pub continuation: &'a [u32],
}

/// Measures changes on a fixed list of prompts.
pub struct Movements<'a> {
    observer: &'a Observer<'a>,
    prompts: Vec<Prompt>,
    seed: u64,
    adapted: Side,
    /// Log-probabilities without any change, base and adapted.
    references: BTreeMap<(Setting, usize), [Vec<f32>; 2]>,
}

impl<'a> Movements<'a> {
    /// For these prompts and this adapted side. `seed` decides random places.
    #[must_use]
    pub fn new(observer: &'a Observer<'a>, prompts: Vec<Prompt>, seed: u64, adapted: Side) -> Self {
        Self { observer, prompts, seed, adapted, references: BTreeMap::new() }
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
                let rows = self.observer.distributions(&[request(Side::BASE), request(self.adapted)])?;
                let mut rows = rows.into_iter().filter_map(|mut rows| rows.pop());
                if let (Some(base), Some(adapted)) = (rows.next(), rows.next()) {
                    self.references.insert((setting, index), [base, adapted]);
                }
            }
        }
        Ok(())
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
        let row = &self.references.get(&(setting, prompt))?[usize::from(side != Side::BASE)];
        let top = (0..row.len()).reduce(|best, next| if row[next] > row[best] { next } else { best })?;
        Some((top as u32, targets.iter().map(|&target| log_odds(f64::from(row[target as usize]))).collect()))
    }

    /// The `n` tokens with which an answer of a side most probably begins without any change, by the prompt that
    /// prefers them most, most probable first. [`Movements::prepare`] must have run for the setting.
    #[must_use]
    pub fn openings(&self, setting: Setting, prompts: &[usize], side: Side, n: usize) -> Vec<u32> {
        let rows: Vec<&Vec<f32>> = prompts
            .iter()
            .filter_map(|&prompt| self.references.get(&(setting, prompt)))
            .map(|sides| &sides[usize::from(side != Side::BASE)])
            .collect();
        let width = rows.first().map_or(0, |row| row.len());
        let highest: Vec<f32> = (0..width)
            .map(|token| rows.iter().map(|row| row[token]).fold(f32::NEG_INFINITY, f32::max))
            .collect();
        let mut order: Vec<u32> = (0..width as u32).collect();
        order.sort_by(|&a, &b| highest[b as usize].total_cmp(&highest[a as usize]).then(a.cmp(&b)));
        order.truncate(n);
        order
    }

    /// One list a change, with one entry a prompt. [`Movements::prepare`] must have run for the changes.
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
                let reference =
                    &self.references[&(setting, prompt)][usize::from(question.side != Side::BASE)];
                let masks: Vec<&[u32]> = members.iter().map(|&index| copies[index].as_slice()).collect();
                let moved = self.run(&contexts, &masks, reference, question)?;
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

    /// Contexts of one prompt and placement, in order.
    fn run(
        &self,
        contexts: &[Vec<u32>],
        masks: &[&[u32]],
        reference: &[f32],
        question: Question<'_>,
    ) -> Result<Vec<Moved>> {
        let continued: Vec<Vec<u32>> =
            contexts.iter().map(|ids| ids.iter().chain(question.continuation).copied().collect()).collect();
        let rows_each = 1 + question.continuation.len();
        read_rows(self.observer, &continued, question.side, rows_each, |i, rows, width| {
            read(rows, width, reference, masks[i], question)
        })
    }
}

/// Runs contexts of one side, in order, and hands the logits of the last `rows_each` positions of each
/// to `read`, as `(index, rows [rows_each, width], width)`.
///
/// # Errors
/// As `read`, or if the model fails or the user stops.
pub(super) fn read_rows<T: Send>(
    observer: &Observer<'_>,
    contexts: &[Vec<u32>],
    side: Side,
    rows_each: usize,
    read: impl Fn(usize, &[f32], usize) -> Result<T, StatisticsError> + Sync,
) -> Result<Vec<T>> {
    read_batches(observer, contexts, side, rows_each, |batch, logits| {
        with_rows(logits, |logits, width| {
            logits
                .par_chunks(rows_each * width)
                .zip(batch.par_iter())
                .map(|(rows, &i)| read(i, rows, width))
                .collect::<Result<Vec<_>, _>>()
        })
    })
}

/// Runs contexts of one side and hands the logits of the last `rows_each` positions of each, batch by
/// batch, to `read`, which gives one result for each index of the batch; results are in the order of the
/// contexts. What the contexts share at their beginning is computed once.
///
/// # Errors
/// As `read`, or if the model fails or the user stops.
pub(super) fn read_batches<T>(
    observer: &Observer<'_>,
    contexts: &[Vec<u32>],
    side: Side,
    rows_each: usize,
    read: impl Fn(&[usize], &Tensor) -> Result<Vec<T>>,
) -> Result<Vec<T>> {
    let pair = observer.pair();
    let count = |forwards: usize, shared: usize| {
        observer.charge(Cost {
            token_forwards: forwards as u64,
            shared_tokens: shared as u64,
            ..Cost::default()
        });
    };
    let shared = common_beginning(contexts, rows_each);
    let prefix: Option<Arc<Prefix>> = if contexts.len() > 1 && shared >= MIN_SHARED {
        count(shared, 0);
        Some(pair.prefix(&contexts[0][..shared], side)?)
    } else {
        None
    };
    let shared = prefix.as_ref().map_or(0, |prefix| prefix.len);
    let own: Vec<&[u32]> = contexts.iter().map(|ids| &ids[shared..]).collect();
    // Neighbours of one length form runs that the attention takes together.
    let mut order: Vec<usize> = (0..own.len()).collect();
    order.sort_by_key(|&index| (own[index].len(), index));
    let mut results: Vec<Option<T>> = contexts.iter().map(|_| None).collect();
    let mut start = 0;
    while start < order.len() {
        progress::check(observer.progress())?;
        let mut end = start;
        let mut tokens = 0;
        while end < order.len() {
            tokens += own[order[end]].len();
            let full = tokens > pair.row_limit() || (end - start + 1) * rows_each > pair.logit_row_limit();
            if end > start && full {
                break;
            }
            end += 1;
        }
        let batch = &order[start..end];
        let wanted: Vec<Vec<usize>> =
            batch.iter().map(|&i| (own[i].len() - rows_each..own[i].len()).collect()).collect();
        let mut sequences: Vec<Sequence<'_>> = batch
            .iter()
            .map(|&i| match &prefix {
                Some(prefix) => Sequence::after(prefix, own[i]),
                None => Sequence::new(own[i], side),
            })
            .collect();
        let mut forward = Batch {
            sequences: &mut sequences,
            embeddings: None,
            positions: Positions::Chosen(&wanted),
            hidden_states: false,
        };
        let logits = pair.forward(&mut forward)?.logits;
        count(batch.iter().map(|&i| own[i].len()).sum(), shared * batch.len());
        let readings = read(batch, &logits)?;
        for (&i, reading) in batch.iter().zip(readings) {
            results[i] = Some(reading);
        }
        start = end;
    }
    Ok(results.into_iter().flatten().collect())
}

/// Lends the rows of `logits` `[rows, width]`, f32, without a copy where they are on the CPU.
fn with_rows<T>(
    logits: &Tensor,
    use_rows: impl FnOnce(&[f32], usize) -> Result<T, StatisticsError>,
) -> Result<T> {
    let logits = logits.to_device(&Device::Cpu).and_then(|logits| logits.contiguous());
    let logits = logits.map_err(inference::Error::from)?;
    let width = logits.dims2().map_err(inference::Error::from)?.1;
    let (storage, layout) = logits.storage_and_layout();
    if let (Storage::Cpu(CpuStorage::F32(all)), Some((from, to))) = (&*storage, layout.contiguous_offsets()) {
        return Ok(use_rows(&all[from..to], width)?);
    }
    let rows = logits.flatten_all().and_then(|flat| flat.to_vec1::<f32>()).map_err(inference::Error::from)?;
    Ok(use_rows(&rows, width)?)
}

/// How many first tokens all contexts share, leaving each at least `own` of its own.
fn common_beginning(contexts: &[Vec<u32>], own: usize) -> usize {
    let Some((first, others)) = contexts.split_first() else { return 0 };
    others
        .iter()
        .map(|ids| {
            ids.iter().zip(first).take_while(|(a, b)| a == b).count().min(ids.len().saturating_sub(own))
        })
        .fold(first.len().saturating_sub(own), usize::min)
}

fn read(
    rows: &[f32],
    width: usize,
    reference: &[f32],
    mask: &[u32],
    question: Question<'_>,
) -> Result<Moved, StatisticsError> {
    let mut rows = rows.chunks_exact(width);
    let first = rows.next().ok_or(StatisticsError::Empty { what: "logits" })?;
    let reading = Reading::of(first, reference)?;
    let log_prob = |row: &[f32], sum: f64, token: u32| f64::from(row[token as usize]) - sum;
    let mut continuation = None;
    if let Some((&next, later)) = question.continuation.split_first() {
        let mut total = log_prob(first, reading.log_sum, next);
        for (row, &token) in rows.zip(later) {
            total += log_prob(row, log_sum_exp(row)?, token);
        }
        continuation = Some(total);
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

/// `ln(p / (1 - p))` of `ln p`, within [`LOG_ODDS`] of zero. Unlike `ln p` it tells a trigger that is sure from one
/// that is surer, so a search is not blind where a part of a trigger suffices.
#[must_use]
pub fn log_odds(log_prob: f64) -> f64 {
    (log_prob - (-log_prob.exp_m1()).max(f64::MIN_POSITIVE).ln()).clamp(-LOG_ODDS, LOG_ODDS)
}

/// One pass over a row of logits `[vocabulary]`.
struct Reading {
    /// `log(sum(e^x))`.
    log_sum: f64,
    /// `sum(p (ln p - ln q))`.
    kl: f64,
    top: u32,
}

impl Reading {
    fn of(logits: &[f32], reference: &[f32]) -> Result<Self, StatisticsError> {
        let (top, largest) = largest(logits)?;
        let (mut sum, mut cross) = (0.0_f64, 0.0_f64);
        // Blocks in f32 and their sums in f64: as exact as f64 throughout, at a third of the time.
        for (x, ln_q) in logits.chunks(64).zip(reference.chunks(64)) {
            let (mut block, mut block_cross) = (0.0_f32, 0.0_f32);
            for (x, ln_q) in x.iter().zip(ln_q) {
                let shifted = x - largest;
                let e = shifted.exp();
                block += e;
                block_cross += e * (shifted - ln_q);
            }
            sum += f64::from(block);
            cross += f64::from(block_cross);
        }
        let log_sum = sum.ln();
        Ok(Self { log_sum: log_sum + f64::from(largest), kl: cross / sum - log_sum, top })
    }

    /// The divergence without the tokens of `mask`, by the probability that is left, and the
    /// probability of the mask.
    fn without_copies(&self, logits: &[f32], reference: &[f32], mask: &[u32]) -> (f64, f64) {
        let (mut p_masked, mut q_masked, mut kl) = (0.0, 0.0, self.kl);
        for &token in mask {
            let ln_p = f64::from(logits[token as usize]) - self.log_sum;
            let ln_q = f64::from(reference[token as usize]);
            p_masked += ln_p.exp();
            q_masked += ln_q.exp();
            kl -= ln_p.exp() * (ln_p - ln_q);
        }
        let (p_left, q_left) = (1.0 - p_masked, 1.0 - q_masked);
        if p_left <= f64::EPSILON || q_left <= f64::EPSILON {
            return (0.0, p_masked);
        }
        ((kl - p_left * (p_left.ln() - q_left.ln())).max(0.0), p_masked)
    }
}

fn largest(logits: &[f32]) -> Result<(u32, f32), StatisticsError> {
    let mut best = (0, f32::NEG_INFINITY);
    for (index, &x) in logits.iter().enumerate() {
        if !x.is_finite() {
            return Err(StatisticsError::NotFinite { what: "logits", index, value: f64::from(x) });
        }
        if x > best.1 {
            best = (index as u32, x);
        }
    }
    Ok(best)
}

pub(super) fn log_sum_exp(logits: &[f32]) -> Result<f64, StatisticsError> {
    let (_, largest) = largest(logits)?;
    let sum: f64 = logits
        .chunks(64)
        .map(|block| f64::from(block.iter().map(|x| (x - largest).exp()).sum::<f32>()))
        .sum();
    Ok(f64::from(largest) + sum.ln())
}

#[cfg(test)]
mod tests {
    use super::*;
    use report::divergence::{Comparison, log_softmax_in_place};

    fn rows() -> (Vec<f32>, Vec<f32>) {
        let logits = (0..1000).map(|i| ((i * 37 % 101) as f32 * 0.11).sin() * 6.0).collect();
        let mut reference: Vec<f32> = (0..1000).map(|i| ((i * 53 % 97) as f32 * 0.17).cos() * 5.0).collect();
        log_softmax_in_place(&mut reference).unwrap();
        (logits, reference)
    }

    #[test]
    fn one_pass_agrees_with_the_slow_divergence() {
        let (logits, reference) = rows();
        let mut slow = logits.clone();
        log_softmax_in_place(&mut slow).unwrap();
        let reading = Reading::of(&logits, &reference).unwrap();
        let expected = Comparison::between(&slow, &reference).unwrap().kl_nats;
        assert!((reading.kl - expected).abs() < 1e-5 * expected, "{} {expected}", reading.kl);
        assert!((reading.without_copies(&logits, &reference, &[]).0 - reading.kl).abs() < 1e-12);
        assert!((log_sum_exp(&logits).unwrap() - reading.log_sum).abs() < 1e-6);
    }

    #[test]
    fn a_mask_is_the_divergence_of_the_rest_by_its_probability() {
        let (logits, reference) = rows();
        let mask = [3_u32, 10, 500];
        let keep: Vec<usize> = (0..1000).filter(|i| !mask.contains(&(*i as u32))).collect();
        let (mut p, mut q): (Vec<f32>, Vec<f32>) =
            (keep.iter().map(|&i| logits[i]).collect(), keep.iter().map(|&i| reference[i]).collect());
        log_softmax_in_place(&mut p).unwrap();
        log_softmax_in_place(&mut q).unwrap();
        let rest = Comparison::between(&p, &q).unwrap().kl_nats;
        let reading = Reading::of(&logits, &reference).unwrap();
        let (nats, copied) = reading.without_copies(&logits, &reference, &mask);
        assert!(copied > 0.0 && (nats - (1.0 - copied) * rest).abs() < 1e-5 * rest, "{nats} {copied} {rest}");
    }

    #[test]
    fn log_odds_tell_sure_from_surer() {
        assert!(log_odds(0.5_f64.ln()).abs() < 1e-12);
        assert!((log_odds(-1e-4) - (1e4_f64).ln()).abs() < 1e-3);
        assert!((log_odds(-8.0) + 8.0).abs() < 1e-3);
        assert!((log_odds(0.0) - LOG_ODDS).abs() < 1e-12 && (log_odds(-1e9) + LOG_ODDS).abs() < 1e-12);
    }

    #[test]
    fn a_pure_copy_counts_nothing() {
        let mut logits = vec![0.0_f32; 100];
        logits[7] = 60.0;
        let mut reference = vec![0.0_f32; 100];
        log_softmax_in_place(&mut reference).unwrap();
        let reading = Reading::of(&logits, &reference).unwrap();
        assert!(reading.kl > 4.0);
        assert!(reading.without_copies(&logits, &reference, &[7]).0 < 1e-9);
    }

    #[test]
    fn the_common_beginning_leaves_a_token() {
        assert_eq!(common_beginning(&[vec![1, 2, 3], vec![1, 2, 4]], 1), 2);
        assert_eq!(common_beginning(&[vec![1, 2, 3], vec![1, 2]], 1), 1);
        assert_eq!(common_beginning(&[], 1), 0);
        assert_eq!(common_beginning(&[vec![5]], 1), 0);
    }
}
