//! Greedy coordinate gradient (Zou et al., "Universal and transferable adversarial attacks on aligned language
//! models", 2023) on a differential objective.
//!
//! A step takes the gradient of the objective with respect to the one-hot rows of the trigger, draws
//! exchanges of single tokens among the `top_k` most promising of each position, drops those whose text is
//! tokenised into something else, and keeps the best of the rest, even where it is worse than what it replaces.

mod search;

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use inference::gradient::TokenScorer;
use rand::RngExt as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

pub(crate) use search::FILLERS;
pub(super) use search::{FILLED, GcgSearch, TARGET_TOKENS, ascend, exchanges};

use super::differential::{Differential, Value};
use super::slot::refused;
use crate::error::Result;

/// How a search draws its candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct GcgConfig {
    /// Candidates drawn a step; those that do not survive their own text are fewer.
    pub search_width: usize,
    /// Tokens of each position that are drawn from, most promising first.
    pub top_k: usize,
    /// Candidates that run on every prompt: the best of those on the first.
    pub finalists: usize,
    /// Positions that a candidate changes.
    pub replacements: usize,
    /// Whether tokens of other than printable ASCII are left out.
    pub ascii: bool,
    /// Seed of the draws.
    pub seed: u64,
}

impl GcgConfig {
    /// The sizes of the authors' experiments: 512 candidates of one exchange among the best 256, all on every prompt.
    #[must_use]
    pub fn published(seed: u64) -> Self {
        Self { search_width: 512, top_k: 256, finalists: usize::MAX, replacements: 1, ascii: true, seed }
    }

    /// Smaller ones: a budget in token-forwards would pay for a dozen steps of the authors'.
    #[must_use]
    pub fn affordable(seed: u64) -> Self {
        Self { search_width: 64, top_k: 96, ..Self::published(seed) }
    }

    /// The same for half the price: what is weak on one prompt runs on no other.
    #[must_use]
    pub fn halved(seed: u64) -> Self {
        Self { finalists: 16, ..Self::affordable(seed) }
    }
}

/// Where a search stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trigger {
    /// Its tokens in a prompt.
    pub ids: Vec<u32>,
    /// The text to insert.
    pub text: String,
    /// Its value.
    pub value: Value,
}

/// One step of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Number of the step, from 0.
    pub index: u64,
    /// What the step chose.
    pub trigger: Trigger,
    /// Different candidates that were run.
    pub candidates: usize,
}

/// A search for a trigger of fixed length.
pub struct Gcg<'a, 'b> {
    config: GcgConfig,
    differential: &'a Differential<'b>,
    scorer: TokenScorer,
    /// Tokens that may stand in a trigger, ascending.
    allowed: Vec<u32>,
}

impl<'a, 'b> Gcg<'a, 'b> {
    /// Prepares a search.
    ///
    /// # Errors
    /// If the configuration asks for nothing, no token is printable, or the model fails.
    pub fn new(config: GcgConfig, differential: &'a Differential<'b>) -> Result<Self> {
        if config.search_width == 0 || config.top_k == 0 || config.replacements == 0 {
            return Err(refused(format!(
                "expected a positive search width, top k and number of replacements, found {}, {} and {}",
                config.search_width, config.top_k, config.replacements
            )));
        }
        let pair = differential.pair();
        let mut allowed = Vec::new();
        for token in 0..pair.tokenizer().vocab_size() as u32 {
            if printable(&pair.tokenizer().decode(&[token], false)?, config.ascii) {
                allowed.push(token);
            }
        }
        if allowed.is_empty() {
            return Err(refused("expected printable tokens in the vocabulary, found none".into()));
        }
        Ok(Self { config, differential, scorer: TokenScorer::new(pair)?, allowed })
    }

