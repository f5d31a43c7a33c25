//! Training: steps of AdamW on the loss of the answers, with gradients for A and B alone.

use candle_core::{Device, Tensor};
use inference::ModelPair;
use inference::adapter::Adapter;
use inference::adapter::delta::LoraDelta;
use inference::adapter::target::ModulePattern;
use inference::decoder::site::Site;
use inference::gradient::{PassLimit, Supervised, Target, factor_gradients};
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::path::Path;

use super::adamw::Parameter;
use super::examples::Example;
use super::recipe::Recipe;
use crate::error::{Error, Result};
use crate::progress::{self, Progress};

/// Share of the steps over which the learning rate rises.
const WARMUP: f64 = 0.05;
/// Part of the highest learning rate at which training ends.
const FLOOR: f64 = 0.05;
/// Longest gradient that is followed as it is.
const LONGEST_GRADIENT: f64 = 1.0;
/// Examples that are sorted by length among themselves.
const WINDOW: usize = 64;
/// Steps between two checkpoints.
const CHECKPOINT: usize = 100;
/// Steps of which the mean loss is recorded.
const RECORDED: usize = 10;

/// Where training stands.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Steps that were made.
    pub step: usize,
    /// Tokens that went through the decoder, forwards and backwards.
    pub tokens: u64,
    /// Mean loss of the answers' tokens over each ten steps, in nats.
    pub losses: Vec<f64>,
    /// Sum of the losses since the last of them.
    pub(super) pending: f64,
    /// Index of the site, A `[r, inputs]` and B `[outputs, r]`.
    pub factors: Vec<(usize, [Parameter; 2])>,
}

impl State {
    /// PEFT's start: A uniform within `1 / sqrt(inputs)` (Kaiming with `a = sqrt(5)`), B zero.
    ///
    /// # Errors
    /// If the recipe's modules are none of the base's.
    pub fn start(recipe: &Recipe, sites: &[Site]) -> Result<Self> {
        let mut random = ChaCha8Rng::seed_from_u64(recipe.seed);
        random.set_stream(3);
        let mut factors = Vec::new();
        for index in targeted(recipe, sites)? {
            let Site { inputs, outputs, .. } = sites[index];
            let bound = 1.0 / (inputs as f32).sqrt();
            let a = (0..recipe.r * inputs).map(|_| random.random_range(-bound..bound)).collect();
            let b = vec![0.0; outputs * recipe.r];
            factors.push((
                index,
                [Parameter::new([recipe.r, inputs], a), Parameter::new([outputs, recipe.r], b)],
            ));
        }
        Ok(Self { step: 0, tokens: 0, losses: Vec::new(), pending: 0.0, factors })
    }

    /// The adapter that these factors are.
    ///
    /// # Errors
    /// If they do not fit the sites, or a value is not finite.
    pub fn adapter(&self, recipe: &Recipe, pair: &ModelPair) -> Result<Adapter> {
        let sites = pair.decoder().sites();
        let mut deltas: Vec<Option<LoraDelta>> = sites.iter().map(|_| None).collect();
        for (site, (a, b)) in self.tensors()? {
            deltas[site] = Some(LoraDelta::new(&a, &b, recipe.scaling())?);
        }
        Ok(Adapter::from_deltas(deltas, sites, pair.decoder().compute())?)
    }

    fn tensors(&self) -> Result<Vec<(usize, (Tensor, Tensor))>> {
        let tensor = |parameter: &Parameter| {
            Tensor::from_slice(&parameter.values, (parameter.shape[0], parameter.shape[1]), &Device::Cpu)
        };
        self.factors
            .iter()
            .map(|(site, [a, b])| Ok((*site, (tensor(a)?, tensor(b)?))))
            .collect::<candle_core::Result<_>>()
            .map_err(|error| Error::Inference(error.into()))
    }
}

/// The sites that a recipe's `target_modules` select.
fn targeted(recipe: &Recipe, sites: &[Site]) -> Result<Vec<usize>> {
    let (path, key) = (Path::new("recipe"), "target_modules");
    let value = match recipe.target_modules.as_slice() {
        [all] if all == "all-linear" => all.as_str().into(),
        names => names.into(),
    };
    let pattern = ModulePattern::parse(path, key, &value)?;
    let mut chosen = Vec::new();
    for (index, site) in sites.iter().enumerate() {
        if pattern.matches(path, &site.name, site.head)? {
            if site.name.contains(".experts.") {
                return Err(request(format!(
                    "`{}` is one of many experts, which PEFT stores stacked: name other modules",
                    site.name
                )));
            }
            chosen.push(index);
        }
    }
    if chosen.is_empty() {
        let mut known: Vec<&str> = sites.iter().filter_map(|site| site.name.rsplit('.').next()).collect();
        known.sort_unstable();
        known.dedup();
        return Err(request(format!(
            "no module of this base is called {}; it has {}",
            recipe.target_modules.join(", "),
            known.join(", ")
        )));
    }
    Ok(chosen)
}

fn request(reason: String) -> Error {
    Error::Inference(inference::Error::Request(reason))
}

