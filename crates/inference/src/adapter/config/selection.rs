//! Which modules of a base a configuration selects.

use std::collections::BTreeSet;
use std::path::Path;

use super::AdapterConfig;
use crate::adapter::target::ModulePattern;
use crate::decoder::Decoder;
use crate::decoder::architectures::Experts;
use crate::decoder::site::Site;
use crate::error::{Error, Result};

/// The router of a block of experts, in its block.
const ROUTER: &str = "gate";

/// A LoRA's targets on a base whose experts transformers 5 stacks, as PEFT rewrites them
/// (`_convert_peft_config_moe`): the older names of experts and router stand for theirs in every layer, and a string
/// for the last names of what it matches.
struct Rewritten<'a> {
    /// Older names of experts' modules and of the router.
    named: BTreeSet<&'a str>,
    /// Every other module.
    rest: ModulePattern,
}

impl AdapterConfig {
    /// Which sites of a base the adapter targets, one flag a site.
    ///
    /// # Errors
    /// If a pattern backtracks beyond its limit, or PEFT refuses the targets.
    pub(crate) fn select(&self, base: &Decoder, path: &Path) -> Result<Vec<bool>> {
        let rewritten = match &base.config().experts {
            Some(experts) if self.peft_type() == "LORA" => {
                self.rewritten(experts.names, base.sites(), path)?
            }
            _ => None,
        };
        let selected = |site: &Site| match &rewritten {
            None => self.targets(&site.name, left_out(site), path),
            Some(Rewritten { named, rest }) => match of_experts(site) {
                Some(name) => Ok(named.contains(name)),
                None => self.targeted_by(rest, &site.name, site.head, path),
            },
        };
        base.sites().iter().map(selected).collect()
    }

    fn rewritten<'a>(
        &self,
        experts: &Experts,
        sites: &'a [Site],
        path: &Path,
    ) -> Result<Option<Rewritten<'a>>> {
        let [gate, up, _] = experts.names;
        let older: BTreeSet<&'a str> = sites.iter().filter_map(of_experts).collect();
        let (mut named, mut rest) = (BTreeSet::new(), Vec::new());
        let mut target = |name: &str| match older
            .iter()
            .find(|older| name == **older || name.ends_with(&format!(".{older}")))
        {
            Some(older) => drop(named.insert(*older)),
            None => rest.push(name.to_owned()),
        };
        match &self.target {
            ModulePattern::Suffixes(names) => names.iter().for_each(|name| target(name)),
            ModulePattern::AllLinear => {
                let linear = sites.iter().filter(|site| !site.head && of_experts(site).is_none());
                linear.map(|site| last(&site.name)).for_each(&mut target);
                older.iter().for_each(|name| target(name));
            }
            ModulePattern::Whole(_) => {
                let mut matched = BTreeSet::new();
                for site in sites {
                    // Modules and parameters of transformers 5, and what experts were called in their place before.
                    let renamed = site
                        .name
                        .replace(&format!(".{}.", experts.block), &format!(".{}.", experts.stacked_block));
                    let known = match renamed.split_once(".experts.") {
                        Some((block, rest)) => {
                            let container = format!("{block}.experts");
                            let own = format!("{container}.{}", last(rest));
                            vec![own, format!("{container}.down_proj")]
                        }
                        None => vec![renamed],
                    };
                    for name in known {
                        if self.targeted_by(&self.target, &name, site.head, path)? {
                            matched.insert(last(&name).to_owned());
                        }
                    }
                }
                if matched.is_empty() {
                    return Ok(None);
                }
                matched.iter().for_each(|name| target(name));
            }
        }
        if named.contains(gate) != named.contains(up) {
            return Err(Error::unsupported(
                path,
                format!("target_modules selects one of `{gate}` and `{up}`, which are one parameter in transformers 5"),
            )
            .with_hint("PEFT refuses it, too; it was not scanned"));
        }
        Ok(Some(Rewritten { named, rest: ModulePattern::Suffixes(rest) }))
    }
}

/// The older name of a module of experts, or of their router.
fn of_experts(site: &Site) -> Option<&str> {
    let name = last(&site.name);
    (site.name.contains(".experts.") || name == ROUTER).then_some(name)
}

/// What stands behind the last dot.
fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// Whether `all-linear` leaves a site out: the head, and what transformers 5 does not keep as linear modules, routers
/// and stacked experts.
fn left_out(site: &Site) -> bool {
    site.head || of_experts(site).is_some()
}
