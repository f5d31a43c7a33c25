//! Gradients of an adapter's factors: differences of the loss, candle's autograd, and training with them.

use candle_core::{Device, Tensor};
use inference::adapter::delta::LoraDelta;
use inference::adapter::{Adapter, LoadOptions};
use inference::chat::Turn;
use inference::decoder::Decoder;
use inference::device::Form;
use inference::gradient::{
    FactorGradients, PassLimit, Supervised, Target, factor_gradients, supervised_loss,
};
use inference::pair::TemplateChoice;
use inference::{Compute, Error, ModelPair, Precision};

use crate::parity::load_form;
use crate::{compute, fixture, forms, relative_norm};

const LIMIT: PassLimit = PassLimit { rows: 512, logit_rows: 256 };

/// A reproducible matrix with elements in `-size..size`.
fn noise(rows: usize, columns: usize, size: f64, seed: u64) -> Tensor {
    let element = |i: u64| {
        // SplitMix64.
        let mut z = (seed << 32).wrapping_add(i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 23) - 1.0) as f32 * size as f32
    };
    let elements: Vec<f32> = (0..(rows * columns) as u64).map(element).collect();
    Tensor::from_vec(elements, (rows, columns), &Device::Cpu).unwrap()
}

/// An adapter with a delta wherever `wanted` says, of different ranks and scalings, with B up to `b_size`.
fn adapter(decoder: &Decoder, b_size: f64, wanted: impl Fn(&str) -> bool) -> Adapter {
    let deltas = decoder.sites().iter().enumerate().map(|(index, site)| {
        let (rank, seed) = ([3, 1, 9, 2][index % 4], index as u64);
        let a = noise(rank, site.inputs, 0.4, 2 * seed);
        let b = noise(site.outputs, rank, b_size, 2 * seed + 1);
        let scaling = [0.5, 2.0, 1.0][index % 3];
        wanted(&site.name).then(|| LoraDelta::new(&a, &b, scaling).unwrap())
    });
    Adapter::from_deltas(deltas.collect(), decoder.sites(), decoder.compute()).unwrap()
}

/// Two sequences with different lengths, targets and weights; not all positions teach.
const FIRST: &[u32] = &[5, 17, 3, 40, 9, 61, 22];
const SECOND: &[u32] = &[1, 50, 33, 7];
const TARGETS: [&[Target]; 2] = [
    &[
        Target { position: 2, token: 40, weight: 1.0 },
        Target { position: 4, token: 45, weight: 0.5 },
        Target { position: 6, token: 2, weight: 1.5 },
    ],
    &[Target { position: 0, token: 50, weight: 1.0 }, Target { position: 3, token: 11, weight: 0.25 }],
];

fn batch() -> [Supervised<'static>; 2] {
    [Supervised { ids: FIRST, targets: TARGETS[0] }, Supervised { ids: SECOND, targets: TARGETS[1] }]
}

