//! What a run is about: the files of base and adapter, loaded, and how the record names them.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use inference::adapter::LoadOptions;
use inference::adapter::runtimes::{SEMANTICS, Semantics};
use inference::kernels::Tier;
use inference::pair::TemplateChoice;

use inference::weights::digest::sha256_file;
use inference::{ActivationBudget, Compute, ModelPair};
use probe::Progress as _;
use probe::suite::Suite;
use probe::trigger::journal::Inputs;
use report::record::{Artifact, FileDigest, Settings, Subject, Tool};

use crate::args::{ModelArguments, ReportArguments};
use crate::embedded::Embedded;
use crate::exit::Failure;
use crate::hub::{self, Part};
use crate::output;
use crate::progress::Bars;

/// Files, and the names that the report uses for them.
pub(crate) struct Target {
    base: PathBuf,
    base_name: String,
    adapter: PathBuf,
    adapter_name: String,
    /// Whether the adapted side is a whole checkpoint.
    merged: bool,
    /// Keeps unpacked files alive.
    _embedded: Option<Embedded>,
}

impl Target {
    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    pub(crate) fn base_name(&self) -> &str {
        &self.base_name
    }

    pub(crate) fn adapter(&self) -> &Path {
        &self.adapter
    }

    pub(crate) fn adapter_name(&self) -> &str {
        &self.adapter_name
    }
}

impl Target {
    /// Files under names that say nothing of where they are.
    pub(crate) fn of(base: (PathBuf, String), adapter: (PathBuf, String)) -> Self {
        let ((base, base_name), (adapter, adapter_name)) = (base, adapter);
        Self { base, base_name, adapter, adapter_name, merged: false, _embedded: None }
    }

    /// The same under the name by which a project knows the adapter.
    pub(crate) fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.adapter_name);
        self
    }

    /// Whether the adapted side is a whole checkpoint.
    pub(crate) fn merged(&self) -> bool {
        self.merged
    }
}

/// What the arguments name; without any, the embedded fixture.
pub(crate) fn target(arguments: &ModelArguments, quiet: bool) -> Result<Target, Failure> {
    let adapted = arguments.adapted.as_ref().or(arguments.adapter.as_ref());
    if let (Some(base), Some(adapter)) = (&arguments.base, adapted) {
        return Ok(Target {
            merged: arguments.adapted.is_some(),
            base_name: file_name(base),
            adapter_name: file_name(adapter),
            base: hub::resolve(base, Part::Base, arguments.download, quiet)?,
            adapter: hub::resolve(adapter, Part::Adapter, arguments.download, quiet)?,
            _embedded: None,
        });
    }
    if arguments.base.is_some() {
        return Err(Failure::Input(
            "`--base` needs the other side: add --adapter PATH or --adapted PATH".into(),
        ));
    }
    if arguments.adapted.is_some() {
        return Err(Failure::Input("`--adapted` needs its base model: add --base PATH".into()));
    }
    let asked = arguments.adapter.as_ref().map(|adapter| adapter.to_string_lossy());
    if let Some(path) = arguments.adapter.as_ref().filter(|adapter| adapter.is_dir()) {
        return Err(Failure::Input(format!("`{}` needs its base model: add --base PATH", path.display())));
    }
    let embedded = Embedded::unpack(asked.as_deref())?;
    if !quiet {
        output::talk(&format!(
            "no --base given: running on the embedded fixture `{}` (an adapter of known behaviour, trained for this purpose)",
            embedded.adapter_name
        ));
    }
    Ok(Target {
        base: embedded.base(),
        base_name: "embedded base".into(),
        adapter: embedded.adapter(),
        merged: false,
        adapter_name: format!("embedded {}", embedded.adapter_name),
        _embedded: Some(embedded),
    })
}

/// The last part of a path, as the report names what is there.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// Sizes the thread pool, and loads base and adapter.
pub(crate) fn load(arguments: &ModelArguments, target: &Target, bars: &Bars) -> Result<ModelPair, Failure> {
    let mut pair = load_base(arguments, &target.base, bars)?;
    if target.merged {
        pair.add_checkpoint(&target.adapter)?;
    } else {
        pair.add_adapter(&target.adapter, &load_options(arguments))?;
    }
    Ok(pair)
}

/// Sizes the thread pool, and loads a base alone.
pub(crate) fn load_base(arguments: &ModelArguments, base: &Path, bars: &Bars) -> Result<ModelPair, Failure> {
    if let Some(threads) = arguments.threads {
        // candle and our kernels use rayon's global pool; it can be sized once, with the first of several adapters.
        static SIZED: OnceLock<Result<(), String>> = OnceLock::new();
        let sized = SIZED.get_or_init(|| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global();
            pool.map_err(|error| format!("cannot start {threads} threads: {error}"))
        });
        sized.clone().map_err(Failure::Machine)?;
    }
    let template = match arguments.template.as_str() {
        "own" => TemplateChoice::Own,
        "none" => TemplateChoice::None,
        file => TemplateChoice::File(PathBuf::from(file)),
    };
    let compute = Compute::open(arguments.device, arguments.dtype)?;
    let started = std::cell::Cell::new(false);
    let mut pair = ModelPair::load_base(base, &template, &compute, &|_, total| {
        if !started.replace(true) {
            bars.stage("loading the base", total);
        }
        bars.advance(1);
    })?;
    pair.set_budget(ActivationBudget::new(arguments.memory));
    Ok(pair)
}

/// How the arguments have adapters read.
pub(crate) fn load_options(arguments: &ModelArguments) -> LoadOptions {
    LoadOptions { allow_pickle: arguments.allow_pickle, semantics: arguments.semantics }
}

