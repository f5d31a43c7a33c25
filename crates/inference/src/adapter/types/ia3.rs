//! IA3: the outputs of modules times a vector, bias included; of feed-forward modules the inputs.

use super::{PeftType, known_targets, present};
use crate::adapter::change::{Change, bias_of};
use crate::adapter::config::keys::{IA3, Treatment};
use crate::adapter::contents::Contents;
use crate::error::Result;

pub(super) struct Ia3;

/// PEFT's default modules, of the families whose feed-forward modules are known to be these.
const DEFAULTS: &[(&[&str], &[&str])] =
    &[(&["llama", "mistral", "qwen2", "gemma"], &["k_proj", "v_proj", "down_proj"])];

impl PeftType for Ia3 {
    fn name(&self) -> &'static str {
        "IA3"
    }

    fn keys(&self) -> &'static [&'static [(&'static str, Treatment)]] {
        &[IA3]
    }

    fn parts(&self) -> &'static [&'static str] {
        &["ia3_l"]
    }

    fn default_targets(&self, model_type: &str) -> Option<&'static [&'static str]> {
        known_targets(DEFAULTS, model_type)
    }

    fn apply(&self, contents: &Contents<'_>, targeted: &[bool], change: &mut Change<'_>) -> Result<()> {
        for (_, site) in present(contents, targeted, change) {
            let config = contents.config();
            // PEFT's default for the Llama family, where the configuration does not say.
            let feedforward = match &config.feedforward {
                Some(pattern) => pattern.matches(contents.origin(), &site.name, site.head)?,
                None => site.name.ends_with(".down_proj"),
            };
            let shape = if feedforward { [1, site.inputs] } else { [site.outputs, 1] };
            let scale = contents.part(&site.name, "ia3_l", &shape)?;
            let scaled = change.weight(site)?.broadcast_mul(&scale)?;
            change.set_weight(site, &scaled)?;
            if let (false, Some(bias)) = (feedforward, change.current(&bias_of(site))?) {
                change.replaced.insert(bias_of(site), (bias * scale.flatten_all()?)?);
            }
        }
        Ok(())
    }
}
