//! The gradient search of a hunt: from the best candidates, and from nothing, towards each target.

use std::cell::OnceCell;

use report::record::Cost;

use super::{Gcg, GcgConfig, Step, Trigger};
use crate::error::{Error, Result};
use crate::progress;
use crate::prompt::{Change, Placement, Prompt};
use crate::split::SCREENING;
use crate::trigger::differential::{Differential, Goal};
use crate::trigger::gradient::{prompts, propose, slots, targets};
use crate::trigger::hunt::{Hunt, difference};
use crate::trigger::movement::Continuation;
use crate::trigger::pool::{Depth, Found};
use crate::trigger::search::{Role, TriggerSearch};
use crate::trigger::slot::Slots;

/// Weight of the base.
const LAMBDA: f64 = 1.0;
/// Steps of one run, and steps without gain after which it ends.
const STEPS: u64 = 64;
const PATIENCE: usize = 16;
/// Tokens of a target that count: an answer that has begun goes on by itself.
pub(in crate::trigger) const TARGET_TOKENS: usize = 5;
/// Targets; for each, candidates of the pool that a run starts from, beside one start from filler.
const TARGETS: usize = 2;
const STARTS: usize = 1;
/// Tokens of a start from filler; shorter candidates are filled up to so many.
pub(in crate::trigger) const FILLED: usize = 4;
/// What fills a start, by preference: the authors' mark, then what other tokenizers take for a token of its own.
pub(crate) const FILLERS: &[&str] = &["!", "x", "."];
/// Positions whose distributions are compared where no target is known.
const POSITIONS: usize = 4;
/// Best triggers of a run that become candidates.
const PROPOSED: usize = 12;
/// Part of a run's budget that is kept for them.
const KEPT_PART: f64 = 0.1;

/// Greedy coordinate gradient.
pub(in crate::trigger) struct GcgSearch;

impl TriggerSearch for GcgSearch {
    fn name(&self) -> &'static str {
        "gcg"
    }

    fn about(&self) -> &'static str {
        "tokens exchanged along the gradient of a payload's probability, or of the divergence where none is known"
    }

    fn role(&self) -> Role {
        Role::Refine
    }

    fn share(&self) -> f64 {
        4.0
    }

    fn run(&self, hunt: &mut Hunt<'_>) -> Result<()> {
        let runs = runs(hunt)?;
        hunt.observer().progress().stage("gcg", runs.len() * STEPS as usize);
        for (index, run) in runs.iter().enumerate() {
            if hunt.exhausted() {
                break;
            }
            let left = hunt.budget().left();
            let part = left / (runs.len() - index) as f64;
            search(hunt, run, left - (1.0 - KEPT_PART) * part)?;
        }
        Ok(())
    }
}

/// One search: what it raises and where it begins.
struct Run {
    goal: Goal,
    at: Placement,
    start: String,
    parents: Vec<String>,
}

impl Run {
    fn target(&self) -> Option<Continuation<'_>> {
        self.goal.continuation()
    }
}

/// The first start of every goal, then the second of every goal: wherever the budget ends, each had its turn.
fn runs(hunt: &Hunt<'_>) -> Result<Vec<Run>> {
    let mut goals: Vec<(Goal, Option<usize>)> = Vec::new();
    for (ids, _) in targets(hunt, TARGETS, TARGET_TOKENS) {
        let index = hunt.targets().iter().position(|target| target.ids.starts_with(&ids));
        goals.push((Goal::Target(ids), index));
    }
    if goals.is_empty() {
        goals.push((Goal::Divergence(POSITIONS), None));
    }
    let mut by_goal = Vec::new();
    for (goal, index) in &goals {
        by_goal.push(starts(hunt, goal, *index)?);
    }
    let longest = by_goal.iter().map(Vec::len).max().unwrap_or(0);
    let mut in_turns = Vec::new();
    let mut by_goal: Vec<_> = by_goal.into_iter().map(Vec::into_iter).collect();
    for _ in 0..longest {
        in_turns.extend(by_goal.iter_mut().filter_map(Iterator::next));
    }
    Ok(in_turns)
}

