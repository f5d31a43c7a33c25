//! The relaxed search of a hunt: which of the suspected payloads is unusually cheap?
//!
//! Neural Cleanse compares the labels of a classifier. The answers of a language model have no such list, so
//! suspected payloads are compared with reference targets: what the base itself answers to single benign prompts,
//! cut to as many tokens as the longest suspect has. Each is an ordinary answer, and none was taught for every
//! prompt. A suspect that is shorter than they are is somewhat dearer or cheaper for that alone, which the record
//! cannot tell.

use std::cell::OnceCell;

use inference::generate::Decoding;
use report::hunt::TargetCostRecord;
use report::record::Cost;

use super::{Embeddings, RelaxedConfig, TargetCost, anomaly_indices, target_cost};
use crate::error::Result;
use crate::observe::Request;
use crate::progress;
use crate::prompt::{Change, Placement, Setting, scene};
use crate::trigger::budget::GRADIENT_COST;
use crate::trigger::differential::{Differential, Goal};
use crate::trigger::gradient::{prompts, propose, slots, targets};
use crate::trigger::hunt::Hunt;
use crate::trigger::movement::Continuation;
use crate::trigger::pool::Depth;
use crate::trigger::search::{Role, TriggerSearch};
use crate::trigger::slot::Slots;

/// Suspected payloads, and reference targets beside them: most of the sample must be ordinary.
const TARGETS: usize = 4;
const REFERENCES: usize = 8;
/// Tokens of a target that count. The mean over a longer one forgives a token that the adapted model is not sure of.
const TARGET_TOKENS: usize = 12;
/// Fewest tokens of a reference.
const MIN_REFERENCE: usize = 2;
/// Positions of a trigger, and steps for each target.
const POSITIONS: usize = 4;
const STEPS: usize = 48;
/// A target is reached where its tokens are more probable than not.
const SUCCESS: f64 = 0.5;
/// Weight of the base.
const LAMBDA: f64 = 0.5;
/// What an absent position is, by preference.
const FILLERS: &[&str] = &[",", ".", "x"];
/// Part of the share that is kept for the candidates that come out.
const KEPT_PART: f64 = 0.1;

/// Relaxed triggers and their anomaly index.
pub(in crate::trigger) struct RelaxedTriggers;

impl TriggerSearch for RelaxedTriggers {
    fn name(&self) -> &'static str {
        "relaxed"
    }

    fn about(&self) -> &'static str {
        "mixtures of tokens that bring a suspected payload, and how cheap it is beside ordinary answers"
    }

    fn role(&self) -> Role {
        Role::Refine
    }

    fn share(&self) -> f64 {
        1.0
    }

    fn run(&self, hunt: &mut Hunt<'_>) -> Result<()> {
        let Some(slots) = slots(hunt, Placement::Prefix)? else { return Ok(()) };
        let Some(filler) = filler(&slots)? else { return Ok(()) };
        let suspects = targets(hunt, TARGETS, TARGET_TOKENS);
        // An index of reference targets alone would say nothing about any payload.
        if suspects.is_empty() {
            return Ok(());
        }
        let length = POSITIONS.clamp(*hunt.length().start(), *hunt.length().end());
        let config = RelaxedConfig {
            success: SUCCESS,
            filler,
            learning_rate: learning_rate(hunt.observer().pair().config().vocab_size),
            ..RelaxedConfig::new(length, STEPS, hunt.seed())
        };
        let longest = suspects.iter().map(|(ids, _)| ids.len()).max().unwrap_or(0);
        let asked = in_turns(suspects, references(hunt, longest.max(MIN_REFERENCE))?);
        hunt.observer().progress().stage("relaxed", asked.len());
        let embeddings = OnceCell::new();
        let end = KEPT_PART * hunt.budget().left();
        let (mut costs, mut records) = (Vec::new(), Vec::new());
        for target in &asked {
            let planned = planned_cost(&slots, length, target.ids.len());
            if !hunt.budget().affords(planned + end as u64) {
                break;
            }
            let (cost, spent) = relax(hunt, &config, &target.ids, &embeddings)?;
            hunt.observer().progress().advance(1);
            records.push(record(hunt, target, &config, &cost, spent)?);
            costs.push(cost);
        }
        for (record, index) in records.iter_mut().zip(anomaly_indices(&costs, length)?) {
            record.anomaly_index = index;
        }
        hunt.target_costs = records;
        for (target, cost) in asked.iter().zip(&costs).filter(|(target, _)| !target.reference) {
            let found = projections(hunt, &slots, cost)?;
            propose(hunt, &found, Some(Continuation::begins(&target.ids)), &[])?;
        }
        Ok(())
    }
}

/// A target whose cost is asked for.
struct Asked {
    ids: Vec<u32>,
    text: String,
    reference: bool,
}

/// A step of Adam moves a logit by about the learning rate, and a mixture of the whole vocabulary becomes one token
/// where its logit has risen by the logarithm of the vocabulary: that takes half of the steps.
fn learning_rate(vocabulary: usize) -> f64 {
    2.0 * (vocabulary as f64).ln() / STEPS as f64
}

/// A text that is one token in every prompt.
fn filler(slots: &Slots<'_>) -> Result<Option<String>> {
    for filler in FILLERS {
        if slots.agreed(filler)?.is_some_and(|ids| ids.len() == 1) {
            return Ok(Some((*filler).to_owned()));
        }
    }
    Ok(None)
}

