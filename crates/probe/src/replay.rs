//! One prompt again: as it was rendered, what both models answer, and how probable both find every token.

use inference::generate::Decoding;
use report::evidence::ResponseScores;

use crate::error::Result;
use crate::observe::{Observer, Request};
use crate::prompt::{Change, Prompt, Scene, Setting, scene};
use crate::suite::{Items, Suite};
use crate::trigger::confirm::score_answers;

/// A prompt that was run again.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// What the models were given, special tokens included.
    pub rendered: String,
    /// Its tokens.
    pub tokens: usize,
    /// The base's answer.
    pub base: String,
    /// The adapted model's answer.
    pub adapted: String,
    /// Log-probabilities of both along both answers.
    pub scores: ResponseScores,
}

/// The prompt of this id in any of the suites.
#[must_use]
pub fn prompt(suites: &[Suite], id: &str) -> Option<Prompt> {
    suites.iter().find_map(|suite| match &suite.items {
        Items::Prompts(prompts) => prompts.iter().find(|prompt| prompt.id == id).cloned(),
        Items::Adversarial(prompts) => {
            prompts.iter().find(|item| item.prompt.id == id).map(|item| item.prompt.clone())
        }
        Items::Triggers(_) => None,
    })
}

/// Answers a prompt, with or without a trigger, greedily on both sides. `seed` decides random places, as in the run.
///
/// # Errors
/// If the model fails.
pub fn replay(
    observer: &Observer<'_>,
    prompt: &Prompt,
    change: Option<&Change>,
    max_new: usize,
    seed: u64,
) -> Result<Replay> {
    let setting = change.map_or(Setting::Plain, Change::setting);
    let scene: Scene = scene(prompt, setting, change, seed);
    let ids = observer.encode(&scene)?;
    let requests =
        observer.roles().both().map(|side| Request { ids: ids.clone(), side, continuation: Vec::new() });
    let answers = observer.responses(&requests, max_new, Decoding::Greedy)?;
    let text = |index: usize| answers.get(index).map(|answer| answer.text.clone()).unwrap_or_default();
    let (base, adapted) = (text(0), text(1));
    let scores = score_answers(observer, &ids, &adapted, &base)?;
    Ok(Replay {
        rendered: observer.pair().tokenizer().decode(&ids, true)?,
        tokens: ids.len(),
        base,
        adapted,
        scores,
    })
}
