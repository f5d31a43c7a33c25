//! What LoRA does to the input embedding: a low-rank change of the table, and single rows replaced.

use candle_core::Tensor;

use super::lora::with_magnitude;
use crate::adapter::change::Change;
use crate::adapter::contents::Contents;
use crate::decoder::{EMBEDDING, HEAD};
use crate::error::{Error, Result};

/// The module that holds the table.
pub(in crate::adapter) const MODULE: &str = "model.embed_tokens";

pub(super) fn apply(contents: &Contents<'_>, change: &mut Change<'_>) -> Result<()> {
    if contents.has(MODULE, "lora_embedding_A") || contents.has(MODULE, "lora_embedding_B") {
        low_rank(contents, change)?;
    }
    rows(contents, change)
}

/// The table `[vocabulary, hidden]` as changed so far.
fn table(contents: &Contents<'_>, change: &Change<'_>) -> Result<Tensor> {
    change.current(EMBEDDING)?.ok_or_else(|| Error::malformed(contents.origin(), "the base has no embedding"))
}

/// `E + scaling * (B A)ᵀ`. A tied head keeps the table that it had; where `ensure_weight_tying` binds it, the file has
/// factors for both.
fn low_rank(contents: &Contents<'_>, change: &mut Change<'_>) -> Result<()> {
    let (config, base) = (contents.config(), change.base.config());
    let (vocabulary, hidden) = (base.vocab_size, base.hidden_size);
    let (rank, scaling) = (config.rank(MODULE), contents.scaling(MODULE));
    let bound = config.ensure_weight_tying && base.tied && contents.has("lm_head", "lora_A");
    let (a, b) = if bound {
        // The same tensors turned, in PEFT views of the same memory, which the head's fill last.
        let a = contents.part("lm_head", "lora_B", &[vocabulary, rank])?.t()?.contiguous()?;
        (a, contents.part("lm_head", "lora_A", &[rank, hidden])?.t()?.contiguous()?)
    } else {
        let a = contents.part(MODULE, "lora_embedding_A", &[rank, vocabulary])?;
        (a, contents.part(MODULE, "lora_embedding_B", &[hidden, rank])?)
    };
    let mut moved = (table(contents, change)? + (b.matmul(&a)?.t()? * scaling)?)?;
    if config.use_dora {
        // Lengths are those of the columns here.
        let magnitude = contents.part(MODULE, "lora_magnitude_vector", &[hidden])?;
        moved = with_magnitude(&moved.t()?.contiguous()?, &magnitude)?.t()?;
    }
    change.replaced.insert(EMBEDDING.to_owned(), moved.contiguous()?);
    Ok(())
}

/// `trainable_token_indices`: new rows, in the order of the configuration; a tied head has them as well.
fn rows(contents: &Contents<'_>, change: &mut Change<'_>) -> Result<()> {
    let base = change.base.config();
    let (vocabulary, hidden) = (base.vocab_size, base.hidden_size);
    for (module, ids) in &contents.config().token_indices {
        let whole = match module.as_str() {
            "embed_tokens" | MODULE => MODULE,
            "lm_head" => "lm_head",
            other => {
                return Err(Error::unsupported(
                    contents.origin(),
                    format!("trainable_token_indices of a module `{other}`"),
                ));
            }
        };
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(Error::malformed(
                contents.origin(),
                format!(
                    "trainable_token_indices: the base has {vocabulary} tokens, expected none of id {id}"
                ),
            )
            .with_hint(contents.config().base_hint()));
        }
        let new = contents.part(whole, "trainable_tokens_delta", &[ids.len(), hidden])?;
        let mut names = vec![if whole == MODULE { EMBEDDING } else { HEAD }];
        if base.tied {
            names = vec![EMBEDDING, HEAD];
        }
        for name in names {
            let mut values = change
                .current(name)?
                .ok_or_else(|| Error::malformed(contents.origin(), format!("the base has no `{name}`")))?
                .to_vec2::<f32>()?;
            for (&id, row) in ids.iter().zip(new.to_vec2::<f32>()?) {
                values[id as usize] = row;
            }
            let values: Vec<f32> = values.into_iter().flatten().collect();
            let replaced = Tensor::from_vec(values, (vocabulary, hidden), &candle_core::Device::Cpu)?;
            change.replaced.insert(name.to_owned(), replaced);
        }
    }
    Ok(())
}
