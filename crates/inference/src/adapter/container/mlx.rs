//! Adapters of MLX-LM: `adapters.safetensors` with factors turned, a factor of its own instead of alpha, and a
//! configuration of its own under PEFT's file name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value};

use super::renamed::{Entry, Renamed};
use super::{Container, Opened};
use crate::adapter::{CONFIG_FILE, LoadOptions};
use crate::decoder::Decoder;
use crate::error::{Error, Result};
use crate::weights::safetensors::SafetensorsFile;
use crate::weights::{TensorSource as _, json};

pub(super) struct Mlx;

const WEIGHTS: &str = "adapters.safetensors";

/// Ends of names: MLX, PEFT, whether the matrix is turned.
const PARTS: &[(&str, &str, bool)] = &[
    (".lora_a", ".lora_A.weight", true),
    (".lora_b", ".lora_B.weight", true),
    (".m", ".lora_magnitude_vector", false),
];

impl Container for Mlx {
    fn name(&self) -> &'static str {
        "MLX-LM"
    }

    fn files(&self) -> &'static str {
        "adapter_config.json with fine_tune_type lora, dora or full, adapters.safetensors"
    }

    fn is(&self, path: &Path) -> bool {
        path.join(WEIGHTS).exists()
    }

    fn open(&self, path: &Path, _: &Decoder, _: &LoadOptions) -> Result<Opened> {
        let (config_path, weights) = (path.join(CONFIG_FILE), path.join(WEIGHTS));
        let given = json::read_object(&config_path)?;
        let file = SafetensorsFile::open(&weights)?;
        let wrong = |what: &str| Error::malformed(&config_path, format!("expected {what}"));
        let kind = given.get("fine_tune_type").map_or(Some("lora"), Value::as_str);
        let kind = kind.filter(|kind| ["lora", "dora", "full"].contains(kind));
        let kind = kind.ok_or_else(|| wrong("`fine_tune_type` to be lora, dora or full"))?;
        let (mut entries, mut adapted, mut whole) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        for name in file.names() {
            let part =
                PARTS.iter().find_map(|(end, peft, turned)| Some((name.strip_suffix(end)?, peft, turned)));
            let (peft, transposed) = match part {
                Some((module, peft, &turned)) => {
                    adapted.insert(module.to_owned());
                    (format!("{module}{peft}"), turned)
                }
                None => {
                    whole.extend(name.rsplit_once('.').map(|(module, _)| module.to_owned()));
                    (name.clone(), false)
                }
            };
            if file.shape(&name).is_some_and(|shape| transposed && shape.len() != 2) {
                return Err(Error::unsupported(&weights, format!("tensor `{name}`: factors of experts"))
                    .with_hint("it was not scanned"));
            }
            entries.insert(peft, Entry { stored: name, transposed, rows: None });
        }
        let mut config = Map::new();
        config.insert("peft_type".into(), "LORA".into());
        config.insert(
            "target_modules".into(),
            Value::Array(adapted.iter().cloned().map(Value::from).collect()),
        );
        let mut notes = Vec::new();
        if !adapted.is_empty() {
            let parameters = given.get("lora_parameters").and_then(Value::as_object);
            let parameter = |key: &str| parameters.and_then(|object| object.get(key)).and_then(Value::as_f64);
            let rank = parameter("rank").filter(|r| *r >= 1.0 && r.fract() == 0.0);
            let rank = rank.ok_or_else(|| wrong("a rank in `lora_parameters`"))?;
            // MLX multiplies by the scale itself, whatever the rank.
            let scale = parameter("scale").ok_or_else(|| wrong("a scale in `lora_parameters`"))?;
            config.insert("r".into(), (rank as u64).into());
            config.insert("lora_alpha".into(), (scale * rank).into());
            config.insert("use_dora".into(), (kind == "dora").into());
        }
        if kind == "full" {
            config
                .insert("modules_to_save".into(), Value::Array(whole.into_iter().map(Value::from).collect()));
            notes.push("fine_tune_type full: whole weights of the base are replaced".to_owned());
        }
        Ok(Opened {
            config,
            files: vec![config_path.clone(), weights],
            config_path,
            tensors: Box::new(Renamed { under: file, entries }),
            notes,
        })
    }
}