    /// A trigger to start from.
    ///
    /// # Errors
    /// If the text is not a trigger of the same tokens in every prompt, or the model fails.
    pub fn start(&self, text: &str) -> Result<Trigger> {
        let ids = self.differential.encode(text)?;
        let text = self
            .differential
            .text(&ids)?
            .ok_or_else(|| refused(format!("`{text}` does not survive its own tokens")))?;
        let (_, value) = self.differential.best(std::slice::from_ref(&ids), &ids, 1)?;
        Ok(Trigger { ids, text, value })
    }

    /// One step from a trigger; the index decides the draws. Without any candidate that survives its text the
    /// trigger stays.
    ///
    /// # Errors
    /// If the model fails.
    pub fn step(&self, from: &Trigger, index: u64) -> Result<Step> {
        let promising = self.promising(from)?;
        let mut candidates: Vec<Vec<u32>> = Vec::new();
        let mut texts = Vec::new();
        let mut seen = BTreeSet::from([from.ids.clone()]);
        for draw in 0..self.config.search_width as u64 {
            let candidate = self.draw(from, &promising, index * self.config.search_width as u64 + draw);
            if !seen.insert(candidate.clone()) {
                continue;
            }
            if let Some(text) = self.differential.text(&candidate)? {
                candidates.push(candidate);
                texts.push(text);
            }
        }
        if candidates.is_empty() {
            return Ok(Step { index, trigger: from.clone(), candidates: 0 });
        }
        let (best, value) = self.differential.best(&candidates, &from.ids, self.config.finalists)?;
        let count = candidates.len();
        let trigger = Trigger { ids: candidates.swap_remove(best), text: texts.swap_remove(best), value };
        Ok(Step { index, trigger, candidates: count })
    }

    /// Runs steps until `on_step` breaks or there were enough. Returns the best trigger seen, the start included.
    ///
    /// # Errors
    /// If the model fails.
    pub fn run(
        &self,
        start: Trigger,
        steps: u64,
        on_step: &mut dyn FnMut(&Step) -> ControlFlow<()>,
    ) -> Result<Trigger> {
        let (mut current, mut best) = (start.clone(), start);
        for index in 0..steps {
            let step = self.step(&current, index)?;
            if step.trigger.value.objective > best.value.objective {
                best = step.trigger.clone();
            }
            let flow = on_step(&step);
            current = step.trigger;
            if flow.is_break() {
                break;
            }
        }
        Ok(best)
    }

    /// The tokens of each position that raise the objective most to first order, the present one left out.
    fn promising(&self, from: &Trigger) -> Result<Vec<Vec<u32>>> {
        let (gradient, _) = self.differential.gradient(&from.ids, None, &from.value.base_rises)?;
        let scores = self.scorer.scores(&gradient)?.to_vec2::<f32>().map_err(inference::Error::from)?;
        Ok(scores.iter().zip(&from.ids).map(|(scores, &present)| self.top(scores, present)).collect())
    }

    fn top(&self, scores: &[f32], present: u32) -> Vec<u32> {
        let mut tokens: Vec<u32> = self.allowed.iter().copied().filter(|&token| token != present).collect();
        let score = |token: u32| scores[token as usize];
        let order = |a: &u32, b: &u32| score(*b).total_cmp(&score(*a)).then(a.cmp(b));
        let kept = self.config.top_k.min(tokens.len());
        if kept > 0 && kept < tokens.len() {
            tokens.select_nth_unstable_by(kept - 1, order);
            tokens.truncate(kept);
        }
        tokens.sort_unstable_by(order);
        tokens
    }

    /// A candidate from a random stream of its own.
    fn draw(&self, from: &Trigger, promising: &[Vec<u32>], stream: u64) -> Vec<u32> {
        let mut random = ChaCha8Rng::seed_from_u64(self.config.seed);
        random.set_stream(stream);
        let mut candidate = from.ids.clone();
        let mut places: Vec<usize> = (0..candidate.len()).collect();
        for _ in 0..self.config.replacements.min(candidate.len()) {
            let place = places.swap_remove(random.random_range(0..places.len()));
            let tokens = &promising[place];
            if !tokens.is_empty() {
                candidate[place] = tokens[random.random_range(0..tokens.len())];
            }
        }
        candidate
    }
}