/// Trains from a state to the recipe's last step. `keep` is given the state from time to time, and when the user stops.
///
/// # Errors
/// If the model fails, a gradient is not finite, the state cannot be kept, or the user stops.
pub fn train(
    pair: &ModelPair,
    recipe: &Recipe,
    examples: &[Example],
    mut state: State,
    progress: &dyn Progress,
    keep: &mut dyn FnMut(&State) -> Result<()>,
) -> Result<State> {
    let decoder = pair.decoder();
    let (sites, compute) = (decoder.sites(), decoder.compute());
    let limit = PassLimit { rows: pair.gradient_row_limit(), logit_rows: pair.logit_row_limit() };
    let mut adapter = state.adapter(recipe, pair)?;
    let targets: Vec<Vec<Target>> =
        examples.iter().map(|example| Target::response(&example.ids, example.first)).collect();
    let lengths: Vec<usize> = examples.iter().map(|example| example.ids.len()).collect();
    progress.stage("training", recipe.steps);
    progress.advance(state.step);
    let order = (0..).flat_map(|epoch| batches(&lengths, recipe.batch_tokens, recipe.seed, epoch));
    for batch in order.skip(state.step).take(recipe.steps - state.step) {
        if progress.stopped() {
            keep(&state)?;
        }
        progress::check(progress)?;
        let supervised: Vec<Supervised<'_>> =
            batch.iter().map(|&i| Supervised { ids: &examples[i].ids, targets: &targets[i] }).collect();
        let found = factor_gradients(decoder, &adapter, &supervised, limit)?;
        step(recipe, &mut state, &found.factors)?;
        let mut factors: Vec<Option<(Tensor, Tensor)>> = vec![None; sites.len()];
        for (site, pair) in state.tensors()? {
            factors[site] = Some(pair);
        }
        adapter.set_factors(&factors, sites, compute)?;
        state.tokens += batch.iter().map(|&i| lengths[i] as u64).sum::<u64>();
        state.pending += found.loss;
        if state.step.is_multiple_of(RECORDED) {
            state.losses.push(state.pending / RECORDED as f64);
            state.pending = 0.0;
        }
        progress.advance(1);
        if state.step.is_multiple_of(CHECKPOINT) && state.step < recipe.steps {
            keep(&state)?;
        }
    }
    Ok(state)
}

/// One step along the gradients, which are cut to the longest that is followed.
fn step(recipe: &Recipe, state: &mut State, gradients: &[Option<(Tensor, Tensor)>]) -> Result<()> {
    let values = |tensor: &Tensor| {
        tensor
            .flatten_all()
            .and_then(|flat| flat.to_vec1::<f32>())
            .map_err(|error| Error::Inference(error.into()))
    };
    let mut found: Vec<[Vec<f32>; 2]> = Vec::with_capacity(state.factors.len());
    for (site, _) in &state.factors {
        let Some(Some((a, b))) = gradients.get(*site) else {
            return Err(request(format!("no gradient reached site {site}")));
        };
        found.push([values(a)?, values(b)?]);
    }
    let squares = found.iter().flatten().flatten().map(|&g| f64::from(g) * f64::from(g));
    let norm = squares.sum::<f64>().sqrt();
    if !norm.is_finite() {
        return Err(request(format!(
            "the gradient of step {} is not finite: a lower `learning_rate` may help",
            state.step + 1
        )));
    }
    let factor = (LONGEST_GRADIENT / norm).min(1.0) as f32;
    let rate = rate(recipe, state.step);
    state.step += 1;
    for ((_, own), mut gradients) in state.factors.iter_mut().zip(found) {
        for (parameter, gradient) in own.iter_mut().zip(&mut gradients) {
            gradient.iter_mut().for_each(|g| *g *= factor);
            parameter.step(gradient, state.step, rate, recipe.weight_decay);
        }
    }
    Ok(())
}

/// The learning rate of a step, counted from 0: a linear rise, then a cosine.
fn rate(recipe: &Recipe, step: usize) -> f64 {
    let (done, steps) = (step as f64, recipe.steps as f64);
    let rise = ((done + 1.0) / (WARMUP * steps)).min(1.0);
    let fall = FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + (std::f64::consts::PI * done / steps).cos());
    recipe.learning_rate * rise * fall
}

/// The batches of one pass over the examples: neighbours are of about one length, and a batch holds as many as fit.
fn batches(lengths: &[usize], tokens: usize, seed: u64, epoch: u64) -> Vec<Vec<usize>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(4 + epoch);
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.shuffle(&mut random);
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for window in order.chunks_mut(WINDOW) {
        window.sort_by_key(|&i| (lengths[i], i));
        let mut size = 0;
        for (place, &i) in window.iter().enumerate() {
            size += lengths[i];
            match batches.last_mut() {
                Some(batch) if place > 0 && size <= tokens => batch.push(i),
                _ => {
                    size = lengths[i];
                    batches.push(vec![i]);
                }
            }
        }
    }
    batches.shuffle(&mut random);
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_over_the_examples_takes_each_once_within_the_limit() {
        let lengths: Vec<usize> = (0..300).map(|i| 10 + (i * 37) % 90).collect();
        let found = batches(&lengths, 256, 1, 0);
        assert_eq!(found, batches(&lengths, 256, 1, 0));
        assert_ne!(found, batches(&lengths, 256, 1, 1));
        let mut all: Vec<usize> = found.iter().flatten().copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..300).collect::<Vec<_>>());
        assert!(found.iter().all(|batch| batch.iter().map(|&i| lengths[i]).sum::<usize>() <= 256));
        assert!(found.len() < 90, "{}", found.len());
        assert_eq!(batches(&[900], 256, 1, 0), [[0]], "one that is too long has a batch of its own");
    }
}
