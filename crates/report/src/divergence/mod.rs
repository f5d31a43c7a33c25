//! How far apart two next-token distributions are.
//!
//! Rows are natural log-probabilities over one vocabulary, normalised. A row is compared in one pass without
//! allocation, because a vocabulary sweep compares one row of some 50,000 tokens for each candidate and
//! prompt. Rows are `f32`, sums are `f64`.

mod measures;

pub use measures::{
    DIVERGENCES, Divergence, JensenShannon, KullbackLeibler, ReverseKullbackLeibler, Top1Flip, TotalVariation,
};

use crate::error::{StatisticsError, same_length};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far the probabilities of a row may be from summing to one.
///
/// A log-softmax rounded to `f32` is off by less than 1e-5; logits passed by mistake are off by far more.
const NORMALISATION_TOLERANCE: f64 = 1e-3;

/// Everything that is measured between a distribution `p` and a distribution `q` over one vocabulary.
///
/// By convention `p` is the reference (the base) and `q` the suspect (the adapted model). JSON has no infinity:
/// store a comparison of masked rows, whose Kullback-Leibler divergences may be infinite, only after a check.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// Kullback-Leibler divergence KL(p || q), in nats. Infinite if `q` excludes a token that `p` allows.
    pub kl_nats: f64,
    /// Kullback-Leibler divergence KL(q || p), in nats. Infinite if `p` excludes a token that `q` allows.
    pub reverse_kl_nats: f64,
    /// Jensen-Shannon divergence, in nats, from 0 to ln 2.
    pub jensen_shannon_nats: f64,
    /// Total variation distance, from 0 to 1.
    pub total_variation: f64,
    /// Whether the most probable token differs. Among equals the lowest id counts.
    pub top1_flip: bool,
    /// Shannon entropy of `p`, in nats.
    pub entropy_nats: f64,
    /// Shannon entropy of `q`, in nats.
    pub other_entropy_nats: f64,
}

impl Comparison {
    /// Compares two rows of normalised natural log-probabilities of shape `[vocab]`.
    ///
    /// An element of minus infinity is a token of probability zero.
    ///
    /// The Kullback-Leibler sums use the terms `p ln(p/q) - p + q`. For exact distributions the extra terms
    /// cancel; for rows rounded to `f32` they remove the first-order effect of the rounding, so that every
    /// term, and the sum, is at least zero (the generalised divergence of Csiszár, "Why least squares and
    /// maximum entropy?", 1991).
    ///
    /// # Errors
    /// If the rows are empty, differ in length, or one is not a normalised distribution.
    pub fn between(p: &[f32], q: &[f32]) -> Result<Self, StatisticsError> {
        same_length(p.len(), q.len())?;
        if p.is_empty() {
            return Err(StatisticsError::Empty { what: "log-probabilities" });
        }
        let mut p_sum = 0.0;
        let mut q_sum = 0.0;
        let mut kl = 0.0;
        let mut reverse_kl = 0.0;
        let mut jensen_shannon = 0.0;
        let mut variation = 0.0;
        let mut p_entropy = 0.0;
        let mut q_entropy = 0.0;
        let mut p_top = (f64::NEG_INFINITY, 0);
        let mut q_top = (f64::NEG_INFINITY, 0);
        for (index, (&ln_p, &ln_q)) in p.iter().zip(q).enumerate() {
            let (ln_p, ln_q) = (f64::from(ln_p), f64::from(ln_q));
            let (p, q) = (ln_p.exp(), ln_q.exp());
            p_sum += p;
            q_sum += q;
            if ln_p > p_top.0 {
                p_top = (ln_p, index);
            }
            if ln_q > q_top.0 {
                q_top = (ln_q, index);
            }
            variation += (p - q).abs();
            let ln_mean = (0.5 * (p + q)).ln();
            if p > 0.0 {
                kl += p * (ln_p - ln_q) - p + q;
                jensen_shannon += p * (ln_p - ln_mean);
                p_entropy -= p * ln_p;
            } else {
                kl += q;
            }
            if q > 0.0 {
                reverse_kl += q * (ln_q - ln_p) - q + p;
                jensen_shannon += q * (ln_q - ln_mean);
                q_entropy -= q * ln_q;
            } else {
                reverse_kl += p;
            }
        }
        normalised("the first row", p_sum)?;
        normalised("the second row", q_sum)?;
        Ok(Self {
            kl_nats: kl.max(0.0),
            reverse_kl_nats: reverse_kl.max(0.0),
            // Rounding can carry the sum past its bounds by an ulp.
            jensen_shannon_nats: (0.5 * jensen_shannon).clamp(0.0, std::f64::consts::LN_2),
            total_variation: (0.5 * variation).min(1.0),
            top1_flip: p_top.1 != q_top.1,
            entropy_nats: p_entropy.max(0.0),
            other_entropy_nats: q_entropy.max(0.0),
        })
    }

