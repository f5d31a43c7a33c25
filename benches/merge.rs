//! Merges a store of many synthetic results, and says how long that took and how much memory.
//!
//! `cargo bench --bench merge -- [--units 100000] [--keep DIR]`. The results are the records of two scans of the embedded
//! base, a benign adapter and for one in a hundred a backdoored one, each under the identity of an adapter that does not
//! exist: their sizes are those of real results. The store is as warm as writing it just now leaves it.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement, not a library")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use report::fleet::{
    AdapterName, Base, Header, Manifest, Outcome, Plan, PlannedUnit, SCHEMA_VERSION, UnitResult, assign,
};
use report::record::{self, FileDigest, Record};

const PROGRAM: &str = env!("CARGO_BIN_EXE_triggerfish");

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str| {
        arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1).cloned())
    };
    let units: usize = option("--units").map_or(100_000, |text| text.parse().unwrap());
    let temporary = tempfile::tempdir().unwrap();
    let folder = option("--keep").map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    let records = ["benign", "backdoored-refusal"].map(scan);
    let plan = plan(units, &records[0]);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("plan.jsonl"), plan.write().unwrap()).unwrap();
    let start = Instant::now();
    let bytes: u64 =
        plan.units.par_iter().enumerate().map(|(at, unit)| write(&folder, &plan, at, unit, &records)).sum();
    println!(
        "{units} results, {:.2} GB, {} bytes each, written in {:.0} s",
        bytes as f64 / 1e9,
        bytes / units.max(1) as u64,
        start.elapsed().as_secs_f64()
    );
    for (name, more) in [("text alone", &[][..]), ("every form", &["--output", "merged"])] {
        let (seconds, peak) = merge(&folder, more);
        println!("merge, {name}: {seconds:.1} s, peak resident {} MB", peak >> 10);
    }
}

/// The record of an embedded adapter.
fn scan(adapter: &str) -> Record {
    let scan = ["scan", "--quiet", "--format", "json", "--adapter", adapter];
    let output = Command::new(PROGRAM).args(scan).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

fn digest(name: &str, of: usize) -> FileDigest {
    FileDigest { name: name.into(), bytes: 1 << 20, sha256: format!("{of:064x}") }
}

fn plan(units: usize, of: &Record) -> Plan {
    let manifest = Manifest { files: of.subject.base.files.clone(), ..Manifest::default() };
    let header = Header {
        schema_version: SCHEMA_VERSION.into(),
        tool: of.tool.clone(),
        record_version: record::SCHEMA_VERSION.into(),
        shards: 1000,
        units,
        bases: vec![Base { path: "models/base".into(), manifest: manifest.clone() }],
        suites: Vec::new(),
        arguments: [("false-discovery-rate".to_owned(), "0.01".to_owned())].into(),
        content: of.settings.arguments.clone(),
    };
    let mut planned: Vec<PlannedUnit> = (0..units)
        .map(|at| {
            let files =
                vec![digest("adapter_config.json", 2 * at), digest("adapter_model.safetensors", 2 * at + 1)];
            let adapter = Manifest { files, ..Manifest::default() };
            let name = format!("organisation-{}/adapter-{at}", at % 977);
            PlannedUnit {
                unit: header.identity(adapter.clone(), manifest.clone()).unit(),
                shard: 0,
                base: 0,
                cost: 1,
                adapters: vec![AdapterName { path: format!("adapters/{name}"), name }],
                manifest: adapter,
            }
        })
        .collect();
    assign(&mut planned, header.shards, |_| 0);
    Plan { header, units: planned }
}

fn write(folder: &Path, plan: &Plan, at: usize, unit: &PlannedUnit, records: &[Record; 2]) -> u64 {
    let mut record = records[usize::from(at.is_multiple_of(100))].clone();
    record.subject.adapter.files.clone_from(&unit.manifest.files);
    let identity = plan.header.identity(unit.manifest.clone(), plan.header.bases[0].manifest.clone());
    let (name, bytes) = UnitResult::of(identity, Outcome::Scanned(Box::new(record))).file().unwrap();
    let folder = folder.join("store/results").join(&name[..2]);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), &bytes).unwrap();
    bytes.len() as u64
}

/// Seconds and peak resident kilobytes.
fn merge(folder: &Path, more: &[&str]) -> (f64, u64) {
    let start = Instant::now();
    let mut child = Command::new(PROGRAM)
        .current_dir(folder)
        .args(["merge", "--store", "store"])
        .args(more)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut peak = 0;
    loop {
        // Linux only; elsewhere the peak stays 0.
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = peak.max(kilobytes.unwrap_or(0));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return (start.elapsed().as_secs_f64(), peak);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