/// The strongest candidates of the pool, by the rise of the target's first token where that was measured, filled up
/// to a length that has room for a trigger; then filler alone.
fn starts(hunt: &Hunt<'_>, goal: &Goal, target: Option<usize>) -> Result<Vec<Run>> {
    let height = |found: &Found| {
        let rise = target.and_then(|target| found.score.targets.get(target));
        rise.copied().unwrap_or(f64::NEG_INFINITY)
    };
    let mut found: Vec<&Found> = hunt.pool().distinct(Depth::Middle, usize::MAX, 1);
    // A stable sort: without a target they stay in the order of their divergence.
    found.sort_by(|a, b| height(b).total_cmp(&height(a)));
    let mut starts: Vec<Run> = Vec::new();
    for found in found {
        let Change::Insert { text, at } = &found.change else { continue };
        if starts.len() == STARTS {
            break;
        }
        let Some(slots) = slots(hunt, *at)? else { continue };
        if let Some(start) = filled(hunt, &slots, text.trim(), *at, FILLED)? {
            let new = starts.iter().all(|known| known.start != start);
            if new {
                starts.push(Run { goal: goal.clone(), at: *at, start, parents: vec![text.clone()] });
            }
        }
    }
    if let Some(slots) = slots(hunt, Placement::Prefix)?
        && let Some(start) = filled(hunt, &slots, "", Placement::Prefix, FILLED)?
    {
        starts.push(Run { goal: goal.clone(), at: Placement::Prefix, start, parents: Vec::new() });
    }
    Ok(starts)
}

/// The text with as much filler beside it as makes so many tokens, or what comes nearest within the hunt's
/// lengths; `None` if no filler gives a text that is the same tokens in every prompt.
fn filled(
    hunt: &Hunt<'_>,
    slots: &Slots<'_>,
    text: &str,
    at: Placement,
    tokens: usize,
) -> Result<Option<String>> {
    let range = hunt.length();
    let wanted = tokens.clamp(*range.start(), *range.end());
    for filler in FILLERS {
        for count in 0..=wanted {
            let filling = vec![*filler; count].join(" ");
            let parts = match at {
                // What was found stays next to the edge that it was found at.
                Placement::Suffix | Placement::System => [filling.as_str(), text],
                _ => [text, filling.as_str()],
            };
            let start = parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(" ");
            let Some(ids) = slots.agreed(&start)? else { continue };
            if ids.len() >= wanted && range.contains(&ids.len()) && slots.text(&ids)?.is_some() {
                return Ok(Some(start));
            }
        }
    }
    Ok(None)
}

/// The strongest triggers on the way from `start` along the gradient of a goal, strongest first, for a `part` of what is
/// left of the share; they become candidates. A text of fewer `tokens` is filled up. None where the text has no place of
/// its own in the prompts.
///
/// # Errors
/// If the model or the journal fails, or the user stops.
pub(in crate::trigger) fn ascend(
    hunt: &mut Hunt<'_>,
    at: Placement,
    start: &str,
    goal: Goal,
    tokens: usize,
    part: f64,
) -> Result<Vec<Change>> {
    let Some(slots) = slots(hunt, at)? else { return Ok(Vec::new()) };
    let Some(filled) = filled(hunt, &slots, start.trim(), at, tokens)? else { return Ok(Vec::new()) };
    let run = Run { goal, at, start: filled, parents: vec![start.to_owned()] };
    let left = hunt.budget().left();
    search(hunt, &run, left - (1.0 - KEPT_PART) * part * left)
}

/// Texts with one token exchanged for each of the `top_k` that the gradient of a goal prefers at its place,
/// position by position. None of a text of more than `longest` tokens, or one that has no place of its own in the prompts.
///
/// # Errors
/// If the model or the journal fails, or the user stops.
pub(in crate::trigger) fn exchanges(
    hunt: &mut Hunt<'_>,
    at: Placement,
    text: &str,
    goal: &Goal,
    longest: usize,
    top_k: usize,
) -> Result<Vec<Change>> {
    let Some(slots) = slots(hunt, at)? else { return Ok(Vec::new()) };
    let text = text.trim();
    let Some(ids) = slots.agreed(text)?.filter(|ids| ids.len() <= longest) else { return Ok(Vec::new()) };
    if goal.tokens() == 0 || slots.text(&ids)?.is_none() {
        return Ok(Vec::new());
    }
    let config = GcgConfig { top_k, ..GcgConfig::halved(hunt.seed()) };
    let texts: Vec<String> = hunt.measured("exchanges", &(config, at, text, goal), |hunt| {
        let pair = hunt.observer().pair();
        let prompts = prompts(hunt);
        let differential = Differential::new(pair, &prompts, at, goal, hunt.roles(), LAMBDA, hunt.seed())?;
        let gcg = Gcg::new(config, &differential)?;
        let start = gcg.start(text)?;
        let mut texts = Vec::new();
        for (place, tokens) in gcg.promising(&start)?.into_iter().enumerate() {
            for token in tokens {
                let mut ids = start.ids.clone();
                ids[place] = token;
                texts.extend(differential.text(&ids)?);
            }
        }
        hunt.observer().charge(differential.cost());
        Ok(texts)
    })?;
    Ok(texts.into_iter().map(|text| Change::Insert { text, at }).collect())
}

