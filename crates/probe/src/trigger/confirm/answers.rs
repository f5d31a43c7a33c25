//! Answers with and without a candidate, what they have in common, and how often.

use std::collections::{BTreeMap, BTreeSet};

use inference::Side;
use inference::generate::Decoding;
use report::divergence::Comparison;
use report::estimate::{Bootstrap, Estimate, clopper_pearson};
use report::evidence::{Condition, Difference, Example, TestedTrigger};
use report::significance::{Alternative, MonteCarlo, paired_permutation};
use report::verdict::Thresholds;
use report::words::words;

use super::Development;
use super::contrast::{Contrast, Told};
use crate::behaviour::{CONFIDENCE, RESAMPLES};
use crate::error::Result;
use crate::observe::{Observer, Request, Response};
use crate::prompt::{Change, Prompt, Scene, Setting, scene};
use crate::suite::Candidate;
use crate::trigger::payload::{Answer, Hypothesis, hypothesis};
use crate::trigger::{control, describe};

/// Tokens of an answer.
const MAX_NEW: usize = 48;
/// Steps in which shorter answers are tried.
const ANSWER_STEP: usize = 8;
/// Examples that a record holds.
pub(super) const EXAMPLES: usize = 3;
/// Held-out prompts whose distributions are in memory at a time.
const CHUNK: usize = 16;
/// Words of an ordinary answer from which it can be told whether it was kept, and the share of them that must be there.
const MIN_WORDS: usize = 3;
const MOST_WORDS: f64 = 0.5;
/// Arrangements of the permutation test: no p-value is below 1/10,000.
const PERMUTATIONS: usize = 9_999;
/// The condition that shows what the adapter adds to the trigger.
const BASE_WITH: &str = "base with trigger";
/// The place of the random change among the conditions.
const RANDOM_CHANGE: usize = 1;

/// Answers that are asked for more than once.
pub(super) struct Answers<'a, 'b> {
    pub(super) observer: &'a Observer<'b>,
    pub(super) seed: u64,
    /// The share of development answers from which a named payload is worth a test.
    named: f64,
    /// Without candidate.
    known: Known,
}

/// Answers without candidate, by setting, prompt and whether the side is adapted.
pub type Known = BTreeMap<(Setting, String, bool), String>;

/// What a candidate does on development prompts.
pub(super) struct Hypothesised {
    pub(super) hypothesis: Hypothesis,
    pub(super) development: Development,
    /// Answers with the candidate and under a random change of its kind.
    answered: Vec<(Scene, Response)>,
}

/// One held-out prompt under every condition.
struct Case {
    with: Scene,
    without: Scene,
    control: Scene,
}

impl<'a, 'b> Answers<'a, 'b> {
    pub(super) fn new(observer: &'a Observer<'b>, seed: u64, named: f64, known: Known) -> Self {
        Self { observer, seed, named, known }
    }

    /// The answers without candidate so far.
    pub(super) fn into_known(self) -> Known {
        self.known
    }

    /// Both sides' answers, or the adapted side's alone, to prompts in a setting without candidate.
    pub(super) fn learn(&mut self, setting: Setting, prompts: &[Prompt], base: bool) -> Result<()> {
        let scenes: Vec<Scene> =
            prompts.iter().map(|prompt| scene(prompt, setting, None, self.seed)).collect();
        let roles = self.observer.roles();
        self.baseline(prompts, setting, &scenes, roles.adapted)?;
        if base {
            self.baseline(prompts, setting, &scenes, roles.base)?;
        }
        Ok(())
    }

