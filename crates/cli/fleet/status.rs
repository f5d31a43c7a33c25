//! `triggerfish status`: how far the shards are, by the names of the files in the store.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use report::fleet::unit_of_name;
use serde::Serialize;

use super::read_plan;
use super::store::Store;
use crate::exit::{self, Failure};
use crate::{Outcome, output};

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    /// The plan.
    #[arg(long, value_name = "FILE", default_value = "plan.jsonl")]
    pub(crate) plan: PathBuf,
    /// The results.
    #[arg(long, value_name = "DIR")]
    pub(crate) store: PathBuf,
    /// Form of the answer.
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    pub(crate) format: String,
}

/// How far a plan is.
#[derive(Debug, Default, Serialize)]
struct Status {
    units: usize,
    /// Units that have a file; `merge` says whether it is believed.
    with_result: usize,
    /// Mean seconds of the units of which it is known.
    seconds_a_unit: Option<f64>,
    /// What is left, in hours of one task at that speed, by the estimated costs.
    hours_left: Option<f64>,
    /// Shards that are not through.
    shards: Vec<ShardStatus>,
}

#[derive(Clone, Debug, Default, Serialize)]
struct ShardStatus {
    shard: usize,
    units: usize,
    with_result: usize,
}

/// Shards that the text names.
const LINES: usize = 20;
/// Units whose times are read.
const SAMPLE: usize = 1_000;

pub(crate) fn run(arguments: &StatusArguments) -> Outcome {
    let plan = read_plan(&arguments.plan, |_| true)?;
    let store = Store::at(&arguments.store);
    let files = if store.exists() {
        let unreadable =
            |error| Failure::Machine(format!("cannot read `{}`: {error}", store.root().display()));
        store.files().map_err(unreadable)?.0
    } else {
        Vec::new()
    };
    let name = |file: &'_ String| file.rsplit('/').next().and_then(unit_of_name).map(str::to_owned);
    let known: BTreeSet<String> = files.iter().filter_map(name).collect();
    let mut shards = vec![ShardStatus::default(); plan.header.shards];
    let (mut seconds, mut done, mut left) = ((0.0, 0_usize, 0.0), 0, 0.0);
    for unit in &plan.units {
        let shard = &mut shards[unit.shard];
        shard.units += 1;
        if !known.contains(&unit.unit) {
            left += unit.cost as f64;
            continue;
        }
        shard.with_result += 1;
        done += 1;
        if seconds.1 < SAMPLE
            && let Some(sidecar) = store.sidecar(&unit.unit)
        {
            seconds = (seconds.0 + sidecar.seconds, seconds.1 + 1, seconds.2 + unit.cost as f64);
        }
    }
    let status = Status {
        units: plan.units.len(),
        with_result: done,
        seconds_a_unit: (seconds.1 > 0).then(|| seconds.0 / seconds.1 as f64),
        hours_left: (seconds.2 > 0.0).then(|| left * seconds.0 / seconds.2 / 3_600.0),
        shards: shards
            .into_iter()
            .enumerate()
            .map(|(at, shard)| ShardStatus { shard: at, ..shard })
            .filter(|shard| shard.with_result < shard.units)
            .collect(),
    };
    let text =
        if arguments.format == "json" { output::json(&status)? } else { text(&status, plan.header.shards) };
    output::data(&text)?;
    Ok(exit::PASS)
}

fn text(status: &Status, shards: usize) -> String {
    let mut text = format!(
        "{} of {} units have a result; {} of {shards} shards are through\n",
        status.with_result,
        status.units,
        shards - status.shards.len()
    );
    if let (Some(seconds), Some(hours)) = (status.seconds_a_unit, status.hours_left) {
        text.push_str(&format!("{seconds:.1} s a unit; about {hours:.2} hours of one task are left\n"));
    }
    for shard in status.shards.iter().take(LINES) {
        text.push_str(&format!("  shard {}: {} of {}\n", shard.shard, shard.with_result, shard.units));
    }
    if status.shards.len() > LINES {
        text.push_str(&format!("  and {} more\n", status.shards.len() - LINES));
    }
    text
}
