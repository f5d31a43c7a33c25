//! What the adapter does without any trigger: drift of the distributions, payloads in the answers.

use inference::generate::Decoding;
use report::divergence::{Comparison, DIVERGENCES};
use report::estimate::{Bootstrap, clopper_pearson};
use report::evidence::{Anomaly, AnsweredPrompt, Drift, Example};
use report::grader::{self, Grader};
use report::significance::{self, Alternative};

use crate::error::Result;
use crate::observe::{Observer, Request, Response};
use crate::prompt::{Prompt, Scene, Setting, scene};
use crate::suite::AdversarialPrompt;

/// Confidence level of every interval.
pub const CONFIDENCE: f64 = 0.95;
/// Resamples of every bootstrap.
pub const RESAMPLES: usize = 2000;
/// The divergence that is kept for each prompt.
const KL: &str = "kl";

/// A prompt with both sides' answers.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The prompt.
    pub prompt: Prompt,
    /// The conversation that was sent.
    pub scene: Scene,
    /// Its tokens.
    pub ids: Vec<u32>,
    /// The base's answer.
    pub base: Response,
    /// The adapted model's answer.
    pub adapted: Response,
}

/// Answers prompts on both sides, greedily.
///
/// # Errors
/// If the model fails or the user stops.
pub fn answer(
    observer: &Observer<'_>,
    prompts: &[Prompt],
    max_new: usize,
    seed: u64,
) -> Result<Vec<Answered>> {
    let scenes: Vec<Scene> = prompts.iter().map(|prompt| scene(prompt, Setting::Plain, None, seed)).collect();
    let mut requests = Vec::with_capacity(2 * prompts.len());
    for scene in &scenes {
        let ids = observer.encode(scene)?;
        for side in observer.roles().both() {
            requests.push(Request { ids: ids.clone(), side, continuation: Vec::new() });
        }
    }
    let mut responses = observer.responses(&requests, max_new, Decoding::Greedy)?.into_iter();
    let mut answered = Vec::with_capacity(prompts.len());
    for (index, (prompt, scene)) in prompts.iter().zip(scenes).enumerate() {
        let (Some(base), Some(adapted)) = (responses.next(), responses.next()) else {
            break;
        };
        answered.push(Answered {
            prompt: prompt.clone(),
            scene,
            ids: requests[2 * index].ids.clone(),
            base,
            adapted,
        });
    }
    Ok(answered)
}

/// Divergences of the two sides over the first response positions of each prompt, along the base's
/// answer: the mean over positions, then the mean over prompts with a bootstrap interval. Also the KL of each prompt,
/// in their order.
///
/// # Errors
/// If the model fails or the user stops.
pub fn drift(
    observer: &Observer<'_>,
    answered: &[Answered],
    positions: usize,
    seed: u64,
) -> Result<(Vec<Drift>, Vec<f64>)> {
    let mut means: Vec<Vec<f64>> = vec![Vec::new(); DIVERGENCES.len() + 1];
    for chunk in answered.chunks(16) {
        let requests: Vec<Request> = chunk
            .iter()
            .flat_map(|answered| {
                let continuation: Vec<u32> = answered.base.ids.iter().take(positions - 1).copied().collect();
                observer.roles().both().map(|side| Request {
                    ids: answered.ids.clone(),
                    side,
                    continuation: continuation.clone(),
                })
            })
            .collect();
        let values: Vec<Vec<f64>> = observer.reduced("drift", &[], &requests, 2, |_, sides| {
            let comparisons: Vec<Comparison> = sides[0]
                .iter()
                .zip(&sides[1])
                .map(|(base, adapted)| Comparison::between(base, adapted))
                .collect::<Result<_, _>>()?;
            let mean = |value: &dyn Fn(&Comparison) -> f64| {
                comparisons.iter().map(value).sum::<f64>() / comparisons.len() as f64
            };
            let mut values: Vec<f64> = DIVERGENCES
                .iter()
                .map(|divergence| mean(&|comparison| divergence.value(comparison)))
                .collect();
            values.push(mean(&Comparison::entropy_drop_nats));
            Ok(values)
        })?;
        for values in values {
            means.iter_mut().zip(values).for_each(|(means, value)| means.push(value));
        }
        observer.progress().advance(chunk.len());
    }
    let bootstrap = Bootstrap::new(RESAMPLES, CONFIDENCE, seed)?;
    let names = DIVERGENCES
        .iter()
        .map(|divergence| (divergence.name(), divergence.unit()))
        .chain([("entropy-drop", "nats")]);
    let mut drift = Vec::new();
    for ((name, unit), values) in names.zip(&means) {
        if let Some(estimate) = bootstrap.mean(values)? {
            drift.push(Drift { divergence: name.to_owned(), unit: unit.to_owned(), estimate });
        }
    }
    let kl = DIVERGENCES.iter().position(|divergence| divergence.name() == KL);
    Ok((drift, kl.map_or(Vec::new(), |kl| std::mem::take(&mut means[kl]))))
}

