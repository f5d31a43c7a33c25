//! WGT: what the weights of an adapter are, against what its config says of them.

mod adapter;
mod base;
mod coherence;
pub(super) mod measure;
mod rules;
mod tokens;

use std::collections::BTreeMap;

use report::audit::{Finding, Rule, Severity};
use serde_json::Value;

use self::adapter::{Declared, Pair, Role};
use self::coherence::coherence;
use self::measure::{Measured, Spectrum};
use self::rules::{
    DOMINANT, DUPLICATE, EXTREME, NO_CONFIG, NOT_FINITE, ORPHAN, RANK, SCALE, SPECTRUM, TOKENS, UNACCOUNTED,
    UNDECLARED_TARGET, UNREAD_TYPE, ZERO,
};
use super::Check;
use super::file::File;
use super::findings::{self, Findings};
use super::repository::Repository;

/// Above this, an element of a factor is extraordinary.
const EXTREME_VALUE: f64 = 1_000.0;
/// Scalings beyond these are unusual, and beyond any use. Users choose alpha up to some times r; with rsLoRA the ratio
/// reaches tens.
const SCALE_UNUSUAL: f64 = 100.0;
const SCALE_ABSURD: f64 = 1_000.0;
/// A large scaling over factors so small hides a change: the root mean square of B after any real training is larger.
const SCALE_HIDING: f64 = 16.0;
const RMS_TINY: f64 = 1e-6;
/// A module that carries so many times the median, among at least so many modules.
const DOMINANCE: f64 = 30.0;
const MODULES: usize = 8;
/// Names in a message.
const NAMES: usize = 4;

/// The weights of adapters, and NaN anywhere.
pub(super) struct Weights;

impl Check for Weights {
    fn name(&self) -> &'static str {
        "weights"
    }

    fn rules(&self) -> &'static [Rule] {
        rules::ALL
    }

    fn wants(&self, file: &File) -> bool {
        file.weights.is_some()
    }

    fn file(&self, file: &File, findings: &mut Findings) {
        let Some(tensors) = &file.weights else { return };
        let broken: Vec<&Measured> =
            tensors.iter().filter(|tensor| tensor.nan + tensor.infinite > 0).collect();
        if !broken.is_empty() {
            let (nan, infinite) = broken
                .iter()
                .fold((0, 0), |(nan, infinite), tensor| (nan + tensor.nan, infinite + tensor.infinite));
            let message = format!(
                "{nan} NaN and {infinite} infinite elements in {}",
                listed(broken.iter().map(|tensor| tensor.entry.name.as_str()))
            );
            let first = broken[0].entry.name.as_str();
            findings.in_file(file, Finding::new(&NOT_FINITE, &file.path, message).at(first));
        }
    }

    fn repository(&self, repository: &Repository, findings: &mut Findings) {
        for Group { files, tensors } in adapters(repository) {
            let Some(file) = files.first() else { continue };
            let subject = Subject { file, tensors: &tensors, pairs: adapter::pairs(&tensors) };
            let config = repository
                .beside(file, "adapter_config.json")
                .and_then(File::json)
                .and_then(Value::as_object);
            subject.values(findings);
            subject.halves(findings);
            match config {
                Some(config) => {
                    let declared = Declared::read(config);
                    subject.strength(&declared, findings);
                    subject.declared(&declared, findings);
                    base::check(&subject, &declared, repository, findings);
                    tokens::check(&subject, &declared, repository, findings);
                }
                // The store of a Hugging Face cache; the snapshot's links lead here under the file's name.
                None if file.path.contains("/blobs/") && file.path.contains("models--") => {}
                None => {
                    let message = "expected `adapter_config.json` beside it, found none that can be read";
                    findings.in_file(file, Finding::new(&NO_CONFIG, &file.path, message));
                    base::check(&subject, &Declared::read(&serde_json::Map::new()), repository, findings);
                }
            }
            subject.spectra(findings);
        }
    }
}

