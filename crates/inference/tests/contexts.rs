//! Adapters for which the context decides: aLoRA, which acts from certain tokens on, and prompt tuning, which puts
//! embeddings before everything. Prefixes and caches must give what one pass gives.

use std::sync::Arc;

use candle_core::{Tensor, Var};
use inference::decoder::Past;
use inference::device::Form;
use inference::prefix::{KvCache, Prefix};
use inference::{Batch, Positions, Sequence, Side};

use crate::rows::{Pair, pair};
use crate::{forms, relative_difference, relative_norm};

const INVOCATION: [u32; 2] = [42, 56];
const SIDES: [Side; 2] = [Side::BASE, Side::ADAPTED];

/// Twelve tokens with the invocation tokens at these places.
fn text(places: &[usize]) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..12).map(|i| (i * 7 + 3) % 40).collect();
    for &place in places {
        ids[place..place + 2].copy_from_slice(&INVOCATION);
    }
    ids
}

fn prefix_of(pair: &Pair, parent: Option<&Arc<Prefix>>, ids: &[u32], side: Side) -> Arc<Prefix> {
    let mut cache = parent.map_or_else(KvCache::new, KvCache::after);
    pair.run(&mut [Sequence { ids, side, past: Past::Cache(&mut cache) }]);
    Arc::new(cache.freeze(side))
}

#[track_caller]
fn assert_alike(found: &[f32], expected: &[f32], what: &str) {
    let difference = relative_difference(found, expected);
    assert!(difference <= 1e-5, "{what}: differs by {difference:.2e}");
}

#[test]
fn without_its_invocation_tokens_an_adapter_is_off_bit_for_bit() {
    for case in ["lora-invoked", "lora-invoked-phi3", "lora-invoked-gpt2"] {
        for &form in forms() {
            let pair = pair(case, form);
            let (absent, present) = (text(&[]), text(&[6]));
            assert_eq!(pair.alone(&absent, Side::ADAPTED), pair.alone(&absent, Side::BASE), "{case}");
            let [base, adapted] = SIDES.map(|side| pair.alone(&present, side));
            let vocabulary = base.len() / present.len();
            let (before, after) = (&adapted[..6 * vocabulary], &adapted[6 * vocabulary..]);
            // The composed form computes a product of other rows otherwise.
            assert_alike(before, &base[..6 * vocabulary], case);
            if form == Form::Fused {
                assert_eq!(before, &base[..6 * vocabulary], "{case}: rows before the tokens");
            }
            for (row, own) in after.chunks(vocabulary).zip(base[6 * vocabulary..].chunks(vocabulary)) {
                assert!(relative_difference(row, own) > 1e-3, "{case}: rows from the tokens on");
            }
        }
    }
}

