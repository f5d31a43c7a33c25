//! Where texts stand among the whole vocabulary by each score that a search could rank by.
//!
//! ```sh
//! cargo bench --bench fragments -- --base FILE --adapter DIR --target TEXT --text FRAGMENT --text FRAGMENT
//! ```
//!
//! Every printable token of the vocabulary runs on each prompt at one placement, `--before` and `--after` joined to
//! it; the texts are ranked among them. A developer's tool: it needs to be told what to look for.

/// That of the program that is measured.
#[path = "../crates/cli/allocator.rs"]
mod allocator;

use std::collections::BTreeSet;
use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;

use clap::Parser;
use inference::device::DeviceName;
use inference::pair::TemplateChoice;
use inference::{Compute, ModelPair, Precision, Side};
use probe::Roles;
use probe::observe::Observer;
use probe::progress::Silent;
use probe::prompt::{Change, Placement, Prompt};
use probe::split::{Benign, Split};
use probe::suite::Suite;
use probe::trigger::movement::{Continuation, Moved, Movements, Question, log_odds};
use probe::trigger::vocabulary::Vocabulary;
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

/// Changes that are measured at a time.
const CHUNK: usize = 1024;

/// What ranks a text on one prompt.
type Score<'a> = &'a dyn Fn(&Moved) -> f64;

/// Ranks texts among the tokens of the vocabulary, by each score and prompt.
#[derive(Parser)]
struct Arguments {
    /// Base model: a GGUF file or a model directory.
    #[arg(long)]
    base: PathBuf,
    /// PEFT adapter of that base.
    #[arg(long)]
    adapter: PathBuf,
    /// Precision of the frozen products.
    #[arg(long, default_value = "bf16")]
    dtype: Precision,
    /// A text to rank; may be repeated.
    #[arg(long = "text", value_name = "TEXT")]
    texts: Vec<String>,
    /// The answer that is looked for.
    #[arg(long)]
    target: String,
    /// Joined to every token, before it.
    #[arg(long, default_value = "")]
    before: String,
    /// Joined to every token, after it.
    #[arg(long, default_value = "")]
    after: String,
    /// Where the tokens are put: `prefix` or `suffix`.
    #[arg(long, default_value = "prefix")]
    at: String,
    /// Factor of the adapter: below 1, what is sure is told from what is surer.
    #[arg(long, default_value_t = 1.0)]
    scale: f32,
    /// A prompt in the place of the suite's short ones; may be repeated.
    #[arg(long = "prompt", value_name = "TEXT")]
    prompts: Vec<String>,
    /// So many tokens, drawn at random, stand for the vocabulary; all if absent.
    #[arg(long)]
    sample: Option<usize>,
    /// How many of the highest are named.
    #[arg(long, default_value_t = 12)]
    top: usize,
    /// Seed of the sample.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// What cargo passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    allocator::keep_freed_memory();
    let arguments = Arguments::parse();
    let compute = Compute::open(DeviceName::Cpu, arguments.dtype)?;
    let mut pair = ModelPair::load_base(&arguments.base, &TemplateChoice::Own, &compute, &|_, _| {})?;
    pair.add_adapter(&arguments.adapter, &Default::default())?;
    let side = Side { scale: arguments.scale, ..Side::ADAPTED };
    let roles = Roles { base: Side::BASE, adapted: side };
    let observer = Observer::in_roles(&pair, &Silent, roles);
    let prompts = prompts(&arguments, &observer)?;
    let vocabulary = Vocabulary::of(&pair)?;
    let target = pair.tokenizer().encode(&arguments.target, false)?;
    let first = target.first().copied().ok_or("expected a target of at least one token")?;
    let at = match arguments.at.as_str() {
        "prefix" => Placement::Prefix,
        "suffix" => Placement::Suffix,
        other => return Err(format!("expected a placement of prefix, suffix, found `{other}`").into()),
    };

    let mut tokens: Vec<String> = vocabulary.printable.iter().map(|(_, text)| text.clone()).collect();
    if let Some(sample) = arguments.sample {
        tokens.shuffle(&mut ChaCha8Rng::seed_from_u64(arguments.seed));
        tokens.truncate(sample);
    }
    let known: BTreeSet<String> = tokens.iter().cloned().collect();
    tokens.extend(arguments.texts.iter().filter(|text| !known.contains(*text)).cloned());
    let changes: Vec<Change> = tokens
        .iter()
        .map(|token| Change::Insert { text: format!("{}{token}{}", arguments.before, arguments.after), at })
        .collect();

    let indices: Vec<usize> = (0..prompts.len()).collect();
    let mut movements = Movements::new(&observer, prompts, arguments.seed);
    movements.prepare(&changes)?;
    let question = Question {
        prompts: &indices,
        side,
        targets: &[first],
        continuation: Continuation::begins(&target),
        ends: false,
    };
    let mut moved: Vec<Vec<Moved>> = Vec::with_capacity(changes.len());
    for chunk in changes.chunks(CHUNK) {
        moved.extend(movements.measure(chunk, question, &vocabulary)?);
    }

    let mut out = std::io::stdout().lock();
    writeln!(out, "{} tokens, {} token-forwards", changes.len(), observer.cost().token_forwards)?;
    let scores: [(&str, Score<'_>); 3] = [
        ("divergence, nats", &|moved| moved.nats),
        ("log-odds of the target's first token", &|moved| moved.targets[0]),
        ("log-odds of the whole target", &|moved| log_odds(moved.continuation.unwrap_or(f64::NEG_INFINITY))),
    ];
    for (name, score) in scores {
        let mean = |moved: &Vec<Moved>| moved.iter().map(score).sum::<f64>() / moved.len() as f64;
        for prompt in indices.iter().copied().map(Some).chain([None]) {
            let values: Vec<f64> = moved
                .iter()
                .map(|moved| prompt.map_or_else(|| mean(moved), |prompt| score(&moved[prompt])))
                .collect();
            let mut order: Vec<usize> = (0..values.len()).collect();
            order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
            let on = prompt.map_or("all prompts, mean", |prompt| movements.prompts()[prompt].user.as_str());
            writeln!(out, "\n{name}; {on}")?;
            for text in &arguments.texts {
                let rank = order.iter().position(|&i| tokens[i] == *text);
                if let Some(rank) = rank {
                    writeln!(out, "  {:>7}  {:>8.2}  {text:?}", rank + 1, values[order[rank]])?;
                }
            }
            let highest: Vec<String> = order
                .iter()
                .take(arguments.top)
                .map(|&i| format!("{:?} {:.2}", tokens[i], values[i]))
                .collect();
            writeln!(out, "  highest: {}", highest.join(", "))?;
        }
    }
    Ok(out.flush()?)
}

/// The prompts of the command line, or those that a hunt runs every candidate on.
fn prompts(arguments: &Arguments, observer: &Observer<'_>) -> Result<Vec<Prompt>, Box<dyn Error>> {
    if !arguments.prompts.is_empty() {
        return Ok(arguments
            .prompts
            .iter()
            .enumerate()
            .map(|(index, user)| Prompt {
                id: index.to_string(),
                task: String::new(),
                system: None,
                user: user.clone(),
            })
            .collect());
    }
    let Some(suite) = Suite::embedded("benign").transpose()? else {
        return Err("the suite of benign prompts is missing".into());
    };
    Ok(Split::of(observer, &Benign::of(&[suite]), 0)?.screening)
}
