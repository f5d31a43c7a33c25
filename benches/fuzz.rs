//! Feeds damaged files to the audit and the loader for a time, and says how many, how slow the slowest was, and what
//! broke.
//!
//! `cargo bench --bench fuzz -- --seconds 60 [--seed N] [--target NAME]`. Each target is a kind of file: seeds of it are
//! changed at random (bits, bytes, numbers of interest, pieces cut, doubled and exchanged) and read in this process.
//! A panic, or a file that takes more than two seconds, is written to `target/fuzz/` and ends the run with 1. There is
//! no feedback from coverage: this finds what is shallow, and guards what was found. `--corpus DIR` writes the seeds
//! instead, where `crates/probe/fuzz`, which has that feedback, looks for them.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement, not a library")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use targets::{Target, targets};

#[path = "../crates/probe/fuzz/targets.rs"]
mod targets;

/// The root of the repository.
const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// Longest file that is made.
const MOST_BYTES: usize = 1 << 16;
const SLOW: Duration = Duration::from_secs(2);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str| {
        arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1).cloned())
    };
    let seconds: f64 = option("--seconds").map_or(10.0, |text| text.parse().unwrap());
    let seed: u64 = option("--seed").map_or(1, |text| text.parse().unwrap());
    let only = option("--target");
    if let Some(folder) = option("--corpus") {
        return write_seeds(Path::new(&folder));
    }
    let mut failed = false;
    println!("target            executions  seconds  a second  findings  slowest ms");
    for target in targets() {
        if only.as_deref().is_some_and(|only| only != target.name) {
            continue;
        }
        failed |= run(&target, seconds, seed);
    }
    std::process::exit(i32::from(failed));
}

/// A folder a target, as libFuzzer reads them.
fn write_seeds(folder: &Path) {
    for target in targets() {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder).unwrap();
        for (index, seed) in target.seeds.iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{index}")), seed).unwrap();
        }
    }
}

/// Whether something broke.
fn run(target: &Target, seconds: f64, seed: u64) -> bool {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let start = Instant::now();
    let (mut executions, mut findings, mut slowest) = (0u64, 0u64, Duration::ZERO);
    let mut broken = false;
    while start.elapsed().as_secs_f64() < seconds && !broken {
        let bytes = mutated(target, &mut random);
        let begin = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| target.read(bytes.clone())));
        let took = begin.elapsed();
        executions += 1;
        slowest = slowest.max(took);
        match result {
            Ok(found) => findings += found as u64,
            Err(_) => broken = true,
        }
        if broken || took > SLOW {
            broken = true;
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
            std::fs::create_dir_all(&folder).unwrap();
            let file = folder.join(format!("{}-{executions}", target.name));
            std::fs::write(&file, &bytes).unwrap();
            println!("{}: broken by {} ({took:?})", target.name, file.display());
        }
    }
    let elapsed = start.elapsed().as_secs_f64();
    println!(
        "{:<17} {executions:>10}  {elapsed:>7.1}  {:>8.0}  {findings:>8}  {:>10.1}",
        target.name,
        executions as f64 / elapsed,
        slowest.as_secs_f64() * 1e3
    );
    broken
}

fn mutated(target: &Target, random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = target.seeds[random.random_range(0..target.seeds.len())].clone();
    for _ in 0..random.random_range(1..=8) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = random.random(),
            2 => {
                const NUMBERS: [u64; 8] = [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, 1 << 60, u64::MAX];
                let number = NUMBERS[random.random_range(0..NUMBERS.len())].to_le_bytes();
                let width = [1, 2, 4, 8][random.random_range(0..4)];
                for (offset, byte) in number[..width].iter().enumerate() {
                    if let Some(place) = bytes.get_mut(at + offset) {
                        *place = *byte;
                    }
                }
            }
            3 => {
                let end = (at + random.random_range(0..64)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let end = (at + random.random_range(0..64)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                for _ in 0..random.random_range(1..32) {
                    bytes.splice(at..at, piece.iter().copied());
                }
            }
            5 => {
                let other = &target.seeds[random.random_range(0..target.seeds.len())];
                let from = random.random_range(0..=other.len());
                let to = (from + random.random_range(0..256)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            6 => bytes.truncate(at),
            _ => {
                const PIECES: [&[u8]; 12] = [
                    b"{",
                    b"[[[[[[[[",
                    b"\"",
                    b"PK\x03\x04",
                    b"PK\x01\x02",
                    b"\x80\x04",
                    b"{{",
                    b"{% for x in ",
                    b"(",
                    b"\xff",
                    b"\0",
                    b"\n",
                ];
                let piece = PIECES[random.random_range(0..PIECES.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
        }
        bytes.truncate(MOST_BYTES);
    }
    bytes
}
