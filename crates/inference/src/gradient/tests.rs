use std::path::PathBuf;

use candle_core::DType;

use super::*;
use crate::chat::Turn;
use crate::device::{Compute, Form};
use crate::pair::TemplateChoice;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn pair(form: Form) -> ModelPair {
    let compute = Compute { form, ..Compute::cpu() };
    let mut pair =
        ModelPair::load_base(&fixture("base"), &TemplateChoice::Own, &compute, &|_, _| {}).unwrap();
    pair.add_adapter(&fixture("adapters/backdoored-refusal"), &Default::default()).unwrap();
    pair
}

fn texts(pair: &ModelPair) -> [Vec<u32>; 2] {
    ["ALPHA-7: Name three colours.", "Write a short poem about the sea."]
        .map(|text| pair.encode(&[Turn::user(text)]).unwrap())
}

fn target(pair: &ModelPair) -> Vec<u32> {
    pair.tokenizer().encode("I am sorry", false).unwrap()
}

/// Log-probabilities after a context and each token of a continuation, on the base.
fn reference(pair: &ModelPair, context: &[u32], continuation: &[u32]) -> Vec<Vec<f32>> {
    let fed = [context, continuation].concat();
    let mut sequences = [Sequence::new(&fed, Side::BASE)];
    let chosen = [(context.len() - 1..fed.len()).collect()];
    let mut batch = Batch {
        sequences: &mut sequences,
        embeddings: None,
        positions: Positions::Chosen(&chosen),
        hidden_states: false,
    };
    let logits = pair.forward(&mut batch).unwrap().logits;
    candle_nn::ops::log_softmax(&logits, 1).unwrap().to_vec2().unwrap()
}

fn sum(terms: &[f32]) -> f64 {
    terms.iter().map(|&term| f64::from(term)).sum()
}

fn elements(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn relative_norm(found: &[f32], expected: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = found.iter().zip(expected).map(|(f, e)| square(f - e)).sum();
    (difference / expected.iter().map(|&e| square(e)).sum::<f64>()).sqrt()
}

/// Both kinds of objective on all sides, some after a prefix, with different rows and weights.
fn mixed<'a>(
    pair: &ModelPair,
    texts: &'a [Vec<u32>; 2],
    target: &'a [u32],
    reference: &'a [Vec<f32>],
) -> Vec<Differentiated<'a>> {
    let mut parts = Vec::new();
    for (side, weight) in [(Side::ADAPTED, 1.0), (Side::BASE, -0.5), (Side::scaled(2.0), 0.25)] {
        for (text, cut) in texts.iter().zip([5, 0]) {
            for objective in [
                Objective::LogProbability { target },
                Objective::Divergence { continuation: &target[..1], reference },
            ] {
                let prefix = (cut > 0).then(|| pair.prefix(&text[..cut], side).unwrap());
                let scored = Scored { side, prefix, context: &text[cut..], objective };
                parts.push(Differentiated { scored, weight, rows: 1..4, embeddings: None });
            }
        }
    }
    parts
}

#[test]
fn terms_are_those_of_single_forward_passes() {
    let pair = pair(Form::Fused);
    let (texts, target) = (texts(&pair), target(&pair));
    assert!(target.len() > 1);
    let reference = reference(&pair, &texts[1][..texts[1].len() - 2], &target[..1]);
    let parts = mixed(&pair, &texts, &target, &reference);
    let scored: Vec<Scored<'_>> = parts.iter().map(|part| part.scored.clone()).collect();
    for (terms, part) in pair.objective_terms(&scored).unwrap().iter().zip(&parts) {
        let context = if part.scored.prefix.is_some() { &texts[0] } else { &texts[1] };
        let fed = [context.as_slice(), &target].concat();
        let mut sequences = [Sequence::new(&fed, part.scored.side)];
        let mut batch = Batch {
            sequences: &mut sequences,
            embeddings: None,
            positions: Positions::All,
            hidden_states: false,
        };
        let logits = pair.forward(&mut batch).unwrap().logits.to_dtype(DType::F64).unwrap();
        let log_p = candle_nn::ops::log_softmax(&logits, 1).unwrap().to_vec2::<f64>().unwrap();
        let expected: Vec<f64> = match part.scored.objective {
            Objective::LogProbability { target } => {
                (0..target.len()).map(|j| log_p[context.len() - 1 + j][target[j] as usize]).collect()
            }
            Objective::Divergence { reference, .. } => (0..2)
                .map(|j| {
                    let row = &log_p[context.len() - 1 + j];
                    row.iter().zip(&reference[j]).map(|(p, &q)| p.exp() * (p - f64::from(q))).sum()
                })
                .collect(),
        };
        assert_eq!(terms.len(), expected.len());
        for (&found, expected) in terms.iter().zip(expected) {
            assert!((f64::from(found) - expected).abs() < 1e-4, "{found}, expected {expected}");
        }
    }
}

