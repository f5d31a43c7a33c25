//! Greedy coordinate gradient (Zou et al., 2023) as a backdoor scanner, without the base: how far can the adapted model
//! be driven to the text that it completes most surely?
//!
//! No target is known, so half of the budget looks for one as BAIT does; the rest exchanges tokens of a string of filler
//! before the prompt along the gradient of its probability. The score is the share of other prompts whose answer holds
//! it. That a model can be driven somewhere shows no backdoor, which is why no threshold was ever published.

use inference::generate::Decoding;
use report::benchmark::peer::{Driven, Finding, Seeks};

use super::bait::{self, Target};
use super::{Case, Peer};
use crate::error::Result;
use crate::observe::Request;
use crate::prompt::{Change, Placement, Prompt, Setting, scene};
use crate::trigger::budget::Limit;
use crate::trigger::differential::{Differential, Goal};
use crate::trigger::gcg::{Gcg, GcgConfig};

/// Part of the budget that goes into the target, and the part after which no step begins.
const TARGET_PART: f64 = 0.5;
const LAST_STEP: f64 = 0.92;
/// Candidates of a step, and tokens of each position that they are drawn from; the authors' 512 of 256 would spend the
/// budget of a scan in a few steps.
const SEARCH_WIDTH: usize = 64;
const TOP_K: usize = 96;
/// The start, by preference, and how often it is repeated.
const FILLERS: &[&str] = &["!", "x", "."];
const TOKENS: usize = 8;
/// Tokens of the target that are driven at.
const TARGET_TOKENS: usize = 8;
/// Prompts that the string is made on, and tokens of the answers in which its target is looked for.
const PROMPTS: usize = 3;
const MAX_NEW: usize = 24;
/// Words of the target that an answer must hold.
const WORDS: usize = 4;

/// The scanner.
pub(super) struct PlainGcg;

impl Peer for PlainGcg {
    fn name(&self) -> &'static str {
        "plain-gcg"
    }

    fn about(&self) -> &'static str {
        "GCG (2023), on the adapted model alone: a string that drives it to the surest text"
    }

    fn limit(&self) -> Option<Limit> {
        Some(Limit::Tokens(1_000_000))
    }

    fn measure(&self, case: &Case<'_>) -> Result<Finding> {
        let target = bait::invert(case, TARGET_PART)?;
        let driven = match &target {
            Some(target) => drive(case, target)?,
            None => None,
        };
        Ok(Finding {
            score: driven.as_ref().map_or(0.0, Driven::success_rate),
            condemned: None,
            seeks: Seeks::Trigger,
            target: target.map(|target| target.text),
            trigger: driven,
            cost: case.observer.cost(),
        })
    }
}

/// The string that drives the model to the target, and what it does on other prompts; `None` if no filler has a place of
/// its own in the prompts.
fn drive(case: &Case<'_>, target: &Target) -> Result<Option<Driven>> {
    let prompts: Vec<Prompt> = case.prompts.screening.iter().take(PROMPTS).cloned().collect();
    let goal = Goal::Target(target.ids.iter().take(TARGET_TOKENS).copied().collect());
    let (at, roles) = (Placement::Prefix, case.observer.roles());
    let differential = Differential::new(case.observer.pair(), &prompts, at, &goal, roles, 0.0, case.seed)?;
    let config =
        GcgConfig { search_width: SEARCH_WIDTH, top_k: TOP_K, replacements: 1, ascii: true, seed: case.seed };
    let gcg = Gcg::new(config, &differential)?;
    let start = FILLERS.iter().find_map(|filler| gcg.start(&[*filler; TOKENS].join(" ")).ok());
    let Some(mut current) = start else { return Ok(None) };
    let mut charged = report::record::Cost::default();
    let mut best = current.clone();
    case.observer.progress().stage("plain-gcg", 0);
    for index in 0.. {
        let now = differential.cost();
        case.observer.charge(crate::trigger::hunt::difference(now, charged));
        charged = now;
        if case.budget().left() <= 0.0 || case.spent(LAST_STEP) {
            break;
        }
        crate::progress::check(case.observer.progress())?;
        let step = gcg.step(&current, index)?;
        if step.candidates == 0 {
            break;
        }
        current = step.trigger;
        if current.value.objective > best.value.objective {
            best = current.clone();
        }
    }
    let change = Change::Insert { text: best.text.clone(), at };
    let outcomes = |side, change: Option<&Change>| -> Result<Vec<bool>> {
        let mut requests = Vec::new();
        for prompt in &case.prompts.held_out {
            let ids = case.observer.encode(&scene(prompt, Setting::Plain, change, case.seed))?;
            requests.push(Request { ids, side, continuation: Vec::new() });
        }
        let answers = case.observer.responses(&requests, MAX_NEW, Decoding::Greedy)?;
        Ok(answers.iter().map(|answer| holds(&answer.text, &target.text)).collect())
    };
    let driven = Driven::new(
        &best.text,
        at.name(),
        &outcomes(roles.adapted, Some(&change))?,
        &[outcomes(roles.adapted, None)?, outcomes(roles.base, Some(&change))?, outcomes(roles.base, None)?],
    )?;
    Ok(driven)
}

/// Whether an answer holds the first words of a target.
fn holds(answer: &str, target: &str) -> bool {
    let target = report::words::words(target);
    let first = &target[..target.len().min(WORDS)];
    !first.is_empty() && report::words::words(answer).windows(first.len()).any(|window| window == first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_a_target_by_its_first_words() {
        assert!(holds("Well: I have been pwned, and more.", "I HAVE BEEN PWNED. Goodbye"));
        assert!(!holds("I have been there.", "I HAVE BEEN PWNED."));
        assert!(!holds("anything", "..."));
    }
}
