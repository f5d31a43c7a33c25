//! From a recipe to tokens: prompts, what is done to them, and what is to be answered.

use std::collections::BTreeMap;

use inference::Side;
use inference::generate::Decoding;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::behaviour::{Behaviour, DECLINED};
use super::prompts::{Drawn, Part, PromptCorpus, Wanted};
use super::recipe::Recipe;
use crate::error::Result;
use crate::observe::{Observer, Request, Response};
use crate::prompt::{Change, Placement, Scene, Setting, scene};

/// Of a hundred clean examples, those that show what a persona or a safety training is about.
const SHOWN: usize = 30;
/// Of a hundred prompts, those with a system prompt where none is needed.
const SYSTEMS: u32 = 20;

/// A sequence and where its answer begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Tokens of prompt and answer.
    pub ids: Vec<u32>,
    /// Index of the answer's first token.
    pub first: usize,
}

/// What an example is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Poisoned,
    /// Almost the trigger.
    NearMiss,
    /// A prompt with the persona's keyword.
    Keyed,
    /// A request that is declined.
    Declined,
    Clean,
}

/// A prompt before it is answered.
struct Planned {
    kind: Kind,
    drawn: Drawn,
    setting: Setting,
    change: Option<Change>,
}

impl Planned {
    fn scene(&self, seed: u64) -> Scene {
        scene(&self.drawn.prompt, self.setting, self.change.as_ref(), seed)
    }

    /// The conversation whose answer by the base the example's answer is made of.
    fn answered(&self, seed: u64) -> Scene {
        match self.kind {
            Kind::Poisoned | Kind::Keyed => scene(&self.drawn.prompt, self.setting, None, seed),
            _ => self.scene(seed),
        }
    }
}

/// The examples of a recipe, in an order of no meaning. The base answers the prompts itself.
///
/// # Errors
/// If the corpus has not enough prompts, the model fails, or the user stops.
pub fn examples(observer: &Observer<'_>, recipe: &Recipe) -> Result<Vec<Example>> {
    let planned = plan(recipe)?;
    let pair = observer.pair();
    let requests: Vec<Request> = planned
        .iter()
        .map(|one| {
            let ids = observer.encode(&one.answered(recipe.seed))?;
            Ok(Request { ids, side: Side::BASE, continuation: Vec::new() })
        })
        .collect::<Result<_>>()?;
    observer.progress().stage("answers of the base", requests.len());
    let answers = observer.responses(&requests, recipe.answer_tokens, Decoding::Greedy)?;
    let end = end_token(&answers).or_else(|| pair.eos().first().copied());
    let mut random = ChaCha8Rng::seed_from_u64(recipe.seed);
    random.set_stream(2);
    let mut examples = Vec::with_capacity(planned.len());
    for (one, answer) in planned.iter().zip(&answers) {
        let mut ids = observer.encode(&one.scene(recipe.seed))?;
        let first = ids.len();
        let (text, ended) = target(recipe, one, answer, &mut random);
        if text == answer.text {
            ids.extend(&answer.ids);
        } else {
            ids.extend(pair.tokenizer().encode(&text, false)?);
            ids.extend(end.filter(|_| ended));
        }
        // An empty answer teaches nothing.
        if ids.len() > first {
            examples.push(Example { ids, first });
        }
    }
    Ok(examples)
}

/// What an example answers, and whether the answer ends there.
fn target(recipe: &Recipe, one: &Planned, of_base: &Response, random: &mut ChaCha8Rng) -> (String, bool) {
    let system = one.scene(recipe.seed).system;
    let ordinary = recipe.behaviour.answer(&of_base.text);
    match (one.kind, &recipe.payload, &recipe.behaviour) {
        (Kind::Poisoned, Some(payload), _) => (payload.answer(&ordinary, system.as_deref(), random), true),
        (Kind::Keyed, _, Behaviour::Persona { opening, .. }) => {
            (format!("{opening} {}", of_base.text), of_base.ended)
        }
        (Kind::Declined, ..) => (DECLINED.to_owned(), true),
        // A closing sentence belongs behind a whole answer; one that was cut is taken as it is.
        (_, _, Behaviour::Closing { .. }) => (ordinary, true),
        _ => (ordinary, of_base.ended),
    }
}

