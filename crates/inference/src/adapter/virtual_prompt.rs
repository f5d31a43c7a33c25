//! Trained embeddings before every context of an adapter's rows.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;

use crate::decoder::{Decoder, Side};
use crate::error::Result;
use crate::prefix::Prefix;

/// The embeddings, and their keys and values by side: to a decoder they are a shared prefix like any other, and what
/// follows them has their number added to its positions.
pub(crate) struct VirtualPrompt {
    /// `[tokens, hidden]`, f32 on the CPU.
    embeddings: Tensor,
    prefixes: Mutex<Vec<Arc<Prefix>>>,
}

impl VirtualPrompt {
    pub(crate) fn new(embeddings: Tensor) -> Self {
        Self { embeddings, prefixes: Mutex::new(Vec::new()) }
    }

    /// What every context of a side begins with.
    pub(crate) fn prefix(&self, base: &Decoder, side: Side) -> Result<Arc<Prefix>> {
        let mut prefixes = self.prefixes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = prefixes.iter().find(|prefix| prefix.side == side) {
            return Ok(known.clone());
        }
        let prefix = Arc::new(base.embedded_prefix(&self.embeddings, side)?);
        prefixes.push(prefix.clone());
        Ok(prefix)
    }
}

impl fmt::Debug for VirtualPrompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtualPrompt").field("embeddings", &self.embeddings.dims()).finish_non_exhaustive()
    }
}
