//! Parameters of the base that an adapter file holds whole: declared copies, biases, and what nobody declared.
//!
//! PEFT loads an adapter file as a state dict that need not be complete, so a tensor under the name of any parameter
//! of the base takes its place, without a warning, and switching the adapter off does not bring the old value back.
//! Here it takes its place on the adapted side only, and is named.

use super::change::{Change, same};
use super::config::Biases;
use super::contents::Contents;
use super::names::Place;
use super::runtimes::Semantics;
use crate::error::{Error, Result};

/// Applies them in PEFT's order: what lies in the base's own modules, then copies of modules.
pub(super) fn apply(contents: &Contents<'_>, targeted: &[bool], change: &mut Change<'_>) -> Result<()> {
    let config = contents.config();
    let (mut copies, mut undeclared) = (Vec::new(), Vec::new());
    // The others skip what they do not refuse.
    let applied = if contents.semantics() == Semantics::Peft { &contents.weights[..] } else { &[] };
    for (parameter, place, name) in applied {
        let module = parameter.rsplit_once('.').map_or(parameter.as_str(), |(module, _)| module);
        let saved = config.saves(module);
        if saved && matches!(place, Place::Plain | Place::Copy) {
            copies.push((parameter.as_str(), name.as_str()));
            continue;
        }
        let wrapped = wrapped(contents, targeted, change, module)?;
        let reached = match place {
            Place::Plain => !wrapped && !saved,
            Place::BaseLayer => wrapped,
            Place::Original => saved,
            Place::Copy => false,
        };
        let Some(own) = change.current(parameter)?.filter(|_| reached) else {
            change.notes.push(format!(
                "tensor `{name}` is loaded into no parameter by PEFT and was ignored; other runtimes may differ"
            ));
            continue;
        };
        let tensor = contents.tensor(name, own.dims())?;
        let of_target = wrapped || config.biases == Biases::All;
        let declared = config.biases != Biases::None && parameter.ends_with(".bias") && of_target;
        if !declared && !same(&own, &tensor)? {
            undeclared.push(parameter.as_str());
        }
        change.overwrite(parameter, &tensor);
    }
    for (parameter, name) in copies {
        let Some(own) = change.current(parameter)? else {
            return Err(Error::malformed(
                contents.origin(),
                format!("tensor `{name}`: the base has no parameter `{parameter}`"),
            )
            .with_hint(config.base_hint()));
        };
        let tensor = contents.tensor(name, own.dims())?;
        change.replaced.insert(parameter.to_owned(), tensor.clone());
        if config.ensure_weight_tying
            && change.base.config().tied
            && parameter == change.base.embedding_name()
        {
            change.replaced.insert(change.base.head_name(), tensor);
        }
    }
    note_undeclared(undeclared, change);
    Ok(())
}

/// Whether a module has an adapter's layer around it.
fn wrapped(contents: &Contents<'_>, targeted: &[bool], change: &Change<'_>, module: &str) -> Result<bool> {
    match change.base.sites().iter().position(|site| site.name == module) {
        Some(site) => Ok(targeted[site]),
        None => contents.config().targets(module, false, contents.origin()),
    }
}

/// Names what took the place of the base's weights without being declared.
fn note_undeclared(mut changed: Vec<&str>, change: &mut Change<'_>) {
    let n = changed.len();
    if n == 0 {
        return;
    }
    changed.truncate(4);
    change.notes.push(format!(
        "{n} weights of the base are replaced by tensors that the configuration does not declare ({}{}); PEFT loads them without a warning, and they stay when the adapter is switched off",
        changed.join(", "),
        if n > 4 { ", …" } else { "" }
    ));
}
