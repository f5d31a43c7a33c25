//! LN tuning: norms of the base replaced whole.

use super::{PeftType, known_targets};
use crate::adapter::change::Change;
use crate::adapter::config::keys::Treatment;
use crate::adapter::contents::Contents;
use crate::error::{Error, Result};

pub(super) struct NormTuning;

const PART: &str = "ln_tuning_layers";

impl PeftType for NormTuning {
    fn name(&self) -> &'static str {
        "LN_TUNING"
    }

    fn keys(&self) -> &'static [&'static [(&'static str, Treatment)]] {
        &[]
    }

    fn parts(&self) -> &'static [&'static str] {
        &[PART]
    }

    fn default_targets(&self, model_type: &str) -> Option<&'static [&'static str]> {
        known_targets(&[(&["llama"], &["input_layernorm", "post_attention_layernorm", "norm"])], model_type)
    }

    fn changes(&self, module: &str) -> bool {
        module.ends_with("norm")
    }

    fn apply(&self, contents: &Contents<'_>, _: &[bool], change: &mut Change<'_>) -> Result<()> {
        for module in contents.modules() {
            for (parameter, bias) in [("weight", false), ("bias", true)] {
                let name = format!("{module}.{parameter}");
                let Some(own) = change.current(&name)? else {
                    if !bias || contents.has_bias(module, PART) {
                        return Err(Error::malformed(
                            contents.origin(),
                            format!("the base has no parameter `{name}`"),
                        )
                        .with_hint(contents.config().base_hint()));
                    }
                    continue;
                };
                let new = match bias {
                    false => Some(contents.part(module, PART, own.dims())?),
                    true => contents.bias(module, PART, own.dims())?,
                };
                if let Some(new) = new {
                    change.replaced.insert(name, new);
                }
            }
        }
        Ok(())
    }
}
