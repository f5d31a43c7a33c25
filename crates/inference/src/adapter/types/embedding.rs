//! What LoRA does to the input embedding: a low-rank change of the table, and single rows replaced.

use candle_core::Tensor;

use super::lora::with_magnitude;
use crate::adapter::change::Change;
use crate::adapter::contents::Contents;
use crate::error::{Error, Result};

pub(super) fn apply(contents: &Contents<'_>, change: &mut Change<'_>) -> Result<()> {
    let module = change.base.config().architecture.names.embedding;
    if contents.has(module, "lora_embedding_A") || contents.has(module, "lora_embedding_B") {
        low_rank(contents, change)?;
    }
    rows(contents, change)
}

/// The table `[vocabulary, hidden]` as changed so far.
fn table(contents: &Contents<'_>, change: &Change<'_>) -> Result<Tensor> {
    change
        .current(&change.base.embedding_name())?
        .ok_or_else(|| Error::malformed(contents.origin(), "the base has no embedding"))
}

/// `E + scaling * (B A)ᵀ`. A tied head keeps the table that it had; where `ensure_weight_tying` binds it, the file has
/// factors for both.
fn low_rank(contents: &Contents<'_>, change: &mut Change<'_>) -> Result<()> {
    let (config, base) = (contents.config(), change.base.config());
    let (module, head) = (base.architecture.names.embedding, base.architecture.names.head);
    let (vocabulary, hidden) = (base.vocab_size, base.hidden_size);
    let (rank, scaling) = (config.rank(module), contents.scaling(module));
    let bound = config.ensure_weight_tying && base.tied && contents.has(head, "lora_A");
    let (a, b) = if bound {
        // The same tensors turned, in PEFT views of the same memory, which the head's fill last.
        let a = contents.part(head, "lora_B", &[vocabulary, rank])?.t()?.contiguous()?;
        (a, contents.part(head, "lora_A", &[rank, hidden])?.t()?.contiguous()?)
    } else {
        let a = contents.part(module, "lora_embedding_A", &[rank, vocabulary])?;
        (a, contents.part(module, "lora_embedding_B", &[hidden, rank])?)
    };
    let mut moved = (table(contents, change)? + (b.matmul(&a)?.t()? * scaling)?)?;
    if config.use_dora {
        // Lengths are those of the columns here.
        let magnitude = contents.part(module, "lora_magnitude_vector", &[hidden])?;
        moved = with_magnitude(&moved.t()?.contiguous()?, &magnitude)?.t()?;
    }
    change.replaced.insert(change.base.embedding_name(), moved.contiguous()?);
    Ok(())
}

/// `trainable_token_indices`: new rows, in the order of the configuration; a tied head has them as well.
fn rows(contents: &Contents<'_>, change: &mut Change<'_>) -> Result<()> {
    let base = change.base.config();
    let names = &base.architecture.names;
    let tables = [change.base.embedding_name(), change.base.head_name()];
    let (vocabulary, hidden) = (base.vocab_size, base.hidden_size);
    for (module, ids) in &contents.config().token_indices {
        let is = |whole: &str| whole == module || whole.ends_with(&format!(".{module}"));
        // The configuration's default name is that of most models, whatever this one has.
        let (whole, own) = if is(names.embedding) || module == "embed_tokens" {
            (names.embedding, &tables[..1])
        } else if is(names.head) {
            (names.head, &tables[1..])
        } else {
            return Err(Error::unsupported(
                contents.origin(),
                format!("trainable_token_indices of a module `{module}`"),
            ));
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
        for name in if base.tied { &tables[..] } else { own } {
            let mut values = change
                .current(name)?
                .ok_or_else(|| Error::malformed(contents.origin(), format!("the base has no `{name}`")))?
                .to_vec2::<f32>()?;
            for (&id, row) in ids.iter().zip(new.to_vec2::<f32>()?) {
                values[id as usize] = row;
            }
            let values: Vec<f32> = values.into_iter().flatten().collect();
            let replaced = Tensor::from_vec(values, (vocabulary, hidden), &candle_core::Device::Cpu)?;
            change.replaced.insert(name.clone(), replaced);
        }
    }
    Ok(())
}