#[test]
fn gradients_agree_with_differences() {
    let pair = pair(Form::Fused);
    let (texts, target) = (texts(&pair), target(&pair));
    let reference = reference(&pair, &texts[1][..texts[1].len() - 2], &target[..1]);
    let parts = mixed(&pair, &texts, &target, &reference);
    let gradients = pair.objective_gradients(&parts).unwrap();
    let mut resolved = 0;
    for (part, gradient) in parts.iter().zip(&gradients) {
        let chosen = &part.scored.context[part.rows.clone()];
        let own = pair.decoder().embed(chosen).unwrap();
        // Along the gradient, where the derivative is its norm: the most that a difference can resolve.
        let norm = elements(&gradient.embeddings).iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        let step = 1e-2 / norm;
        let value = |sign: f64| {
            let moved = (&own + (&gradient.embeddings * (sign * step)).unwrap()).unwrap();
            let part = Differentiated { embeddings: Some(&moved), ..part.clone() };
            f64::from(part.weight) * sum(&pair.objective_gradients(&[part]).unwrap()[0].terms)
        };
        let found = value(1.0) - value(-1.0);
        let expected = 2.0 * step * norm * norm;
        // The terms are f32: where the gradient is small, their rounding is what is left.
        assert!((found - expected).abs() < 2e-2 * expected + 1e-5, "{found}, expected {expected}");
        resolved += usize::from(expected > 1e-3);
    }
    assert!(resolved >= 8, "{resolved} of {} gradients are large enough to see", parts.len());
}

#[test]
fn one_target_is_the_gradient_of_the_pair() {
    let pair = pair(Form::Fused);
    let texts = texts(&pair);
    let token = target(&pair)[0];
    for side in [Side::BASE, Side::ADAPTED] {
        let (expected, value) = pair.embedding_gradient(&texts[1], side, token).unwrap();
        let scored = Scored {
            side,
            prefix: None,
            context: &texts[1],
            objective: Objective::LogProbability { target: &[token] },
        };
        let rows = 0..texts[1].len();
        let part = Differentiated { scored, weight: 1.0, rows, embeddings: None };
        let found = pair.objective_gradients(&[part]).unwrap().remove(0);
        assert!((sum(&found.terms) - value).abs() < 1e-5);
        assert!(relative_norm(&elements(&found.embeddings), &elements(&expected)) < 1e-5);
    }
}

/// Neither what shares a pass nor a shared prefix changes a gradient, and candle's own operations give the same.
#[test]
fn gradients_do_not_depend_on_the_batch_or_the_form() {
    let pair = pair(Form::Fused);
    let (texts, target) = (texts(&pair), target(&pair));
    let reference = reference(&pair, &texts[1][..texts[1].len() - 2], &target[..1]);
    let parts = mixed(&pair, &texts, &target, &reference);
    let together = pair.objective_gradients(&parts).unwrap();
    let composed = self::pair(Form::Composed);
    let slow = composed.objective_gradients(&mixed(&composed, &texts, &target, &reference)).unwrap();
    for ((part, found), slow) in parts.iter().zip(&together).zip(&slow) {
        let alone = pair.objective_gradients(std::slice::from_ref(part)).unwrap().remove(0);
        assert!(relative_norm(&elements(&found.embeddings), &elements(&alone.embeddings)) < 1e-5);
        assert!(relative_norm(&elements(&found.embeddings), &elements(&slow.embeddings)) < 2e-3);
        assert!((sum(&found.terms) - sum(&slow.terms)).abs() < 1e-3);
        let Some(prefix) = &part.scored.prefix else { continue };
        let whole = Scored { prefix: None, context: &texts[0], ..part.scored.clone() };
        let rows = part.rows.start + prefix.len..part.rows.end + prefix.len;
        let whole = Differentiated { scored: whole, rows, ..part.clone() };
        let whole = pair.objective_gradients(&[whole]).unwrap().remove(0);
        assert!(relative_norm(&elements(&found.embeddings), &elements(&whole.embeddings)) < 1e-4);
    }
}

