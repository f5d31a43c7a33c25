//! AdaLoRA: `alpha / (ranknum + 1e-5) * B diag(E) A`, as PEFT computes it: alpha is divided by the number of singular
//! values that are left, not by `r`.

use super::{PeftType, present};
use crate::adapter::change::Change;
use crate::adapter::config::keys::{ADALORA, LORA, Treatment};
use crate::adapter::contents::Contents;
use crate::adapter::delta::LoraDelta;
use crate::error::{Error, Result};

pub(super) struct AdaLora;

impl PeftType for AdaLora {
    fn name(&self) -> &'static str {
        "ADALORA"
    }

    fn keys(&self) -> &'static [&'static [(&'static str, Treatment)]] {
        &[LORA, ADALORA]
    }

    fn parts(&self) -> &'static [&'static str] {
        &["lora_A", "lora_B", "lora_E", "ranknum"]
    }

    /// Its own pattern says which singular values are left.
    fn ranks_are_of_tensors(&self) -> bool {
        true
    }

    fn apply(&self, contents: &Contents<'_>, targeted: &[bool], change: &mut Change<'_>) -> Result<()> {
        for (index, site) in present(contents, targeted, change) {
            let module = &site.name;
            let rank = contents.shape(module, "lora_A").and_then(|shape| shape.first().copied()).unwrap_or(0);
            let a = contents.part(module, "lora_A", &[rank, site.inputs])?;
            let b = contents.part(module, "lora_B", &[site.outputs, rank])?;
            let e = contents.part(module, "lora_E", &[rank, 1])?;
            if rank == 0 {
                // All singular values were pruned: PEFT adds nothing.
                change.notes.push(format!("`{module}` has rank 0, which changes nothing"));
                continue;
            }
            let left = match contents.has(module, "ranknum") {
                true => f64::from(contents.part(module, "ranknum", &[])?.to_scalar::<f32>()?),
                false => rank as f64,
            };
            if left <= 0.0 {
                return Err(Error::malformed(
                    contents.origin(),
                    format!("`{module}`: expected a positive ranknum, found {left}"),
                ));
            }
            let alpha = contents.config().alpha(module);
            change.deltas[index] = Some(LoraDelta::new(&a.broadcast_mul(&e)?, &b, alpha / (left + 1e-5))?);
        }
        Ok(())
    }
}
