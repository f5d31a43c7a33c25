//! An append-only file of JSON lines under a header that says what they belong to.
//!
//! Every line is on the disk before the next is begun. A line that was torn by the end of the process is dropped when the
//! file is opened again, and a file that was begun with other inputs is refused by the name of what differs.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

const VERSION: u32 = 1;

/// Everything that decides the measurements, by name: digests of base, adapter and prompts, seed,
/// precision, arguments.
pub type Inputs = BTreeMap<String, String>;

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    inputs: Inputs,
}

/// The file, open for appending and locked against other processes.
#[derive(Debug)]
pub(crate) struct Lines {
    path: PathBuf,
    file: File,
}

impl Lines {
    /// Opens the file, making it and its directory if they do not exist, and reads its lines. A last line that was torn
    /// is dropped.
    ///
    /// # Errors
    /// If the file cannot be used or another process uses it, holds no lines of this version, or was begun with other
    /// inputs; the error names the first that differs.
    pub(crate) fn open<T: DeserializeOwned>(path: &Path, inputs: &Inputs) -> Result<(Self, Vec<T>)> {
        let failed = |what: &str, error: &std::io::Error| Error::Journal {
            path: path.to_owned(),
            reason: format!("cannot {what}: {error}"),
        };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(|error| failed("make its directory", &error))?;
        }
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|error| failed("be opened for writing", &error))?;
        match file.try_lock() {
            // Where a file system knows no locks, one process at a time is the user's affair.
            Ok(()) | Err(TryLockError::Error(_)) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Journal {
                    path: path.to_owned(),
                    reason: "another process is writing it".to_owned(),
                });
            }
        }
        let text = fs::read(path).map_err(|error| failed("be read", &error))?;
        let (header, lines, good) = parse(path, &text)?;
        file.set_len(good as u64).map_err(|error| failed("drop a torn line", &error))?;
        match header {
            Some(header) => same_inputs(path, &header, inputs)?,
            None => {
                let header = Header { version: VERSION, inputs: inputs.clone() };
                append(&mut file, &[header]).map_err(|error| failed("be written", &error))?;
            }
        }
        Ok((Self { path: path.to_owned(), file }, lines))
    }

    /// Writes lines and waits until they are on the disk.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(crate) fn append<T: Serialize>(&mut self, lines: &[T]) -> Result<()> {
        append(&mut self.file, lines).map_err(|error| self.error(format!("cannot be written: {error}")))
    }

    /// An error about this file.
    pub(crate) fn error(&self, reason: String) -> Error {
        Error::Journal { path: self.path.clone(), reason }
    }
}

fn append<T: Serialize>(file: &mut File, lines: &[T]) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut bytes, line)?;
        bytes.push(b'\n');
    }
    file.write_all(&bytes)?;
    file.sync_data()
}

/// Header, lines, and the length of what is whole.
fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<(Option<Header>, Vec<T>, usize)> {
    let malformed = |line: usize, reason: String| Error::Journal {
        path: path.to_owned(),
        reason: format!("line {line}: {reason}"),
    };
    let good = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let mut lines = bytes[..good].split(|&byte| byte == b'\n').take_while(|line| !line.is_empty());
    let Some(first) = lines.next() else { return Ok((None, Vec::new(), 0)) };
    let header: Header = serde_json::from_slice(first)
        .map_err(|error| malformed(1, format!("expected the header of a run, found {error}")))?;
    if header.version != VERSION {
        return Err(malformed(1, format!("expected version {VERSION}, found {}", header.version)));
    }
    let parsed = lines
        .enumerate()
        .map(|(index, line)| {
            serde_json::from_slice(line).map_err(|error| malformed(index + 2, error.to_string()))
        })
        .collect::<Result<_>>()?;
    Ok((Some(header), parsed, good))
}

fn same_inputs(path: &Path, header: &Header, inputs: &Inputs) -> Result<()> {
    let absent = "absent".to_owned();
    for name in header.inputs.keys().chain(inputs.keys()) {
        let was = header.inputs.get(name).unwrap_or(&absent);
        let is = inputs.get(name).unwrap_or(&absent);
        if was != is {
            return Err(Error::Journal {
                path: path.to_owned(),
                reason: format!("`{name}` was {was} when this run began, and is {is} now"),
            });
        }
    }
    Ok(())
}