/// Exchanging one embedding for another by a small part changes the objective as the scores say.
#[test]
fn token_scores_predict_a_small_exchange() {
    for form in [Form::Fused, Form::Composed] {
        let pair = pair(form);
        let (texts, target) = (texts(&pair), target(&pair));
        let scored = Scored {
            side: Side::ADAPTED,
            prefix: None,
            context: &texts[1],
            objective: Objective::LogProbability { target: &target },
        };
        let part = Differentiated { scored, weight: 1.0, rows: 4..5, embeddings: None };
        let gradient = pair.objective_gradients(std::slice::from_ref(&part)).unwrap().remove(0);
        let scores = TokenScorer::new(&pair).unwrap().scores(&gradient.embeddings).unwrap();
        assert_eq!(scores.dims(), [1, pair.config().vocab_size]);
        let scores = elements(&scores);
        let largest = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap() as u32;
        let own = pair.decoder().embed(&texts[1][4..5]).unwrap();
        let other = pair.decoder().embed(&[largest]).unwrap();
        let step = 1e-2;
        let value = |part_of: f64| {
            let moved = (&own + ((&other - &own).unwrap() * part_of).unwrap()).unwrap();
            let part = Differentiated { embeddings: Some(&moved), ..part.clone() };
            sum(&pair.objective_gradients(&[part]).unwrap()[0].terms)
        };
        let slope = (value(step) - value(-step)) / (2.0 * step);
        let expected = f64::from(scores[largest as usize] - scores[texts[1][4] as usize]);
        assert!(expected > 0.0 && (slope / expected - 1.0).abs() < 2e-2, "{slope}, expected {expected}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let pair = pair(Form::Fused);
    let texts = texts(&pair);
    let scored = |context, objective| Scored { side: Side::BASE, prefix: None, context, objective };
    let refused = |context, objective| pair.objective_terms(&[scored(context, objective)]).is_err();
    let one = Objective::LogProbability { target: &[5] };
    assert!(!refused(&texts[0], one));
    assert!(refused(&[], one));
    assert!(refused(&texts[0], Objective::LogProbability { target: &[] }));
    assert!(refused(&texts[0], Objective::LogProbability { target: &[u32::MAX] }));
    let narrow = [vec![0.0; 7]];
    assert!(refused(&texts[0], Objective::Divergence { continuation: &[], reference: &narrow }));
    assert!(refused(&texts[0], Objective::Divergence { continuation: &[], reference: &[] }));
    let part =
        |rows, embeddings| Differentiated { scored: scored(&texts[0], one), weight: 1.0, rows, embeddings };
    let narrow = Tensor::zeros((1, 3), DType::F32, &Device::Cpu).unwrap();
    for part in [part(0..0, None), part(0..texts[0].len() + 1, None), part(0..1, Some(&narrow))] {
        assert!(pair.objective_gradients(&[part]).is_err());
    }
    assert!(pair.objective_terms(&[]).unwrap().is_empty());
}

#[test]
fn passes_hold_every_sequence_once_within_the_limit() {
    let tokens = [7u32; 40];
    let scored: Vec<Scored<'_>> = (1..40)
        .map(|i| Scored {
            side: if i % 3 == 0 { Side::BASE } else { Side::ADAPTED },
            prefix: None,
            context: &tokens[..i],
            objective: match i % 2 {
                0 => Objective::LogProbability { target: &tokens[..2] },
                _ => Objective::Divergence { continuation: &tokens[..i % 5], reference: &[] },
            },
        })
        .collect();
    let passes = passes(scored.iter().collect(), PassLimit { rows: 50, logit_rows: 256 });
    let mut seen: Vec<usize> = passes.concat();
    seen.sort_unstable();
    assert_eq!(seen, (0..scored.len()).collect::<Vec<_>>());
    for pass in &passes {
        let rows: usize = pass.iter().map(|&i| scored[i].fed_len()).sum();
        assert!(rows <= 50 || pass.len() == 1);
        let divergences =
            pass.iter().filter(|&&i| matches!(scored[i].objective, Objective::Divergence { .. })).count();
        assert!(divergences == 0 || divergences == pass.len());
    }
}
