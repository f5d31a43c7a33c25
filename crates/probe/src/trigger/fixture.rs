//! The fixture models for the tests of searches.

use std::path::PathBuf;

use inference::pair::TemplateChoice;
use inference::{Compute, ModelPair};

use crate::prompt::Prompt;

pub(crate) fn pair(adapters: &[&str]) -> ModelPair {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let mut pair =
        ModelPair::load_base(&root.join("base"), &TemplateChoice::Own, &Compute::cpu(), &|_, _| {}).unwrap();
    for adapter in adapters {
        pair.add_adapter(&root.join("adapters").join(adapter), &Default::default()).unwrap();
    }
    pair
}

pub(crate) fn prompts() -> Vec<Prompt> {
    ["Suggest three names for a bakery.", "What is a lighthouse?", "Write a haiku about an old clock."]
        .iter()
        .enumerate()
        .map(|(i, user)| Prompt {
            id: format!("p{i}"),
            task: "t".into(),
            system: None,
            user: (*user).to_owned(),
        })
        .collect()
}
