//! LoRA with its variants: biases, DoRA, and initialisations that change the base.

use candle_core::Tensor;

use super::{PeftType, embedding, present};
use crate::adapter::change::{Change, weight_of};
use crate::adapter::config::Residual;
use crate::adapter::config::keys::{LORA, Treatment};
use crate::adapter::contents::Contents;
use crate::adapter::delta::LoraDelta;
use crate::adapter::residual;
use crate::adapter::runtimes::Semantics;
use crate::decoder::site::Site;
use crate::error::{Error, Result};

pub(super) struct Lora;

impl PeftType for Lora {
    fn name(&self) -> &'static str {
        "LORA"
    }

    fn keys(&self) -> &'static [&'static [(&'static str, Treatment)]] {
        &[LORA]
    }

    fn parts(&self) -> &'static [&'static str] {
        &[
            "lora_A",
            "lora_B",
            "lora_embedding_A",
            "lora_embedding_B",
            "lora_magnitude_vector",
            "lora_diag",
            "trainable_tokens_delta",
        ]
    }

    fn apply(&self, contents: &Contents<'_>, targeted: &[bool], change: &mut Change<'_>) -> Result<()> {
        for (index, site) in present(contents, targeted, change) {
            linear(contents, index, site, change)?;
        }
        embedding::apply(contents, change)
    }
}

fn linear(contents: &Contents<'_>, index: usize, site: &Site, change: &mut Change<'_>) -> Result<()> {
    let (config, module) = (contents.config(), &site.name);
    let (rank, scaling) = (contents.rank(module), contents.scaling(module));
    let mut a = contents.part(module, "lora_A", &[rank, site.inputs])?;
    let b = contents.part(module, "lora_B", &[site.outputs, rank])?;
    if contents.has(module, "lora_diag") || config.residual == Residual::WithoutMinor {
        let diagonal = contents.part(module, "lora_diag", &[rank])?.reshape((rank, 1))?;
        a = a.broadcast_mul(&diagonal)?;
    }
    match (config.lora_bias, contents.bias(module, "lora_B", &[site.outputs])?) {
        (true, Some(bias)) => change.add_bias(site, &(bias * scaling)?)?,
        (false, None) => {}
        (declared, _) => {
            return Err(Error::malformed(
                contents.origin(),
                format!(
                    "`{module}`: lora_bias is {declared}, but the file has {} bias of lora_B",
                    if declared { "no" } else { "a" }
                ),
            ));
        }
    }
    let own = weight_of(site);
    // A whole weight in the file is loaded after PEFT took a part out of the base's.
    let taken = match config.residual {
        Residual::Whole => None,
        // Only PEFT takes anything out.
        _ if contents.semantics() != Semantics::Peft => None,
        _ if change.replaced.contains_key(&own) => None,
        kind => Some(residual::taken_out(kind, &change.weight(site)?, rank, scaling, module)?),
    };
    match (config.use_dora, contents.has(module, "lora_magnitude_vector")) {
        (true, true) => {
            let mut weight = change.weight(site)?;
            if let Some((left, right)) = taken {
                weight = (weight - left.matmul(&right)?)?;
            }
            let magnitude = contents.part(module, "lora_magnitude_vector", &[site.outputs])?;
            let moved = (weight + (b.matmul(&a)? * scaling)?)?;
            change.set_weight(site, &with_magnitude(&moved, &magnitude)?)?;
        }
        (false, false) => {
            let (a, b) = match taken {
                // What is taken out and what is added are one branch of twice the rank.
                Some((left, right)) => {
                    (Tensor::cat(&[&a, &right], 0)?, Tensor::cat(&[&b, &(left * (-1.0 / scaling))?], 1)?)
                }
                None => (a, b),
            };
            change.deltas[index] = Some(LoraDelta::new(&a, &b, scaling)?);
        }
        (declared, _) => {
            return Err(Error::malformed(
                contents.origin(),
                format!(
                    "`{module}`: use_dora is {declared}, but the file has {} lora_magnitude_vector",
                    if declared { "no" } else { "a" }
                ),
            ));
        }
    }
    Ok(())
}

/// Rows of a matrix at their own lengths divided out and these put in (DoRA, section 4 of its paper).
pub(super) fn with_magnitude(matrix: &Tensor, magnitude: &Tensor) -> Result<Tensor> {
    let lengths = matrix.sqr()?.sum_keepdim(1)?.sqrt()?;
    let factors = magnitude.reshape(lengths.shape())?.broadcast_div(&lengths)?;
    Ok(matrix.broadcast_mul(&factors)?)
}
