//! What a capture leaves is what the pass computed.

use inference::adapter::Adapter;
use inference::adapter::delta::LoraDelta;
use inference::decoder::Past;
use inference::decoder::site::Site;
use inference::prefix::KvCache;
use inference::{Activations, Batch, Positions, Sequence, Side};

use crate::rows::{Pair, pair};
use crate::{forms, relative_difference};

const SIDES: [Side; 3] = [Side::BASE, Side::ADAPTED, Side { adapter: 0, scale: 2.0 }];

/// Texts of different lengths, enough of them that a pass is cut into parts; the same text on every side.
fn texts() -> Vec<(Vec<u32>, Side)> {
    let text = |i: u32| -> Vec<u32> { (0..6 + i % 5).map(|j| (i * 13 + j * 7 + 3) % 60).collect() };
    (0..36).map(|i| (text(i / 3), SIDES[i as usize % 3])).collect()
}

fn batch<'a>(texts: &'a [(Vec<u32>, Side)]) -> Vec<Sequence<'a>> {
    texts.iter().map(|(ids, side)| Sequence::new(ids, *side)).collect()
}

/// Activations and logits at the first and the last position of each text.
fn captured(pair: &Pair, texts: &[(Vec<u32>, Side)]) -> (Activations, Vec<Vec<f32>>) {
    let chosen: Vec<Vec<usize>> = texts.iter().map(|(ids, _)| vec![0, ids.len() - 1]).collect();
    let mut batch = Batch {
        sequences: &mut batch(texts),
        embeddings: None,
        positions: Positions::Chosen(&chosen),
        hidden_states: false,
    };
    let (output, activations) = pair.decoder.forward_captured(&pair.adapters, &mut batch).unwrap();
    let plain = pair.decoder.forward(&pair.adapters, &mut batch).unwrap().logits.to_vec2::<f32>().unwrap();
    let logits = output.logits.to_vec2::<f32>().unwrap();
    assert_eq!(logits, plain, "a capture changes nothing");
    (activations, logits)
}

#[test]
fn the_residual_stream_is_that_of_the_hidden_states() {
    // A mixture of experts, and adapters whose rows run on a decoder of their own, are among them.
    for case in ["llama-untied-gqa", "qwen2", "mixtral", "lora-smuggled"] {
        for &form in forms() {
            let pair = pair(case, form);
            let texts = texts();
            let (activations, _) = captured(&pair, &texts);
            let mut batch = Batch {
                sequences: &mut batch(&texts),
                embeddings: None,
                positions: Positions::Last,
                hidden_states: true,
            };
            let states = pair.decoder.forward(&pair.adapters, &mut batch).unwrap().hidden_states;
            // Embeddings, every layer but the last, and the final norm's output.
            assert_eq!(states.len(), activations.layers() + 1);
            for (layer, state) in states[1..activations.layers()].iter().enumerate() {
                let rows = state.to_vec2::<f32>().unwrap();
                let mut start = 0;
                for (index, (ids, _)) in texts.iter().enumerate() {
                    for (place, row) in [start, start + ids.len() - 1].into_iter().enumerate() {
                        let found = activations.residual(layer, 2 * index + place).unwrap();
                        let difference = relative_difference(found, &rows[row]);
                        assert!(
                            difference < 1e-5,
                            "{case} {form:?} layer {layer} row {row}: {difference:.1e}"
                        );
                    }
                    start += ids.len();
                }
            }
            let last = activations.residual(activations.layers() - 1, 0).unwrap();
            assert!(last.iter().any(|x| x.abs() > 0.0), "{case}: the last layer was left out");
            assert!(activations.residual(activations.layers(), 0).is_none());
        }
    }
}

#[test]
fn energies_agree_in_every_form_and_grow_with_the_scale() {
    for case in ["llama-untied-gqa", "qwen2", "mixtral", "lora-experts-mixtral"] {
        let texts = texts();
        let mut all = Vec::new();
        for &form in forms() {
            let pair = pair(case, form);
            let (activations, _) = captured(&pair, &texts);
            let adapter = &pair.adapters[0];
            let sites = pair.decoder.sites();
            let with_delta = sites.iter().enumerate().filter(|(site, _)| adapter.delta(*site).is_some());
            let mut values = Vec::new();
            for (site, named) in with_delta {
                for row in 0..2 * texts.len() {
                    let energy = activations.energy(site, row);
                    if texts[row / 2].1.is_base() {
                        assert_eq!(energy, None, "{case} {}: a base row has no branch", named.name);
                    }
                    values.push(energy.unwrap_or(-1.0));
                }
                // What comes before the first branch of the first layer is the same on every side.
                if named.projection == 0 {
                    for row in (0..2 * texts.len()).filter(|row| texts[row / 2].1 == Side::ADAPTED) {
                        let [once, twice] = [row, row + 2].map(|row| activations.energy(site, row).unwrap());
                        assert!((twice / once - 2.0).abs() < 1e-3, "{case} {}: {once} {twice}", named.name);
                    }
                }
            }
            assert!(values.iter().any(|&value| value > 1e-3), "{case}: no branch does anything");
            all.push(values);
        }
        for other in &all[1..] {
            let difference = relative_difference(other, &all[0]);
            assert!(difference < 1e-4, "{case}: {difference:.1e}");
        }
    }
}

