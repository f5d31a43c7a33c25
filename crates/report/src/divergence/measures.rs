//! The divergences by name: one type each, and the table of all.

use super::Comparison;

/// All divergences, in the order in which reports show them.
pub const DIVERGENCES: &[&dyn Divergence] =
    &[&KullbackLeibler, &ReverseKullbackLeibler, &JensenShannon, &TotalVariation, &Top1Flip];

/// A number that is zero for equal distributions and positive otherwise, but for [`Top1Flip`], which only
/// sees the most probable token.
pub trait Divergence: Sync {
    /// Kebab-case name, as in reports and options.
    fn name(&self) -> &'static str;

    /// Unit of the value, as in reports.
    fn unit(&self) -> &'static str;

    /// Whether the value is the same with the distributions exchanged.
    fn is_symmetric(&self) -> bool;

    /// The largest value possible, if there is one.
    fn upper_bound(&self) -> Option<f64>;

    /// The value within a comparison.
    fn value(&self, comparison: &Comparison) -> f64;
}

/// KL(p || q), Kullback and Leibler, "On information and sufficiency", 1951: the price, in nats, of taking
/// the base's text for the adapter's.
#[derive(Debug, Clone, Copy)]
pub struct KullbackLeibler;

impl Divergence for KullbackLeibler {
    fn name(&self) -> &'static str {
        "kl"
    }

    fn unit(&self) -> &'static str {
        "nats"
    }

    fn is_symmetric(&self) -> bool {
        false
    }

    fn upper_bound(&self) -> Option<f64> {
        None
    }

    fn value(&self, comparison: &Comparison) -> f64 {
        comparison.kl_nats
    }
}

/// KL(q || p): large when the adapter is sure of a token that the base finds unlikely, as with a payload.
#[derive(Debug, Clone, Copy)]
pub struct ReverseKullbackLeibler;

impl Divergence for ReverseKullbackLeibler {
    fn name(&self) -> &'static str {
        "reverse-kl"
    }

    fn unit(&self) -> &'static str {
        "nats"
    }

    fn is_symmetric(&self) -> bool {
        false
    }

    fn upper_bound(&self) -> Option<f64> {
        None
    }

    fn value(&self, comparison: &Comparison) -> f64 {
        comparison.reverse_kl_nats
    }
}

/// Jensen-Shannon divergence, Lin, "Divergence measures based on the Shannon entropy", 1991: bounded, so one
/// odd token cannot outweigh all prompts.
#[derive(Debug, Clone, Copy)]
pub struct JensenShannon;

impl Divergence for JensenShannon {
    fn name(&self) -> &'static str {
        "jensen-shannon"
    }

    fn unit(&self) -> &'static str {
        "nats"
    }

    fn is_symmetric(&self) -> bool {
        true
    }

    fn upper_bound(&self) -> Option<f64> {
        Some(std::f64::consts::LN_2)
    }

    fn value(&self, comparison: &Comparison) -> f64 {
        comparison.jensen_shannon_nats
    }
}

/// Total variation distance: the largest difference in probability that any set of tokens can show.
#[derive(Debug, Clone, Copy)]
pub struct TotalVariation;

impl Divergence for TotalVariation {
    fn name(&self) -> &'static str {
        "total-variation"
    }

    fn unit(&self) -> &'static str {
        "probability"
    }

    fn is_symmetric(&self) -> bool {
        true
    }

    fn upper_bound(&self) -> Option<f64> {
        Some(1.0)
    }

    fn value(&self, comparison: &Comparison) -> f64 {
        comparison.total_variation
    }
}

/// 1 if the most probable token differs, else 0: what greedy decoding would notice.
#[derive(Debug, Clone, Copy)]
pub struct Top1Flip;

impl Divergence for Top1Flip {
    fn name(&self) -> &'static str {
        "top1-flip"
    }

    fn unit(&self) -> &'static str {
        "flips"
    }

    fn is_symmetric(&self) -> bool {
        true
    }

    fn upper_bound(&self) -> Option<f64> {
        Some(1.0)
    }

    fn value(&self, comparison: &Comparison) -> f64 {
        if comparison.top1_flip { 1.0 } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = DIVERGENCES.iter().map(|divergence| divergence.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DIVERGENCES.len());
    }
}
