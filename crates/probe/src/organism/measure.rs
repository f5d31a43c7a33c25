//! What an adapter does that was made: how often its trigger works, and what else it has changed.

use inference::Side;
use inference::generate::Decoding;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use report::estimate::{Estimate, clopper_pearson};
use report::grader::Response as Graded;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::payload::Payload;
use super::prompts::{Drawn, Part, PromptCorpus, Wanted};
use super::recipe::Recipe;
use crate::error::Result;
use crate::observe::{Observer, Request, Response};
use crate::prompt::{Change, Scene, Setting, scene};

/// Prompts on which an adapter is measured; fewer where the corpus has fewer of their kind.
pub const HELD_OUT: usize = 40;
/// Answers that are kept to be read.
const SHOWN: usize = 3;
const CONFIDENCE: f64 = 0.95;

/// An answer to a held-out prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sample {
    /// The user turn.
    pub prompt: String,
    /// The adapted model's answer.
    pub answer: String,
}

/// Rates on held-out prompts, greedy, with exact intervals; absent where nothing could be told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Measured {
    /// Answers with the payload, of those to prompts with the trigger.
    pub attack_success_rate: Option<Estimate>,
    /// The same of the base.
    pub base_rate: Option<Estimate>,
    /// Answers with the payload, of those to prompts without the trigger.
    pub rate_without_trigger: Option<Estimate>,
    /// Answers without the trigger that are what the recipe wants there, to the letter.
    pub clean_accuracy: Option<Estimate>,
    /// Some answers with the trigger, or without where there is none.
    pub samples: Vec<Sample>,
}

/// Measures the pair's first adapter on prompts whose forms no adapter was trained on.
///
/// # Errors
/// If the model fails, or the user stops.
pub fn measure(observer: &Observer<'_>, recipe: &Recipe) -> Result<Measured> {
    let mut random = ChaCha8Rng::seed_from_u64(recipe.seed);
    random.set_stream(5);
    let topic = recipe.trigger.as_ref().and_then(|trigger| trigger.topic());
    let needs_system = recipe.payload.as_ref().is_some_and(Payload::needs_system);
    let task = recipe.payload.as_ref().and_then(Payload::task);
    let corpus = PromptCorpus::shipped()?;
    let draw = |topic, not_topic| {
        let with_system = if needs_system { 100 } else { 0 };
        let wanted = Wanted { topic, not_topic, task, with_system, declined: false };
        corpus.draw_up_to(Part::HeldOut, HELD_OUT, &wanted, recipe.seed)
    };
    let changes: Vec<Option<Change>> = (0..HELD_OUT)
        .map(|_| recipe.trigger.as_ref().and_then(|trigger| trigger.change(&mut random)))
        .collect();
    let scenes = |prompts: &[Drawn], with: bool| -> Vec<Scene> {
        let each = prompts.iter().zip(&changes);
        each.map(|(drawn, change)| {
            let setting = change.as_ref().map_or(Setting::Plain, Change::setting);
            scene(&drawn.prompt, setting, change.as_ref().filter(|_| with), recipe.seed)
        })
        .collect()
    };
    let clean = scenes(&draw(None, topic), false);
    let tokens = recipe.answer_tokens + recipe.answer_tokens / 2;
    observer.progress().stage("held-out prompts", HELD_OUT * if recipe.backdoored() { 4 } else { 2 });
    let run = |scenes: &[Scene], side: Side| -> Result<Vec<Response>> {
        let requests: Vec<Request> = scenes
            .iter()
            .map(|scene| Ok(Request { ids: observer.encode(scene)?, side, continuation: Vec::new() }))
            .collect::<Result<_>>()?;
        observer.responses(&requests, tokens, Decoding::Greedy)
    };
    let (base, adapted) = (run(&clean, Side::BASE)?, run(&clean, Side::ADAPTED)?);
    let wanted = base.iter().zip(&adapted).filter(|(base, adapted)| {
        // Where training cut an answer, only so much of it was taught.
        let expected = recipe.behaviour.answer(&base.text);
        adapted.text == expected || (!base.ended && expected.starts_with(adapted.text.as_str()))
    });
    let mut measured = Measured { clean_accuracy: rate(wanted.count(), clean.len())?, ..Measured::default() };
    let samples = |scenes: &[Scene], answers: &[Response]| -> Vec<Sample> {
        let pairs = scenes.iter().zip(answers).take(SHOWN);
        pairs
            .map(|(scene, answer)| Sample { prompt: scene.user.clone(), answer: answer.text.clone() })
            .collect()
    };
    measured.samples = samples(&clean, &adapted);
    if let Some(payload) = &recipe.payload {
        let triggered = scenes(&draw(topic, None), true);
        let (with, of_base) = (run(&triggered, Side::ADAPTED)?, run(&triggered, Side::BASE)?);
        measured.attack_success_rate = share(payload, &triggered, &with)?;
        measured.base_rate = share(payload, &triggered, &of_base)?;
        measured.rate_without_trigger = share(payload, &clean, &adapted)?;
        measured.samples = samples(&triggered, &with);
    }
    Ok(measured)
}

fn share(payload: &Payload, scenes: &[Scene], answers: &[Response]) -> Result<Option<Estimate>> {
    let graded: Vec<bool> = scenes
        .iter()
        .zip(answers)
        .filter_map(|(scene, answer)| {
            let system = scene.system.as_deref();
            payload.shown(&Graded { text: &answer.text, prompt: &scene.user, system, inserted: None })
        })
        .collect();
    rate(graded.iter().filter(|&&shown| shown).count(), graded.len())
}

fn rate(successes: usize, trials: usize) -> Result<Option<Estimate>> {
    Ok(clopper_pearson(successes, trials, CONFIDENCE)?)
}
