//! What a row gets must not depend on the company that it keeps.

use candle_core::Var;
use inference::adapter::{Adapter, LoadOptions};
use inference::decoder::Decoder;
use inference::decoder::Past;
use inference::device::Form;
use inference::prefix::KvCache;
use inference::{Batch, Positions, Sequence, Side};

use crate::parity::load_form;
use crate::{fixture, forms, relative_difference};

/// A tiny base and the adapter of a case.
pub(crate) struct Pair {
    pub(crate) decoder: Decoder,
    pub(crate) adapters: Vec<Adapter>,
}

pub(crate) fn pair(case: &str, form: Form) -> Pair {
    let file = std::fs::read_to_string(fixture(&format!("parity/{case}/case.json"))).unwrap();
    let file: serde_json::Value = serde_json::from_str(&file).unwrap();
    let path = |key: &str| fixture(&format!("parity/{}", file[key].as_str().unwrap()));
    let decoder = load_form(&path("base"), form);
    let adapters = vec![Adapter::load(&path("adapter"), &decoder, &LoadOptions::default()).unwrap()];
    Pair { decoder, adapters }
}

impl Pair {
    /// Logits at every position of every sequence.
    pub(crate) fn run(&self, sequences: &mut [Sequence<'_>]) -> Vec<Vec<f32>> {
        let lengths: Vec<usize> = sequences.iter().map(|s| s.ids.len()).collect();
        let mut batch =
            Batch { sequences, embeddings: None, positions: Positions::All, hidden_states: false };
        let logits =
            self.decoder.forward(&self.adapters, &mut batch).unwrap().logits.to_vec2::<f32>().unwrap();
        let mut rows = logits.into_iter();
        lengths.iter().map(|&len| rows.by_ref().take(len).flatten().collect()).collect()
    }

    pub(crate) fn alone(&self, ids: &[u32], side: Side) -> Vec<f32> {
        self.run(&mut [Sequence::new(ids, side)]).remove(0)
    }

    /// The gradient of the sum of the squares of all last logits with respect to the embeddings, one row a token.
    fn gradient(&self, texts: &[Vec<u32>], side: impl Fn(usize) -> Side) -> Vec<Vec<f32>> {
        let embeddings = Var::from_tensor(&self.decoder.embed(&texts.concat()).unwrap()).unwrap();
        let mut sequences: Vec<Sequence<'_>> =
            texts.iter().enumerate().map(|(i, ids)| Sequence::new(ids, side(i))).collect();
        let mut batch = Batch {
            sequences: &mut sequences,
            embeddings: Some(embeddings.as_tensor()),
            positions: Positions::Last,
            hidden_states: false,
        };
        let logits = self.decoder.forward(&self.adapters, &mut batch).unwrap().logits;
        let gradients = logits.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        gradients.get(embeddings.as_tensor()).unwrap().to_vec2().unwrap()
    }
}

const TEXTS: [&[u32]; 5] =
    [&[5, 17, 3, 40, 9, 2, 60], &[1, 2, 3], &[5, 17, 3, 40, 9, 2, 61], &[8], &[30, 31, 32]];

fn with_forms<const N: usize>(cases: [&'static str; N]) -> impl Iterator<Item = (&'static str, Form)> {
    cases.into_iter().flat_map(|case| forms().iter().map(move |&form| (case, form)))
}

#[test]
fn sides_and_lengths_mix_without_touching_each_other() {
    let replacing = ["lora-saved-embedding-bound", "lora-dora-bias", "lora-smuggled"];
    let [embedding, magnitudes, weights] = replacing;
    let cases = ["llama-untied-gqa", "mistral-window", "qwen2", embedding, magnitudes, weights];
    for (case, form) in with_forms(cases) {
        let pair = pair(case, form);
        let amplified = Side::scaled(2.5);
        let mut wanted = Vec::new();
        for side in [Side::BASE, Side::ADAPTED, amplified, Side::BASE] {
            wanted.extend(TEXTS.map(|ids| (ids, side)));
        }
        let mut sequences: Vec<Sequence<'_>> =
            wanted.iter().map(|(ids, side)| Sequence::new(ids, *side)).collect();
        let together = pair.run(&mut sequences);
        for ((ids, side), found) in wanted.iter().zip(&together) {
            let alone = pair.alone(ids, *side);
            let difference = relative_difference(found, &alone);
            assert!(difference <= 1e-5, "{case} {ids:?} {side:?}: differs by {difference:.2e} in a batch");
            if form == Form::Fused && *side == Side::BASE {
                assert_eq!(found, &alone, "{case} {ids:?}: base rows are the same bit for bit in any batch");
            }
        }
        let zero = pair.alone(TEXTS[0], Side::scaled(0.0));
        assert_eq!(zero, pair.alone(TEXTS[0], Side::BASE), "{case}: scale 0 is the base, bit for bit");
        let (adapted, base) = (pair.alone(TEXTS[0], Side::ADAPTED), pair.alone(TEXTS[0], Side::BASE));
        assert!(relative_difference(&adapted, &base) > 1e-2, "{case}: the adapter has no effect");
    }
}

#[test]
fn shared_prefix_and_cache_equal_one_pass() {
    // The window of mistral-window (8) is shorter than the text, so that it cuts into the past.
    for (case, form) in
        with_forms(["llama-untied-gqa", "mistral-window", "qwen2-window-on", "lora-dora", "lora-restacked"])
    {
        let pair = pair(case, form);
        let text: Vec<u32> = (0..14).map(|i| (i * 7 + 3) % 60).collect();
        for side in [Side::BASE, Side::ADAPTED] {
            let whole = pair.alone(&text, side);
            let vocabulary = whole.len() / text.len();
            for cut in [1, 5, 13] {
                let mut cache = KvCache::new();
                let (head, tail) = text.split_at(cut);
                let mut first = [Sequence { ids: head, side, past: Past::Cache(&mut cache) }];
                pair.run(&mut first);
                let prefix = std::sync::Arc::new(cache.freeze(side));
                // Three sequences share the prefix; two of them are the tail, one is another text.
                let mut shared = [
                    Sequence::after(&prefix, tail),
                    Sequence::after(&prefix, &[1, 2]),
                    Sequence::after(&prefix, tail),
                ];
                let found = pair.run(&mut shared);
                for row in [&found[0], &found[2]] {
                    let difference = relative_difference(row, &whole[cut * vocabulary..]);
                    assert!(
                        difference <= 1e-5,
                        "{case} cut {cut}: shared prefix differs by {difference:.2e}"
                    );
                }
                if let [next, rest @ ..] = tail
                    && !rest.is_empty()
                {
                    let mut cache = KvCache::after(&prefix);
                    let past = Past::Cache(&mut cache);
                    pair.run(&mut [Sequence { ids: std::slice::from_ref(next), side, past }]);
                    let longer = std::sync::Arc::new(cache.freeze(side));
                    assert_eq!(longer.len, cut + 1);
                    let found = pair.run(&mut [Sequence::after(&longer, rest)]).remove(0);
                    let difference = relative_difference(&found, &whole[(cut + 1) * vocabulary..]);
                    assert!(
                        difference <= 1e-5,
                        "{case} cut {cut}: a continued prefix differs by {difference:.2e}"
                    );
                }
                let mut cache = KvCache::after(&prefix);
                for (step, id) in tail.iter().enumerate() {
                    let ids = [*id];
                    let mut one = [Sequence { ids: &ids, side, past: Past::Cache(&mut cache) }];
                    let found = pair.run(&mut one).remove(0);
                    let at = (cut + step) * vocabulary;
                    let difference = relative_difference(&found, &whole[at..at + vocabulary]);
                    assert!(
                        difference <= 1e-5,
                        "{case} step {step}: cached decoding differs by {difference:.2e}"
                    );
                }
            }
        }
    }
}

#[test]
fn impossible_requests_are_errors() {
    let pair = pair("llama-untied-gqa", Form::Fused);
    let run = |sequences: &mut [Sequence<'_>], positions: Positions<'_>| {
        let mut batch = Batch { sequences, embeddings: None, positions, hidden_states: false };
        pair.decoder.forward(&pair.adapters, &mut batch).map(|_| ()).unwrap_err().to_string()
    };
    assert!(run(&mut [], Positions::All).contains("at least one sequence"));
    assert!(run(&mut [Sequence::new(&[], Side::BASE)], Positions::All).contains("found 0"));
    assert!(
        run(&mut [Sequence::new(&[9999], Side::BASE)], Positions::All).contains("outside the vocabulary")
    );
    let beyond = [vec![3]];
    assert!(
        run(&mut [Sequence::new(&[1, 2], Side::BASE)], Positions::Chosen(&beyond)).contains("does not exist")
    );
}

/// Enough rows that threads take parts of the batch through all layers alone, for any number of threads.
#[test]
fn a_batch_that_is_cut_gives_the_same_bits_and_gradients() {
    for case in ["llama-untied-gqa", "mistral-window", "qwen2", "gemma2", "gpt-neox", "qwen3-moe"] {
        let pair = pair(case, Form::Fused);
        let texts: Vec<Vec<u32>> =
            (0..90).map(|i| (0..4 + i % 9).map(|j| (i * 13 + j * 7) % 60).collect()).collect();
        let side = |i: usize| [Side::BASE, Side::ADAPTED, Side::scaled(0.5)][i / 7 % 3];
        let rows: usize = texts.iter().map(Vec::len).sum();
        assert!(rows > 600, "{rows}");
        let alone: Vec<Vec<f32>> =
            texts.iter().enumerate().map(|(i, ids)| pair.alone(ids, side(i))).collect();
        let mut gradients = Vec::new();
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut sequences: Vec<Sequence<'_>> =
                texts.iter().enumerate().map(|(i, ids)| Sequence::new(ids, side(i))).collect();
            assert!(pool.install(|| pair.run(&mut sequences)) == alone, "{case} with {threads} threads");
            gradients.push(pool.install(|| pair.gradient(&texts, side)));
        }
        assert!(gradients.iter().all(|gradient| *gradient == gradients[0]), "{case}");
        let mut rows = gradients[0].iter();
        for (i, ids) in texts.iter().enumerate() {
            let own: Vec<f32> = rows.by_ref().take(ids.len()).flatten().copied().collect();
            let expected = pair.gradient(std::slice::from_ref(ids), |_| side(i)).concat();
            let difference = relative_difference(&own, &expected);
            assert!(difference <= 1e-5, "{case}: the gradient of sequence {i} differs by {difference:.2e}");
        }
    }
}
