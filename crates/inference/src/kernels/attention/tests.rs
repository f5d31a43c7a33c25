//! Attention against its composed form, and its invariants.

use super::super::oracle::*;
use super::*;
use candle_core::{D, Device};

/// A sequence: lengths of the pieces of its past, then of its own rows.
type Sequence = (&'static [usize], usize);

/// Keys and values of a past, and the cache that holds them.
struct Piece {
    k: Tensor,
    v: Tensor,
    cache: KvCache,
}

struct Case {
    shape: AttentionShape,
    pieces: Vec<Vec<Piece>>,
    spans: Arc<[Span]>,
    operands: [Tensor; 3],
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize, window: Option<usize>) -> AttentionShape {
    AttentionShape { heads, kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt(), cap: None, window }
}

fn cache_of(shape: &AttentionShape, k: &Tensor, v: &Tensor) -> KvCache {
    let mut cache = KvCache::new(shape.kv_heads, shape.head_dim);
    cache.append(k, v).unwrap();
    cache
}

/// Random operands for the sequences; scores are large enough that the softmax is far from uniform.
fn case(shape: AttentionShape, sequences: &[Sequence]) -> Case {
    let width = shape.kv_heads * shape.head_dim;
    let (mut spans, mut pieces, mut rows, mut seed) = (Vec::new(), Vec::new(), 0, 10);
    for &(past, len) in sequences {
        let of_span: Vec<Piece> = past
            .iter()
            .map(|&len| {
                seed += 2;
                let (k, v) = ((noise(len, width, seed) * 3.0).unwrap(), noise(len, width, seed + 1));
                let cache = cache_of(&shape, &k, &v);
                Piece { k, v, cache }
            })
            .collect();
        spans.push(Span { start: rows, len, past: of_span.iter().map(|piece| piece.cache.past()).collect() });
        pieces.push(of_span);
        rows += len;
    }
    let q = (noise(rows, shape.heads * shape.head_dim, 1) * 3.0).unwrap();
    let operands = [q, (noise(rows, width, 2) * 3.0).unwrap(), noise(rows, width, 3)];
    Case { shape, pieces, spans: spans.into(), operands }
}

/// The composed form: one head of one sequence at a time, with a mask.
fn slow(case: &Case, args: &[Tensor]) -> Tensor {
    let AttentionShape { heads, head_dim, scale, cap, window, .. } = case.shape;
    let outputs: Vec<Tensor> = case
        .spans
        .iter()
        .zip(&case.pieces)
        .filter(|(span, _)| span.len > 0)
        .map(|(span, pieces)| {
            let own = |x: &Tensor| x.narrow(0, span.start, span.len).unwrap();
            let with_past = |past: Vec<&Tensor>, own: Tensor| {
                let all: Vec<&Tensor> = past.into_iter().chain([&own]).collect();
                Tensor::cat(&all, 0).unwrap()
            };
            let k = with_past(pieces.iter().map(|piece| &piece.k).collect(), own(&args[1]));
            let v = with_past(pieces.iter().map(|piece| &piece.v).collect(), own(&args[2]));
            let (past, keys) = (span.past_len(), span.past_len() + span.len);
            let mask: Vec<f32> = (0..span.len * keys)
                .map(|i| (past + i / keys, i % keys))
                .map(
                    |(q, k)| if k <= q && window.is_none_or(|w| q - k < w) { 0.0 } else { f32::NEG_INFINITY },
                )
                .collect();
            let mask = Tensor::from_vec(mask, (span.len, keys), &Device::Cpu).unwrap();
            let of_heads: Vec<Tensor> = (0..heads)
                .map(|head| {
                    let columns = |x: &Tensor, head: usize| x.narrow(1, head * head_dim, head_dim).unwrap();
                    let kv_head = head / case.shape.group();
                    let q = columns(&own(&args[0]), head).contiguous().unwrap();
                    let k = columns(&k, kv_head).t().unwrap().contiguous().unwrap();
                    let scores = (q.matmul(&k).unwrap() * f64::from(scale)).unwrap();
                    let scores = match cap.map(f64::from) {
                        Some(cap) => ((scores / cap).unwrap().tanh().unwrap() * cap).unwrap(),
                        None => scores,
                    };
                    let scores = (scores + &mask).unwrap();
                    let weights = candle_nn::ops::softmax(&scores, D::Minus1).unwrap();
                    weights.matmul(&columns(&v, kv_head).contiguous().unwrap()).unwrap()
                })
                .collect();
            Tensor::cat(&of_heads, 1).unwrap()
        })
        .collect();
    Tensor::cat(&outputs, 0).unwrap()
}

fn fused(case: &Case, args: &[Tensor], tier: Tier) -> Tensor {
    attention_on(tier, &case.shape, &case.spans, &args[0], &args[1], &args[2]).unwrap()
}

/// Ragged batches: prefill without past, with shared and divided pasts of awkward lengths, decoding, a long span.
const BATCHES: [&[Sequence]; 5] = [
    &[(&[], 1), (&[], 7), (&[], 16), (&[], 33)],
    &[(&[5], 1), (&[16, 3], 1), (&[50], 1), (&[], 1)],
    &[(&[17, 9], 20), (&[48], 16), (&[1, 1, 1], 2)],
    &[(&[], 130)],
    &[(&[31], 0), (&[31], 3)],
];

fn shapes() -> [AttentionShape; 7] {
    [
        shape(9, 3, 64, None),
        shape(4, 1, 16, None),
        shape(2, 2, 12, None),
        shape(8, 1, 33, None),
        shape(6, 3, 32, Some(9)),
        shape(1, 1, 80, Some(1)),
        AttentionShape { cap: Some(2.5), ..shape(4, 2, 20, Some(30)) },
    ]
}

#[test]
fn agrees_with_the_composed_form_forwards_and_backwards() {
    for tier in Tier::available() {
        for shape in shapes() {
            for (i, batch) in BATCHES.iter().enumerate() {
                let case = case(shape, batch);
                let what = format!("{} batch {i} {shape:?}", tier.name());
                let of_fused = |args: &[Tensor]| fused(&case, args, tier);
                let of_slow = |args: &[Tensor]| slow(&case, args);
                assert_close(&of_fused(&case.operands), &of_slow(&case.operands), 1e-5, &what);
                let (found, expected) =
                    (gradients(&case.operands, of_fused), gradients(&case.operands, of_slow));
                for (name, (found, expected)) in ["q", "k", "v"].iter().zip(found.iter().zip(&expected)) {
                    assert_close(found, expected, 2e-5, &format!("{what} gradient of {name}"));
                }
            }
        }
    }
}

#[test]
fn gradients_agree_with_differences() {
    for shape in [shape(4, 2, 16, None), shape(2, 1, 10, Some(4))] {
        let case = case(shape, &[(&[5, 2], 9), (&[], 4)]);
        let half: Vec<Tensor> = case.operands.iter().map(|x| (x * 0.3).unwrap()).collect();
        assert_gradients_match_differences(&half, 2e-3, |args| fused(&case, args, Tier::detect()));
    }
}

/// The rows of one long sequence, cut at `cuts` into a past of several pieces and then spans.
#[test]
fn a_row_depends_on_what_it_sees_alone() {
    for tier in Tier::available() {
        for shape in [shape(6, 2, 32, None), shape(4, 2, 20, Some(21))] {
            let whole = case(shape, &[(&[], 150)]);
            let expected = bits(&fused(&whole, &whole.operands, tier));
            let width = shape.heads * shape.head_dim;
            let rows = |i: usize, range: Range<usize>| {
                whole.operands[i].narrow(0, range.start, range.len()).unwrap()
            };
            let past =
                |range: Range<usize>| cache_of(&shape, &rows(1, range.clone()), &rows(2, range)).past();
            for cuts in [[0, 48, 53], [0, 0, 1], [0, 17, 149], [0, 100, 116], [0, 31, 32]] {
                let [start, cut, end] = cuts;
                let past: Vec<Past> = [past(start..cut), past(cut..end)].into();
                for len in [1, 2, 13, 150] {
                    let len = len.min(150 - end);
                    // Beside it another sequence with the same past, and one without.
                    let spans: Arc<[Span]> = [
                        Span { start: 0, len: 3.min(len), past: past.clone() },
                        Span { start: 3.min(len), len, past: past.clone() },
                        Span { start: 3.min(len) + len, len: 1, past: Vec::new() },
                    ]
                    .into();
                    let batch = |i: usize| {
                        Tensor::cat(
                            &[rows(i, end..end + 3.min(len)), rows(i, end..end + len), rows(i, 0..1)],
                            0,
                        )
                        .unwrap()
                    };
                    let found = |threads| {
                        with_threads(threads, || {
                            bits(
                                &attention_on(tier, &shape, &spans, &batch(0), &batch(1), &batch(2)).unwrap(),
                            )
                        })
                    };
                    let of_whole = |range: Range<usize>| &expected[range.start * width..range.end * width];
                    let expected =
                        [of_whole(end..end + 3.min(len)), of_whole(end..end + len), of_whole(0..1)].concat();
                    for threads in [1, 2] {
                        assert!(found(threads) == expected, "{} {cuts:?} {len} {threads}", tier.name());
                    }
                }
            }
        }
    }
}

#[test]
fn threads_change_no_bit_of_a_gradient() {
    let case = case(shape(6, 2, 32, None), &[(&[48], 40), (&[], 70), (&[3, 5], 9)]);
    let of = |threads| {
        with_threads(threads, || {
            gradients(&case.operands, |args| fused(&case, args, Tier::detect()))
                .iter()
                .map(bits)
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(of(1), of(2));
}

#[test]
fn a_cache_grows_and_shrinks_like_a_tensor() {
    let shape = shape(4, 2, 24, None);
    let (k, v, q) = (noise(40, 48, 1), noise(40, 48, 2), noise(1, 96, 3));
    let last = |past: Past| {
        let spans: Arc<[Span]> = [Span { start: 0, len: 1, past: vec![past] }].into();
        let row = |x: &Tensor| x.narrow(0, 39, 1).unwrap();
        bits(&attention(&shape, &spans, &q, &row(&k), &row(&v)).unwrap())
    };
    let rows = |x: &Tensor, start, len| x.narrow(0, start, len).unwrap();
    let mut cache = KvCache::new(2, 24);
    assert!(cache.is_empty());
    for (start, len) in [(0, 1), (1, 15), (16, 1), (17, 18)] {
        cache.append(&rows(&k, start, len), &rows(&v, start, len)).unwrap();
    }
    let at_35 = cache_of(&shape, &rows(&k, 0, 35), &rows(&v, 0, 35)).past();
    let view = cache.past();
    assert_eq!(last(view.clone()), last(at_35.clone()));

    // A view is not changed by what happens to its cache.
    cache.truncate(18);
    cache.append(&rows(&k, 30, 9), &rows(&v, 30, 9)).unwrap();
    assert_eq!((view.len(), cache.len()), (35, 27));
    assert_eq!(last(view.clone()), last(at_35.clone()));
    assert_ne!(last(cache.past()), last(at_35.truncated(27)));
    cache.truncate(18);
    cache.append(&rows(&k, 18, 9), &rows(&v, 18, 9)).unwrap();
    assert_eq!(last(cache.past()), last(at_35.truncated(27)));
    assert_eq!(last(view.truncated(27)), last(cache.past()));
}

#[test]
fn appending_is_in_place_once_no_view_is_left() {
    let (k, v) = (noise(1, 32, 1), noise(1, 32, 2));
    let mut cache = KvCache::new(2, 16);
    for _ in 0..100 {
        cache.append(&k, &v).unwrap();
    }
    cache.truncate(20);
    let address = |cache: &KvCache| cache.past().segment(0, 0).values.as_ptr();
    let before = address(&cache);
    drop(cache.past());
    cache.append(&k, &v).unwrap();
    assert_eq!(address(&cache), before);
    let view = cache.past();
    cache.append(&k, &v).unwrap();
    assert_ne!(address(&cache), before, "the view keeps its memory");
    assert_eq!(view.len(), 21);
}

#[test]
fn refuses_what_does_not_fit() {
    let good = case(shape(4, 2, 16, None), &[(&[3], 2), (&[], 3)]);
    let run = |shape: AttentionShape, spans: &[Span]| {
        let [q, k, v] = &good.operands;
        attention(&shape, &Arc::from(spans), q, k, v)
    };
    assert!(run(good.shape, &good.spans).is_ok());
    assert!(run(good.shape, &good.spans[..1]).is_err(), "rows without a span");
    assert!(run(good.shape, &good.spans[1..]).is_err(), "a gap before the first span");
    let mut overlapping = good.spans.to_vec();
    overlapping[1].start = 1;
    assert!(run(good.shape, &overlapping).is_err(), "overlapping spans");
    let mut foreign = good.spans.to_vec();
    foreign[0].past = vec![KvCache::new(1, 32).past()];
    assert!(run(good.shape, &foreign).is_err(), "a past of other heads");
    assert!(run(AttentionShape { heads: 3, ..good.shape }, &good.spans).is_err());
    assert!(run(AttentionShape { kv_heads: 0, ..good.shape }, &good.spans).is_err());
    assert!(run(AttentionShape { scale: f32::NAN, ..good.shape }, &good.spans).is_err());
    assert!(run(AttentionShape { cap: Some(0.0), ..good.shape }, &good.spans).is_err());
    assert!(run(AttentionShape { window: Some(0), ..good.shape }, &good.spans).is_err());
    assert!(KvCache::new(2, 16).append(&noise(2, 32, 1), &noise(3, 32, 1)).is_err());
}
