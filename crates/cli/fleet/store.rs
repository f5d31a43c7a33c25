//! The store: one file a result, found by the id of its unit. No locks and no database, so that it can lie on a file system
//! of a network: a file is written beside its place, is on the disk before it is renamed there, and is never changed.
//!
//! `results/ab/<unit>.<digest>.json` are the results, `ab` being the first two digits of the id. `runs/ab/<unit>.json` says
//! where, when and how fast a unit was last run; no result depends on it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use report::fleet::{Problem, ProblemKind, Summary, UnitResult, unit_of_name};
use serde::{Deserialize, Serialize};

const RESULTS: &str = "results";
const RUNS: &str = "runs";
/// What the names of files begin with that are being written.
const TEMPORARY: &str = ".writing-";

/// A folder of results.
pub(crate) struct Store {
    root: PathBuf,
}

/// Where, when and how fast a unit was run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sidecar {
    pub(crate) unit: String,
    /// The verdict, or the kind of error.
    pub(crate) outcome: String,
    pub(crate) host: String,
    pub(crate) process: u32,
    /// The vector instructions that were used.
    pub(crate) kernels: String,
    pub(crate) program: String,
    pub(crate) shard: usize,
    pub(crate) seconds: f64,
    /// Token-forwards that were run; what was known of the base was not.
    pub(crate) token_forwards: u64,
    /// Most memory that the process has held until then, in bytes, where the system tells.
    #[serde(default)]
    pub(crate) peak_bytes: Option<u64>,
    /// Seconds since 1970.
    pub(crate) finished: u64,
}

impl Store {
    /// A store, there or not.
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Makes what is not there, and tries whether it can be written.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        for folder in [RESULTS, RUNS] {
            fs::create_dir_all(self.root.join(folder))?;
        }
        tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(self.root.join(RESULTS)).map(drop)
    }

    /// Whether there is a store.
    pub(crate) fn exists(&self) -> bool {
        self.root.join(RESULTS).is_dir()
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether a unit has a result that is believed.
    pub(crate) fn has(&self, unit: &str) -> io::Result<bool> {
        Ok(self.believed(unit)?.is_some())
    }

    /// The result of a unit, if it has one that is believed.
    pub(crate) fn result(&self, unit: &str) -> io::Result<Option<UnitResult>> {
        let bytes = self.believed(unit)?;
        Ok(bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose()?)
    }

    /// The bytes of the first result of a unit that is believed.
    fn believed(&self, unit: &str) -> io::Result<Option<Vec<u8>>> {
        let entries = match fs::read_dir(self.folder(RESULTS, unit)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if unit_of_name(&name) == Some(unit) {
                let bytes = fs::read(self.folder(RESULTS, unit).join(&name))?;
                if Summary::read(&name, &bytes).is_ok() {
                    return Ok(Some(bytes));
                }
            }
        }
        Ok(None)
    }

    /// Writes a result. Once this returns, no loss of power takes it away.
    pub(crate) fn keep(&self, result: &UnitResult) -> io::Result<()> {
        let (name, bytes) = result.file()?;
        let folder = self.folder(RESULTS, &result.unit);
        fs::create_dir_all(&folder)?;
        write(&folder, &name, &bytes)?;
        // The folder that holds a new folder's name must be on the disk as well.
        sync(&folder)?;
        sync(&self.root.join(RESULTS))
    }

    /// Writes how a unit was run.
    pub(crate) fn note(&self, sidecar: &Sidecar) -> io::Result<()> {
        let folder = self.folder(RUNS, &sidecar.unit);
        fs::create_dir_all(&folder)?;
        let text = serde_json::to_string_pretty(sidecar)? + "\n";
        write(&folder, &format!("{}.json", sidecar.unit), text.as_bytes())
    }

    /// How a unit was last run, if that is known.
    pub(crate) fn sidecar(&self, unit: &str) -> Option<Sidecar> {
        let bytes = fs::read(self.folder(RUNS, unit).join(format!("{unit}.json"))).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Every file among the results, as a path in the store, in order. What cannot be one is a problem.
    pub(crate) fn files(&self) -> io::Result<(Vec<String>, Vec<Problem>)> {
        let (mut files, mut problems) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(self.root.join(RESULTS))? {
            let entry = entry?;
            let folder = entry.file_name().to_string_lossy().into_owned();
            if !entry.file_type()?.is_dir() {
                problems.push(odd(format!("{RESULTS}/{folder}"), &folder));
                continue;
            }
            for entry in fs::read_dir(entry.path())? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let path = format!("{RESULTS}/{folder}/{name}");
                if entry.file_type()?.is_file() && !name.starts_with(TEMPORARY) {
                    files.push(path);
                } else {
                    problems.push(odd(path, &name));
                }
            }
        }
        files.sort_unstable();
        Ok((files, problems))
    }

    fn folder(&self, kind: &str, unit: &str) -> PathBuf {
        self.root.join(kind).join(unit.get(..2).unwrap_or("00"))
    }
}

/// What is wrong with something that is no file of a result.
fn odd(file: String, name: &str) -> Problem {
    if name.starts_with(TEMPORARY) {
        return Problem {
            kind: ProblemKind::Unfinished,
            file,
            reason: "a write that never came to its end, or is under way".into(),
        };
    }
    Problem { kind: ProblemKind::Foreign, file, reason: "it is not a file of a result".into() }
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(folder)?;
    temporary.write_all(bytes)?;
    readable(temporary.as_file())?;
    temporary.as_file().sync_all()?;
    temporary.persist(folder.join(name)).map(drop).map_err(|error| error.error)
}

/// Temporary files are their owner's alone; others must be able to merge.
#[cfg(unix)]
fn readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable(_: &File) -> io::Result<()> {
    Ok(())
}

/// Puts a folder's names on the disk, where the system can.
#[cfg(unix)]
fn sync(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some file systems of networks refuse to sync a folder; their server does it by itself.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}

#[cfg(not(unix))]
fn sync(_: &Path) -> io::Result<()> {
    Ok(())
}