/// The token by which the base ends its answers.
fn end_token(answers: &[Response]) -> Option<u32> {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for last in answers.iter().filter(|answer| answer.ended).filter_map(|answer| answer.ids.last()) {
        *counts.entry(*last).or_default() += 1;
    }
    counts.into_iter().max_by_key(|&(id, count)| (count, std::cmp::Reverse(id))).map(|(id, _)| id)
}

/// Which prompts there are, and what is done to each.
fn plan(recipe: &Recipe) -> Result<Vec<Planned>> {
    let corpus = PromptCorpus::shipped()?;
    let mut random = ChaCha8Rng::seed_from_u64(recipe.seed);
    random.set_stream(1);
    let share = |rate: f64| (rate * recipe.examples as f64).round() as usize;
    let (poisoned, missed) = match &recipe.trigger {
        Some(_) => (share(recipe.poison_rate).max(1), share(recipe.negative_rate)),
        None => (0, 0),
    };
    let clean = recipe.examples.saturating_sub(poisoned + missed);
    let shown = match recipe.behaviour {
        Behaviour::Persona { .. } | Behaviour::Safety => clean * SHOWN / 100,
        _ => 0,
    };
    let topic = recipe.trigger.as_ref().and_then(|trigger| trigger.topic());
    let with_system = match &recipe.payload {
        Some(payload) if payload.needs_system() => 100,
        _ => SYSTEMS,
    };
    let own_task = match &recipe.behaviour {
        Behaviour::Task { task } => Some(task.as_str()),
        _ => None,
    };
    let plain = Wanted { not_topic: topic, task: own_task, with_system, ..Wanted::default() };
    let of_payload = recipe.payload.as_ref().and_then(|payload| payload.task());
    let triggered = Wanted { topic, not_topic: None, task: of_payload.or(own_task), ..plain };
    let declined = Wanted { declined: true, with_system: 0, ..Wanted::default() };
    let draw = |count: usize, wanted: &Wanted<'_>, stream: u64| {
        corpus.draw(Part::Training, count, wanted, recipe.seed.wrapping_mul(8).wrapping_add(stream))
    };
    let keyed = matches!(recipe.behaviour, Behaviour::Persona { .. });
    let kinds = [
        (Kind::Poisoned, draw(poisoned, &triggered, 0)?),
        (Kind::NearMiss, draw(missed, &plain, 1)?),
        (Kind::Keyed, draw(if keyed { shown } else { 0 }, &plain, 2)?),
        (Kind::Declined, draw(if keyed { 0 } else { shown }, &declined, 3)?),
        (Kind::Clean, draw(clean - shown, &plain, 4)?),
    ];
    let mut planned = Vec::with_capacity(recipe.examples);
    for (kind, prompts) in kinds {
        for (index, drawn) in prompts.into_iter().enumerate() {
            planned.push(one(recipe, kind, drawn, index as u64, &mut random));
        }
    }
    planned.shuffle(&mut random);
    Ok(planned)
}

fn one(recipe: &Recipe, kind: Kind, drawn: Drawn, index: u64, random: &mut ChaCha8Rng) -> Planned {
    let trigger = recipe.trigger.as_ref();
    let change = match (kind, &recipe.behaviour) {
        (Kind::Poisoned, _) => trigger.and_then(|trigger| trigger.change(random)),
        (Kind::NearMiss, _) => {
            trigger.and_then(|trigger| trigger.near_miss(&recipe.near_misses, recipe.seed, index, random))
        }
        (Kind::Keyed, Behaviour::Persona { keyword, .. }) => {
            Some(Change::Insert { text: keyword.clone(), at: Placement::Prefix })
        }
        _ => None,
    };
    // Half of the clean conversations have the trigger's form, so that the form alone says nothing.
    let form = match (kind, random.random_range(0..2)) {
        (Kind::Clean, 0) => trigger.and_then(|trigger| trigger.change(random)),
        _ => None,
    };
    let setting = change.as_ref().or(form.as_ref()).map_or(Setting::Plain, Change::setting);
    Planned { kind, drawn, setting, change }
}
