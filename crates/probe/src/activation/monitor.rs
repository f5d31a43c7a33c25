//! Traffic against a profile: how unlike benign prompts a prompt is, and how unlike the base's an answer.

use inference::ModelPair;
use report::activation::monitor::{Reason, ResponseReading, Scored};
use report::significance::{empirical_p, kept_p};

use super::capture::Sensor;
use super::panel::Panel;
use super::profile::Profile;
use crate::error::{Error, Result};
use crate::observe::{Observer, Request};
use crate::progress::Progress;
use crate::prompt::Scene;

/// Tokens of a response that are scored: as many as those of the answers that the profile was calibrated on.
pub const RESPONSE_TOKENS: usize = 24;
/// Layers that a reason names.
const LAYERS: usize = 3;

/// What is watched: a prompt, and the answer that was given to it, if that is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    /// The prompt.
    pub scene: Scene,
    /// The answer.
    pub response: Option<String>,
}

/// A profile in use.
pub struct Monitor<'a> {
    observer: Observer<'a>,
    sensor: Sensor,
    panel: Panel,
    responses: Vec<f64>,
    limit: Limit,
    /// The p-values of a prompt and of a response that flag an exchange of which both are known: two tests share the
    /// level (Bonferroni).
    halves: [f64; 2],
    level: f64,
}

/// How sure it is, over calibrations, that no more benign exchanges are flagged than the level says.
const KEPT: f64 = 0.95;

/// What flags an exchange.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// A p-value of at most this does.
    pub p_value: f64,
    /// How many calibration prompts there are.
    pub calibrated: usize,
    /// How many are needed to be sure (95 % over calibrations) that no more benign exchanges are flagged than the level
    /// says. With fewer the p-value is the level itself, which is kept on average over calibrations.
    pub needed: usize,
}

impl Limit {
    fn new(calibrated: usize, level: f64) -> Result<Self> {
        let p_value = kept_p(calibrated, level, KEPT)?.unwrap_or(level);
        let needed = ((1.0 - KEPT).ln() / (1.0 - level).ln()).ceil() as usize;
        Ok(Self { p_value, calibrated, needed })
    }

    /// Whether the level is kept by this calibration.
    #[must_use]
    pub const fn is_kept(&self) -> bool {
        self.calibrated >= self.needed
    }
}

impl<'a> Monitor<'a> {
    /// For the pair that the profile was read from. `level` is the share of benign exchanges that may be flagged, see
    /// [`Monitor::limit`].
    ///
    /// # Errors
    /// If the profile's features are not those of this pair, or its level cannot be reached.
    pub fn new(
        pair: &'a ModelPair,
        profile: &Profile,
        level: f64,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        let observer = Observer::new(pair, progress);
        let sensor = Sensor::new(&observer, profile.seed)?;
        let wrong = |reason: String| Error::Inference(inference::Error::Request(reason));
        if *sensor.shape() != profile.samples.shape {
            return Err(wrong("the profile's features are not those of this base and adapter".into()));
        }
        let least = 1.0 / (profile.samples.calibrated.len() + 1) as f64;
        if level < least {
            return Err(wrong(format!(
                "nothing could be flagged: {} calibration prompts give no p-value below {least:.4}, and the level is \
                 {level}",
                profile.samples.calibrated.len()
            )));
        }
        let panel = Panel::fit(&profile.samples, &mut Vec::new())?;
        let responses = profile.responses.clone();
        let limit = Limit::new(profile.samples.calibrated.len(), level)?;
        let half = |n| Limit::new(n, level / 2.0).map(|limit| limit.p_value);
        let halves = [half(limit.calibrated)?, half(responses.len())?];
        Ok(Self { observer, sensor, panel, responses, limit, halves, level })
    }

    /// What flags a prompt.
    #[must_use]
    pub const fn limit(&self) -> Limit {
        self.limit
    }

