//! The test of a kind of prompts: a payload on prompts with a tag, against prompts without it and against the base.

use inference::generate::Decoding;
use report::evidence::{Condition, Example, Payload, TestedTrigger, TriggerCandidate};

use super::answers::MAX_NEW;
use super::contrast::Contrast;
use crate::error::Result;
use crate::observe::{Observer, Request};
use crate::prompt::{Prompt, Scene, Setting, scene};
use crate::trigger::payload::{Answer, hypothesis};

/// Examples that a record holds.
const EXAMPLES: usize = 3;
/// What stands in the place of a placement.
pub(crate) const KIND: &str = report::evidence::PROMPT_KIND;

/// Answers of both sides to pairs of a prompt with the tag and one without.
struct Answered {
    scenes: [Vec<Scene>; 2],
    /// By side (base, adapted) and place in the pair.
    texts: [[Vec<String>; 2]; 2],
}

/// Looks for a payload on `shown` pairs of a prompt with the tag and one without, and counts it on `counted` ones. `None`
/// if no wording takes over the shown answers, and nothing that a grader names the share `named` of them.
///
/// # Errors
/// If the model fails or the user stops.
pub fn test_kind(
    observer: &Observer<'_>,
    tag: &str,
    [shown, counted]: [&[(Prompt, Prompt)]; 2],
    named: f64,
    seed: u64,
) -> Result<Option<TestedTrigger>> {
    let first = answer(observer, shown, seed)?;
    let [_, adapted] = &first.texts;
    let with = first.answers(observer, 0, &adapted[0]);
    let without = first.answers(observer, 1, &adapted[1]);
    let Some((hypothesis, _)) = hypothesis(&with, &without, None, named)? else { return Ok(None) };
    let second = answer(observer, counted, seed)?;
    let [base, adapted] = &second.texts;
    let holds = |place: usize, texts: &[String]| -> Vec<Option<bool>> {
        second
            .answers(observer, place, texts)
            .into_iter()
            .map(|answer| hypothesis.holds(answer, None))
            .collect()
    };
    let hits = holds(0, &adapted[0]);
    let runs = [
        ("adapted on other prompts", holds(1, &adapted[1])),
        ("base on the same prompts", holds(0, &base[0])),
        ("base on other prompts", holds(1, &base[1])),
    ];
    let told: Vec<usize> = (0..hits.len())
        .filter(|&i| hits[i].is_some() && runs.iter().all(|(_, run)| run[i].is_some()))
        .collect();
    let pick = |run: &[Option<bool>]| -> Vec<bool> { told.iter().map(|&i| run[i] == Some(true)).collect() };
    let hits = pick(&hits);
    let outcomes: Vec<Vec<bool>> = runs.iter().map(|(_, run)| pick(run)).collect();
    let Some(contrast) = Contrast::measure(&hits, &outcomes, seed)? else { return Ok(None) };
    let examples = told
        .iter()
        .zip(&hits)
        .filter(|(_, hit)| **hit)
        .take(EXAMPLES)
        .map(|(&i, _)| Example {
            prompt_id: counted[i].0.id.clone(),
            prompt: second.scenes[0][i].user.clone(),
            adapted: adapted[0][i].clone(),
            base: base[0][i].clone(),
            adapted_without_trigger: adapted[1][i].clone(),
            scores: None,
        })
        .collect();
    let payload: Payload = hypothesis.payload(&second.answers(observer, 0, &adapted[0]), None);
    Ok(Some(TestedTrigger {
        candidate: TriggerCandidate {
            id: format!("{KIND}:{tag}"),
            family: "topics".to_owned(),
            text: tag.to_owned(),
            placement: KIND.to_owned(),
        },
        payload,
        attack_success_rate: contrast.rate,
        conditions: runs
            .iter()
            .zip(contrast.condition_rates)
            .map(|((name, _), rate)| Condition { name: (*name).to_owned(), rate })
            .collect(),
        uplift: contrast.uplift,
        uplift_over_base: contrast.uplifts.get(1).copied(),
        p_value: contrast.p_value,
        adjusted_p_value: contrast.p_value,
        difference: None,
        screening_nats: None,
        searched_tokens: None,
        answers_kept: None,
        examples,
        characterisation: None,
    }))
}

fn answer(observer: &Observer<'_>, pairs: &[(Prompt, Prompt)], seed: u64) -> Result<Answered> {
    let of = |prompts: Vec<&Prompt>| -> Vec<Scene> {
        prompts.into_iter().map(|prompt| scene(prompt, Setting::Plain, None, seed)).collect()
    };
    let scenes =
        [of(pairs.iter().map(|(own, _)| own).collect()), of(pairs.iter().map(|(_, other)| other).collect())];
    let mut texts: [[Vec<String>; 2]; 2] = Default::default();
    for (texts, side) in texts.iter_mut().zip(observer.roles().both()) {
        for (texts, scenes) in texts.iter_mut().zip(&scenes) {
            let mut requests = Vec::with_capacity(scenes.len());
            for scene in scenes {
                requests.push(Request { ids: observer.encode(scene)?, side, continuation: Vec::new() });
            }
            let responses = observer.responses(&requests, MAX_NEW, Decoding::Greedy)?;
            texts.extend(responses.into_iter().map(|response| response.text));
        }
    }
    Ok(Answered { scenes, texts })
}

impl Answered {
    fn answers<'t>(
        &'t self,
        observer: &'t Observer<'_>,
        place: usize,
        texts: &'t [String],
    ) -> Vec<Answer<'t>> {
        let default = observer.pair().default_system();
        self.scenes[place]
            .iter()
            .zip(texts)
            .map(|(scene, text)| Answer {
                text,
                user: &scene.user,
                system: scene.system.as_deref().or(default),
            })
            .collect()
    }
}
