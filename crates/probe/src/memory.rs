//! What was measured already, by content: an interrupted scan goes on where it was, and the base is not run on the same
//! prompts again for another adapter.
//!
//! An entry is an answer to a list of tokens, or what was reduced from the distributions after some lists of them, under
//! the digest of all that was asked. Files are append-only. That of a run directory holds both sides; that of the cache
//! holds the base alone and is shared by every run on the same base with the same engine, device and precision.
//!
//! A run with a memory ends with the bytes of a run without one, its cost included: what is remembered counts as what it
//! took. What was really run is told by [`Memory::spent`].

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use inference::weights::digest::hex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::lines::{Inputs, Lines};
use crate::observe::Request;

/// The file inside a run directory.
pub const FILE_NAME: &str = "observations.jsonl";

/// One remembered measurement.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    key: String,
    value: Value,
}

/// What is known, and the file that keeps it if one does.
#[derive(Debug, Default)]
struct Store {
    lines: Option<Lines>,
    known: BTreeMap<String, Value>,
}

/// What a measurement is remembered under.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    digest: String,
    /// Whether only the base has been run for it.
    of_base: bool,
}

/// What was measured by earlier runs and by this one.
#[derive(Debug, Default)]
pub struct Memory {
    run: Option<RefCell<Store>>,
    base: Option<Rc<RefCell<Store>>>,
    spent: Cell<u64>,
    recalled: Cell<u64>,
}

impl Memory {
    /// Nothing is known, and nothing is kept.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Keeps everything in a run directory, which must have been begun with the same inputs.
    ///
    /// # Errors
    /// If the directory cannot be used or was begun with other inputs; the error names the first that differs.
    pub fn with_run(mut self, directory: &Path, inputs: &Inputs) -> Result<Self> {
        self.run = Some(RefCell::new(Store::open(&directory.join(FILE_NAME), inputs)?));
        Ok(self)
    }

    /// Keeps what concerns the base alone in a cache directory, in a file of its own for these inputs: everything that
    /// decides what the base computes of a list of tokens.
    ///
    /// # Errors
    /// If the file cannot be used, or another process is writing it.
    pub fn with_cache(mut self, directory: &Path, inputs: &Inputs) -> Result<Self> {
        let name = format!("base-{}.jsonl", &digest(inputs)?[..16]);
        self.base = Some(Rc::new(RefCell::new(Store::open(&directory.join(name), inputs)?)));
        Ok(self)
    }

    /// Keeps what concerns the base alone as long as the process lives, for [`Memory::sharing`].
    #[must_use]
    pub fn of_process() -> Self {
        Self { base: Some(Rc::default()), ..Self::default() }
    }

    /// Nothing is known of the adapted side, and of the base what another memory knows and comes to know: for the next
    /// adapter of the same base with the same engine, device and precision.
    #[must_use]
    pub fn sharing(other: &Self) -> Self {
        Self { base: other.base.clone(), ..Self::default() }
    }

    /// Tokens that were really sent through the decoder for what is kept here.
    #[must_use]
    pub fn spent(&self) -> u64 {
        self.spent.get()
    }

    /// Measurements that the run directory holds.
    #[must_use]
    pub fn known(&self) -> usize {
        self.run.as_ref().map_or(0, |store| store.borrow().known.len())
    }

    /// Measurements that did not have to be made again.
    #[must_use]
    pub fn recalled(&self) -> u64 {
        self.recalled.get()
    }

    pub(crate) fn spend(&self, tokens: u64) {
        self.spent.set(self.spent.get() + tokens);
    }

    /// Whether anything is kept.
    fn keeps(&self) -> bool {
        self.run.is_some() || self.base.is_some()
    }

