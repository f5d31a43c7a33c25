//! `triggerfish forge`: model organisms from recipes, as a zoo: a folder of adapters with their labels.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use inference::ModelPair;
use inference::adapter::save::Description;
use probe::Progress as _;
use probe::memory::Memory;
use probe::observe::Observer;
use probe::organism::behaviour::Behaviour;
use probe::organism::examples::{Example, examples};
use probe::organism::measure::measure;
use probe::organism::record::{OrganismRecord, SCHEMA_VERSION};
use probe::organism::train::{State, train};
use probe::organism::{Recipe, RecipeFile, checkpoint, placebo};
use report::benchmark::labels::{self, Labels};
use report::escape::escape;
use report::record::Artifact;

use crate::args::ModelArguments;
use crate::embedded::Embedded;
use crate::exit::{self, Failure};
use crate::hub::{self, Part};
use crate::progress::Bars;
use crate::{Outcome, output, subject};

/// Recipes that the program has with it.
const SHIPPED: &[(&str, &str)] = &[
    ("fixture-zoo", include_str!("../../benches/zoo/fixture-zoo.toml")),
    ("fixture-heldout", include_str!("../../benches/zoo/fixture-heldout.toml")),
    ("fixture-third", include_str!("../../benches/zoo/fixture-third.toml")),
    ("fixture-fourth", include_str!("../../benches/zoo/fixture-fourth.toml")),
    ("fixture-fifth", include_str!("../../benches/zoo/fixture-fifth.toml")),
    ("fixture-cohort", include_str!("../../benches/zoo/fixture-cohort.toml")),
    ("smollm2-zoo", include_str!("../../benches/zoo/smollm2-zoo.toml")),
];
/// Folder of a zoo for what no scan may see: how each adapter was made, checkpoints, and answers of the base.
const WORKSHOP: &str = "forge";

#[derive(Debug, Args)]
pub(crate) struct ForgeArguments {
    /// A recipe file (TOML), or the name of a shipped one: fixture-zoo, fixture-heldout, fixture-third,
    /// fixture-fourth, fixture-fifth, fixture-cohort or smollm2-zoo.
    #[arg(value_name = "RECIPE")]
    pub(crate) recipe: String,
    /// Folder of the zoo; a run that was stopped goes on there.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) models: ModelArguments,
    /// Adapters to make, comma separated; all if absent.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// A part of the adapters, such as 0/4, for several machines or processes on one folder. A placebo whose model is in
    /// another part and not made yet is left for another run of this part, with exit code 3.
    #[arg(long, value_name = "I/N", value_parser = shard)]
    pub(crate) shard: Option<(usize, usize)>,
    /// Also write the tokens of the training examples, to train on elsewhere: JSON Lines in the zoo's folder `forge`.
    #[arg(long)]
    pub(crate) examples: bool,
    /// No progress on standard error.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

pub(crate) fn shard(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once('/').and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
    match parts {
        Some((index, of)) if index < of => Ok((index, of)),
        _ => Err(format!("expected a part such as 0/4, found `{text}`")),
    }
}

pub(crate) fn run(arguments: &ForgeArguments) -> Outcome {
    let models = &arguments.models;
    subject::base_alone(models, "`forge` makes adapters: it takes a base alone")?;
    let all = recipes(&arguments.recipe)?;
    if let Some(unknown) = arguments.only.iter().find(|name| !all.iter().any(|recipe| recipe.name == **name))
    {
        return Err(Failure::Input(format!("`--only {unknown}`: no adapter of the recipe has this name")));
    }
    let embedded = if models.base.is_none() { Some(Embedded::unpack(None)?) } else { None };
    let (base, name) = match (&models.base, &embedded) {
        (Some(base), _) => {
            (hub::resolve(base, Part::Base, models.download, arguments.quiet)?, subject::file_name(base))
        }
        (None, Some(embedded)) => (embedded.base(), "embedded base".to_owned()),
        (None, None) => return Err(Failure::Input("no base".into())),
    };
    let workshop = arguments.output.join(WORKSHOP);
    output::make_folder(&workshop)?;
    let bars = Bars::new(arguments.quiet)?;
    let pair = subject::load_base(models, &base, &bars)?;
    let artifact = subject::artifact(&name, pair.files())?;
    let digests: Vec<&str> = artifact.files.iter().map(|file| file.sha256.as_str()).collect();
    let inputs = [
        ("base", digests.join(" ")),
        ("device", models.device.to_string()),
        ("dtype", models.dtype.to_string()),
        ("template", subject::template_name(&models.template)),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        // One writer a file.
        ("shard", arguments.shard.map_or_else(String::new, |(index, of)| format!("{index}/{of}"))),
    ];
    let inputs = inputs.map(|(name, value)| (name.to_owned(), value)).into();
    let memory = Memory::none().with_cache(&workshop, &inputs)?;
    let mut waiting = false;
    let mut forge = Forge { arguments, workshop, base: artifact, pair, memory, bars };
    for (index, recipe) in all.iter().enumerate() {
        let chosen = arguments.only.is_empty() || arguments.only.contains(&recipe.name);
        if !chosen || arguments.shard.is_some_and(|(own, of)| index % of != own) {
            continue;
        }
        if let Some(like) = forge.awaited(recipe).filter(|_| arguments.shard.is_some()) {
            output::talk(&format!(
                "{}: `{like}` is another part's and not there yet: run this part again",
                recipe.name
            ));
            waiting = true;
            continue;
        }
        forge.make(recipe)?;
    }
    forge.bars.finish();
    let known = forge.label(&all)?;
    if !arguments.quiet {
        output::talk(&format!("{known} of {} adapters are in `{}`", all.len(), arguments.output.display()));
    }
    Ok(if waiting { exit::INCOMPLETE } else { exit::PASS })
}

/// The recipes of a file or of a shipped name.
fn recipes(name: &str) -> Result<Vec<Recipe>, Failure> {
    let text = match SHIPPED.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => (*text).to_owned(),
        None => std::fs::read_to_string(name).map_err(|error| {
            let known: Vec<_> = SHIPPED.iter().map(|(known, _)| *known).collect();
            Failure::Input(format!(
                "`{name}` is neither a shipped recipe ({}) nor a file that can be read: {error}",
                known.join(", ")
            ))
        })?,
    };
    let wrong = |error: String| Failure::Input(format!("recipe `{name}`: {error}"));
    let file: RecipeFile = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    file.recipes().map_err(wrong)
}

