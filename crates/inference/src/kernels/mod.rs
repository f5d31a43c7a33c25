//! The fused CPU operations of the decoder, each a candle custom op with its own backward.
//!
//! candle's own fused operations cut the autograd graph, its matrix product packs a constant weight again on every
//! call, and its differentiable compositions walk memory once per step. The operations here keep the graph, pack
//! a frozen weight once ([`FrozenLinear`]), and work on *flat rows*: a batch of ragged sequences is one matrix
//! `[rows, width]` with no padding, and only [`attention()`] knows where a sequence starts.
//!
//! **Invariants**, each with a test beside the code:
//!
//! * A row's result does not depend on the batch it is computed in, on the number of threads, or on whether its
//!   prefix was shared, bit for bit: no sum is ever split or reordered for speed. A difference between two models is
//!   then never an artefact of batching.
//! * Every operation agrees with its slow, composed form in candle, forwards and backwards.
//! * Gradients flow to activations, and to a branch's factors where they are asked for ([`FactorSums`]). Weights,
//!   tables and cached keys are constants.
//!
//! This is the only module with `unsafe` code: vector instructions behind a run-time check ([`Tier`]), and output
//! buffers that several threads fill in disjoint parts. Every `unsafe` block sits behind a safe function.
//!
//! All operations take `f32` tensors on the CPU and fail on anything else; a GPU runs the composed forms.

#![expect(unsafe_code, reason = "vector instructions and uninitialised outputs, each behind a safe function")]

mod activation;
mod attention;
mod block;
mod energy;
mod factors;
mod gemm;
mod linear;
mod logits;
mod low_rank;
mod norm;
#[cfg(test)]
mod oracle;
mod pack;
mod residual;
mod rope;
mod rows;
mod simd;
mod threads;
mod tier;
mod tile;

pub use activation::{Activation, gated, gated_gradient, swiglu};
pub use attention::{AttentionShape, KvCache, Past, Span, attention, attention_gradient};
pub use energy::Energy;
pub use factors::FactorSums;
pub use linear::FrozenLinear;
pub use logits::{argmax, log_softmax, token_log_probs};
pub use low_rank::{AdaptedRows, Factors, LowRank};
pub use norm::{rms_norm, rms_norm_gradient};
pub use pack::Precision;
pub use residual::residual_sum;
pub use rope::{RotaryTable, rope, rope_back_in_place};
pub(crate) use threads::{alone, least_items};
pub use tier::Tier;
