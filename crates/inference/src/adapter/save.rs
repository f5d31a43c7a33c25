//! Writing an adapter that was made here as the two files of PEFT's layout.

use std::collections::BTreeSet;

use candle_core::Tensor;
use half::bf16;
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::{Adapter, CONFIG_FILE, WEIGHTS_FILE};
use crate::decoder::site::Site;
use crate::error::{Error, Result};
use crate::weights::safetensors::to_bytes;

/// What PEFT's configuration says beside the factors.
#[derive(Clone, Copy, Debug)]
pub struct Description<'a> {
    /// `base_model_name_or_path`.
    pub base: &'a str,
    /// Whether the scaling stands for `lora_alpha / sqrt(r)` instead of `lora_alpha / r`.
    pub use_rslora: bool,
    /// Whether values are rounded to bf16; f32 otherwise.
    pub bf16: bool,
}

impl Adapter {
    /// The files of a PEFT directory, by name, that load as this adapter. The same adapter gives the same bytes.
    ///
    /// # Errors
    /// If the adapter does more than low-rank changes, which have no place in these files.
    pub fn to_peft(&self, sites: &[Site], about: &Description<'_>) -> Result<[(&'static str, Vec<u8>); 2]> {
        if !self.is_low_rank() || sites.len() != self.deltas.len() {
            return Err(Error::Request(
                "expected an adapter of low-rank changes alone, found other changes".into(),
            ));
        }
        let changed =
            || sites.iter().zip(&self.deltas).filter_map(|(site, delta)| Some((site, delta.as_ref()?)));
        let mut tensors = Vec::new();
        for (site, delta) in changed() {
            let (a, b) = delta.factors();
            for (name, factor) in [("lora_A", a), ("lora_B", b)] {
                let name = format!("base_model.model.{}.{name}.weight", site.name);
                tensors.push((name, factor.dims().to_vec(), bytes(factor, about.bf16)?));
            }
        }
        let dtype = if about.bf16 { Dtype::BF16 } else { Dtype::F32 };
        // PyTorch's loader asks for the metadata.
        let weights = to_bytes(dtype, &tensors, ("format", "pt".to_owned()))?;

        let alpha = |rank: usize, scaling: f64| {
            let rank = rank as f64;
            scaling * if about.use_rslora { rank.sqrt() } else { rank }
        };
        let Some((_, first)) = changed().next() else {
            return Err(Error::Request("expected an adapter that changes a module, found none".into()));
        };
        let (r, lora_alpha) = (first.rank(), alpha(first.rank(), first.scaling()));
        let (mut ranks, mut alphas) = (Map::new(), Map::new());
        for (site, delta) in changed() {
            if delta.rank() != r {
                ranks.insert(site.name.clone(), delta.rank().into());
            }
            let own = alpha(delta.rank(), delta.scaling());
            if own.to_bits() != lora_alpha.to_bits() {
                alphas.insert(site.name.clone(), number(own));
            }
        }
        let names: Vec<&str> = changed().map(|(site, _)| site.name.as_str()).collect();
        let config = json!({
            "alpha_pattern": alphas,
            "base_model_name_or_path": about.base,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "lora_alpha": number(lora_alpha),
            "lora_dropout": 0.0,
            "modules_to_save": null,
            "peft_type": "LORA",
            "r": r,
            "rank_pattern": ranks,
            "target_modules": target_modules(sites, &names),
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": about.use_rslora,
        });
        let config = format!("{config:#}\n");
        Ok([(CONFIG_FILE, config.into_bytes()), (WEIGHTS_FILE, weights)])
    }
}

/// A whole number where it is one, as people write alpha.
fn number(value: f64) -> Value {
    let rounded = value.round();
    if (value - rounded).abs() < 1e-9 && rounded.abs() < 1e15 { json!(rounded as i64) } else { json!(value) }
}

/// The last parts of the names if they select exactly these modules, as people write them; else the names.
fn target_modules(sites: &[Site], chosen: &[&str]) -> Vec<String> {
    fn last(name: &str) -> &str {
        name.rsplit('.').next().unwrap_or(name)
    }
    let short: BTreeSet<&str> = chosen.iter().map(|name| last(name)).collect();
    let selected = sites.iter().filter(|site| short.contains(last(&site.name))).count();
    if selected == chosen.len() {
        short.into_iter().map(str::to_owned).collect()
    } else {
        chosen.iter().map(|&name| name.to_owned()).collect()
    }
}

/// The values in the file's order and type.
fn bytes(factor: &Tensor, as_bf16: bool) -> Result<Vec<u8>> {
    let values = factor.flatten_all()?.to_vec1::<f32>()?;
    Ok(if as_bf16 {
        values.into_iter().flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect()
    } else {
        values.into_iter().flat_map(f32::to_le_bytes).collect()
    })
}
