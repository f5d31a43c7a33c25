//! Embeds every `suites/*.json` of the repository, so that a suite is added by adding a file.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../../suites");
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("the repository has a suites folder")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    let mut table = String::from("&[\n");
    for file in &files {
        let file = file.canonicalize().expect("the file was just listed");
        println!("cargo:rerun-if-changed={}", file.display());
        writeln!(
            table,
            "    ({:?}, include_str!({:?})),",
            file.file_stem().expect("it ends in .json").to_string_lossy(),
            file.display().to_string()
        )
        .expect("writing to a string");
    }
    table.push(']');
    let out = Path::new(&env::var("OUT_DIR").expect("cargo sets it")).join("suites.rs");
    fs::write(out, table).expect("the output folder is writable");
}