/// The files of an adapter (one, or its shards) and their tensors.
#[derive(Default)]
struct Group<'a> {
    files: Vec<&'a File>,
    tensors: Vec<Measured>,
}

/// Adapters of a repository. A file counts as an adapter's by its name or by the factors in it.
fn adapters<'a>(repository: &'a Repository<'_>) -> Vec<Group<'a>> {
    let mut groups: BTreeMap<(&str, &str), Group<'a>> = BTreeMap::new();
    for file in &repository.files {
        let Some(tensors) = &file.weights else { continue };
        let stem = file.name().split("-0").next().unwrap_or(file.name());
        let group = groups.entry((file.folder(), stem)).or_default();
        group.files.push(file);
        group.tensors.extend(tensors.iter().cloned());
    }
    let is_adapter = |group: &Group<'_>| {
        group.files.iter().any(|file| file.name().starts_with("adapter"))
            || group
                .tensors
                .iter()
                .any(|tensor| matches!(adapter::role(&tensor.entry.name).1, Role::A | Role::B | Role::Tokens))
    };
    groups.into_values().filter(is_adapter).collect()
}

/// One adapter.
struct Subject<'a> {
    /// Its file, or the first of its shards.
    file: &'a File,
    tensors: &'a [Measured],
    pairs: BTreeMap<String, Pair<'a>>,
}