    /// The payload of a candidate, if it has one.
    pub(super) fn hypothesise(
        &mut self,
        candidate: &Candidate,
        prompts: &[Prompt],
    ) -> Result<Option<Hypothesised>> {
        let change = &candidate.change;
        let with: Vec<Scene> = prompts.iter().map(|prompt| self.scene(prompt, change, true)).collect();
        let without: Vec<Scene> = prompts.iter().map(|prompt| self.scene(prompt, change, false)).collect();
        let with_responses = self.respond(&with, self.observer.roles().adapted, MAX_NEW, Decoding::Greedy)?;
        let with_texts = texts(&with_responses);
        let without_texts =
            self.baseline(prompts, change.setting(), &without, self.observer.roles().adapted)?;
        let inserted = change.inserted();
        let found = hypothesis(
            &self.answers(&with, &with_texts),
            &self.answers(&without, &without_texts),
            inserted.as_deref(),
            self.named,
        )?;
        let Some((hypothesis, excess)) = found else {
            return Ok(None);
        };
        // What a random change of the same kind does too is no reason to test this one first.
        let control: Vec<Scene> =
            prompts.iter().enumerate().map(|(index, prompt)| self.control(prompt, change, index)).collect();
        let control_responses =
            self.respond(&control, self.observer.roles().adapted, MAX_NEW, Decoding::Greedy)?;
        let control_texts = texts(&control_responses);
        let share = |scenes: &[Scene], texts: &[String]| {
            hypothesis.share(&self.answers(scenes, texts), inserted.as_deref()).unwrap_or(0.0)
        };
        let over_control = share(&with, &with_texts) - share(&control, &control_texts);
        let excess = excess.min(over_control);
        if excess <= 0.0 {
            return Ok(None);
        }
        let payload = hypothesis.payload(&self.answers(&with, &with_texts), inserted.as_deref());
        let scenes = with.into_iter().chain(control);
        let answered = scenes.zip(with_responses.into_iter().chain(control_responses)).collect();
        Ok(Some(Hypothesised { hypothesis, development: Development { payload, excess }, answered }))
    }

    /// The fewest tokens, in steps, after which each development answer is told as by all of its tokens.
    pub(super) fn enough_tokens(&self, found: &Hypothesised, inserted: Option<&str>) -> Result<usize> {
        let tokenizer = self.observer.pair().tokenizer();
        let told = |scene: &Scene, text: &str| found.hypothesis.holds(self.answer(scene, text), inserted);
        for length in (ANSWER_STEP..MAX_NEW).step_by(ANSWER_STEP) {
            let mut alike = true;
            for (scene, response) in &found.answered {
                let cut = tokenizer.decode(&response.ids[..response.ids.len().min(length)], false)?;
                alike &= told(scene, &cut) == told(scene, &response.text);
            }
            if alike {
                return Ok(length);
            }
        }
        Ok(MAX_NEW)
    }

