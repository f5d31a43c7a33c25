//! How much one pass may hold beside the weights.

use crate::decoder::config::DecoderConfig;

/// Rows past this many do not make a pass faster, and leave the caches.
const MOST_ROWS: usize = 1024;
const MOST_LOGIT_ROWS: usize = 256;
const MOST_DECODED: usize = 64;
/// Parts of the budget, in hundredths: activations, logits, keys and values of what is being continued, and those of
/// shared prefixes.
const ACTIVATIONS: u64 = 25;
const LOGITS: u64 = 40;
const CACHES: u64 = 25;
const PREFIXES: u64 = 10;
/// What a pass keeps for its gradient, beside which nothing is being continued.
const GRADIENTS: u64 = 75;
/// Times what a layer of Llama's kind keeps, as measured, that candle's graph keeps of other layers, and of experts.
const GRAPH: usize = 2;
const GRAPH_OF_EXPERTS: usize = 3;

/// Bytes for activations, logits and keys and values. Larger work is split; no result depends on how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActivationBudget {
    bytes: u64,
}

impl ActivationBudget {
    /// A budget of this many bytes. One sequence always runs, whatever it takes.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self { bytes }
    }

    /// New tokens that one forward pass takes.
    #[must_use]
    pub fn rows(&self, config: &DecoderConfig) -> usize {
        let (hidden, inter) = (config.hidden_size, config.intermediate_size);
        // The residual stream with its sums, what attention reads and gives, gate and up with what they become.
        let floats = 6 * hidden + 2 * (config.q_width() + 2 * config.kv_width()) + 4 * inter;
        self.fit(ACTIVATIONS, floats).min(MOST_ROWS)
    }

    /// New tokens that one pass takes whose gradient is wanted: it keeps the activations of every layer.
    #[must_use]
    pub fn gradient_rows(&self, config: &DecoderConfig) -> usize {
        let (inter, times) = match &config.experts {
            Some(experts) => (experts.width * experts.per_row, GRAPH_OF_EXPERTS),
            None if config.is_llama_like() => (config.intermediate_size, 1),
            None => (config.intermediate_size, GRAPH),
        };
        // A layer's input, queries, keys, values and heads, the stream between its blocks, gate and up.
        let kept = 2 * (config.hidden_size + config.q_width() + config.kv_width() + inter);
        self.fit(GRADIENTS, config.layers * kept * times).min(self.rows(config) / 2).max(1)
    }

    /// Rows of logits that one forward pass gives.
    #[must_use]
    pub fn logit_rows(&self, config: &DecoderConfig) -> usize {
        // The logits, and the log-probabilities that are made of them.
        self.fit(LOGITS, 2 * config.vocab_size).min(MOST_LOGIT_ROWS)
    }

    /// Sequences that are continued together, each up to `positions` positions of its own.
    #[must_use]
    pub fn decoded(&self, config: &DecoderConfig, positions: usize) -> usize {
        (self.cached_positions(CACHES, config) / positions.max(1)).clamp(1, MOST_DECODED)
    }

    /// Positions of shared prefixes that are kept.
    #[must_use]
    pub fn prefix_positions(&self, config: &DecoderConfig) -> usize {
        self.cached_positions(PREFIXES, config)
    }

    fn cached_positions(&self, share: u64, config: &DecoderConfig) -> usize {
        self.fit(share, 2 * config.layers * config.kv_width())
    }

    /// How many times so many f32 fit into a share; at least once.
    fn fit(&self, share: u64, floats: usize) -> usize {
        let bytes = self.bytes / 100 * share;
        usize::try_from(bytes / (4 * floats.max(1) as u64)).unwrap_or(usize::MAX).max(1)
    }
}

impl Default for ActivationBudget {
    /// 512 MiB.
    fn default() -> Self {
        Self::new(512 << 20)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(case: &str) -> DecoderConfig {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/parity").join(case);
        DecoderConfig::from_file(&folder.join("base/config.json")).unwrap()
    }

    #[test]
    fn gradients_keep_every_layer_and_more_where_candle_differentiates() {
        let budget = ActivationBudget::new(1 << 20);
        let bytes = |case: &str, times: usize| {
            let config = DecoderConfig { layers: 30, ..config(case) };
            let rows = budget.gradient_rows(&config);
            let width = config.hidden_size + config.q_width() + config.kv_width() + config.intermediate_size;
            rows * config.layers * 2 * width * 4 * times
        };
        for (case, times) in [("llama-plain", 1), ("qwen3", 2)] {
            let taken = bytes(case, times);
            assert!(taken <= 786_432 && taken > 600_000, "{case}: {taken}");
        }
        let large = ActivationBudget::default();
        let plain = config("llama-plain");
        assert_eq!(large.gradient_rows(&plain), large.rows(&plain) / 2);
        assert_eq!(ActivationBudget::new(1).gradient_rows(&plain), 1);
    }
}
