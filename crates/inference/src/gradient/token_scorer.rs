//! From gradients of embeddings to scores of tokens.

use candle_core::{DType, Tensor};

use crate::error::Result;
use crate::kernels::{self, FrozenLinear};
use crate::pair::ModelPair;

/// First-order effect of exchanging tokens: `gradient · embedding` for every token of the vocabulary.
///
/// The difference of two tokens' scores is, to first order, what the objective gains when one takes the
/// other's place (Ebrahimi et al., "HotFlip", 2018; the linearisation that AutoPrompt and GCG rank by).
pub struct TokenScorer {
    table: Table,
}

/// The embedding table as a product's weight.
enum Table {
    Packed(FrozenLinear),
    /// `[hidden, vocabulary]`.
    Composed(Tensor),
}

impl TokenScorer {
    /// Prepares the embeddings of a base; keep it, since it copies the table. An adapter with a table of its own is
    /// scored by the base's all the same: what is proposed by these scores is measured by passes that have the right one.
    ///
    /// # Errors
    /// If the tensor library fails.
    pub fn new(pair: &ModelPair) -> Result<Self> {
        let decoder = pair.decoder();
        let all: Vec<u32> = (0..pair.config().vocab_size as u32).collect();
        let table = decoder.embed(&all)?;
        let table = if decoder.compute().fused().is_some() {
            // The rows are already rounded to the base's precision, so bf16 loses nothing there.
            let narrow = decoder.compute().precision.dtype() == DType::BF16;
            let table = if narrow { table.to_dtype(DType::BF16)? } else { table };
            Table::Packed(FrozenLinear::from_tensor(&table, kernels::Precision::F32)?)
        } else {
            Table::Composed(table.to_dtype(DType::F32)?.t()?.contiguous()?)
        };
        Ok(Self { table })
    }

    /// Scores `[rows, vocabulary]` in f32 of gradient rows `[rows, hidden]` in f32.
    ///
    /// # Errors
    /// If the width is not the model's.
    pub fn scores(&self, gradient: &Tensor) -> Result<Tensor> {
        Ok(match &self.table {
            Table::Packed(table) => table.forward(gradient)?,
            Table::Composed(table) => gradient.contiguous()?.matmul(table)?,
        })
    }
}