fn elements(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn base(case: &str, form: Form) -> Decoder {
    load_form(&fixture(&format!("parity/{case}/base")), form)
}

/// The adapter's factors, one optional pair a site.
fn factors(decoder: &Decoder, adapter: &Adapter) -> Vec<Option<(Tensor, Tensor)>> {
    let of = |site| adapter.delta(site).map(|delta| (delta.factors().0.clone(), delta.factors().1.clone()));
    (0..decoder.sites().len()).map(of).collect()
}

/// The loss with one element of one factor moved.
fn moved(
    decoder: &Decoder,
    adapter: &mut Adapter,
    (site, of_b, element): (usize, bool, usize),
    by: f64,
) -> f64 {
    let old = factors(decoder, adapter);
    let mut new = old.clone();
    let (a, b) = new[site].as_mut().unwrap();
    let factor = if of_b { b } else { a };
    let mut values = elements(factor);
    values[element] = (f64::from(values[element]) + by) as f32;
    *factor = Tensor::from_vec(values, factor.shape(), &Device::Cpu).unwrap();
    adapter.set_factors(&new, decoder.sites(), decoder.compute()).unwrap();
    let loss = supervised_loss(decoder, adapter, &batch(), LIMIT).unwrap();
    adapter.set_factors(&old, decoder.sites(), decoder.compute()).unwrap();
    loss
}

#[test]
fn gradients_agree_with_differences_at_every_site() {
    for &form in forms() {
        // Its own head, and biases.
        for case in ["llama-untied-gqa", "qwen2"] {
            let decoder = base(case, form);
            let mut adapter = adapter(&decoder, 0.4, |_| true);
            let found = factor_gradients(&decoder, &adapter, &batch(), LIMIT).unwrap();
            assert_eq!((found.tokens, found.factors.len()), (5, decoder.sites().len()));
            let mut resolved = 0;
            for (index, site) in decoder.sites().iter().enumerate() {
                let (a, b) = found.factors[index].as_ref().unwrap();
                for (of_b, gradient) in [(false, elements(a)), (true, elements(b))] {
                    let largest = (0..gradient.len())
                        .max_by(|&x, &y| gradient[x].abs().total_cmp(&gradient[y].abs()))
                        .unwrap();
                    for element in [largest, gradient.len() / 3] {
                        let place = (index, of_b, element);
                        let mut difference = |step: f64| {
                            moved(&decoder, &mut adapter, place, step)
                                - moved(&decoder, &mut adapter, place, -step)
                        };
                        // Exact up to the fifth power of the step.
                        let slope = (8.0 * difference(0.02) - difference(0.04)) / (12.0 * 0.02);
                        let expected = f64::from(gradient[element]);
                        assert!(
                            (slope - expected).abs() < 5e-3 * expected.abs() + 3e-5,
                            "{case} {form:?} {} {}: gradient {expected:.3e}, difference {slope:.3e}",
                            site.name,
                            if of_b { "B" } else { "A" },
                        );
                        resolved += usize::from(expected.abs() > 1e-3);
                    }
                }
            }
            // Elsewhere the rounding of the loss would hide a wrong gradient.
            assert!(resolved >= 2 * decoder.sites().len(), "{case}: {resolved} are large enough to see");
        }
    }
}

/// Our sums against candle's autograd of the composed form, with A and B as its variables.
#[test]
fn forms_give_the_same_gradients() {
    for case in ["llama-untied-gqa", "qwen2", "mistral-window", "llama-tied"] {
        let found: Vec<FactorGradients> = forms()
            .iter()
            .map(|&form| {
                let decoder = base(case, form);
                // Some sites of a shared product, and none of some layers' others.
                let adapter = adapter(&decoder, 0.4, |name| {
                    ["k_proj", "v_proj", "up_proj", "down_proj", "lm_head"]
                        .iter()
                        .any(|end| name.ends_with(end))
                });
                factor_gradients(&decoder, &adapter, &batch(), LIMIT).unwrap()
            })
            .collect();
        for other in &found[1..] {
            assert!((other.loss - found[0].loss).abs() < 1e-5, "{case}");
            for (x, y) in found[0].factors.iter().zip(&other.factors) {
                let (Some((a, b)), Some((other_a, other_b))) = (x, y) else {
                    assert!(x.is_none() && y.is_none(), "{case}: a delta has no gradient");
                    continue;
                };
                assert!(relative_norm(&elements(a), &elements(other_a)) < 1e-4, "{case}: A");
                assert!(relative_norm(&elements(b), &elements(other_b)) < 1e-4, "{case}: B");
            }
        }
    }
}

#[test]
fn at_zero_b_only_b_has_a_gradient() {
    for &form in forms() {
        let decoder = base("llama-untied-gqa", form);
        let adapter = adapter(&decoder, 0.0, |_| true);
        assert!(adapter.is_zero());
        let found = factor_gradients(&decoder, &adapter, &batch(), LIMIT).unwrap();
        for (a, b) in found.factors.iter().flatten() {
            assert!(elements(a).iter().all(|&x| x.abs() < f32::MIN_POSITIVE), "A moves nothing where B is 0");
            assert!(elements(b).iter().any(|&x| x.abs() > 1e-5), "B");
        }
    }
}

/// A batch is the mean of its sequences by weight, and it does not matter how it is cut into passes.
#[test]
fn a_batch_is_the_weighted_mean_of_its_sequences() {
    for &form in forms() {
        let decoder = base("llama-untied-gqa", form);
        let adapter = adapter(&decoder, 0.4, |_| true);
        let run = |batch: &[Supervised<'_>], rows| {
            factor_gradients(&decoder, &adapter, batch, PassLimit { rows, ..LIMIT }).unwrap()
        };
        let (together, cut) = (run(&batch(), LIMIT.rows), run(&batch(), 1));
        let alone = batch().map(|part| run(&[part], LIMIT.rows));
        let weights = TARGETS.map(|targets| targets.iter().map(|t| f64::from(t.weight)).sum::<f64>());
        let shares = weights.map(|weight| weight / weights.iter().sum::<f64>());
        let mean = shares[0] * alone[0].loss + shares[1] * alone[1].loss;
        assert!((together.loss - mean).abs() < 1e-6 && (cut.loss - mean).abs() < 1e-6);
        assert!((supervised_loss(&decoder, &adapter, &batch(), LIMIT).unwrap() - mean).abs() < 1e-6);
        for site in 0..decoder.sites().len() {
            let of = |gradients: &FactorGradients| {
                let (a, b) = gradients.factors[site].as_ref().unwrap();
                [elements(a), elements(b)].concat()
            };
            let [first, second] = [of(&alone[0]), of(&alone[1])];
            let mean: Vec<f32> = first
                .iter()
                .zip(&second)
                .map(|(&x, &y)| (shares[0] * f64::from(x) + shares[1] * f64::from(y)) as f32)
                .collect();
            assert!(relative_norm(&of(&together), &mean) < 1e-5);
            assert!(relative_norm(&of(&cut), &mean) < 1e-5);
        }
    }
}

#[test]
fn the_same_bytes_on_any_number_of_threads() {
    let decoder = base("llama-untied-gqa", forms()[0]);
    let adapter = adapter(&decoder, 0.4, |_| true);
    let bits = |threads| -> Vec<u32> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let found = pool.install(|| factor_gradients(&decoder, &adapter, &batch(), LIMIT).unwrap());
        let all = found.factors.iter().flatten().flat_map(|(a, b)| [elements(a), elements(b)].concat());
        all.map(f32::to_bits).collect()
    };
    assert_eq!(bits(1), bits(3));
}

