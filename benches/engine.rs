//! Times the engine on a given base and adapter: one JSON line a workload.
//!
//! ```sh
//! cargo bench --bench engine -- --base FILE --adapter DIR [--dtype bf16] [--workload NAME] [--rounds N]
//! ```
//!
//! With `--serve` it reads names of workloads on standard input and answers each with the line of one
//! run, so that another program can alternate between this engine and its peer.

/// That of the program that is measured.
#[path = "../crates/cli/allocator.rs"]
mod allocator;
mod search;
mod workloads;

use std::error::Error;
use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;

use clap::Parser;
use inference::device::DeviceName;
use inference::{Compute, Precision};
use serde_json::json;

use workloads::{Sample, Setup, WORKLOADS, Workload};

/// Times the engine on a given base and adapter; prints one JSON line a workload.
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
    /// A workload to run; may be repeated. All if absent.
    #[arg(long = "workload", value_name = "NAME")]
    workloads: Vec<String>,
    /// Timed runs of each workload, after one that is not timed.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Threads; those that the machine runs at once if absent.
    #[arg(long)]
    threads: Option<usize>,
    /// Answer names on standard input instead.
    #[arg(long)]
    serve: bool,
    /// What cargo passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    allocator::keep_freed_memory();
    let arguments = Arguments::parse();
    rayon::ThreadPoolBuilder::new().num_threads(arguments.threads.unwrap_or(0)).build_global()?;
    let chosen = if arguments.workloads.is_empty() {
        WORKLOADS.iter().collect()
    } else {
        arguments.workloads.iter().map(|name| named(name)).collect::<Result<Vec<_>, _>>()?
    };
    let compute = Compute::open(DeviceName::Cpu, arguments.dtype)?;
    let setup = Setup::load(&arguments.base, &arguments.adapter, compute)?;
    if arguments.serve {
        for name in std::io::stdin().lock().lines() {
            let sample = (named(name?.trim())?.run)(&setup)?;
            print(&arguments, named(sample.workload)?, &[sample])?;
        }
        return Ok(());
    }
    for workload in chosen {
        (workload.run)(&setup)?;
        let samples = (0..arguments.rounds.max(1)).map(|_| (workload.run)(&setup));
        print(&arguments, workload, &samples.collect::<Result<Vec<_>, _>>()?)?;
    }
    Ok(())
}

fn named(name: &str) -> Result<&'static Workload, String> {
    WORKLOADS.iter().find(|workload| workload.name == name).ok_or_else(|| {
        let known: Vec<_> = WORKLOADS.iter().map(|workload| workload.name).collect();
        format!("expected a workload of {}, found `{name}`", known.join(", "))
    })
}

/// Prints the line of some runs of one workload.
fn print(arguments: &Arguments, workload: &Workload, samples: &[Sample]) -> Result<(), Box<dyn Error>> {
    let seconds = || samples.iter().map(|sample| sample.seconds);
    let (Some(median), Some(last)) = (median_of(seconds()), samples.last()) else {
        return Err("expected at least one timed run".into());
    };
    let mut line = json!({
        "program": "engine",
        "workload": workload.name,
        "what": workload.what,
        "dtype": arguments.dtype.to_string(),
        "tier": inference::kernels::Tier::detect().name(),
        "threads": rayon::current_num_threads(),
        "rounds": samples.len(),
        "median": median,
        "min": seconds().fold(f64::INFINITY, f64::min),
        "max": seconds().fold(0.0, f64::max),
        "cpu": median_of(samples.iter().filter_map(|sample| sample.cpu)),
        "tokens": last.tokens,
        "check": last.check,
    });
    if last.flops > 0.0 {
        line["gflops"] = json!(last.flops / median / 1e9);
    }
    if let Some(ratio) = median_of(samples.iter().filter_map(|sample| sample.ratio)) {
        line["ratio"] = json!(ratio);
    }
    if let Some(whole) = last.part_of {
        line["extrapolated_seconds"] = json!(median * whole);
    }
    if let Some(candidates) = last.candidates {
        line["candidates"] = json!(candidates);
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// The middle figure, or the mean of the two middle ones if their number is even; `None` of none.
fn median_of(figures: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = figures.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len().is_multiple_of(2) { f64::midpoint(sorted[middle - 1], upper) } else { upper })
}
