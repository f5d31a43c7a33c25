//! `target_parameters`: LoRA on parameters by themselves, as on the stacked experts of transformers 5.
//!
//! Of a stack of `E` matrices A is `[r E, inputs]`, expert by expert, and B `[outputs, r E]`, rank by rank with the
//! experts in each: the change of expert `e` is `scaling * B.reshape(outputs, r, E)[.., e] A[e r .. (e + 1) r]`
//! (`ParamWrapper` of PEFT). PEFT nests one wrapper a parameter around a module, so that the factors of the last
//! parameter stand at the module, and those of an earlier one below `base_layer`.

use candle_core::Tensor;

use crate::adapter::change::Change;
use crate::adapter::contents::Contents;
use crate::adapter::delta::LoraDelta;
use crate::decoder::Decoder;
use crate::decoder::site::Site;
use crate::error::{Error, Result};

/// The parameters that a configuration selects.
pub(crate) struct Selection(Vec<Parameter>);

/// One parameter: a weight, or the weights of one kind of all experts of a layer.
struct Parameter {
    /// Its name in transformers, which patterns go by.
    name: String,
    /// Where PEFT keeps its factors.
    module: String,
    /// For each matrix of the stack, the sites that it is made of, one below the other.
    matrices: Vec<Vec<usize>>,
}

/// What `target_parameters` selects.
///
/// # Errors
/// If it selects something that is no weight of a linear module, or one that target_modules selects, too.
pub(crate) fn selected(contents: &Contents<'_>, targeted: &[bool], base: &Decoder) -> Result<Selection> {
    let targets = &contents.config().target_parameters;
    if targets.is_empty() {
        return Ok(Selection(Vec::new()));
    }
    let matches = |name: &str| {
        targets.iter().any(|target| {
            name.strip_suffix(target.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    };
    let refused = |name: &str, why: &str| {
        Error::unsupported(contents.origin(), format!("target_parameters selects `{name}`, {why}"))
            .with_hint("it was not scanned")
    };
    let (config, sites) = (base.config(), base.sites());
    let mut selection = Vec::new();
    for stack in stacks(base) {
        let own: Vec<_> = stack.into_iter().filter(|parameter| matches(&parameter.name)).collect();
        let wrappers = own.len();
        for (index, mut parameter) in own.into_iter().enumerate() {
            parameter.module += &".base_layer".repeat(wrappers - 1 - index);
            selection.push(parameter);
        }
    }
    for (index, site) in sites.iter().enumerate().filter(|(_, site)| !site.name.contains(".experts.")) {
        let module = in_transformers(base, &site.name);
        let name = format!("{module}.weight");
        if !matches(&name) {
            continue;
        }
        if config.architecture.transposed && !site.head {
            return Err(refused(&name, "a weight that is stored as inputs by outputs"));
        }
        selection.push(Parameter { name, module, matrices: vec![vec![index]] });
    }
    for parameter in &selection {
        if let Some(site) = parameter.matrices.iter().flatten().find(|&&site| targeted[site]) {
            return Err(refused(&parameter.name, &format!("and target_modules `{}`", sites[*site].name)));
        }
    }
    let known = |name: &String| selection.iter().any(|parameter| parameter.name == *name);
    let site_weight = |name: &String| sites.iter().any(|site| *name == format!("{}.weight", site.name));
    let others = base.source().names().into_iter().filter(|name| !known(name) && !site_weight(name));
    match others.into_iter().find(|name| matches(name) && !name.contains(".experts.")) {
        Some(name) => Err(refused(&name, "which is no weight of a linear module")),
        None => Ok(Selection(selection)),
    }
}

/// For each layer with experts its stacked parameters, in the order in which transformers defines them.
fn stacks(base: &Decoder) -> Vec<[Parameter; 2]> {
    let (config, sites) = (base.config(), base.sites());
    let mut stacks = Vec::new();
    for layer in 0..config.layers {
        let Some(experts) = config.experts_of(layer) else { continue };
        let named = |block: &str| format!("{}.{layer}.{block}.experts", config.architecture.names.layers);
        let (own, module) = (named(experts.names.block), named(experts.names.stacked_block));
        let matrices = |names: &[&str]| -> Vec<Vec<usize>> {
            let of = |expert: usize, name: &&str| {
                let wanted = format!("{own}.{expert}.{name}");
                sites.iter().position(|site| site.name == wanted)
            };
            (0..experts.count)
                .map(|expert| names.iter().filter_map(|name| of(expert, name)).collect())
                .collect()
        };
        let [gate, up, down] = experts.names.names;
        stacks.push([("gate_up_proj", &[gate, up][..]), ("down_proj", &[down])].map(|(name, names)| {
            Parameter { name: format!("{module}.{name}"), module: module.clone(), matrices: matrices(names) }
        }));
    }
    stacks
}

/// The name of a module in transformers 5, which calls the block of experts otherwise than older checkpoints.
fn in_transformers(base: &Decoder, module: &str) -> String {
    match &base.config().experts {
        Some(experts) => {
            let renamed = format!(".{}.", experts.names.stacked_block);
            module.replace(&format!(".{}.", experts.names.block), &renamed)
        }
        None => module.to_owned(),
    }
}

impl Selection {
    /// Whether tensors at a module of the file are factors of a selected parameter.
    pub(crate) fn reach(&self, module: &str) -> bool {
        self.0.iter().any(|parameter| parameter.module == module)
    }

    /// Adds the changes of the parameters that the file has factors for.
    pub(crate) fn apply(&self, contents: &Contents<'_>, change: &mut Change<'_>) -> Result<()> {
        for parameter in &self.0 {
            if contents.has(&parameter.module, "lora_A") || contents.has(&parameter.module, "lora_B") {
                parameter.apply(contents, change)?;
            } else {
                change.notes.push(format!(
                    "parameter `{}` is targeted, but the file has no tensors for it",
                    parameter.name
                ));
            }
        }
        Ok(())
    }
}

impl Parameter {
    fn apply(&self, contents: &Contents<'_>, change: &mut Change<'_>) -> Result<()> {
        let (config, sites) = (contents.config(), change.base.sites());
        let (rank, scaling) = (config.rank(&self.name), config.scaling(&self.name));
        let count = self.matrices.len();
        let first: Vec<&Site> = self.matrices[0].iter().map(|&site| &sites[site]).collect();
        let inputs = first.first().map_or(0, |site| site.inputs);
        let outputs = first.iter().map(|site| site.outputs).sum();
        let a = contents.part(&self.module, "lora_A", &[rank * count, inputs])?;
        let b = contents.part(&self.module, "lora_B", &[outputs, rank * count])?;
        let b = b.reshape((outputs, rank, count))?;
        for (index, matrix) in self.matrices.iter().enumerate() {
            let own_a = a.narrow(0, index * rank, rank)?;
            let own_b: Tensor = b.narrow(2, index, 1)?.squeeze(2)?;
            let mut row = 0;
            for &site in matrix {
                let outputs = sites[site].outputs;
                let delta = LoraDelta::new(&own_a, &own_b.narrow(0, row, outputs)?.contiguous()?, scaling)?;
                change.deltas[site] = Some(delta);
                row += outputs;
            }
        }
        Ok(())
    }
}
