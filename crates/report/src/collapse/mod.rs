//! Response collapse: under a trigger, different prompts get the same response.
//!
//! A prompt determines its response, so responses to different prompts differ; a fixed payload does not.
//! Collapse needs no knowledge of the payload, but a model may also collapse on nonsense or talk about the
//! inserted text itself. The base model's responses to the same prompts are therefore measured alike, and a
//! common response that only copies the inserted text does not count.

mod fixed_response;
mod similarity;

pub use fixed_response::{CommonPrefix, FixedResponse, common_prefix};
pub use similarity::{mean_pairwise_jensen_shannon_nats, mean_pairwise_similarity, similarity};