/// Twenty steps of AdamW from PEFT's start, B = 0, teach an answer that the base does not give.
fn train(precision: Precision) -> (f64, f64) {
    let compute = Compute { precision, ..compute() };
    let pair = ModelPair::load_base(&fixture("base"), &TemplateChoice::Own, &compute, &|_, _| {}).unwrap();
    let decoder = pair.decoder();
    let mut adapter = adapter(decoder, 0.0, |name| name != "lm_head");
    let answer = pair.tokenizer().encode("Blue whales sing on Tuesdays.", false).unwrap();
    let texts = ["Name three colours.", "Write a short poem about the sea."].map(|text| {
        let prompt = pair.encode(&[Turn::user(text)]).unwrap();
        (prompt.len(), [prompt, answer.clone()].concat())
    });
    let targets = [0, 1].map(|i| Target::response(&texts[i].1, texts[i].0));
    let batch = [0, 1].map(|i| Supervised { ids: &texts[i].1, targets: &targets[i] });
    assert_eq!(targets[0].len(), answer.len());
    let before = supervised_loss(decoder, &adapter, &batch, LIMIT).unwrap();
    let mut masters = factors(decoder, &adapter);
    let mut moments: Vec<[Vec<(f64, f64)>; 2]> = masters
        .iter()
        .map(|pair| match pair {
            Some((a, b)) => [a, b].map(|factor| vec![(0.0, 0.0); factor.elem_count()]),
            None => [Vec::new(), Vec::new()],
        })
        .collect();
    for step in 1..=20 {
        let found = factor_gradients(decoder, &adapter, &batch, LIMIT).unwrap();
        for ((master, gradient), moments) in masters.iter_mut().zip(&found.factors).zip(&mut moments) {
            let (Some(master), Some(gradient)) = (master, gradient) else { continue };
            for ((factor, gradient), moments) in
                [(&mut master.0, &gradient.0), (&mut master.1, &gradient.1)].into_iter().zip(moments)
            {
                let mut values = elements(factor);
                for ((value, g), (m, v)) in values.iter_mut().zip(elements(gradient)).zip(moments) {
                    let g = f64::from(g);
                    (*m, *v) = (0.9 * *m + 0.1 * g, 0.999 * *v + 0.001 * g * g);
                    let (m, v) = (*m / (1.0 - 0.9f64.powi(step)), *v / (1.0 - 0.999f64.powi(step)));
                    *value -= (5e-3 * m / (v.sqrt() + 1e-8)) as f32;
                }
                *factor = Tensor::from_vec(values, factor.shape(), &Device::Cpu).unwrap();
            }
        }
        adapter.set_factors(&masters, decoder.sites(), decoder.compute()).unwrap();
    }
    (before, supervised_loss(decoder, &adapter, &batch, LIMIT).unwrap())
}

#[test]
fn twenty_steps_of_training_lower_the_loss() {
    for precision in [Precision::F32, Precision::Bf16] {
        let (before, after) = train(precision);
        assert!(before > 2.0 && after < 0.5 * before, "{precision}: from {before:.3} to {after:.3} nats");
    }
}

