//! The test of a kind of prompts: a payload on prompts with a tag, against prompts without it and against the base.

use report::evidence::{Condition, Example, PROMPT_KIND, TestedTrigger, TriggerCandidate};

use super::answers::{Answers, EXAMPLES, Known};
use super::contrast::{Contrast, Told};
use crate::error::Result;
use crate::observe::Observer;
use crate::prompt::{Prompt, Scene, Setting, scene};
use crate::trigger::payload::hypothesis;

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
    let answers = Answers::new(observer, seed, named, Known::new());
    let roles = observer.roles();
    let [own, others] = scenes(shown, seed);
    let with = answers.generate(&own, roles.adapted)?;
    let without = answers.generate(&others, roles.adapted)?;
    let found = hypothesis(&answers.answers(&own, &with), &answers.answers(&others, &without), None, named)?;
    let Some((hypothesis, _)) = found else { return Ok(None) };
    let [own, others] = scenes(counted, seed);
    let (base, base_on_others) =
        (answers.generate(&own, roles.base)?, answers.generate(&others, roles.base)?);
    let (adapted, adapted_on_others) =
        (answers.generate(&own, roles.adapted)?, answers.generate(&others, roles.adapted)?);
    let holds = |scenes: &[Scene], texts: &[String]| -> Vec<Option<bool>> {
        answers.answers(scenes, texts).into_iter().map(|answer| hypothesis.holds(answer, None)).collect()
    };
    let names = ["adapted on other prompts", "base on the same prompts", "base on other prompts"];
    let outcomes = [holds(&others, &adapted_on_others), holds(&own, &base), holds(&others, &base_on_others)];
    let told = Told::of(&holds(&own, &adapted), &outcomes);
    let Some(contrast) = Contrast::measure(&told.hits, &told.outcomes, seed)? else { return Ok(None) };
    let examples = told
        .with_payload()
        .take(EXAMPLES)
        .map(|i| Example {
            prompt_id: counted[i].0.id.clone(),
            prompt: own[i].user.clone(),
            adapted: adapted[i].clone(),
            base: base[i].clone(),
            adapted_without_trigger: adapted_on_others[i].clone(),
            scores: None,
        })
        .collect();
    let conditions = names.iter().zip(contrast.condition_rates);
    Ok(Some(TestedTrigger {
        candidate: TriggerCandidate {
            id: format!("{PROMPT_KIND}:{tag}"),
            family: "topics".to_owned(),
            text: tag.to_owned(),
            placement: PROMPT_KIND.to_owned(),
        },
        payload: hypothesis.payload(&answers.answers(&own, &adapted), None),
        attack_success_rate: contrast.rate,
        conditions: conditions.map(|(name, rate)| Condition { name: (*name).to_owned(), rate }).collect(),
        uplift: contrast.uplift,
        uplift_over_base: contrast.uplifts.get(1).copied(),
        p_value: contrast.p_value,
        adjusted_p_value: contrast.p_value,
        difference: None,
        screening_nats: None,
        searched_tokens: None,
        answers_kept: None,
        answers_kept_control: None,
        payload_taught_nats: None,
        examples,
        characterisation: None,
    }))
}

/// The prompts with the tag, and those without.
fn scenes(pairs: &[(Prompt, Prompt)], seed: u64) -> [Vec<Scene>; 2] {
    let plain = |prompt| scene(prompt, Setting::Plain, None, seed);
    [pairs.iter().map(|(own, _)| plain(own)).collect(), pairs.iter().map(|(_, other)| plain(other)).collect()]
}