#[test]
fn prefixes_and_caches_know_where_an_adapter_begins() {
    for case in ["lora-invoked", "lora-invoked-bias", "lora-invoked-phi3"] {
        for &form in forms() {
            let pair = pair(case, form);
            // Nowhere, at the start, in the middle, twice, at the end; cut before, in, between and after them.
            for places in [&[][..], &[0], &[5], &[2, 8], &[10]] {
                let ids = text(places);
                for side in SIDES {
                    let whole = pair.alone(&ids, side);
                    let vocabulary = whole.len() / ids.len();
                    for cut in [1, 3, 6, 9, 11] {
                        let what = format!("{case} {form:?} {places:?} {side:?} cut at {cut}");
                        let (head, tail) = ids.split_at(cut);
                        let prefix = prefix_of(&pair, None, head, side);
                        let expected = &whole[cut * vocabulary..];
                        let mut sequences = [
                            Sequence::after(&prefix, tail),
                            Sequence::new(&ids, Side::BASE),
                            Sequence::after(&prefix, tail),
                        ];
                        let found = pair.run(&mut sequences);
                        assert_alike(&found[0], expected, &what);
                        assert_alike(&found[2], expected, &what);
                        // A prefix after a prefix, and a growing cache after both.
                        let longer = prefix_of(&pair, Some(&prefix), &tail[..1], side);
                        if tail.len() > 1 {
                            let found = pair.run(&mut [Sequence::after(&longer, &tail[1..])]).remove(0);
                            assert_alike(&found, &expected[vocabulary..], &what);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_growing_cache_keeps_where_an_adapter_begins() {
    let pair = pair("lora-invoked", Form::Fused);
    let next = [7, 19, 4, 33];
    for (places, begun) in [(&[5][..], true), (&[2, 8], true), (&[], false)] {
        let ids = text(places);
        let whole = pair.alone(&[&ids[..], &next].concat(), Side::ADAPTED);
        let vocabulary = whole.len() / (ids.len() + next.len());
        for cut in [0, 3, 9] {
            let mut cache = match cut {
                0 => KvCache::new(),
                _ => KvCache::after(&prefix_of(&pair, None, &ids[..cut], Side::ADAPTED)),
            };
            pair.run(&mut [Sequence {
                ids: &ids[cut..],
                side: Side::ADAPTED,
                past: Past::Cache(&mut cache),
            }]);
            for (step, id) in next.iter().enumerate() {
                let past = Past::Cache(&mut cache);
                let ids_now = std::slice::from_ref(id);
                let found = pair.run(&mut [Sequence { ids: ids_now, side: Side::ADAPTED, past }]).remove(0);
                let at = (ids.len() + step) * vocabulary;
                assert_alike(&found, &whole[at..at + vocabulary], &format!("{places:?} {cut} {step}"));
            }
            // Tokens that the model says change nothing, as in PEFT's `generate`.
            let mut said = Vec::new();
            for id in INVOCATION {
                let past = Past::Cache(&mut cache);
                said = pair.run(&mut [Sequence { ids: &[id], side: Side::ADAPTED, past }]).remove(0);
            }
            let all = [&ids[..], &next, &INVOCATION].concat();
            let base = pair.alone(&all, Side::BASE);
            let off = relative_difference(&said, &base[base.len() - vocabulary..]) <= 1e-5;
            assert_eq!(off, !begun, "{places:?} {cut}");
        }
    }
}

/// The gradient of the sum of the squares of the last logits with respect to the embeddings of the new tokens, and the
/// hidden states of their rows.
fn gradient(pair: &Pair, sequence: Sequence<'_>) -> (Vec<f32>, Vec<Vec<f32>>) {
    let ids = sequence.ids;
    let embeddings = Var::from_tensor(&pair.decoder.embed(ids).unwrap()).unwrap();
    let mut sequences = [sequence];
    let mut batch = |hidden_states: bool| {
        let mut batch = Batch {
            sequences: &mut sequences,
            embeddings: Some(embeddings.as_tensor()),
            positions: Positions::Last,
            hidden_states,
        };
        pair.decoder.forward(&pair.adapters, &mut batch).unwrap()
    };
    let gradients = batch(false).logits.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let states = batch(true).hidden_states.iter().map(flat).collect();
    (flat(gradients.get(embeddings.as_tensor()).unwrap()), states)
}

#[test]
fn gradients_after_a_prefix_are_those_of_one_pass() {
    for (case, places) in [("lora-invoked", &[2, 8][..]), ("lora-invoked-gpt2", &[5]), ("prompt-tuning", &[])]
    {
        for &form in forms() {
            let pair = pair(case, form);
            let ids = text(places);
            for side in SIDES {
                let (whole, states) = gradient(&pair, Sequence::new(&ids, side));
                let width = whole.len() / ids.len();
                for cut in [1, 6, 9] {
                    let what = format!("{case} {form:?} {side:?} cut at {cut}");
                    let prefix = prefix_of(&pair, None, &ids[..cut], side);
                    let (own, own_states) = gradient(&pair, Sequence::after(&prefix, &ids[cut..]));
                    let difference = relative_norm(&own, &whole[cut * width..]);
                    assert!(difference <= 1e-5, "{what}: gradient differs by {difference:.2e}");
                    for (own, all) in own_states.iter().zip(&states) {
                        assert_alike(own, &all[cut * width..], &what);
                    }
                }
            }
        }
    }
}

#[test]
fn virtual_tokens_stand_before_prefixes_and_caches() {
    for case in ["prompt-tuning", "prompt-tuning-gpt2", "prompt-tuning-gemma3", "prompt-tuning-granite"] {
        for &form in forms() {
            let pair = pair(case, form);
            let ids = text(&[]);
            for side in [Side::ADAPTED, Side::scaled(2.0)] {
                let whole = pair.alone(&ids, side);
                assert_alike(&whole, &pair.alone(&ids, Side::ADAPTED), "they have no strength");
                let vocabulary = whole.len() / ids.len();
                let prefix = prefix_of(&pair, None, &ids[..4], side);
                let mut sequences = [
                    Sequence::new(&ids, Side::BASE),
                    Sequence::after(&prefix, &ids[4..]),
                    Sequence::new(&ids, side),
                ];
                let found = pair.run(&mut sequences);
                assert_alike(&found[1], &whole[4 * vocabulary..], case);
                assert_alike(&found[2], &whole, case);
                let base = pair.alone(&ids, Side::BASE);
                assert_alike(&found[0], &base, case);
                if form == Form::Fused {
                    assert_eq!(found[0], base, "{case}: base rows have no virtual tokens");
                }
                assert!(relative_difference(&whole, &base) > 1e-3, "{case}");
                let mut cache = KvCache::new();
                for (step, id) in ids.iter().enumerate() {
                    let past = Past::Cache(&mut cache);
                    let found =
                        pair.run(&mut [Sequence { ids: std::slice::from_ref(id), side, past }]).remove(0);
                    let at = step * vocabulary;
                    assert_alike(&found, &whole[at..at + vocabulary], &format!("{case} step {step}"));
                }
            }
        }
    }
}