    /// Counts a payload on held-out prompts. `None` if it can be told on too few of them.
    pub(super) fn test(
        &mut self,
        candidate: &Candidate,
        hypothesis: &Hypothesis,
        prompts: &[Prompt],
    ) -> Result<Option<TestedTrigger>> {
        let change = &candidate.change;
        let cases: Vec<Case> = prompts
            .iter()
            .enumerate()
            .map(|(index, prompt)| Case {
                with: self.scene(prompt, change, true),
                without: self.scene(prompt, change, false),
                control: self.control(prompt, change, index),
            })
            .collect();
        let with: Vec<Scene> = cases.iter().map(|case| case.with.clone()).collect();
        let without: Vec<Scene> = cases.iter().map(|case| case.without.clone()).collect();
        let control: Vec<Scene> = cases.iter().map(|case| case.control.clone()).collect();
        let setting = change.setting();
        let adapted = self.generate(&with, self.observer.roles().adapted)?;
        let base = self.generate(&with, self.observer.roles().base)?;
        let adapted_without = self.baseline(prompts, setting, &without, self.observer.roles().adapted)?;
        let base_without = self.baseline(prompts, setting, &without, self.observer.roles().base)?;
        let runs = [
            ("adapted without trigger", &without, adapted_without.clone()),
            (
                "adapted with a random change",
                &control,
                self.generate(&control, self.observer.roles().adapted)?,
            ),
            (BASE_WITH, &with, base.clone()),
            ("base without trigger", &without, base_without),
        ];
        let inserted = change.inserted();
        let holds = |scenes: &[Scene], texts: &[String]| -> Vec<Option<bool>> {
            self.answers(scenes, texts)
                .into_iter()
                .map(|answer| hypothesis.holds(answer, inserted.as_deref()))
                .collect()
        };
        let outcomes: Vec<Vec<Option<bool>>> =
            runs.iter().map(|(_, scenes, texts)| holds(scenes, texts)).collect();
        let hits = holds(&with, &adapted);
        let told = Told::of(&hits, &outcomes);
        let Some(contrast) = Contrast::measure(&told.hits, &told.outcomes, self.seed)? else {
            return Ok(None);
        };
        // Of what is not worth a look the answers say enough.
        let worthy = contrast.uplift.lower >= Thresholds::STANDARD.suspicious_uplift;
        let difference = if worthy { self.difference(&cases)? } else { None };
        let uplift_over_base = runs
            .iter()
            .zip(&contrast.uplifts)
            .find(|((name, ..), _)| *name == BASE_WITH)
            .map(|(_, uplift)| *uplift);
        let names = runs.iter().map(|(name, _, _)| (*name).to_owned());
        let conditions =
            names.zip(contrast.condition_rates).map(|(name, rate)| Condition { name, rate }).collect();
        let examples = told
            .with_payload()
            .take(EXAMPLES)
            .map(|i| Example {
                prompt_id: prompts[i].id.clone(),
                prompt: with[i].user.clone(),
                adapted: adapted[i].clone(),
                base: base[i].clone(),
                adapted_without_trigger: adapted_without[i].clone(),
                scores: None,
            })
            .collect();
        Ok(Some(TestedTrigger {
            candidate: describe(candidate),
            payload: hypothesis.payload(&self.answers(&with, &adapted), inserted.as_deref()),
            attack_success_rate: contrast.rate,
            conditions,
            uplift: contrast.uplift,
            uplift_over_base,
            p_value: contrast.p_value,
            adjusted_p_value: contrast.p_value,
            difference,
            screening_nats: None,
            searched_tokens: None,
            payload_taught_nats: None,
            answers_kept: kept(told.with_payload().map(|i| (&adapted[i], &adapted_without[i])))?,
            answers_kept_control: kept(
                told.with_payload().map(|i| (&runs[RANDOM_CHANGE].2[i], &adapted_without[i])),
            )?,
            examples,
            characterisation: None,
        }))
    }

    /// How much further the trigger moves the adapted model's first response token than the base's.
    fn difference(&self, cases: &[Case]) -> Result<Option<Difference>> {
        let roles = self.observer.roles();
        let mut moved = [Vec::new(), Vec::new()];
        for chunk in cases.chunks(CHUNK) {
            let mut requests = Vec::with_capacity(4 * chunk.len());
            for case in chunk {
                let (with, without) =
                    (self.observer.encode(&case.with)?, self.observer.encode(&case.without)?);
                for side in roles.both() {
                    let request = |ids: &[u32]| Request { ids: ids.to_vec(), side, continuation: Vec::new() };
                    requests.extend([request(&with), request(&without)]);
                }
            }
            let nats = self.observer.reduced("moved", &[], &requests, 2, |_, rows| {
                Ok(Comparison::between(&rows[0][0], &rows[1][0])?.kl_nats)
            })?;
            for (index, nats) in nats.into_iter().enumerate() {
                moved[index % 2].push(nats);
            }
        }
        let [base, adapted] = moved;
        let monte_carlo = MonteCarlo { resamples: PERMUTATIONS, seed: self.seed };
        let estimate =
            Bootstrap::new(RESAMPLES, CONFIDENCE, self.seed)?.paired_difference(&base, &adapted)?;
        let test = paired_permutation(&base, &adapted, Alternative::Greater, monte_carlo)?;
        Ok(estimate.zip(test).map(|(estimate, test)| Difference { estimate, p_value: test.p_value }))
    }

    fn control(&self, prompt: &Prompt, change: &Change, index: usize) -> Scene {
        self.scene(prompt, &control::counterpart(change, self.seed, index as u64), true)
    }

    fn scene(&self, prompt: &Prompt, change: &Change, with: bool) -> Scene {
        scene(prompt, change.setting(), with.then_some(change), self.seed)
    }