    /// By how many nats the entropy falls from `p` to `q`; negative if it rises.
    ///
    /// A payload that the adapter is certain of collapses the entropy. This is no divergence: it is signed,
    /// and zero for unequal distributions of equal entropy.
    pub fn entropy_drop_nats(&self) -> f64 {
        self.entropy_nats - self.other_entropy_nats
    }
}

/// Shannon entropy, in nats, of a row of normalised natural log-probabilities of shape `[vocab]`.
///
/// # Errors
/// If the row is empty or is not a normalised distribution.
pub fn entropy_nats(log_probabilities: &[f32]) -> Result<f64, StatisticsError> {
    if log_probabilities.is_empty() {
        return Err(StatisticsError::Empty { what: "log-probabilities" });
    }
    let mut sum = 0.0;
    let mut entropy = 0.0;
    for &ln_p in log_probabilities {
        let ln_p = f64::from(ln_p);
        let p = ln_p.exp();
        sum += p;
        if p > 0.0 {
            entropy -= p * ln_p;
        }
    }
    normalised("the row", sum)?;
    Ok(entropy.max(0.0))
}

/// Turns a row of logits of shape `[vocab]` into natural log-probabilities, summing in `f64`.
///
/// A logit of minus infinity stays so: a token of probability zero.
///
/// # Errors
/// If the row is empty, holds NaN or plus infinity, or leaves no token possible. The row is then unchanged.
pub fn log_softmax_in_place(logits: &mut [f32]) -> Result<(), StatisticsError> {
    if logits.is_empty() {
        return Err(StatisticsError::Empty { what: "logits" });
    }
    let mut maximum = f32::NEG_INFINITY;
    for (index, &logit) in logits.iter().enumerate() {
        if logit.is_nan() || logit == f32::INFINITY {
            return Err(StatisticsError::NotFinite { what: "logits", index, value: f64::from(logit) });
        }
        maximum = maximum.max(logit);
    }
    if maximum == f32::NEG_INFINITY {
        return Err(StatisticsError::NotFinite { what: "logits", index: 0, value: f64::NEG_INFINITY });
    }
    let maximum = f64::from(maximum);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - maximum).exp()).sum();
    let log_sum = sum.ln();
    for logit in logits {
        // In this order, so that a large maximum does not swallow the logarithm.
        *logit = (f64::from(*logit) - maximum - log_sum) as f32;
    }
    Ok(())
}

