//! All shards of a plan on one machine: each is a process of its own, as it would be on a cluster.

use std::num::NonZeroUsize;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::run::RunArguments;
use crate::exit::{self, Failure, scheduled};
use crate::{Outcome, output, progress};

/// How often the processes are looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Codes by what is to be told of several shards, the mildest first: what another try mends stands last.
const ORDER: [u8; 6] = [
    exit::PASS,
    scheduled::SOFTWARE,
    scheduled::CONFIGURATION,
    scheduled::USAGE,
    scheduled::DATA,
    scheduled::RETRY,
];

pub(crate) fn run(arguments: &RunArguments, shards: usize, jobs: NonZeroUsize) -> Outcome {
    let jobs = jobs.get().min(shards.max(1));
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = arguments.threads.map_or_else(|| (cores / jobs).max(1), NonZeroUsize::get);
    let (mut next, mut running): (usize, Vec<(usize, Child)>) = (0, Vec::new());
    let (mut worst, mut told) = (exit::PASS, false);
    loop {
        while !progress::stopped() && running.len() < jobs && next < shards {
            running.push((next, start(arguments, next, shards, threads)?));
            next += 1;
        }
        if progress::stopped() && !told {
            running.iter().for_each(|(_, child)| interrupt(child));
            told = true;
        }
        let mut still = Vec::with_capacity(running.len());
        for (shard, mut child) in running {
            let ended =
                child.try_wait().map_err(|error| Failure::Machine(format!("shard {shard}: {error}")))?;
            match ended {
                None => still.push((shard, child)),
                Some(status) => worst = worse(worst, code(shard, status)),
            }
        }
        running = still;
        if running.is_empty() && (next >= shards || progress::stopped()) {
            return Ok(if next < shards { scheduled::RETRY } else { worst });
        }
        std::thread::sleep(LOOK);
    }
}

fn start(arguments: &RunArguments, shard: usize, shards: usize, threads: usize) -> Result<Child, Failure> {
    let failed = |error: std::io::Error| Failure::Machine(format!("cannot start shard {shard}: {error}"));
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.arg("run").arg("--plan").arg(&arguments.plan).arg("--store").arg(&arguments.store);
    command.arg(format!("--shard={shard}/{shards}")).arg(format!("--threads={threads}"));
    if let Some(root) = &arguments.root {
        command.arg("--root").arg(root);
    }
    if arguments.quiet {
        command.arg("--quiet");
    }
    command.stdin(Stdio::null()).spawn().map_err(failed)
}

/// Asks a shard to stop, as a scheduler would.
#[cfg(unix)]
fn interrupt(child: &Child) {
    use rustix::process::{Pid, Signal, kill_process};
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // One that is gone already needs no signal.
        let _ = kill_process(pid, Signal::TERM);
    }
}

#[cfg(not(unix))]
fn interrupt(_: &Child) {}

/// The code of a shard's end; one that was killed is tried again.
fn code(shard: usize, status: std::process::ExitStatus) -> u8 {
    match status.code().and_then(|code| u8::try_from(code).ok()) {
        Some(code) => code,
        None => {
            output::talk(&format!("shard {shard}: {status}; run it again"));
            scheduled::RETRY
        }
    }
}

fn worse(a: u8, b: u8) -> u8 {
    let rank = |code: u8| ORDER.iter().position(|known| *known == code).unwrap_or(1);
    if rank(b) > rank(a) { b } else { a }
}