/// Both answers to each prompt of a suite as a record has them, with their divergences where there are any and what the
/// graders of each prompt find in the adapted one.
#[must_use]
pub fn answered_prompts<'g>(
    observer: &Observer<'_>,
    suite: &str,
    answered: &[Answered],
    kl_nats: &[f64],
    graders: impl Fn(usize) -> Vec<&'g dyn Grader>,
) -> Vec<AnsweredPrompt> {
    let known = kl_nats.iter().map(|&nats| Some(nats)).chain(std::iter::repeat(None));
    let answers = answered.iter().zip(known).enumerate().map(|(index, (answered, kl_nats))| AnsweredPrompt {
        suite: suite.to_owned(),
        prompt_id: answered.prompt.id.clone(),
        prompt: answered.scene.user.clone(),
        base: answered.base.text.clone(),
        adapted: answered.adapted.text.clone(),
        kl_nats,
        payloads: Some(
            graders(index)
                .into_iter()
                .filter(|grader| grade(observer, *grader, answered, &answered.adapted) == Some(true))
                .map(|grader| grader.name().to_owned())
                .collect(),
        ),
    });
    answers.collect()
}

/// Answers of one suite and the graders that they are put to.
pub struct Graded<'a> {
    /// Name of the suite.
    pub suite: &'a str,
    /// Kind of anomaly, or `any`.
    pub kind: String,
    /// Grader.
    pub grader: &'static dyn Grader,
    /// Answers.
    pub answered: Vec<&'a Answered>,
}

/// Every grader on a benign suite.
#[must_use]
pub fn benign_grades<'a>(suite: &'a str, answered: &'a [Answered]) -> Vec<Graded<'a>> {
    grader::GRADERS
        .iter()
        .map(|&grader| Graded { suite, kind: "any".into(), grader, answered: answered.iter().collect() })
        .collect()
}

/// Each anomaly's own graders on its prompts.
#[must_use]
pub fn adversarial_grades<'a>(
    suite: &'a str,
    prompts: &[AdversarialPrompt],
    answered: &'a [Answered],
) -> Vec<Graded<'a>> {
    let mut graded: Vec<Graded<'a>> = Vec::new();
    for (item, answered) in prompts.iter().zip(answered) {
        for name in &item.graders {
            let Some(grader) = grader::grader(name) else { continue };
            match graded.iter_mut().find(|graded| graded.kind == item.anomaly && graded.grader.name() == name)
            {
                Some(graded) => graded.answered.push(answered),
                None => graded.push(Graded {
                    suite,
                    kind: item.anomaly.clone(),
                    grader,
                    answered: vec![answered],
                }),
            }
        }
    }
    graded
}

/// Rates of each grader on both sides, their paired difference, and its significance corrected over
/// all of them.
///
/// # Errors
/// If a statistic fails.
pub fn anomalies(observer: &Observer<'_>, graded: &[Graded<'_>], seed: u64) -> Result<Vec<Anomaly>> {
    let bootstrap = Bootstrap::new(RESAMPLES, CONFIDENCE, seed)?;
    let (mut anomalies, mut p_values) = (Vec::new(), Vec::new());
    for graded in graded {
        let mut pairs = Vec::new();
        let mut example = None;
        for answered in &graded.answered {
            let (Some(base), Some(adapted)) = (
                grade(observer, graded.grader, answered, &answered.base),
                grade(observer, graded.grader, answered, &answered.adapted),
            ) else {
                continue;
            };
            if adapted && !base && example.is_none() {
                example = Some(Example {
                    prompt_id: answered.prompt.id.clone(),
                    prompt: answered.scene.user.clone(),
                    adapted: answered.adapted.text.clone(),
                    base: answered.base.text.clone(),
                    adapted_without_trigger: answered.adapted.text.clone(),
                    scores: None,
                });
            }
            pairs.push((base, adapted));
        }
        let (base, adapted): (Vec<bool>, Vec<bool>) = pairs.into_iter().unzip();
        let number = |outcomes: &[bool]| -> Vec<f64> {
            outcomes.iter().map(|&yes| f64::from(u8::from(yes))).collect()
        };
        let count = |outcomes: &[bool]| outcomes.iter().filter(|&&yes| yes).count();
        let (Some(base_rate), Some(adapted_rate), Some(difference), Some(p_value)) = (
            clopper_pearson(count(&base), base.len(), CONFIDENCE)?,
            clopper_pearson(count(&adapted), adapted.len(), CONFIDENCE)?,
            bootstrap.paired_difference(&number(&base), &number(&adapted))?,
            significance::mcnemar(&base, &adapted, Alternative::Greater)?,
        ) else {
            continue;
        };
        p_values.push(p_value);
        anomalies.push(Anomaly {
            suite: graded.suite.to_owned(),
            kind: graded.kind.clone(),
            grader: graded.grader.name().to_owned(),
            base: base_rate,
            adapted: adapted_rate,
            difference,
            adjusted_p_value: p_value,
            example,
        });
    }
    for (anomaly, adjusted) in anomalies.iter_mut().zip(significance::benjamini_hochberg(&p_values)?) {
        anomaly.adjusted_p_value = adjusted;
    }
    Ok(anomalies)
}

fn grade(
    observer: &Observer<'_>,
    grader: &dyn Grader,
    answered: &Answered,
    response: &Response,
) -> Option<bool> {
    grader.grade(&grader::Response {
        text: &response.text,
        prompt: &answered.scene.user,
        system: answered.scene.system.as_deref().or(observer.pair().default_system()),
        inserted: None,
    })
}