/// What was tested, with digests.
pub(crate) fn subject(target: &Target, pair: &ModelPair) -> Result<Subject, Failure> {
    subject_on(artifact(&target.base_name, pair.files())?, target, pair)
}

/// The same where the base's digests are known.
pub(crate) fn subject_on(base: Artifact, target: &Target, pair: &ModelPair) -> Result<Subject, Failure> {
    let adapter = &pair.adapters()[0];
    Ok(Subject {
        base,
        adapter: artifact(&target.adapter_name, adapter.files())?,
        declared_base: adapter.config.base_model.clone(),
        changed_modules: adapter.changed_modules(),
    })
}

/// This program, as reports name it.
pub(crate) fn tool() -> Tool {
    Tool { name: env!("CARGO_PKG_NAME").to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
}

/// Refuses the other side where a verb takes a base alone.
pub(crate) fn base_alone(models: &ModelArguments, reason: &str) -> Result<(), Failure> {
    if models.adapter.is_some() || models.adapted.is_some() {
        return Err(Failure::Input(reason.to_owned()));
    }
    Ok(())
}

/// Whose reading of an adapter is meant, as `--semantics` takes it.
pub(crate) fn semantics_option(semantics: Semantics) -> &'static str {
    SEMANTICS.iter().find(|(_, known)| *known == semantics).map_or("", |(name, _)| name)
}

/// The template as records name it: no path, which differs by machine.
pub(crate) fn template_name(template: &str) -> String {
    match template {
        known @ ("own" | "none") => known.to_owned(),
        file => sha256_file(Path::new(file))
            .map_or_else(|_| "file".to_owned(), |digest| format!("sha256:{digest}")),
    }
}

/// Everything that decides the result, defaults included; no paths, which differ by machine. `own` are the arguments
/// of the verb itself.
pub(crate) fn settings<const N: usize>(
    models: &ModelArguments,
    report: &ReportArguments,
    suites: &[Suite],
    own: [(&str, String); N],
) -> Settings {
    let shared = [
        ("fail-on", format!("{:?}", report.fail_on).to_lowercase()),
        ("incomplete-ok", report.incomplete_ok.to_string()),
    ];
    settings_of(models, suites, shared.into_iter().chain(own))
}

/// The same for a verb without a verdict.
pub(crate) fn settings_of<'a>(
    models: &ModelArguments,
    suites: &[Suite],
    own: impl IntoIterator<Item = (&'a str, String)>,
) -> Settings {
    let shared = [
        ("template", template_name(&models.template)),
        ("semantics", models.semantics.to_string()),
        // Decides no result, but which shared beginnings are kept, and so the cost.
        ("memory", models.memory.to_string()),
    ];
    Settings {
        device: models.device.to_string(),
        dtype: models.dtype.to_string(),
        seed: models.seed,
        suites: suites.iter().map(|suite| (suite.name.clone(), suite.sha256.clone())).collect(),
        arguments: shared.into_iter().chain(own).map(|(name, value)| (name.to_owned(), value)).collect(),
    }
}

/// What a resumed hunt must have in common with the one that began it.
pub(crate) fn inputs(about: &Subject, settings: &Settings) -> Inputs {
    let digests = |artifact: &Artifact| {
        artifact.files.iter().map(|file| file.sha256.as_str()).collect::<Vec<_>>().join(" ")
    };
    let mut inputs = Inputs::from([
        ("base".to_owned(), digests(&about.base)),
        ("adapter".to_owned(), digests(&about.adapter)),
        ("device".to_owned(), settings.device.clone()),
        ("dtype".to_owned(), settings.dtype.clone()),
        ("seed".to_owned(), settings.seed.to_string()),
        ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ]);
    inputs.extend(settings.suites.iter().map(|(name, digest)| (format!("suite {name}"), digest.clone())));
    // What only decides the exit code may differ.
    let deciding =
        settings.arguments.iter().filter(|(name, _)| !matches!(name.as_str(), "fail-on" | "incomplete-ok"));
    inputs.extend(deciding.map(|(name, value)| (name.clone(), value.clone())));
    inputs
}

/// What decides what the base computes of a list of tokens: whatever is kept of it belongs to these.
pub(crate) fn base_inputs(about: &Subject, settings: &Settings) -> Inputs {
    let digests: Vec<_> = about.base.files.iter().map(|file| file.sha256.as_str()).collect();
    Inputs::from([
        ("base".to_owned(), digests.join(" ")),
        ("device".to_owned(), settings.device.clone()),
        ("dtype".to_owned(), settings.dtype.clone()),
        ("kernels".to_owned(), Tier::detect().name().to_owned()),
        ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ])
}

/// What decides what a prompt's features are: a profile of benign prompts belongs to these.
pub(crate) fn features(about: &Subject, settings: &Settings) -> Inputs {
    let mut inputs = base_inputs(about, settings);
    let digests: Vec<_> = about.adapter.files.iter().map(|file| file.sha256.as_str()).collect();
    inputs.insert("adapter".to_owned(), digests.join(" "));
    let deciding = ["template", "semantics"];
    let named = settings.arguments.iter().filter(|(name, _)| deciding.contains(&name.as_str()));
    inputs.extend(named.map(|(name, value)| (name.clone(), value.clone())));
    inputs
}

pub(crate) fn artifact(name: &str, files: &[PathBuf]) -> Result<Artifact, Failure> {
    let mut digests = Vec::with_capacity(files.len());
    for file in files {
        let bytes = std::fs::metadata(file)
            .map_err(|error| Failure::Machine(format!("cannot read `{}`: {error}", file.display())))?
            .len();
        digests.push(FileDigest {
            name: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            bytes,
            sha256: sha256_file(file)?,
        });
    }
    Ok(Artifact { name: name.to_owned(), files: digests })
}
