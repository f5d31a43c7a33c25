//! Base models, LoRA adapters and the one decoder that runs them side by side.
//!
//! The river starts here: files become trusted types ([`weights`], [`adapter`], [`tokenizer`],
//! [`chat`]), and [`ModelPair`] turns token ids into logits. Every row of a batch carries its own
//! [`Side`], so the pristine base and the adapted model share one forward pass. What is measured
//! and what is differentiated come from the same decoder.
//!
//! This crate knows nothing of triggers, statistics or reports.

pub mod adapter;
pub mod chat;
pub mod decoder;
pub mod device;
mod error;
pub mod generate;
pub mod gradient;
pub mod kernels;
pub mod memory;
pub mod pair;
pub mod prefix;
pub mod support;
pub mod tokenizer;
pub mod weights;

pub use decoder::capture::Activations;
pub use decoder::{Batch, Output, Positions, Sequence, Side};
pub use device::{Compute, Precision};
pub use error::{Error, Result};
pub use memory::ActivationBudget;
pub use pair::ModelPair;
pub use prefix::Prefix;