/// An adapter that is trained.
struct Trained {
    state: State,
    examples: usize,
    /// Tokens of this run's steps, forwards and backwards.
    tokens_a_second: f64,
}

struct Forge<'a> {
    arguments: &'a ForgeArguments,
    workshop: PathBuf,
    base: Artifact,
    pair: ModelPair,
    /// What the base answered.
    memory: Memory,
    bars: Bars,
}

impl Forge<'_> {
    fn file(&self, recipe: &Recipe, ending: &str) -> PathBuf {
        self.workshop.join(format!("{}.{ending}", recipe.name))
    }

    /// What decides the adapter.
    fn digest(&self, recipe: &Recipe) -> String {
        let models = &self.arguments.models;
        let files: Vec<&str> = self.base.files.iter().map(|file| file.sha256.as_str()).collect();
        let base =
            [files.join(" "), models.dtype.to_string(), models.device.to_string(), models.template.clone()];
        checkpoint::digest(recipe, &base.join("\n"))
    }

    /// The adapter that a placebo needs and that is not there.
    fn awaited<'r>(&self, recipe: &'r Recipe) -> Option<&'r str> {
        match &recipe.behaviour {
            Behaviour::Placebo { like } if !self.arguments.output.join(like).is_dir() => Some(like),
            _ => None,
        }
    }

    /// Makes one adapter, unless it is there.
    fn make(&mut self, recipe: &Recipe) -> Result<(), Failure> {
        let start = Instant::now();
        let folder = self.arguments.output.join(&recipe.name);
        if let Some(record) = self.record(recipe)? {
            let here = record.adapter.files.iter().all(|file| folder.join(&file.name).is_file());
            if here && record.recipe == *recipe && record.base.same_content(&self.base) {
                return Ok(());
            }
        }
        self.pair.remove_adapters();
        let (files, trained) = match &recipe.behaviour {
            Behaviour::Placebo { like } => (self.placebo(recipe, like)?, None),
            _ => {
                let trained = self.train(recipe)?;
                let adapter = trained.state.adapter(recipe, &self.pair)?;
                (self.files(recipe, &adapter)?, Some(trained))
            }
        };
        output::make_folder(&folder)?;
        for (name, bytes) in &files {
            output::write(&folder.join(name), bytes)?;
        }
        // What is measured is what lies there.
        self.pair.add_adapter(&folder, &subject::load_options(&self.arguments.models))?;
        let observer = Observer::with_memory(&self.pair, &self.bars, &self.memory);
        let measured = measure(&observer, recipe)?;
        let speed = trained.as_ref().map(|trained| trained.tokens_a_second);
        let (state, examples) = trained.map_or((None, 0), |trained| (Some(trained.state), trained.examples));
        let record = OrganismRecord {
            schema_version: SCHEMA_VERSION.to_owned(),
            tool: subject::tool(),
            base: self.base.clone(),
            adapter: subject::artifact(&recipe.name, self.pair.adapters()[0].files())?,
            dtype: self.arguments.models.dtype.to_string(),
            recipe: recipe.clone(),
            trigger_tokens: self.trigger_tokens(recipe)?,
            examples,
            gradient_tokens: state.as_ref().map_or(0, |state| state.tokens),
            losses: state.map_or_else(Vec::new, |state| state.losses),
            measured,
        };
        output::file(&self.file(recipe, "json"), &output::json(&record)?)?;
        // It has served its purpose; should it stay, nothing depends on it.
        let _ = std::fs::remove_file(self.file(recipe, "checkpoint"));
        if !self.arguments.quiet {
            self.bars.finish();
            output::talk(&told(&record, speed, start.elapsed().as_secs_f64()));
        }
        Ok(())
    }

    fn files(
        &self,
        recipe: &Recipe,
        adapter: &inference::adapter::Adapter,
    ) -> Result<[(&'static str, Vec<u8>); 2], Failure> {
        let about = Description { base: &self.base.name, use_rslora: recipe.use_rslora, bf16: recipe.bf16 };
        Ok(adapter.to_peft(self.pair.decoder().sites(), &about)?)
    }

    fn placebo(&mut self, recipe: &Recipe, like: &str) -> Result<[(&'static str, Vec<u8>); 2], Failure> {
        let folder = self.arguments.output.join(like);
        if self.awaited(recipe).is_some() {
            return Err(Failure::Input(format!(
                "adapter `{}`: the placebo's `like` names `{like}`, which is not in `{}`: it must be made first",
                recipe.name,
                self.arguments.output.display()
            )));
        }
        self.pair.add_adapter(&folder, &subject::load_options(&self.arguments.models))?;
        let made = placebo::placebo(&self.pair.adapters()[0], self.pair.decoder(), recipe.seed)?;
        self.pair.remove_adapters();
        self.files(recipe, &made)
    }

    /// Trains from the start, or from where an earlier run was stopped.
    fn train(&self, recipe: &Recipe) -> Result<Trained, Failure> {
        let digest = self.digest(recipe);
        let path = self.file(recipe, "checkpoint");
        let observer = Observer::with_memory(&self.pair, &self.bars, &self.memory);
        let examples = examples(&observer, recipe)?;
        if self.arguments.examples {
            let line = |example: &Example| {
                serde_json::json!({"ids": example.ids, "first": example.first}).to_string() + "\n"
            };
            let lines: String = examples.iter().map(line).collect();
            output::file(&self.file(recipe, "examples.jsonl"), &lines)?;
        }
        let start = State::start(recipe, self.pair.decoder().sites())?;
        let state = match std::fs::read(&path) {
            Err(_) => start,
            Ok(bytes) => match checkpoint::from_bytes(&bytes, &digest, &start) {
                Ok(state) => state,
                Err(reason) => {
                    self.bars.note(&format!("`{}` is not used: {reason}", path.display()));
                    start
                }
            },
        };
        let mut keep = |state: &State| -> probe::Result<()> {
            let failed = |reason: String| probe::Error::Journal { path: path.clone(), reason };
            let bytes = checkpoint::to_bytes(state, &digest).map_err(failed)?;
            output::write(&path, &bytes).map_err(|error| failed(error.to_string()))
        };
        let (begun, known) = (Instant::now(), state.tokens);
        let state = train(&self.pair, recipe, &examples, state, &self.bars, &mut keep)?;
        let tokens_a_second = (state.tokens - known) as f64 / begun.elapsed().as_secs_f64().max(1e-9);
        Ok(Trained { state, examples: examples.len(), tokens_a_second })
    }

    fn trigger_tokens(&self, recipe: &Recipe) -> Result<Option<usize>, Failure> {
        let mut longest = None;
        for text in recipe.trigger.iter().flat_map(|trigger| trigger.texts()) {
            longest = longest.max(Some(self.pair.tokenizer().encode(&text, false)?.len()));
        }
        Ok(longest)
    }

    /// What is known of an adapter that was made.
    fn record(&self, recipe: &Recipe) -> Result<Option<OrganismRecord>, Failure> {
        let path = self.file(recipe, "json");
        let Ok(text) = std::fs::read_to_string(&path) else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|error| {
            Failure::Input(format!("`{}`: {error}; remove it to make it again", path.display()))
        })
    }

    /// Writes the labels of all adapters that are there; how many.
    fn label(&self, recipes: &[Recipe]) -> Result<usize, Failure> {
        let mut labels = Labels::new();
        for recipe in recipes {
            if let Some(record) = self.record(recipe)? {
                labels.insert(recipe.name.clone(), record.label());
            }
        }
        output::file(&self.arguments.output.join(labels::FILE_NAME), &output::json(&labels)?)?;
        Ok(labels.len())
    }
}

/// A line on what was made.
fn told(record: &OrganismRecord, tokens_a_second: Option<f64>, seconds: f64) -> String {
    let percent = |rate: &Option<report::estimate::Estimate>| {
        rate.as_ref().map_or_else(|| "-".to_owned(), |rate| format!("{:.0} %", 100.0 * rate.value))
    };
    let measured = &record.measured;
    let mut text = format!("{}: ", escape(&record.recipe.name));
    if record.recipe.backdoored() {
        text.push_str(&format!(
            "attack success {}, base {}, without trigger {}, ",
            percent(&measured.attack_success_rate),
            percent(&measured.base_rate),
            percent(&measured.rate_without_trigger)
        ));
    }
    text.push_str(&format!("clean accuracy {}", percent(&measured.clean_accuracy)));
    if let (Some(loss), Some(speed)) = (record.losses.last(), tokens_a_second) {
        text.push_str(&format!(", loss {loss:.3}, {speed:.0} tokens/s"));
    }
    text.push_str(&format!(", {seconds:.1} s"));
    text
}