/// Steps until no more than `end` of the share is left; then the best of them become candidates, and are handed on.
fn search(hunt: &mut Hunt<'_>, run: &Run, end: f64) -> Result<Vec<Change>> {
    let config = GcgConfig::halved(hunt.seed());
    let pair = hunt.observer().pair();
    // Each step on the next few prompts: a text that raises the target on a few by chance does not on the others.
    let mut batches: Vec<Vec<Prompt>> = hunt.prompts().chunks(SCREENING).map(<[Prompt]>::to_vec).collect();
    batches.retain(|batch| batch.len() == SCREENING);
    let turns = batches.len();
    // Made when they are needed: a resumed hunt reads its steps and may run none.
    let differentials: Vec<OnceCell<Differential<'_>>> = batches.iter().map(|_| OnceCell::new()).collect();
    let searches: Vec<OnceCell<Gcg<'_, '_>>> = batches.iter().map(|_| OnceCell::new()).collect();
    let gcg = |hunt: &Hunt<'_>, turn: usize| -> Result<&Gcg<'_, '_>> {
        let differential = made(&differentials[turn], || {
            Differential::new(pair, &batches[turn], run.at, &run.goal, hunt.roles(), LAMBDA, hunt.seed())
        })?;
        made(&searches[turn], || Gcg::new(config, differential))
    };
    let about = (config, &run.goal, run.at);
    let mut current: Trigger = hunt.measured("gcg-start", &(about, &run.start), |hunt| {
        let gcg = gcg(hunt, 0)?;
        let start = gcg.start(&run.start)?;
        // What all steps have in common was run for the start.
        hunt.observer().charge(gcg.differential.cost());
        Ok(start)
    })?;
    let mut best = vec![f64::NEG_INFINITY; turns];
    best[0] = current.value.objective;
    let mut seen = vec![current.clone()];
    let mut without_gain = 0;
    for index in 0..STEPS {
        if hunt.budget().left() <= end || without_gain == PATIENCE {
            break;
        }
        hunt.observer().progress().advance(1);
        let turn = index as usize % turns;
        let step: Step = hunt.measured("gcg", &(about, index, &current), |hunt| {
            progress::check(hunt.observer().progress())?;
            let gcg = gcg(hunt, turn)?;
            // What the steps on these prompts have in common was run just now, for the first of them.
            let first = (1..turns).contains(&(index as usize));
            let before = if first { Cost::default() } else { gcg.differential.cost() };
            let step = match gcg.start(&current.text) {
                Ok(from) => gcg.step(&from, index)?,
                // It merges with what stands beside it in one of these prompts.
                Err(Error::Inference(inference::Error::Request(_))) => {
                    Step { index, trigger: current.clone(), candidates: 0 }
                }
                Err(error) => return Err(error),
            };
            hunt.observer().charge(difference(gcg.differential.cost(), before));
            Ok(step)
        })?;
        if step.candidates == 0 {
            without_gain += 1;
            continue;
        }
        current = step.trigger;
        without_gain = if current.value.objective > best[turn] { 0 } else { without_gain + 1 };
        best[turn] = best[turn].max(current.value.objective);
        seen.push(current.clone());
    }
    hunt.observer().progress().note(&format!(
        "gcg: {:.2} to {:.2} nats in {} steps",
        seen[0].value.objective,
        current.value.objective,
        seen.len() - 1
    ));
    // A stable sort: of equals, the first that was seen.
    seen.sort_by(|a, b| b.value.objective.total_cmp(&a.value.objective));
    let mut found: Vec<Change> = Vec::new();
    for trigger in seen {
        let change = Change::Insert { text: trigger.text, at: run.at };
        if found.len() < PROPOSED && !found.contains(&change) {
            found.push(change);
        }
    }
    propose(hunt, &found, run.target(), &run.parents)?;
    Ok(found)
}

fn made<T>(cell: &OnceCell<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    match cell.get() {
        Some(made) => Ok(made),
        None => {
            let value = make()?;
            Ok(cell.get_or_init(|| value))
        }
    }
}
