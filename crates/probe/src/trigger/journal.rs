//! The append-only run directory of a hunt, so that an interrupted hunt goes on where it was.
//!
//! A hunt is a deterministic program around expensive measurements. Each measurement is written down
//! under a digest of what was asked; a resumed hunt runs the same program again and reads its
//! measurements from the journal until that ends. So it ends with the same bytes as a hunt that was
//! never interrupted, and a journal of other inputs cannot be taken for one's own.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use inference::weights::digest::hex;
use report::record::Cost;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::lines::Lines;

pub use crate::lines::Inputs;

/// The file inside a run directory.
pub const FILE_NAME: &str = "journal.jsonl";

/// One finished measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// What was measured.
    pub stage: String,
    /// Digest of what was asked.
    pub key: String,
    /// What it cost.
    pub cost: Cost,
    /// Seconds since the entry before.
    pub seconds: f64,
    /// What came out.
    pub result: Value,
}

/// Past measurements to replay, and the file that new ones go to.
#[derive(Debug, Default)]
pub struct Journal {
    past: VecDeque<Entry>,
    file: Option<Lines>,
    position: usize,
}

impl Journal {
    /// A journal that is not kept.
    #[must_use]
    pub fn temporary() -> Self {
        Self::default()
    }

    /// Opens the run directory, making it if it does not exist. A last line that was torn by the
    /// interruption is dropped.
    ///
    /// # Errors
    /// If the directory cannot be used, holds no journal of this version, or was begun with other
    /// inputs; the error names the first that differs.
    pub fn open(directory: &Path, inputs: &Inputs) -> Result<Self> {
        let (lines, past): (_, Vec<Entry>) = Lines::open(&directory.join(FILE_NAME), inputs)?;
        Ok(Self { past: past.into(), file: Some(lines), position: 0 })
    }

    /// How many measurements are left to replay.
    #[must_use]
    pub fn replayable(&self) -> usize {
        self.past.len()
    }

    /// The next past measurement, which must be this one; `None` if it is new.
    ///
    /// # Errors
    /// If the journal continues otherwise.
    pub fn next(&mut self, stage: &str, key: &str) -> Result<Option<Entry>> {
        let Some(entry) = self.past.pop_front() else { return Ok(None) };
        self.position += 1;
        if entry.stage == stage && entry.key == key {
            return Ok(Some(entry));
        }
        Err(self.error(format!(
            "measurement {} is `{}` {}, expected `{stage}` {key}; another version of this program wrote it",
            self.position, entry.stage, entry.key
        )))
    }

    /// Writes a new measurement and waits until it is on the disk.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&mut self, entry: &Entry) -> Result<()> {
        self.position += 1;
        self.file.as_mut().map_or(Ok(()), |lines| lines.append(std::slice::from_ref(entry)))
    }

    /// An error about this journal.
    #[must_use]
    pub fn error(&self, reason: String) -> Error {
        match &self.file {
            Some(lines) => lines.error(reason),
            None => Error::Journal { path: PathBuf::from("temporary"), reason },
        }
    }
}

/// Digest of what a measurement asks for.
///
/// # Errors
/// If it cannot be serialised, as a map with keys that are no text.
pub fn key(input: &impl Serialize) -> Result<String> {
    let bytes = serde_json::to_vec(input)
        .map_err(|error| Error::Journal { path: PathBuf::new(), reason: error.to_string() })?;
    Ok(hex(&Sha256::digest(bytes)[..12]))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn inputs(seed: &str) -> Inputs {
        Inputs::from([("seed".into(), seed.into()), ("base".into(), "abc".into())])
    }

    fn entry(stage: &str, result: f64) -> Entry {
        Entry {
            stage: stage.into(),
            key: key(&stage).unwrap(),
            cost: Cost::default(),
            seconds: 0.5,
            result: serde_json::to_value(result).unwrap(),
        }
    }

    #[test]
    fn what_was_written_is_replayed_to_the_bit_and_then_new_is_appended() {
        let folder = tempfile::tempdir().unwrap();
        let numbers = [0.1 + 0.2, 1.0 / 3.0, 5e-324, -1.797_693_134_862_315_7e308, 2.0_f64.sqrt()];
        let mut journal = Journal::open(folder.path(), &inputs("1")).unwrap();
        for number in numbers {
            assert!(journal.next("a", "k").unwrap().is_none());
            journal.write(&entry("a", number)).unwrap();
        }
        drop(journal);
        let mut journal = Journal::open(folder.path(), &inputs("1")).unwrap();
        assert_eq!(journal.replayable(), numbers.len());
        for number in numbers {
            let found = journal.next("a", &key(&"a").unwrap()).unwrap().unwrap();
            assert_eq!(found.result.as_f64().unwrap().to_bits(), number.to_bits());
        }
        assert!(journal.next("b", "k").unwrap().is_none());
        journal.write(&entry("b", 1.0)).unwrap();
        drop(journal);
        assert_eq!(Journal::open(folder.path(), &inputs("1")).unwrap().replayable(), numbers.len() + 1);
    }

    #[test]
    fn a_torn_last_line_is_dropped_and_a_broken_one_before_it_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE_NAME);
        let mut journal = Journal::open(folder.path(), &inputs("1")).unwrap();
        journal.write(&entry("a", 1.0)).unwrap();
        drop(journal);
        let whole = fs::read(&file).unwrap();
        let mut torn = whole.clone();
        torn.extend(b"{\"stage\":\"b\",\"ke");
        fs::write(&file, &torn).unwrap();
        assert_eq!(Journal::open(folder.path(), &inputs("1")).unwrap().replayable(), 1);
        assert_eq!(fs::read(&file).unwrap(), whole);
        torn.push(b'\n');
        fs::write(&file, &torn).unwrap();
        let error = Journal::open(folder.path(), &inputs("1")).unwrap_err().to_string();
        assert!(error.contains("line 3"), "{error}");
    }

    #[test]
    fn other_inputs_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        Journal::open(folder.path(), &inputs("1")).unwrap();
        let error = Journal::open(folder.path(), &inputs("2")).unwrap_err().to_string();
        assert!(error.contains("`seed` was 1") && error.contains("is 2 now"), "{error}");
    }

    #[test]
    fn another_program_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        Journal::open(folder.path(), &inputs("1")).unwrap().write(&entry("a", 1.0)).unwrap();
        let mut journal = Journal::open(folder.path(), &inputs("1")).unwrap();
        assert!(journal.next("b", "k").is_err());
    }
}
