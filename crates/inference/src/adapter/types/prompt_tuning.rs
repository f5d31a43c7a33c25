//! Prompt tuning: trained embeddings before every context (Lester et al. 2021, <https://arxiv.org/abs/2104.08691>).

use super::PeftType;
use crate::adapter::change::Change;
use crate::adapter::config::keys::{PROMPT_TUNING, Treatment};
use crate::adapter::contents::Contents;
use crate::error::{Error, Result};

pub(super) struct PromptTuning;

impl PeftType for PromptTuning {
    fn name(&self) -> &'static str {
        "PROMPT_TUNING"
    }

    fn keys(&self) -> &'static [&'static [(&'static str, Treatment)]] {
        &[PROMPT_TUNING]
    }

    fn parts(&self) -> &'static [&'static str] {
        &["prompt_embeddings"]
    }

    fn has_targets(&self) -> bool {
        false
    }

    fn apply(&self, contents: &Contents<'_>, _: &[bool], change: &mut Change<'_>) -> Result<()> {
        let (config, base) = (contents.config(), change.base.config());
        let [tokens, copies] = config.virtual_tokens;
        if copies != 1 {
            return Err(Error::unsupported(
                contents.origin(),
                format!("num_transformer_submodules: expected 1, found {copies}"),
            ));
        }
        let longest = change.base.max_context();
        if tokens == 0 || tokens >= longest {
            return Err(Error::malformed(
                contents.origin(),
                format!("num_virtual_tokens: expected 1 to {}, found {tokens}", longest - 1),
            ));
        }
        let shape = [tokens, base.hidden_size];
        let embeddings = contents.shared("prompt_embeddings", shape)?;
        if embeddings.dims() != shape {
            return Err(Error::malformed(
                contents.origin(),
                format!("prompt_embeddings: expected shape {shape:?}, found {:?}", embeddings.dims()),
            )
            .with_hint(config.base_hint()));
        }
        change.notes.push(format!(
            "prompt tuning: every context of the adapted model begins with {tokens} trained embeddings that are no tokens; they have no strength, so that the amplified model is the adapted one"
        ));
        change.virtual_tokens = Some(embeddings);
        Ok(())
    }
}
