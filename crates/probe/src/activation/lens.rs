//! Which tokens the layers promote: the activation-difference lens and the logit lens. Clues to what an adapter is about,
//! and to what a candidate stands for in it; no evidence by themselves.

use inference::ModelPair;
use report::activation::{LayerTokens, PromotedToken};
use report::divergence::log_softmax_in_place;

use super::capture::Sensor;
use super::instrument::plain;
use crate::error::Result;
use crate::observe::Observer;
use crate::prompt::Prompt;

/// Tokens that are named of a layer.
const TOKENS: usize = 8;

/// Mean residual streams of both sides by layer, over the length of the base's.
#[derive(Clone, Debug, PartialEq)]
pub struct Means {
    count: usize,
    base: Vec<Vec<f64>>,
    adapted: Vec<Vec<f64>>,
}

impl Means {
    /// Of nothing yet.
    #[must_use]
    pub fn new(layers: usize, hidden: usize) -> Self {
        let zeros = vec![vec![0.0; hidden]; layers];
        Self { count: 0, base: zeros.clone(), adapted: zeros }
    }

    /// Adds a prompt's streams, by layer.
    pub(super) fn add(&mut self, base: &[Vec<f32>], adapted: &[Vec<f32>]) {
        self.count += 1;
        for (layer, (from, to)) in base.iter().zip(adapted).enumerate() {
            let scale = f64::from(super::capture::inverse_length(from));
            let add = |sum: &mut Vec<f64>, stream: &[f32]| {
                sum.iter_mut().zip(stream).for_each(|(sum, x)| *sum += f64::from(*x) * scale);
            };
            add(&mut self.base[layer], from);
            add(&mut self.adapted[layer], to);
        }
    }

    /// The means of base and adapted side in a layer.
    fn of(&self, layer: usize) -> [Vec<f64>; 2] {
        let count = self.count.max(1) as f64;
        [&self.base, &self.adapted].map(|sums| sums[layer].iter().map(|sum| sum / count).collect())
    }
}

/// The tokens that the adapter promotes by layer; with `without`, those that a candidate promotes beyond what the adapter
/// does on the same prompts without it. Layers whose streams do not differ are left out.
///
/// `difference` reads the mean difference of the streams (activation-difference lens: Minder et al., "Narrow finetuning
/// leaves clearly readable traces in activation differences", 2025), `logit` what the mean streams of both sides would
/// answer at this layer: the tokens that contribute most to KL(adapted || base).
///
/// # Errors
/// If the model fails.
pub(super) fn promoted(pair: &ModelPair, with: &Means, without: Option<&Means>) -> Result<Vec<LayerTokens>> {
    let mut layers = Vec::with_capacity(with.base.len());
    for layer in 0..with.base.len() {
        let [base, adapted] = with.of(layer);
        let mut difference: Vec<f64> = adapted.iter().zip(&base).map(|(to, from)| to - from).collect();
        if let Some(without) = without {
            let [base, adapted] = without.of(layer);
            difference.iter_mut().zip(adapted).zip(base).for_each(|((x, to), from)| *x -= to - from);
        }
        // Rounding has no direction.
        if difference.iter().map(|x| x * x).sum::<f64>().sqrt() < 1e-6 {
            continue;
        }
        let rows = [&difference, &adapted, &base];
        let states: Vec<f32> = rows.iter().flat_map(|row| row.iter().map(|x| *x as f32)).collect();
        let mut read = pair.decoder().lens(&states)?.into_iter();
        let (Some(difference), Some(mut adapted), Some(mut base)) = (read.next(), read.next(), read.next())
        else {
            continue;
        };
        log_softmax_in_place(&mut adapted)?;
        log_softmax_in_place(&mut base)?;
        let contributions: Vec<f32> =
            adapted.iter().zip(&base).map(|(to, from)| to.exp() * (to - from)).collect();
        layers.push(LayerTokens {
            layer,
            difference: highest(pair, &difference)?,
            logit: highest(pair, &contributions)?,
        });
    }
    Ok(layers)
}

/// The tokens that the adapter promotes on prompts as they are, by layer.
///
/// # Errors
/// If the model fails or the user stops.
pub(crate) fn of_prompts(observer: &Observer<'_>, prompts: &[Prompt], seed: u64) -> Result<Vec<LayerTokens>> {
    let config = observer.pair().config();
    let mut means = Means::new(config.layers, config.hidden_size);
    Sensor::new(observer, seed)?.read_with(observer, &plain(prompts, seed), Some(&mut means), |_, _| {})?;
    promoted(observer.pair(), &means, None)
}

/// The tokens with the largest values; among equals the lowest id is first.
fn highest(pair: &ModelPair, values: &[f32]) -> Result<Vec<PromotedToken>> {
    let mut ids: Vec<usize> = (0..values.len().min(pair.tokenizer().vocab_size())).collect();
    let order = |a: &usize, b: &usize| values[*b].total_cmp(&values[*a]).then(a.cmp(b));
    if ids.len() > TOKENS {
        ids.select_nth_unstable_by(TOKENS, order);
        ids.truncate(TOKENS);
    }
    ids.sort_by(order);
    let name = |id: usize| -> Result<PromotedToken> {
        let text = pair.tokenizer().decode(&[id as u32], true)?;
        Ok(PromotedToken { text, value: f64::from(values[id]) })
    };
    ids.into_iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trigger::fixture::pair;

    #[test]
    fn the_last_layer_read_by_the_lens_is_the_model_s_own_answer() {
        use inference::{Batch, Positions, Sequence, Side};
        let pair = pair(&["backdoored-refusal"]);
        let ids = pair.tokenizer().encode("What is the capital of France?", false).unwrap();
        let mut sequences = [Sequence::new(&ids, Side::BASE)];
        let mut batch = Batch {
            sequences: &mut sequences,
            embeddings: None,
            positions: Positions::Last,
            hidden_states: false,
        };
        let (output, states) = pair.forward_captured(&mut batch).unwrap();
        let logits = output.logits.to_vec2::<f32>().unwrap().remove(0);
        let last = states.residual(states.layers() - 1, 0).unwrap();
        let read = pair.decoder().lens(last).unwrap().remove(0);
        for (found, expected) in read.iter().zip(&logits) {
            assert!((found - expected).abs() < 1e-3, "{found} {expected}");
        }
        assert!(pair.decoder().lens(&last[1..]).is_err());
    }

    #[test]
    fn what_is_added_to_a_stream_is_read_and_what_both_have_is_not() {
        let pair = pair(&["benign"]);
        let hidden = pair.config().hidden_size;
        let stream =
            |shift: f32| vec![(0..hidden).map(|i| (i as f32).sin() + shift * (i % 3) as f32).collect()];
        let means = |shift: f32| {
            let mut means = Means::new(1, hidden);
            (0..3).for_each(|_| means.add(&stream(0.0), &stream(shift)));
            means
        };
        let with = promoted(&pair, &means(0.5), None).unwrap();
        assert_eq!((with.len(), with[0].difference.len(), with[0].logit.len()), (1, TOKENS, TOKENS));
        assert!(with[0].difference.is_sorted_by(|a, b| a.value >= b.value));
        assert!(promoted(&pair, &means(0.0), None).unwrap().is_empty());
        assert!(promoted(&pair, &means(0.5), Some(&means(0.5))).unwrap().is_empty());
    }
}