#[test]
fn an_adapter_of_another_depth_is_refused() {
    for &form in forms() {
        let pair = pair("lora-restacked", form);
        let mut sequences = [Sequence::new(&[1, 2, 3], Side::BASE), Sequence::new(&[1, 2, 3], Side::ADAPTED)];
        for first in [1, 0] {
            let mut batch = Batch {
                sequences: &mut sequences[first..],
                embeddings: None,
                positions: Positions::Last,
                hidden_states: false,
            };
            let error = pair.decoder.forward_captured(&pair.adapters, &mut batch).unwrap_err().to_string();
            assert!(error.contains("layers"), "{error}");
        }
    }
}

#[test]
fn attention_agrees_in_every_form_and_ends_at_its_own_position() {
    for case in ["llama-untied-gqa", "qwen2", "mixtral"] {
        let texts = texts();
        let mut all = Vec::new();
        for &form in forms() {
            let pair = pair(case, form);
            let mut batch = Batch {
                sequences: &mut batch(&texts),
                embeddings: None,
                positions: Positions::Last,
                hidden_states: false,
            };
            let (_, seen) = pair.decoder.forward_attended(&pair.adapters, &mut batch).unwrap();
            let config = pair.decoder.config();
            let mut values = Vec::new();
            for layer in 0..config.layers {
                for (row, (ids, _)) in texts.iter().enumerate() {
                    let heads: Vec<&[f32]> = seen.attention(layer, row).unwrap().collect();
                    assert_eq!(heads.len(), config.heads);
                    for weights in heads {
                        assert_eq!(weights.len(), ids.len(), "{case} {form:?}");
                        assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-4);
                        values.extend_from_slice(weights);
                    }
                }
            }
            all.push(values);
            let (_, plain) = pair.decoder.forward_captured(&pair.adapters, &mut batch).unwrap();
            assert!(plain.attention(0, 0).is_none(), "nobody asked");
        }
        for other in &all[1..] {
            assert!(relative_difference(other, &all[0]) < 1e-4, "{case}");
        }
    }
}

#[test]
fn attention_after_a_prefix_is_refused() {
    let pair = pair("qwen2", forms()[0]);
    let mut cache = KvCache::new();
    for expected in [true, false] {
        let past = Past::Cache(&mut cache);
        let mut sequences = [Sequence { ids: &[1, 2, 3], side: Side::BASE, past }];
        let mut batch = Batch {
            sequences: &mut sequences,
            embeddings: None,
            positions: Positions::Last,
            hidden_states: false,
        };
        assert_eq!(pair.decoder.forward_attended(&pair.adapters, &mut batch).is_ok(), expected);
    }
}

/// An adapter with only some layers' changes is one whose other factors are zero.
#[test]
fn layers_can_be_switched_off_and_on_alone() {
    for case in ["llama-untied-gqa", "qwen2"] {
        for &form in forms() {
            let mut pair = pair(case, form);
            let (sites, compute) = (pair.decoder.sites().to_vec(), pair.decoder.compute().clone());
            for layer in 0..pair.decoder.config().layers {
                for inside in [true, false] {
                    let keep = |of: Option<usize>| (of == Some(layer)) == inside;
                    let part = pair.adapters[0].in_layers(&sites, keep).unwrap();
                    let zeroed = |(index, site): (usize, &Site)| {
                        let delta = pair.adapters[0].delta(index)?;
                        let (a, b) = delta.factors();
                        let b = if keep(site.layer) { b.clone() } else { b.zeros_like().unwrap() };
                        Some(LoraDelta::new(a, &b, delta.scaling()).unwrap())
                    };
                    let deltas = sites.iter().enumerate().map(zeroed).collect();
                    let slow = Adapter::from_deltas(deltas, &sites, &compute).unwrap();
                    pair.adapters.truncate(1);
                    pair.adapters.extend([part, slow]);
                    let ids = [5, 9, 2, 14, 3, 8];
                    let run = |adapter| pair.alone(&ids, Side { adapter, scale: 1.0 });
                    let (whole, fast, slow) = (run(0), run(1), run(2));
                    assert!(relative_difference(&fast, &slow) < 1e-6, "{case} {form:?} {layer} {inside}");
                    assert!(relative_difference(&fast, &whole) > 1e-4, "{case} {form:?} {layer} {inside}");
                }
            }
        }
    }
    let replacing = pair("lora-restacked", forms()[0]);
    assert!(replacing.adapters[0].in_layers(replacing.decoder.sites(), |_| true).is_none());
}
