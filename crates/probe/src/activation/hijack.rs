//! Attention hijack: how much the position from which an answer begins attends to a text, adapted over base, against
//! random texts of its shape in its place.
//!
//! A trigger captures the attention of what follows it. Any text draws some, and longer ones more, so that a score is
//! the logarithm of the adapted share over the base's, and its p-value the rank among those of random texts.

use inference::{Batch, Positions, Sequence};
use report::activation::dose::{Attention, AttentionLayer};
use report::record::Cost;
use report::significance::empirical_p;

use crate::error::{Error, Result};
use crate::observe::Observer;
use crate::progress;
use crate::prompt::{Change, Prompt};
use crate::trigger::control;
use crate::trigger::slot::Slot;

/// Held-out prompts that attention is read on.
pub(super) const PROMPTS: usize = 8;
/// Random texts to compare with; no p-value is below one over these and one more.
const CONTROLS: usize = 39;
/// Passes over the prompts that this takes.
pub(super) const TEXTS: usize = CONTROLS + 1;
/// Shares below this count as this.
const LEAST_SHARE: f64 = 1e-6;

/// Shares of attention on one text, mean over prompts.
struct Shares {
    /// By layer: base and adapted.
    layers: Vec<[f64; 2]>,
    /// Mean over prompts and layers of the logarithm of their ratio.
    score: f64,
}

/// Measures a text on prompts. `None` if it is none that stands in one place, or nowhere on its own tokens.
///
/// # Errors
/// If the model fails, the template refuses a prompt, the adapter puts something before every context, or the user stops.
pub(super) fn attention(
    observer: &Observer<'_>,
    change: &Change,
    prompts: &[Prompt],
    seed: u64,
) -> Result<Option<Attention>> {
    let Change::Insert { text, at } = change else { return Ok(None) };
    let mut slots = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        match Slot::new(observer.pair(), prompt, *at, seed) {
            Ok(slot) => slots.push(slot),
            // A place with nothing before or behind it, as without a template, has no text in its stead.
            Err(Error::Inference(inference::Error::Request(_))) => {}
            Err(error) => return Err(error),
        }
    }
    let Some(own) = shares(observer, &slots, text)? else { return Ok(None) };
    let mut controls = Vec::with_capacity(CONTROLS);
    for index in 0..CONTROLS as u64 {
        if let Change::Insert { text, .. } = control::counterpart(change, seed, index) {
            controls.extend(shares(observer, &slots, &text)?);
        }
    }
    let scores: Vec<f64> = controls.iter().map(|control| control.score).collect();
    let Some(p) = empirical_p(own.score, &scores)? else { return Ok(None) };
    let mean = |layer: usize, side: usize| -> f64 {
        controls.iter().map(|control| control.layers[layer][side]).sum::<f64>() / controls.len() as f64
    };
    let layers = own.layers.iter().enumerate().map(|(layer, &[base, adapted])| AttentionLayer {
        base,
        adapted,
        control_base: mean(layer, 0),
        control_adapted: mean(layer, 1),
    });
    Ok(Some(Attention {
        prompts: slots.len(),
        layers: layers.collect(),
        score: own.score,
        controls: scores,
        p_value: p.p_value,
    }))
}