impl Subject<'_> {
    fn add(&self, findings: &mut Findings, finding: Finding) {
        findings.in_file(self.file, finding);
    }

    fn finding(&self, rule: &Rule, message: impl AsRef<str>) -> Finding {
        Finding::new(rule, &self.file.path, message)
    }

    /// Extraordinary values, all zeros, copies, and types that are not measured.
    fn values(&self, findings: &mut Findings) {
        let factors = || self.pairs.values().flat_map(|pair| [pair.a, pair.b]).flatten();
        if let Some(worst) = factors().max_by(|x, y| x.largest.total_cmp(&y.largest))
            && worst.largest > EXTREME_VALUE
        {
            let message = format!("an element of {:e}, expected far below one", worst.largest);
            self.add(findings, self.finding(&EXTREME, message).at(&worst.entry.name));
        }
        let zero = |half: Option<&Measured>| half.is_some_and(Measured::is_zero);
        if !self.pairs.is_empty()
            && self.pairs.values().all(|pair| zero(pair.a) || zero(pair.b))
            && self.tensors.iter().all(|tensor| {
                matches!(adapter::role(&tensor.entry.name).1, Role::A | Role::B) || tensor.is_zero()
            })
        {
            let message = format!("B·A is zero in all of {} modules", self.pairs.len());
            self.add(findings, self.finding(&ZERO, message));
        }
        let unread: Vec<&str> = self
            .tensors
            .iter()
            .filter(|tensor| !tensor.counted)
            .map(|tensor| tensor.entry.name.as_str())
            .collect();
        if let Some(first) = unread.first() {
            let message = format!("{} tensors, such as {}", unread.len(), listed(unread.iter().copied()));
            self.add(findings, self.finding(&UNREAD_TYPE, message).at(first));
        }
        let mut same: BTreeMap<(u32, &[u64]), Vec<&str>> = BTreeMap::new();
        for (module, pair) in &self.pairs {
            if let Some(b) = pair.b.filter(|b| b.counted && !b.is_zero() && b.elements() > 16) {
                same.entry((b.checksum, &b.entry.shape)).or_default().push(module);
            }
        }
        for modules in same.values().filter(|modules| modules.len() > 1) {
            let message =
                format!("{} modules share one B: {}", modules.len(), listed(modules.iter().copied()));
            self.add(findings, self.finding(&DUPLICATE, message).at(modules[0]));
        }
    }

    /// Halves, contradicting ranks, empty dimensions.
    fn halves(&self, findings: &mut Findings) {
        let (mut orphans, mut empty, mut unequal) = (Vec::new(), Vec::new(), Vec::new());
        for (module, pair) in &self.pairs {
            match (pair.a, pair.b) {
                (Some(a), Some(b)) => {
                    if a.elements() == 0 || b.elements() == 0 {
                        empty.push(module.as_str());
                    } else if pair.rank().is_none() && adapter::is_peft(&a.entry.name) {
                        unequal.push(module.as_str());
                    }
                }
                _ => orphans.push(module.as_str()),
            }
        }
        for (modules, what) in [
            (orphans, "only one of the two factors"),
            (empty, "a dimension of zero"),
            (unequal, "factors of different rank"),
        ] {
            if let Some(first) = modules.first() {
                let message =
                    format!("{} modules have {what}: {}", modules.len(), listed(modules.iter().copied()));
                self.add(findings, self.finding(&ORPHAN, message).at(first));
            }
        }
    }

    /// The scaling, alone and against the norms.
    fn strength(&self, declared: &Declared<'_>, findings: &mut Findings) {
        if !declared.is_lora() {
            return;
        }
        let mut strange: BTreeMap<(Severity, String), Vec<&str>> = BTreeMap::new();
        for (module, pair) in &self.pairs {
            let scaling = declared.scaling(module);
            let rms = |half: Option<&Measured>| {
                half.filter(|half| half.counted && half.elements() > 0)
                    .map(|half| (half.square_sum / half.elements() as f64).sqrt())
            };
            let tiny = [pair.a, pair.b]
                .into_iter()
                .any(|half| rms(half).is_some_and(|rms| rms > 0.0 && rms < RMS_TINY));
            let (severity, what) = if !scaling.is_finite() || scaling < 0.0 {
                (Severity::High, "which no training gives")
            } else if scaling > SCALE_ABSURD {
                (Severity::High, "expected near one")
            } else if scaling > SCALE_HIDING && tiny {
                (Severity::High, "over factors that are nearly zero")
            } else if scaling > SCALE_UNUSUAL {
                (Severity::Medium, "expected near one")
            } else {
                continue;
            };
            strange.entry((severity, format!("a scaling of {scaling}, {what}"))).or_default().push(module);
        }
        for ((severity, what), modules) in strange {
            let message =
                format!("{what}, in {} modules: {}", modules.len(), listed(modules.iter().copied()));
            self.add(findings, self.finding(&SCALE, message).severity(severity).at(modules[0]));
        }
        if !self.pairs.is_empty() && self.pairs.keys().all(|module| declared.scaling(module).abs() <= 0.0) {
            self.add(findings, self.finding(&ZERO, "the scaling alpha/r is zero"));
        }
        let norms: Vec<(f64, &str)> = self
            .pairs
            .iter()
            .filter_map(|(module, pair)| {
                Some((declared.scaling(module).abs() * self.spectrum(pair)?.norm, module.as_str()))
            })
            .collect();
        self.dominant(norms, findings);
    }

    fn dominant(&self, mut norms: Vec<(f64, &str)>, findings: &mut Findings) {
        norms.sort_by(|x, y| y.0.total_cmp(&x.0));
        if norms.len() < MODULES {
            return;
        }
        let median = norms[norms.len() / 2].0;
        let above: Vec<&(f64, &str)> =
            norms.iter().take_while(|(norm, _)| median > 0.0 && *norm > DOMINANCE * median).collect();
        if let Some((norm, module)) = above.first() {
            let message = format!(
                "{} modules have more than {DOMINANCE} times the median norm, the largest {:.0} times",
                above.len(),
                norm / median
            );
            self.add(findings, self.finding(&DOMINANT, message).at(module));
        }
    }

    /// Ranks, targets and tensors against the config.
    fn declared(&self, declared: &Declared<'_>, findings: &mut Findings) {
        if !declared.is_lora() {
            return;
        }
        let mut ranks: Vec<(&str, u64, f64)> = Vec::new();
        let mut undeclared: Vec<&str> = Vec::new();
        for (module, pair) in &self.pairs {
            let peft = [pair.a, pair.b].into_iter().flatten().any(|half| adapter::is_peft(&half.entry.name));
            if !peft {
                continue;
            }
            if let Some(rank) = pair.rank()
                && (rank as f64 - declared.rank(module)).abs() > 0.5
            {
                ranks.push((module, rank, declared.rank(module)));
            }
            if declared.targets(module) == Some(false) {
                undeclared.push(module);
            }
        }
        if let Some((module, found, expected)) = ranks.first() {
            let message = format!("rank {found}, expected {expected}, in {} modules", ranks.len());
            self.add(findings, self.finding(&RANK, message).at(module));
        }
        if let Some(first) = undeclared.first() {
            let message = format!("{} modules: {}", undeclared.len(), listed(undeclared.iter().copied()));
            self.add(findings, self.finding(&UNDECLARED_TARGET, message).at(first));
        }
        let absent: Vec<&str> = declared
            .target_names()
            .into_iter()
            .filter(|name| !self.pairs.keys().any(|module| adapter::ends_with(module, name)))
            .collect();
        if !absent.is_empty() && !self.pairs.is_empty() {
            let message = format!("declared targets without any tensor: {}", listed(absent.iter().copied()));
            self.add(findings, self.finding(&UNACCOUNTED, message).severity(Severity::Low));
        }
        let mut odd: Vec<&str> = Vec::new();
        for tensor in self.tensors {
            let allowed = match adapter::role(&tensor.entry.name).1 {
                Role::Magnitude => declared.flag("use_dora"),
                Role::FactorBias => declared.flag("lora_bias"),
                Role::Tokens => declared.flag("trainable_token_indices"),
                Role::Other => declared.flag("kasa_config") || declared.flag("monteclora_config"),
                _ => true,
            };
            if !allowed {
                odd.push(&tensor.entry.name);
            }
        }
        if let Some(first) = odd.first() {
            let message = format!("{} tensors: {}", odd.len(), listed(odd.iter().copied()));
            self.add(findings, self.finding(&UNACCOUNTED, message).at(first));
        }
    }

    fn spectrum(&self, pair: &Pair<'_>) -> Option<Spectrum> {
        let rank = usize::try_from(pair.rank()?).ok()?;
        measure::spectrum(pair.a?.gram.as_ref()?, pair.b?.gram.as_ref()?, rank)
    }

    /// Triage: how concentrated the changes are.
    fn spectra(&self, findings: &mut Findings) {
        let mut shares: Vec<(f64, &str)> = self
            .pairs
            .iter()
            .filter(|(_, pair)| pair.rank().is_some_and(|rank| rank > 1))
            .filter_map(|(module, pair)| Some((self.spectrum(pair)?.top_share, module.as_str())))
            .collect();
        shares.sort_by(|x, y| y.0.total_cmp(&x.0).then(x.1.cmp(y.1)));
        let Some((largest, module)) = shares.first() else { return };
        let median = shares[shares.len() / 2].0;
        let message = format!(
            "the largest singular value holds {:.0} % of B·A in the median of {} modules, at most {:.0} % (stable rank {:.1})",
            100.0 * median,
            shares.len(),
            100.0 * largest,
            1.0 / largest
        );
        self.add(findings, self.finding(&SPECTRUM, message).at(module));
        for found in coherence(&self.pairs) {
            let message = format!(
                "the main output directions of {} `{}` agree across layers by {:.2} in the mean ({:.2} for random directions)",
                found.modules, found.kind, found.mean, found.random
            );
            self.add(findings, self.finding(&SPECTRUM, message));
        }
    }
}

/// The first few names.
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    findings::listed(names, NAMES)
}