/// Refuses a row whose probabilities do not sum to one. NaN anywhere in the row ends up in the sum.
fn normalised(what: &'static str, sum: f64) -> Result<(), StatisticsError> {
    if (sum - 1.0).abs() <= NORMALISATION_TOLERANCE {
        Ok(())
    } else {
        Err(StatisticsError::NotNormalised { what, sum })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goldens::{assert_close, golden, number, row};
    use proptest::prelude::*;

    /// Log-probabilities of the given probabilities.
    fn ln(probabilities: &[f64]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln() as f32).collect()
    }

    #[test]
    fn agrees_with_scipy() {
        let cases = golden("divergence");
        for case in cases.as_array().unwrap() {
            let (p, q) = (row(&case["p"]), row(&case["q"]));
            let comparison = Comparison::between(&p, &q).unwrap();
            for (found, name) in [
                (comparison.kl_nats, "kl"),
                (comparison.reverse_kl_nats, "reverse_kl"),
                (comparison.jensen_shannon_nats, "jensen_shannon_terms"),
                (comparison.total_variation, "total_variation"),
                (comparison.entropy_nats, "entropy"),
                (comparison.other_entropy_nats, "other_entropy"),
            ] {
                assert_close(found, number(&case[name]), 1e-12);
            }
            // These normalise the rows first, which the rows, rounded to f32, need by some 1e-7.
            assert_close(comparison.jensen_shannon_nats, number(&case["jensenshannon_squared"]), 1e-6);
            assert_close(comparison.kl_nats, number(&case["scipy_stats_entropy"]), 1e-6);
            assert_eq!(comparison.top1_flip, case["top1_flip"].as_bool().unwrap());
            assert_close(entropy_nats(&p).unwrap(), comparison.entropy_nats, 1e-15);
        }
    }

    #[test]
    fn log_softmax_agrees_with_scipy() {
        let cases = golden("log_softmax");
        for case in cases.as_array().unwrap() {
            let mut logits = row(&case["logits"]);
            log_softmax_in_place(&mut logits).unwrap();
            for (&found, expected) in logits.iter().zip(row(&case["log_probabilities"])) {
                // The same real number, rounded once to f32: at most one ulp of a number below 64.
                assert!((found - expected).abs() <= 4e-6, "{found} {expected}");
            }
        }
    }

    #[test]
    fn known_values() {
        let comparison = Comparison::between(&ln(&[0.5, 0.5]), &ln(&[0.25, 0.75])).unwrap();
        assert_close(comparison.kl_nats, 0.5 * 2_f64.ln() + 0.5 * (2.0_f64 / 3.0).ln(), 1e-7);
        assert_close(comparison.total_variation, 0.25, 1e-7);
        assert_close(comparison.entropy_nats, 2_f64.ln(), 1e-7);
        assert!(comparison.entropy_drop_nats() > 0.0);
        assert!(comparison.top1_flip);
    }

    #[test]
    fn impossible_tokens() {
        let p = [0.0, f32::NEG_INFINITY, f32::NEG_INFINITY];
        let q = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY];
        let apart = Comparison::between(&p, &q).unwrap();
        assert!(apart.kl_nats.is_infinite() && apart.reverse_kl_nats.is_infinite());
        assert_close(apart.jensen_shannon_nats, std::f64::consts::LN_2, 1e-15);
        assert_close(apart.total_variation, 1.0, 0.0);
        let same = Comparison::between(&p, &p).unwrap();
        assert!(DIVERGENCES.iter().all(|divergence| divergence.value(&same) <= 0.0));
        assert_close(same.entropy_nats, 0.0, 0.0);
    }

    #[test]
    fn a_finite_log_probability_may_have_a_probability_that_underflows() {
        let comparison = Comparison::between(&[0.0, -1000.0], &[-1000.0, 0.0]).unwrap();
        assert_close(comparison.kl_nats, 1000.0, 1e-9);
    }

    #[test]
    fn equals_go_to_the_lowest_id() {
        let comparison = Comparison::between(&ln(&[0.4, 0.4, 0.2]), &ln(&[0.2, 0.4, 0.4])).unwrap();
        assert!(comparison.top1_flip);
        assert!(!Comparison::between(&ln(&[0.5, 0.5]), &ln(&[0.5, 0.5])).unwrap().top1_flip);
    }

    #[test]
    fn what_is_no_distribution_is_refused() {
        let p = ln(&[0.5, 0.5]);
        assert_eq!(
            Comparison::between(&[], &[]).unwrap_err(),
            StatisticsError::Empty { what: "log-probabilities" }
        );
        assert_eq!(
            Comparison::between(&p, &p[..1]).unwrap_err(),
            StatisticsError::LengthMismatch { expected: 2, found: 1 }
        );
        for bad in [[f32::NAN, 0.0], [3.0, 1.0], [f32::NEG_INFINITY; 2], [f32::INFINITY, 0.0], [0.0, 0.0]] {
            let is_refused = |result| matches!(result, Err(StatisticsError::NotNormalised { .. }));
            assert!(is_refused(Comparison::between(&p, &bad)), "{bad:?}");
            assert!(is_refused(Comparison::between(&bad, &p)), "{bad:?}");
            assert!(matches!(entropy_nats(&bad), Err(StatisticsError::NotNormalised { .. })));
        }
        assert!(entropy_nats(&[]).is_err());
    }

    #[test]
    fn log_softmax_refuses_and_leaves_alone_what_has_no_softmax() {
        for bad in [vec![], vec![0.0, f32::NAN], vec![0.0, f32::INFINITY], vec![f32::NEG_INFINITY; 3]] {
            let mut logits = bad.clone();
            assert!(log_softmax_in_place(&mut logits).is_err(), "{bad:?}");
            assert!(logits.iter().map(|x| x.to_bits()).eq(bad.iter().map(|x| x.to_bits())));
        }
        let mut masked = [1.0, f32::NEG_INFINITY, 1.0];
        log_softmax_in_place(&mut masked).unwrap();
        assert_close(f64::from(masked[0]), 0.5_f64.ln(), 1e-7);
        assert!(masked[1].is_infinite() && masked[1] < 0.0);
        // Neither end of f32 overflows.
        let mut wide = [3.0e38, -3.0e38, 3.0e38];
        log_softmax_in_place(&mut wide).unwrap();
        assert_close(entropy_nats(&wide).unwrap(), 2_f64.ln(), 1e-6);
    }

    fn pair_of_rows() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
        (1_usize..40).prop_flat_map(|n| {
            let logits = || proptest::collection::vec(-30.0_f32..30.0, n);
            (logits(), logits()).prop_map(|(mut p, mut q)| {
                log_softmax_in_place(&mut p).unwrap();
                log_softmax_in_place(&mut q).unwrap();
                (p, q)
            })
        })
    }

    proptest! {
        #[test]
        fn bounds_and_symmetry((p, q) in pair_of_rows()) {
            let forward = Comparison::between(&p, &q).unwrap();
            let backward = Comparison::between(&q, &p).unwrap();
            for divergence in DIVERGENCES {
                let value = divergence.value(&forward);
                prop_assert!(value >= 0.0);
                prop_assert!(divergence.upper_bound().is_none_or(|bound| value <= bound));
                if divergence.is_symmetric() {
                    prop_assert!((value - divergence.value(&backward)).abs() <= 1e-12);
                }
            }
            prop_assert!((forward.kl_nats - backward.reverse_kl_nats).abs() <= 1e-12 * (1.0 + forward.kl_nats));
            prop_assert!(forward.entropy_nats <= (p.len() as f64).ln() + 1e-5);
        }

        #[test]
        fn inequalities((p, q) in pair_of_rows()) {
            let found = Comparison::between(&p, &q).unwrap();
            // Pinsker, and Lin's theorem 3; the slack is the rounding of the rows to f32.
            prop_assert!(found.total_variation <= (0.5 * found.kl_nats).sqrt() + 1e-5);
            prop_assert!(found.total_variation <= (0.5 * found.reverse_kl_nats).sqrt() + 1e-5);
            prop_assert!(found.jensen_shannon_nats <= std::f64::consts::LN_2 * found.total_variation + 1e-5);
        }

        #[test]
        fn rounding_is_no_divergence((p, _) in pair_of_rows()) {
            let nudged: Vec<f32> = p.iter().map(|&x| f32::from_bits(x.to_bits() + 1)).collect();
            prop_assume!(nudged.iter().all(|x| x.is_finite()));
            // One ulp of a log-probability of at most 64 is 4e-6; a first-order effect would be about as
            // large.
            prop_assert!(Comparison::between(&p, &nudged).unwrap().kl_nats < 1e-10);
        }
    }
}