    /// The measurement of this key, if it is known.
    ///
    /// # Errors
    /// If what is known has another form.
    pub(crate) fn recall<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<T>> {
        let base = self.base.as_deref().filter(|_| key.of_base);
        for store in [self.run.as_ref(), base].into_iter().flatten() {
            let store = store.borrow();
            if let Some(value) = store.known.get(&key.digest) {
                self.recalled.set(self.recalled.get() + 1);
                return T::deserialize(value)
                    .map(Some)
                    .map_err(|error| store.error(format!("`{}`: {error}", key.digest)));
            }
        }
        Ok(None)
    }

    /// Keeps measurements, on the disk before this returns.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(crate) fn keep<T: Serialize>(&self, measured: &[(Key, &T)]) -> Result<()> {
        if !self.keeps() || measured.is_empty() {
            return Ok(());
        }
        let mut entries = Vec::with_capacity(measured.len());
        for (key, value) in measured {
            entries.push((key.of_base, Entry { key: key.digest.clone(), value: value_of(value)? }));
        }
        for (store, all) in [(self.run.as_ref(), true), (self.base.as_deref(), false)] {
            let Some(store) = store else { continue };
            let own: Vec<&Entry> =
                entries.iter().filter(|(of_base, _)| all || *of_base).map(|(_, entry)| entry).collect();
            store.borrow_mut().add(&own)?;
        }
        Ok(())
    }
}

impl Store {
    fn open(path: &Path, inputs: &Inputs) -> Result<Self> {
        let (lines, entries) = Lines::open::<Entry>(path, inputs)?;
        Ok(Self {
            lines: Some(lines),
            known: entries.into_iter().map(|entry| (entry.key, entry.value)).collect(),
        })
    }

    fn add(&mut self, entries: &[&Entry]) -> Result<()> {
        let new: Vec<&&Entry> = entries.iter().filter(|entry| !self.known.contains_key(&entry.key)).collect();
        if new.is_empty() {
            return Ok(());
        }
        if let Some(lines) = &mut self.lines {
            lines.append(&new)?;
        }
        let new: Vec<_> = new.into_iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect();
        self.known.extend(new);
        Ok(())
    }

    fn error(&self, reason: String) -> Error {
        match &self.lines {
            Some(lines) => lines.error(reason),
            None => Error::Journal { path: FILE_NAME.into(), reason },
        }
    }
}

/// Groups of requests, what is known of each, and the requests of those of which nothing is.
pub(crate) struct Recalled<T> {
    /// One a group; none without a memory.
    pub(crate) keys: Vec<Key>,
    pub(crate) known: Vec<Option<T>>,
    /// The groups that are not known.
    pub(crate) missing: Vec<usize>,
    /// Their requests, one group after the other.
    pub(crate) requests: Vec<Request>,
}

impl<T: DeserializeOwned> Recalled<T> {
    /// Looks up requests in groups of this size; `key` is given the group's index.
    ///
    /// # Errors
    /// As `key`, or if what is known has another form.
    pub(crate) fn of(
        memory: Option<&Memory>,
        requests: &[Request],
        group: usize,
        key: impl Fn(usize, &[Request]) -> Result<Key>,
    ) -> Result<Self> {
        let mut recalled =
            Self { keys: Vec::new(), known: Vec::new(), missing: Vec::new(), requests: Vec::new() };
        for (index, own) in requests.chunks(group).enumerate() {
            let mut known = None;
            if let Some(memory) = memory {
                let key = key(index, own)?;
                known = memory.recall(&key)?;
                recalled.keys.push(key);
            }
            if known.is_none() {
                recalled.missing.push(index);
                recalled.requests.extend_from_slice(own);
            }
            recalled.known.push(known);
        }
        Ok(recalled)
    }
}

/// What a measurement of requests is remembered under: `kind` and `given` say what is made of them.
///
/// # Errors
/// If `given` cannot be serialised.
pub(crate) fn key(kind: &str, given: &impl Serialize, requests: &[Request]) -> Result<Key> {
    let of_base = requests.iter().all(|request| request.side.is_base());
    // Of the base it makes no difference beside which adapter it is run.
    let requests: Vec<_> = requests
        .iter()
        .map(|request| {
            let side = request.side;
            let adapter = if side.is_base() { 0 } else { side.adapter };
            (adapter, side.scale.to_bits(), &request.ids, &request.continuation)
        })
        .collect();
    Ok(Key { digest: digest(&(kind, given, requests))?, of_base })
}

