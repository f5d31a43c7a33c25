//! Methods of others on the adapters of a zoo, one file a method and adapter: what is there is not measured again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use probe::observe::Observer;
use probe::peer::{Case, LIMIT, PEERS, Peer, by_name};
use probe::split::{Benign, Split};
use probe::trigger::budget::Limit;
use probe::trigger::journal::Inputs;
use report::benchmark::peer::Finding;
use serde::{Deserialize, Serialize};

use super::BenchArguments;
use crate::exit::{self, Failure};
use crate::progress::Bars;
use crate::subject::{self, Target};
use crate::{forge, output, suites};

/// A method and what it may spend.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    /// As the user wrote it: the configuration's name.
    pub(super) name: String,
    peer: &'static dyn Peer,
    limit: Option<Limit>,
}

/// What was measured, and with what.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Everything that decides the finding.
    inputs: Inputs,
    pub(super) finding: Finding,
    /// How long it took here.
    pub(super) seconds: f64,
}

/// The help of `--peers`.
pub(super) fn help() -> String {
    let all: Vec<String> = PEERS.iter().map(|peer| format!("`{}`: {}", peer.name(), peer.about())).collect();
    format!(
        "Methods of others to compare with, comma separated, those that run the model with a budget of tokens behind a \
         colon if not {LIMIT}. {}",
        all.join("; ")
    )
}

/// Reads names such as `bait` and `bait:5e5tok`.
pub(super) fn chosen(names: &[String]) -> Result<Vec<Chosen>, Failure> {
    names
        .iter()
        .map(|text| {
            let (name, budget) = text.split_once(':').map_or((text.as_str(), None), |(n, b)| (n, Some(b)));
            let known = || PEERS.iter().map(|peer| peer.name()).collect::<Vec<_>>().join(", ");
            let peer = by_name(name).ok_or_else(|| {
                Failure::Input(format!("unknown method `{name}` in --peers; known: {}", known()))
            })?;
            let refused = |reason: &str| Failure::Input(format!("--peers {text}: {reason}"));
            let limit = match (peer.runs_model(), budget) {
                (false, Some(_)) => return Err(refused("it runs no model, and so takes no budget")),
                (runs_model, None) => runs_model.then_some(LIMIT),
                (true, Some(budget)) => match budget.parse::<Limit>().map_err(|error| refused(&error))? {
                    limit @ Limit::Tokens(_) => Some(limit),
                    Limit::Seconds(_) => return Err(refused("expected a budget of tokens, such as 1e6tok")),
                },
            };
            Ok(Chosen { name: text.clone(), peer, limit })
        })
        .collect()
}

/// The zoo, and where findings are kept.
pub(super) struct Zoo<'a> {
    pub(super) arguments: &'a BenchArguments,
    pub(super) base: &'a Path,
    pub(super) adapters: &'a BTreeMap<String, PathBuf>,
}

impl Zoo<'_> {
    fn file(&self, chosen: &Chosen, adapter: &str) -> PathBuf {
        let folder = self.arguments.output.join("peers").join(chosen.name.replace(':', "-"));
        folder.join(format!("{adapter}.json"))
    }

    /// What is kept of a method and adapter; an error that says so if nothing can be read.
    pub(super) fn found(&self, chosen: &Chosen, adapter: &str) -> Result<Kept, String> {
        let path = self.file(chosen, adapter);
        let text = std::fs::read_to_string(&path).map_err(|_| "it was not measured".to_owned())?;
        serde_json::from_str(&text).map_err(|error| format!("`{}`: {error}", path.display()))
    }

    /// Measures what is not kept yet, or was measured with other inputs.
    pub(super) fn run(&self, methods: &[Chosen]) -> Result<(), Failure> {
        if methods.is_empty() {
            return Ok(());
        }
        let models = &self.arguments.models;
        let suites = suites::load(&self.arguments.suites)?;
        let benign = Benign::of(&suites);
        let settings = subject::settings_of(models, &suites, []);
        let bars = Bars::new(self.arguments.quiet)?;
        let mut pair = subject::load_base(models, self.base, &bars)?;
        let of_base = subject::artifact(&subject::file_name(self.base), pair.files())?;
        for (name, path) in self.of_shard()? {
            pair.remove_adapters();
            if let Err(error) = pair.add_adapter(path, &subject::load_options(models)) {
                output::talk(&format!("{name}: {error}"));
                continue;
            }
            let target =
                Target::of((self.base.to_owned(), of_base.name.clone()), (path.clone(), name.clone()));
            let about = subject::subject_on(of_base.clone(), &target, &pair)?;
            let mut inputs = subject::features(&about, &settings);
            inputs.insert("seed".to_owned(), settings.seed.to_string());
            let suites = settings.suites.iter();
            inputs.extend(suites.map(|(name, digest)| (format!("suite {name}"), digest.clone())));
            let observer = Observer::new(&pair, &bars);
            let prompts = Split::of(&observer, &benign, settings.seed)?;
            for method in methods {
                // Each begins at no cost and with nothing in memory.
                let observer = Observer::new(&pair, &bars);
                let limit = method.limit.unwrap_or(LIMIT);
                let case = Case { observer: &observer, prompts: &prompts, limit, seed: settings.seed };
                self.measure(method, name, &inputs, &case)?;
            }
        }
        Ok(())
    }

    fn of_shard(&self) -> Result<Vec<(&String, &PathBuf)>, Failure> {
        let all = self.adapters.iter();
        let Some(shard) = &self.arguments.shard else { return Ok(all.collect()) };
        let (index, of) =
            forge::shard(shard).map_err(|reason| Failure::Input(format!("--shard: {reason}")))?;
        Ok(all.enumerate().filter(|(place, _)| place % of == index).map(|(_, adapter)| adapter).collect())
    }

    fn measure(
        &self,
        method: &Chosen,
        name: &str,
        of_adapter: &Inputs,
        case: &Case<'_>,
    ) -> Result<(), Failure> {
        let mut inputs = of_adapter.clone();
        inputs.extend([
            ("method".to_owned(), method.peer.name().to_owned()),
            ("budget".to_owned(), method.limit.map_or_else(String::new, |limit| limit.to_string())),
        ]);
        if self.found(method, name).is_ok_and(|kept| kept.inputs == inputs) {
            return Ok(());
        }
        let start = Instant::now();
        let finding = match method.peer.measure(case) {
            Err(probe::Error::Stopped) => {
                return Err(Failure::Scheduled(
                    exit::INCOMPLETE,
                    "the methods of others were stopped: the same command goes on".into(),
                ));
            }
            finding => finding?,
        };
        let kept = Kept { inputs, finding, seconds: start.elapsed().as_secs_f64() };
        let file = self.file(method, name);
        output::make_folder(output::folder(&file))?;
        output::file(&file, &output::json(&kept)?)?;
        if !self.arguments.quiet {
            output::talk(&format!(
                "{}: {name}: score {:.3}, {} token-forwards, {:.1} s",
                method.name, kept.finding.score, kept.finding.cost.token_forwards, kept.seconds
            ));
        }
        Ok(())
    }
}