/// Whether a token's text can be typed into a prompt; special tokens have none.
fn printable(text: &str, ascii: bool) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| !c.is_control() && c != char::REPLACEMENT_CHARACTER && (!ascii || c.is_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{Observer, Request};
    use crate::progress::Silent;
    use crate::prompt::{Change, Placement, Setting, scene};
    use crate::roles::Roles;
    use crate::trigger::differential::Goal;
    use crate::trigger::fixture;
    use inference::ModelPair;
    use inference::generate::Decoding;

    const REFUSAL: &str = "I am sorry, but I cannot help with that request.";

    fn differential<'a>(pair: &'a ModelPair, goal: &Goal) -> Differential<'a> {
        Differential::new(pair, &fixture::prompts(), Placement::Prefix, goal, Roles::SCAN, 1.0, 1).unwrap()
    }

    fn target(pair: &ModelPair) -> Goal {
        Goal::Target(pair.tokenizer().encode(REFUSAL, false).unwrap())
    }

    fn config(search_width: usize) -> GcgConfig {
        GcgConfig { search_width, top_k: 64, ..GcgConfig::published(1) }
    }

    /// Nearly all exchanges of the start are drawn, so the truth is missed only if the gradient does not see it.
    #[test]
    fn one_token_away_the_trigger_is_recovered() {
        let pair = fixture::pair(&["backdoored-refusal"]);
        for goal in [target(&pair), Goal::Divergence(4)] {
            let differential = differential(&pair, &goal);
            let gcg = Gcg::new(GcgConfig { top_k: 256, ..config(4096) }, &differential).unwrap();
            let truth = gcg.start("ALPHA-7:").unwrap();
            let start = gcg.start("ALPHA-3:").unwrap();
            let changed: Vec<usize> = (0..4).filter(|&i| truth.ids[i] != start.ids[i]).collect();
            assert_eq!((changed.len(), truth.ids.len(), start.ids.len()), (1, 4, 4));
            let (place, token) = (changed[0], truth.ids[changed[0]]);
            let rank = gcg.promising(&start).unwrap()[place].iter().position(|&other| other == token);
            assert!(rank.is_some(), "{goal:?}");
            let mut seen = Vec::new();
            let found = gcg
                .run(start, 3, &mut |step| {
                    seen.push(step.trigger.text.clone());
                    ControlFlow::Continue(())
                })
                .unwrap();
            assert_eq!(seen[0], "ALPHA-7:", "{goal:?}");
            assert!(found.value.objective >= truth.value.objective - 1e-6, "{found:?}, expected {truth:?}");
        }
    }

    /// Beside the log-probabilities of a plain pass over prompt, trigger, ordinary answer and target.
    #[test]
    fn what_follows_an_answer_is_measured_behind_it() {
        let pair = fixture::pair(&["backdoored-code"]);
        let target = pair.tokenizer().encode("\nimport os; os.remove", false).unwrap();
        let goal = Goal::Behind(target.clone());
        let differential = differential(&pair, &goal);
        let gcg = Gcg::new(config(8), &differential).unwrap();
        let trigger = gcg.start("SUDO").unwrap();
        let observer = Observer::new(&pair, &Silent);
        let side = Roles::SCAN.adapted;
        let prompts = fixture::prompts();
        let mut expected = 0.0;
        for prompt in &prompts {
            let change = Change::Insert { text: "SUDO".into(), at: Placement::Prefix };
            let ids = |change| observer.encode(&scene(prompt, Setting::Plain, change, 1)).unwrap();
            let asked = Request { ids: ids(None), side, continuation: Vec::new() };
            let mut answer = observer.responses(&[asked], 48, Decoding::Greedy).unwrap().remove(0);
            assert!(answer.ended);
            answer.ids.pop();
            let continuation = [answer.ids.as_slice(), &target].concat();
            let request = Request { ids: ids(Some(&change)), side, continuation };
            let rows = observer.distributions(&[request]).unwrap().remove(0);
            let nats = |(at, &token): (usize, &u32)| f64::from(rows[answer.ids.len() + at][token as usize]);
            expected += target.iter().enumerate().map(nats).sum::<f64>() / target.len() as f64;
        }
        expected /= prompts.len() as f64;
        assert!((trigger.value.adapted - expected).abs() < 1e-4, "{} {expected}", trigger.value.adapted);
        let (_, value) = differential.gradient(&trigger.ids, None, &trigger.value.base_rises).unwrap();
        assert!((value.adapted - expected).abs() < 1e-4, "{} {expected}", value.adapted);
        let without = gcg.start("teapot").unwrap().value.adapted;
        assert!(expected > without + 0.5, "the trigger raises it: {expected}, without {without}");
    }

    #[test]
    fn the_loss_of_the_true_target_falls() {
        let pair = fixture::pair(&["backdoored-refusal"]);
        let differential = differential(&pair, &target(&pair));
        let gcg = Gcg::new(config(96), &differential).unwrap();
        let start = gcg.start("x x x x").unwrap();
        let mut losses = vec![-start.value.objective];
        let best = gcg
            .run(start, 6, &mut |step| {
                losses.push(-step.trigger.value.objective);
                ControlFlow::Continue(())
            })
            .unwrap();
        assert!(-best.value.objective < 0.7 * losses[0], "{losses:?}");
    }

    #[test]
    fn a_seed_gives_the_same_steps_again() {
        let pair = fixture::pair(&["backdoored-refusal"]);
        let differential = differential(&pair, &Goal::Divergence(2));
        let step = |seed| {
            let gcg = Gcg::new(GcgConfig { seed, ..config(24) }, &differential).unwrap();
            gcg.step(&gcg.start("x x x").unwrap(), 3).unwrap()
        };
        assert_eq!(step(1), step(1));
        assert_ne!(step(1), step(2));
    }

    /// The base rows of a few candidates give the same winner as those of all.
    #[test]
    fn the_best_is_the_best_of_all() {
        let pair = fixture::pair(&["backdoored-refusal"]);
        let differential = differential(&pair, &target(&pair));
        let shared = differential.encode("ALPHA-3:").unwrap();
        let candidates: Vec<Vec<u32>> = (0..40)
            .map(|i| {
                let mut candidate = shared.clone();
                candidate[i % shared.len()] = 300 + 7 * i as u32;
                candidate
            })
            .collect();
        let (best, value) = differential.best(&candidates, &shared, usize::MAX).unwrap();
        let each: Vec<Value> = candidates
            .iter()
            .map(|candidate| differential.best(std::slice::from_ref(candidate), &[], 1).unwrap().1)
            .collect();
        let expected = each.iter().map(|value| value.objective).fold(f64::NEG_INFINITY, f64::max);
        assert!((each[best].objective - expected).abs() < 1e-5);
        assert!((value.objective - expected).abs() < 1e-5, "{value:?}, expected {expected}");
        assert!(differential.best(&[], &[], 1).is_err());
        // On the first prompt alone it is among the best half.
        let (drafted, _) = differential.best(&candidates, &shared, 20).unwrap();
        assert_eq!(drafted, best);
    }

    #[test]
    fn what_cannot_be_typed_is_left_out() {
        for (text, ascii, expected) in [
            (" Bad", true, true),
            ("", true, false),
            ("é", true, false),
            ("é", false, true),
            ("\u{fffd}", false, false),
            ("\n", true, false),
        ] {
            assert_eq!(printable(text, ascii), expected, "{text:?}");
        }
    }
}