fn digest(input: &impl Serialize) -> Result<String> {
    let bytes = serde_json::to_vec(input).map_err(|error| unwritable(&error))?;
    Ok(hex(&Sha256::digest(bytes)[..16]))
}

fn value_of(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| unwritable(&error))
}

fn unwritable(error: &serde_json::Error) -> Error {
    Error::Journal { path: FILE_NAME.into(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use inference::Side;

    use super::*;

    fn request(side: Side) -> Request {
        Request { ids: vec![1, 2], side, continuation: vec![3] }
    }

    #[test]
    fn the_cache_holds_the_base_alone_and_a_run_holds_both() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = Inputs::from([("base".into(), "a".into())]);
        let (run, cache) = (folder.path().join("run"), folder.path().join("cache"));
        let base = key("k", &(), &[request(Side::BASE)]).unwrap();
        let adapted = key("k", &(), &[request(Side::ADAPTED)]).unwrap();
        let memory = Memory::none().with_run(&run, &inputs).unwrap().with_cache(&cache, &inputs).unwrap();
        memory.keep(&[(base.clone(), &0.1), (adapted.clone(), &0.2)]).unwrap();
        drop(memory);
        let of_cache = Memory::none().with_cache(&cache, &inputs).unwrap();
        assert_eq!(of_cache.recall::<f64>(&base).unwrap(), Some(0.1));
        assert_eq!(of_cache.recall::<f64>(&adapted).unwrap(), None);
        let of_run = Memory::none().with_run(&run, &inputs).unwrap();
        assert_eq!(of_run.recall::<f64>(&base).unwrap(), Some(0.1));
        assert_eq!(of_run.recall::<f64>(&adapted).unwrap(), Some(0.2));
        assert_eq!(of_run.recalled(), 2);
    }

    #[test]
    fn one_process_shares_what_it_knows_of_the_base() {
        let base = key("k", &(), &[request(Side::BASE)]).unwrap();
        let adapted = key("k", &(), &[request(Side::ADAPTED)]).unwrap();
        let shared = Memory::of_process();
        Memory::sharing(&shared).keep(&[(base.clone(), &0.1), (adapted.clone(), &0.2)]).unwrap();
        let next = Memory::sharing(&shared);
        assert_eq!(next.recall::<f64>(&base).unwrap(), Some(0.1));
        assert_eq!(next.recall::<f64>(&adapted).unwrap(), None);
    }

    #[test]
    fn what_was_asked_decides_the_key() {
        let digest = |kind: &str, given: u8, side: Side| key(kind, &given, &[request(side)]).unwrap().digest;
        let one = digest("k", 1, Side::BASE);
        assert_eq!(one, digest("k", 1, Side { adapter: 3, scale: 0.0 }), "the base is the base");
        for other in [digest("l", 1, Side::BASE), digest("k", 2, Side::BASE), digest("k", 1, Side::ADAPTED)] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn other_inputs_have_another_cache_and_are_refused_by_a_run() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = |base: &str| Inputs::from([("base".into(), base.into())]);
        let key = key("k", &(), &[request(Side::BASE)]).unwrap();
        let open = |base: &str| Memory::none().with_cache(folder.path(), &inputs(base)).unwrap();
        open("a").keep(&[(key.clone(), &1)]).unwrap();
        assert_eq!(open("b").recall::<i32>(&key).unwrap(), None);
        assert_eq!(open("a").recall::<i32>(&key).unwrap(), Some(1));
        Memory::none().with_run(folder.path(), &inputs("a")).unwrap();
        let error = Memory::none().with_run(folder.path(), &inputs("b")).unwrap_err().to_string();
        assert!(error.contains("`base` was a") && error.contains("is b now"), "{error}");
    }
}
