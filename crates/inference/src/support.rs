//! What can be loaded, from the tables that decide it.

use crate::adapter::config::keys::{COMMON, Treatment};
use crate::adapter::container::CONTAINERS;
use crate::adapter::runtimes::SEMANTICS;
use crate::adapter::types::TYPES;
use crate::decoder::architectures::ARCHITECTURES;

/// What this version loads, by name.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Support {
    /// `model_type` of base models, and the `general.architecture` of GGUF files where they are read too.
    pub architectures: Vec<Named>,
    /// Containers of adapters, and the files by which each is known.
    pub containers: Vec<Named>,
    /// PEFT types, and the keys of their configuration that are refused by name.
    pub peft_types: Vec<PeftTypeSupport>,
    /// Readings of an adapter.
    pub semantics: Vec<String>,
}

/// A name with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Named {
    /// The name.
    pub name: String,
    /// What belongs to it; may be empty.
    pub detail: String,
}

/// A PEFT type.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PeftTypeSupport {
    /// `peft_type`.
    pub name: String,
    /// Keys whose effect is computed.
    pub honoured: Vec<String>,
    /// Keys without effect on inference.
    pub inert: Vec<String>,
    /// Keys that make an adapter unsupported, unless their value is neutral; so does any key that is in no list.
    pub refused: Vec<String>,
}

/// The tables as one value.
#[must_use]
pub fn support() -> Support {
    let named = |name: &str, detail: &str| Named { name: name.to_owned(), detail: detail.to_owned() };
    Support {
        architectures: ARCHITECTURES
            .iter()
            .map(|known| {
                named(known.model_type, &known.gguf.map(|n| format!("GGUF: {n}")).unwrap_or_default())
            })
            .collect(),
        containers: CONTAINERS.iter().map(|known| named(known.name(), known.files())).collect(),
        peft_types: TYPES
            .iter()
            .map(|kind| {
                let keys = |wanted: Treatment| -> Vec<String> {
                    let all = kind.keys().iter().copied().chain([COMMON]).flatten();
                    all.filter(|(_, treatment)| *treatment == wanted)
                        .map(|(key, _)| (*key).to_owned())
                        .collect()
                };
                PeftTypeSupport {
                    name: kind.name().to_owned(),
                    honoured: keys(Treatment::Honoured),
                    inert: keys(Treatment::Inert),
                    refused: keys(Treatment::Refused),
                }
            })
            .collect(),
        semantics: SEMANTICS.iter().map(|(name, _)| (*name).to_owned()).collect(),
    }
}