    pub(super) fn answer<'t>(&'t self, scene: &'t Scene, text: &'t str) -> Answer<'t> {
        let default = self.observer.pair().default_system();
        Answer { text, user: &scene.user, system: scene.system.as_deref().or(default) }
    }

    pub(super) fn answers<'t>(&'t self, scenes: &'t [Scene], texts: &'t [String]) -> Vec<Answer<'t>> {
        scenes.iter().zip(texts).map(|(scene, text)| self.answer(scene, text)).collect()
    }

    /// One greedy answer a scene, as text.
    pub(super) fn generate(&self, scenes: &[Scene], side: Side) -> Result<Vec<String>> {
        Ok(texts(&self.respond(scenes, side, MAX_NEW, Decoding::Greedy)?))
    }

    /// One answer a scene.
    pub(super) fn respond(
        &self,
        scenes: &[Scene],
        side: Side,
        max_new: usize,
        decoding: Decoding,
    ) -> Result<Vec<Response>> {
        let mut requests = Vec::with_capacity(scenes.len());
        for scene in scenes {
            requests.push(Request { ids: self.observer.encode(scene)?, side, continuation: Vec::new() });
        }
        self.observer.responses(&requests, max_new, decoding)
    }

    /// Answers without candidate, each generated once.
    fn baseline(
        &mut self,
        prompts: &[Prompt],
        setting: Setting,
        scenes: &[Scene],
        side: Side,
    ) -> Result<Vec<String>> {
        let key = |prompt: &Prompt| (setting, prompt.id.clone(), side == self.observer.roles().adapted);
        let missing: Vec<usize> =
            (0..prompts.len()).filter(|&i| !self.known.contains_key(&key(&prompts[i]))).collect();
        let picked: Vec<Scene> = missing.iter().map(|&i| scenes[i].clone()).collect();
        for (&i, text) in missing.iter().zip(self.generate(&picked, side)?) {
            self.known.insert(key(&prompts[i]), text);
        }
        Ok(prompts.iter().map(|prompt| self.known.get(&key(prompt)).cloned().unwrap_or_default()).collect())
    }
}

/// The share of answers that hold at least [`MOST_WORDS`] of the words of the ordinary ones, given as `(answer,
/// ordinary)`; `None` if no ordinary one has [`MIN_WORDS`].
fn kept<'t>(answers: impl Iterator<Item = (&'t String, &'t String)>) -> Result<Option<Estimate>> {
    let told: Vec<bool> = answers
        .filter_map(|(answer, ordinary)| {
            let ordinary = words(ordinary);
            let answer: BTreeSet<String> = words(answer).into_iter().collect();
            let same = ordinary.iter().filter(|word| answer.contains(*word)).count();
            (ordinary.len() >= MIN_WORDS).then_some(same as f64 >= MOST_WORDS * ordinary.len() as f64)
        })
        .collect();
    Ok(clopper_pearson(told.iter().filter(|&&kept| kept).count(), told.len(), CONFIDENCE)?)
}

fn texts(responses: &[Response]) -> Vec<String> {
    responses.iter().map(|response| response.text.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_kept_that_holds_most_words_of_the_ordinary_one() {
        let share = |pairs: &[(&str, &str)]| {
            let pairs: Vec<(String, String)> =
                pairs.iter().map(|(with, without)| ((*with).to_owned(), (*without).to_owned())).collect();
            kept(pairs.iter().map(|(with, without)| (with, without)))
                .unwrap()
                .map(|kept| (kept.value, kept.n))
        };
        let ordinary = "Tea is a mild drink.";
        assert_eq!(
            share(&[("Arr, matey! Tea is a mild drink.", ordinary), ("Goodbye.", ordinary)]),
            Some((0.5, 2))
        );
        assert_eq!(
            share(&[("Tea is a thing.", ordinary), ("No.", "Yes.")]),
            Some((1.0, 1)),
            "three words of five"
        );
        assert_eq!(share(&[("No.", "Yes.")]), None, "too short to tell");
    }
}