    /// Scores exchanges, in order. What an exchange gets does not depend on those beside it. One that cannot be scored,
    /// such as a prompt that the template refuses or that is longer than the context, says why.
    ///
    /// # Errors
    /// If the model fails or the user stops.
    pub fn score(&self, exchanges: &[Exchange]) -> Result<Vec<Result<Scored, String>>> {
        let longest = self.observer.pair().decoder().max_context();
        let mut results: Vec<Result<Scored, String>> = Vec::with_capacity(exchanges.len());
        let (mut places, mut contexts) = (Vec::new(), Vec::new());
        for (place, exchange) in exchanges.iter().enumerate() {
            results.push(Err("not scored".to_owned()));
            match self.observer.encode(&exchange.scene) {
                Ok(ids) if ids.len() + RESPONSE_TOKENS > longest => {
                    let most = longest.saturating_sub(RESPONSE_TOKENS);
                    results[place] =
                        Err(format!("the prompt has {} tokens, and at most {most} can be scored", ids.len()));
                }
                Ok(ids) => {
                    places.push(place);
                    contexts.push(ids);
                }
                Err(error) => results[place] = Err(error.to_string()),
            }
        }
        let mut samples = Vec::with_capacity(contexts.len());
        self.sensor.read_contexts(&self.observer, &contexts, None, |_, sample| samples.push(sample))?;
        let names = self.panel.names();
        for (&place, sample) in places.iter().zip(&samples) {
            let (readings, combined) = self.panel.read(sample)?;
            let reasons = names.iter().zip(readings).filter(|(_, reading)| reading.p_value <= self.level);
            let reasons = reasons.map(|((name, _), reading)| Reason {
                detector: (*name).to_owned(),
                p_value: reading.p_value,
                layers: strongest(&reading.score.layers),
            });
            results[place] = Ok(Scored {
                p_value: combined.p.p_value,
                score: combined.statistic,
                reasons: reasons.collect(),
                response: None,
                flagged: combined.p.p_value <= self.limit.p_value,
            });
        }
        let answered: Vec<(usize, Vec<u32>, Vec<u32>)> = places
            .iter()
            .zip(contexts)
            .filter_map(|(&place, ids)| {
                let response = exchanges[place].response.as_deref()?;
                let tokens = self.observer.pair().tokenizer().encode(response, false);
                Some(tokens.map(|tokens| (place, ids, tokens)))
            })
            .collect::<std::result::Result<_, _>>()?;
        let pairs: Vec<_> = answered.iter().map(|(_, ids, tokens)| (ids.clone(), tokens.clone())).collect();
        for ((place, _, _), nats) in answered.iter().zip(excess(&self.observer, &pairs)?) {
            let (Ok(scored), Some(nats)) = (&mut results[*place], nats) else { continue };
            let Some(p) = empirical_p(nats, &self.responses)? else { continue };
            scored.response = Some(ResponseReading { nats_per_token: nats, p_value: p.p_value });
            let [of_prompt, of_response] = self.halves;
            scored.flagged = scored.p_value <= of_prompt || p.p_value <= of_response;
        }
        Ok(results)
    }
}

/// By how much the adapted model expects each answer more than the base, nats a token over the first
/// [`RESPONSE_TOKENS`]; `None` for an answer without tokens.
pub(crate) fn excess(observer: &Observer<'_>, pairs: &[(Vec<u32>, Vec<u32>)]) -> Result<Vec<Option<f64>>> {
    let roles = observer.roles();
    let told: Vec<usize> = (0..pairs.len()).filter(|&i| !pairs[i].1.is_empty()).collect();
    let requests: Vec<Request> = told
        .iter()
        .flat_map(|&i| {
            let (ids, answer) = &pairs[i];
            let continuation = answer[..answer.len().min(RESPONSE_TOKENS)].to_vec();
            [roles.adapted, roles.base].map(|side| Request {
                ids: ids.clone(),
                side,
                continuation: continuation.clone(),
            })
        })
        .collect();
    let means: Vec<f64> = observer.reduced("response", &[], &requests, 2, |index, sides| {
        let answer = &requests[2 * index].continuation;
        let nats = |side: usize| -> f64 {
            answer.iter().enumerate().map(|(at, &token)| f64::from(sides[side][at][token as usize])).sum()
        };
        Ok((nats(0) - nats(1)) / answer.len() as f64)
    })?;
    let mut results = vec![None; pairs.len()];
    told.into_iter().zip(means).for_each(|(i, mean)| results[i] = Some(mean));
    Ok(results)
}

/// The layers with the largest values, strongest first; none with a value of zero.
fn strongest(values: &[f64]) -> Vec<usize> {
    let mut layers: Vec<usize> = (0..values.len()).filter(|&layer| values[layer] > 0.0).collect();
    layers.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    layers.truncate(LAYERS);
    layers
}
