//! LoRA adapters of llama.cpp: one GGUF file with pairs `NAME.weight.lora_a`, `NAME.weight.lora_b`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::renamed::{Entry, Renamed, Rows};
use super::{Container, Opened};
use crate::adapter::LoadOptions;
use crate::decoder::Decoder;
use crate::error::{Error, Result};
use crate::weights::TensorSource as _;
use crate::weights::gguf::GgufFile;
use crate::weights::gguf_layout::{self, FileHeads};

pub(super) struct GgufLora;

impl Container for GgufLora {
    fn name(&self) -> &'static str {
        "llama.cpp"
    }

    fn files(&self) -> &'static str {
        "one .gguf file of general.type adapter, itself or alone in a directory"
    }

    fn is(&self, path: &Path) -> bool {
        file_of(path).is_some()
    }

    fn open(&self, path: &Path, base: &Decoder, _: &LoadOptions) -> Result<Opened> {
        let path = file_of(path).unwrap_or_else(|| path.to_owned());
        let file = GgufFile::open_adapter(&path)?;
        let wrong = |key: &str, expected: &str, found: Option<&str>| {
            Error::malformed(
                &path,
                format!("expected {expected} in `{key}`, found {}", found.unwrap_or("nothing")),
            )
        };
        for (key, expected) in [("general.type", "adapter"), ("adapter.type", "lora")] {
            if file.string(key) != Some(expected) {
                return Err(wrong(key, expected, file.string(key)));
            }
        }
        let architecture = base.config().architecture;
        let expected = architecture.gguf.unwrap_or("llama");
        if file.architecture()? != expected {
            return Err(wrong("general.architecture", expected, Some(file.architecture()?)));
        }
        if file.list("adapter.alora.invocation_tokens").is_some_and(|tokens| !tokens.is_empty()) {
            return Err(Error::unsupported(&path, "adapter.alora.invocation_tokens is not implemented")
                .with_hint("it was not scanned"));
        }
        let alpha = file.float("adapter.lora.alpha").unwrap_or(0.0);
        let (mut entries, mut notes) = (BTreeMap::new(), Vec::new());
        let (mut targets, mut ranks, mut alphas) = (Vec::new(), Map::new(), Map::new());
        for stored in file.stored_names() {
            let Some((tensor, part)) =
                [".lora_a", ".lora_b"].into_iter().find_map(|end| Some((stored.strip_suffix(end)?, end)))
            else {
                if stored.ends_with("_norm.weight") {
                    notes.push(format!("tensor `{stored}` is ignored, as llama.cpp ignores it"));
                    continue;
                }
                return Err(Error::unsupported(
                    &path,
                    format!("tensor `{stored}` is no part of a LoRA pair"),
                ));
            };
            let name = gguf_layout::translate(architecture, tensor, false)
                .ok_or_else(|| Error::unsupported(&path, format!("unknown tensor `{stored}`")))?;
            let module = name.trim_end_matches(".weight").to_owned();
            let first = part == ".lora_a";
            let embedding = name == base.embedding_name();
            let shape = file.shape(&stored).unwrap_or_default();
            // The embedding's A is stored turned.
            let rank = if embedding || !first { shape.last() } else { shape.first() }.copied().unwrap_or(0);
            if first {
                let pattern = format!("^{}", module.replace('.', r"\."));
                ranks.insert(pattern.clone(), rank.into());
                alphas.insert(pattern, if alpha == 0.0 { rank.into() } else { alpha.into() });
                targets.push(Value::from(module.clone()));
            }
            let rows = tensor.split('.').nth(2).filter(|_| !first).map(|module| Rows {
                architecture,
                module: module.to_owned(),
                heads: FileHeads { heads: base.config().heads, kv_heads: base.config().kv_heads },
            });
            let peft = match (embedding, first) {
                (false, true) => format!("{module}.lora_A.weight"),
                (false, false) => format!("{module}.lora_B.weight"),
                (true, true) => format!("{module}.lora_embedding_A"),
                (true, false) => format!("{module}.lora_embedding_B"),
            };
            entries.insert(peft, Entry { stored, transposed: embedding && first, rows });
        }
        let config = Map::from_iter([
            ("peft_type".to_owned(), Value::from("LORA")),
            ("target_modules".to_owned(), targets.into()),
            ("rank_pattern".to_owned(), ranks.into()),
            ("alpha_pattern".to_owned(), alphas.into()),
        ]);
        Ok(Opened {
            config,
            config_path: path.clone(),
            files: vec![path],
            tensors: Box::new(Renamed { under: file, entries }),
            notes,
        })
    }
}

/// The file itself, or the only one of its kind in a directory.
fn file_of(path: &Path) -> Option<PathBuf> {
    let is = |path: &Path| path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
    if path.is_file() {
        return is(path).then(|| path.to_owned());
    }
    let mut found =
        std::fs::read_dir(path).ok()?.filter_map(|entry| Some(entry.ok()?.path())).filter(|p| is(p));
    found.next().filter(|_| found.next().is_none())
}