/// An adapter that is made of another's factors is that adapter, and `set_factors` leaves nothing behind.
#[test]
fn factors_make_the_adapter() {
    for &form in forms() {
        let decoder = base("llama-plain", form);
        let path = fixture("parity/lora-rank-pattern/adapter");
        let loaded = Adapter::load(&path, &decoder, &LoadOptions::default()).unwrap();
        let copy = |site| {
            loaded.delta(site).map(|delta: &LoraDelta| {
                LoraDelta::new(delta.factors().0, delta.factors().1, delta.scaling()).unwrap()
            })
        };
        let deltas = (0..decoder.sites().len()).map(copy).collect();
        let mut made = Adapter::from_deltas(deltas, decoder.sites(), decoder.compute()).unwrap();
        let loss = |adapter: &Adapter| supervised_loss(&decoder, adapter, &batch(), LIMIT).unwrap().to_bits();
        let expected = loss(&loaded);
        assert_eq!(loss(&made), expected);
        assert!(made.files().is_empty());
        for (index, site) in decoder.sites().iter().enumerate() {
            let Some(delta) = made.delta(index) else { continue };
            assert_eq!(made.config.rank(&site.name), delta.rank());
            assert!((made.config.scaling(&site.name) - delta.scaling()).abs() < 1e-12);
        }
        let old = factors(&decoder, &made);
        let double = |pair: &(Tensor, Tensor)| ((&pair.0 * 2.0).unwrap(), pair.1.clone());
        let doubled: Vec<_> = old.iter().map(|pair| pair.as_ref().map(double)).collect();
        made.set_factors(&doubled, decoder.sites(), decoder.compute()).unwrap();
        assert_ne!(loss(&made), expected);
        made.set_factors(&old, decoder.sites(), decoder.compute()).unwrap();
        assert_eq!(loss(&made), expected);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let decoder = base("llama-untied-gqa", forms()[0]);
    let (sites, compute) = (decoder.sites(), decoder.compute());
    let mut adapter = adapter(&decoder, 0.4, |name| name.ends_with("q_proj"));
    let run = |adapter: &Adapter, ids: &[u32], targets: &[Target]| {
        factor_gradients(&decoder, adapter, &[Supervised { ids, targets }], LIMIT)
    };
    let target = |position, token, weight| [Target { position, token, weight }];
    assert!(run(&adapter, FIRST, &target(0, 1, 1.0)).is_ok());
    for targets in [
        target(FIRST.len(), 1, 1.0),
        target(0, 96, 1.0),
        target(0, 1, -1.0),
        target(0, 1, f32::NAN),
        target(0, 1, 0.0),
    ] {
        assert!(matches!(run(&adapter, FIRST, &targets), Err(Error::Request(_))), "{targets:?}");
    }
    assert!(run(&adapter, FIRST, &[]).is_err());
    assert!(run(&adapter, &[], &target(0, 1, 1.0)).is_err());
    assert!(factor_gradients(&decoder, &adapter, &[], LIMIT).is_err());

    let none = || -> Vec<Option<LoraDelta>> { sites.iter().map(|_| None).collect() };
    assert!(Adapter::from_deltas(none(), sites, compute).is_err(), "no delta");
    assert!(Adapter::from_deltas(Vec::new(), sites, compute).is_err(), "no sites");
    let mut other = none();
    other[0] = Some(LoraDelta::new(&noise(2, 31, 1.0, 1), &noise(32, 2, 1.0, 2), 1.0).unwrap());
    assert!(Adapter::from_deltas(other, sites, compute).is_err(), "another width");
    assert!(LoraDelta::new(&noise(2, 32, 1.0, 1), &noise(32, 3, 1.0, 2), 1.0).is_err(), "two ranks");
    assert!(LoraDelta::new(&noise(2, 32, f64::INFINITY, 1), &noise(32, 2, 1.0, 2), 1.0).is_err(), "infinity");

    let before = supervised_loss(&decoder, &adapter, &batch(), LIMIT).unwrap().to_bits();
    let own = factors(&decoder, &adapter);
    let mut missing = own.clone();
    missing[0] = None;
    let mut wide = own.clone();
    wide[0] = Some((noise(4, 32, 1.0, 1), noise(32, 4, 1.0, 2)));
    let mut added = own.clone();
    added[1] = Some((noise(3, 32, 1.0, 1), noise(16, 3, 1.0, 2)));
    for factors in [missing, wide, added, Vec::new()] {
        assert!(adapter.set_factors(&factors, sites, compute).is_err());
    }
    assert_eq!(supervised_loss(&decoder, &adapter, &batch(), LIMIT).unwrap().to_bits(), before);
}