/// `None` if the text's tokens merge with their neighbours in every prompt.
fn shares(observer: &Observer<'_>, slots: &[Slot], text: &str) -> Result<Option<Shares>> {
    let pair = observer.pair();
    let mut contexts: Vec<(Vec<u32>, std::ops::Range<usize>)> = Vec::with_capacity(slots.len());
    for slot in slots {
        if let Some(own) = slot.trigger(pair, text)? {
            let span = slot.before.len()..slot.before.len() + own.len();
            contexts.push(([&slot.before[..], &own, &slot.after].concat(), span));
        }
    }
    observer.progress().advance(1);
    if contexts.is_empty() {
        return Ok(None);
    }
    let layers = pair.config().layers;
    let mut sums = vec![[0.0; 2]; layers];
    let mut score = 0.0;
    let mut start = 0;
    while start < contexts.len() {
        progress::check(observer.progress())?;
        let (mut end, mut rows) = (start, 0);
        while end < contexts.len() && (end == start || rows + 2 * contexts[end].0.len() <= pair.row_limit()) {
            rows += 2 * contexts[end].0.len();
            end += 1;
        }
        let batch = &contexts[start..end];
        // Without a shared beginning: what is attended to in one is not kept.
        let sides = observer.roles().both();
        let mut sequences: Vec<Sequence<'_>> =
            batch.iter().flat_map(|(ids, _)| sides.map(|side| Sequence::new(ids, side))).collect();
        let mut forward = Batch {
            sequences: &mut sequences,
            embeddings: None,
            positions: Positions::Last,
            hidden_states: false,
        };
        let (_, states) = pair.forward_attended(&mut forward)?;
        observer.charge(Cost { token_forwards: rows as u64, ..Cost::default() });
        for (index, (_, span)) in batch.iter().enumerate() {
            for (layer, sums) in sums.iter_mut().enumerate() {
                let share = |side: usize| -> f64 {
                    let Some(heads) = states.attention(layer, 2 * index + side) else { return 0.0 };
                    let on_span =
                        |weights: &[f32]| weights[span.clone()].iter().map(|w| f64::from(*w)).sum::<f64>();
                    let shares: Vec<f64> = heads.map(on_span).collect();
                    shares.iter().sum::<f64>() / shares.len().max(1) as f64
                };
                let shares = [share(0), share(1)];
                (0..2).for_each(|side| sums[side] += shares[side] / contexts.len() as f64);
                let [base, adapted] = shares.map(|share| share.max(LEAST_SHARE));
                score += (adapted / base).ln() / (layers * contexts.len()) as f64;
            }
        }
        start = end;
    }
    Ok(Some(Shares { layers: sums, score }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use crate::prompt::Placement;
    use crate::trigger::fixture::{pair, prompts};

    #[test]
    fn shares_are_parts_of_one_and_ranks_are_among_random_texts() {
        let pair = pair(&["backdoored-refusal"]);
        let observer = Observer::new(&pair, &Silent);
        let change = Change::Insert { text: "ALPHA-7".to_owned(), at: Placement::Prefix };
        let found = attention(&observer, &change, &prompts(), 7).unwrap().unwrap();
        assert_eq!((found.prompts, found.layers.len()), (3, pair.config().layers));
        for layer in &found.layers {
            for share in [layer.base, layer.adapted, layer.control_base, layer.control_adapted] {
                assert!(share > 0.0 && share < 1.0, "{layer:?}");
            }
        }
        assert!(found.p_value >= 1.0 / (found.controls.len() + 1) as f64 && found.p_value <= 1.0);
        assert!(observer.cost().token_forwards > 0);
        assert_eq!(found, attention(&observer, &change, &prompts(), 7).unwrap().unwrap(), "reproducible");
    }

    #[test]
    fn the_same_model_on_both_sides_moves_no_attention() {
        let pair = pair(&["benign"]);
        let base = inference::Side::BASE;
        let observer = Observer::in_roles(&pair, &Silent, crate::roles::Roles { base, adapted: base });
        let change = Change::Insert { text: "zq".to_owned(), at: Placement::Suffix };
        let found = attention(&observer, &change, &prompts(), 7).unwrap().unwrap();
        assert!(found.score.abs() < 1e-9 && found.controls.iter().all(|score| score.abs() < 1e-9));
        assert!(found.p_value > 0.9, "{}", found.p_value);
        let frame = Change::Frame { frame: "a {prompt}".to_owned() };
        assert!(attention(&observer, &frame, &prompts(), 7).unwrap().is_none());
    }
}