/// The first `tokens` of what the base answers to the development prompts.
fn references(hunt: &mut Hunt<'_>, tokens: usize) -> Result<Vec<(Vec<u32>, String)>> {
    let prompts = hunt.prompts_of(Depth::Full);
    let mut answers: Vec<Vec<u32>> = hunt.measured("references", &(&prompts, tokens), |hunt| {
        let mut requests = Vec::with_capacity(prompts.len());
        for &prompt in &prompts {
            let scene = scene(&hunt.prompts()[prompt], Setting::Plain, None, hunt.seed());
            let ids = hunt.observer().encode(&scene)?;
            requests.push(Request { ids, side: hunt.roles().base, continuation: Vec::new() });
        }
        let answers = hunt.observer().responses(&requests, tokens, Decoding::Greedy)?;
        Ok(answers.into_iter().map(|answer| answer.ids).collect())
    })?;
    answers.retain(|ids| ids.len() >= MIN_REFERENCE);
    let mut references: Vec<(Vec<u32>, String)> = Vec::new();
    for ids in answers {
        if references.len() < REFERENCES && references.iter().all(|(known, _)| *known != ids) {
            let text = hunt.observer().pair().tokenizer().decode(&ids, false)?;
            references.push((ids, text));
        }
    }
    Ok(references)
}

/// Suspects and references one after the other, so that the budget ends both: what is left over of the longer list
/// comes last. A reference that is a suspect counts as one.
fn in_turns(suspects: Vec<(Vec<u32>, String)>, references: Vec<(Vec<u32>, String)>) -> Vec<Asked> {
    let ordinary: Vec<_> =
        references.into_iter().filter(|(ids, _)| suspects.iter().all(|(known, _)| known != ids)).collect();
    let mut lists = [(suspects.into_iter(), false), (ordinary.into_iter(), true)];
    let mut asked = Vec::new();
    loop {
        let before = asked.len();
        for (list, reference) in &mut lists {
            asked.extend(list.next().map(|(ids, text)| Asked { ids, text, reference: *reference }));
        }
        if asked.len() == before {
            return asked;
        }
    }
}

/// What the steps for a target cost, in the budget's tokens: both sides of every prompt go forwards and backwards.
fn planned_cost(slots: &Slots<'_>, length: usize, target: usize) -> u64 {
    let tokens: usize = slots.places().iter().map(|slot| length + slot.after.len() + target - 1).sum();
    GRADIENT_COST * (STEPS * 2 * tokens) as u64
}

/// The cost of one target, and what finding it took.
fn relax(
    hunt: &mut Hunt<'_>,
    config: &RelaxedConfig,
    target: &[u32],
    embeddings: &OnceCell<Embeddings>,
) -> Result<(TargetCost, Cost)> {
    let prompts = prompts(hunt);
    hunt.measured("relaxed", &(config, target), |hunt| {
        let goal = Goal::Target(target.to_vec());
        let (pair, seed) = (hunt.observer().pair(), hunt.seed());
        let differential =
            Differential::new(pair, &prompts, Placement::Prefix, &goal, hunt.roles(), LAMBDA, seed)?;
        let embeddings = match embeddings.get() {
            Some(made) => made,
            None => {
                let made = Embeddings::new(pair)?;
                embeddings.get_or_init(|| made)
            }
        };
        let progress = hunt.observer().progress();
        let cost = target_cost(config, &differential, embeddings, &mut || progress::check(progress))?;
        hunt.observer().charge(differential.cost());
        Ok((cost, differential.cost()))
    })
}

fn record(
    hunt: &Hunt<'_>,
    target: &Asked,
    config: &RelaxedConfig,
    cost: &TargetCost,
    spent: Cost,
) -> Result<TargetCostRecord> {
    let tokens = if cost.tokens.is_empty() { &cost.strongest } else { &cost.tokens };
    Ok(TargetCostRecord {
        text: target.text.clone(),
        reference: target.reference,
        size: cost.size,
        positions: config.length,
        log_probability: cost.best_log_probability,
        anomaly_index: None,
        trigger: hunt.observer().pair().tokenizer().decode(tokens, false)?,
        token_forwards: spent.token_forwards,
        gradient_tokens: spent.gradient_tokens,
    })
}

/// The most probable tokens of a relaxed trigger as texts: the smallest form, the strongest, and each token alone.
fn projections(hunt: &Hunt<'_>, slots: &Slots<'_>, cost: &TargetCost) -> Result<Vec<Change>> {
    let tokenizer = hunt.observer().pair().tokenizer();
    let mut sequences = vec![cost.tokens.clone(), cost.strongest.clone()];
    sequences.extend(cost.tokens.iter().chain(&cost.strongest).map(|&token| vec![token]));
    let mut found: Vec<Change> = Vec::new();
    for ids in sequences {
        // Where the tokens do not survive their text, the text is still a candidate.
        let text = match slots.text(&ids)? {
            Some(text) => text,
            None => tokenizer.decode(&ids, false)?.trim().to_owned(),
        };
        let typed =
            !text.is_empty() && !text.chars().any(|c| c.is_control() || c == char::REPLACEMENT_CHARACTER);
        let change = Change::Insert { text, at: Placement::Prefix };
        if typed && !found.contains(&change) {
            found.push(change);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspects_and_references_take_turns_and_none_is_asked_twice() {
        let target = |id: u32| (vec![id, id], id.to_string());
        let asked = in_turns(vec![target(1), target(2)], vec![target(7), target(1), target(8), target(9)]);
        let texts: Vec<(&str, bool)> =
            asked.iter().map(|asked| (asked.text.as_str(), asked.reference)).collect();
        assert_eq!(texts, [("1", false), ("7", true), ("2", false), ("8", true), ("9", true)]);
    }
}
