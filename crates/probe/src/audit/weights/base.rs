//! Whole weights of an adapter against those of the base that the user named: a copy that equals the base's own
//! changes nothing, any other one is the adapter's real content.

use std::collections::BTreeMap;
use std::fs::File as Input;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use report::audit::Severity;

use super::adapter::{self, Declared, Role};
use super::measure::Measured;
use super::rules::{COPY, FULL_WEIGHT};
use super::{Subject, listed};
use crate::audit::findings::Findings;
use crate::audit::limits;
use crate::audit::repository::Repository;
use crate::audit::safetensors::header::{self, Entry};

/// Whole weights of the base, compared with its own where the user named it.
pub(super) fn check(
    subject: &Subject<'_>,
    declared: &Declared<'_>,
    repository: &Repository<'_>,
    findings: &mut Findings,
) {
    let (mut hidden, mut announced, mut embeddings) = (Vec::new(), Vec::new(), Vec::new());
    for tensor in subject.tensors {
        let (module, role) = adapter::role(&tensor.entry.name);
        let embedding = module.split('.').any(|part| adapter::EMBEDDINGS.contains(&part));
        let list = match role {
            Role::Full if declared.saves(&module) => &mut announced,
            Role::Bias if declared.flag("bias") || declared.saves(&module) => &mut announced,
            // Trainers add these by themselves where the vocabulary grew or the embedding is a target.
            Role::Full if embedding => &mut embeddings,
            Role::BaseLayer if embedding && declared.targets(&module) == Some(true) => &mut announced,
            Role::BaseLayer if declared.flag("bias") && tensor.entry.name.ends_with(".bias") => {
                &mut announced
            }
            Role::Full | Role::Bias | Role::BaseLayer => &mut hidden,
            _ => continue,
        };
        list.push(tensor);
    }
    let any = [&hidden, &announced, &embeddings].iter().any(|list| !list.is_empty());
    let base = repository.base.filter(|_| any).and_then(Base::open);
    for (tensors, rule, severity, what) in [
        (hidden, &FULL_WEIGHT, FULL_WEIGHT.severity, "weights of the base that the config does not announce"),
        (embeddings, &COPY, Severity::Medium, "copies of embeddings that the config does not announce"),
        (announced, &COPY, COPY.severity, "weights of the base, announced by the config"),
    ] {
        let Some(first) = tensors.first() else { continue };
        let names = tensors.iter().map(|tensor| tensor.entry.name.as_str());
        let mut message = format!("{} {what}: {}", tensors.len(), listed(names));
        let mut severity = severity;
        if let Some(base) = &base {
            let Comparison { equal, changed, unknown } = base.compare(tensors.iter().copied());
            message.push_str(&format!(
                "; beside the base's own: {equal} equal, {changed} changed, {unknown} not comparable"
            ));
            if equal == tensors.len() {
                severity = Severity::Note;
            }
        }
        subject.add(findings, subject.finding(rule, message).severity(severity).at(&first.entry.name));
    }
}

/// What tensors are, beside the base's of the same name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Comparison {
    equal: usize,
    changed: usize,
    /// The base has them in another type or shape, or not at all.
    unknown: usize,
}

/// The safetensors files of a base's folder. GGUF bases hold other types and are not compared.
struct Base {
    tensors: BTreeMap<String, (PathBuf, u64, Entry)>,
}

impl Base {
    /// Reads the headers. `None` if there is nothing to compare with.
    fn open(folder: &Path) -> Option<Self> {
        let mut tensors = BTreeMap::new();
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|ext| ext == "safetensors")) {
            let Some((start, entries)) = entries(path) else { continue };
            tensors
                .extend(entries.into_iter().map(|entry| (entry.name.clone(), (path.clone(), start, entry))));
        }
        (!tensors.is_empty()).then_some(Self { tensors })
    }

    /// Compares tensors byte by byte (by length and CRC-32 of the bytes, which names no forger: whoever can choose a
    /// collision can as well choose the change).
    fn compare<'t>(&self, tensors: impl IntoIterator<Item = &'t Measured>) -> Comparison {
        let mut comparison = Comparison::default();
        for tensor in tensors {
            let name = plain(&tensor.entry.name);
            // A tied head is stored once, as the embedding.
            let tied = name.replace("lm_head", "model.embed_tokens");
            let own = [&name, &tied].into_iter().find_map(|name| self.tensors.get(name));
            let same_form = own.filter(|(_, _, entry)| {
                entry.shape == tensor.entry.shape && entry.dtype == tensor.entry.dtype
            });
            match same_form.and_then(|(path, start, entry)| checksum(path, start + entry.start, entry)) {
                Some(checksum) if checksum == tensor.checksum => comparison.equal += 1,
                Some(_) => comparison.changed += 1,
                None => comparison.unknown += 1,
            }
        }
        comparison
    }
}

/// The base's name of a tensor.
fn plain(name: &str) -> String {
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    [".modules_to_save.default", ".modules_to_save", ".original_module", ".base_layer"]
        .into_iter()
        .fold(name.to_owned(), |name, wrapper| name.replace(wrapper, ""))
}

/// Where a file's data starts, and its tensors.
fn entries(path: &Path) -> Option<(u64, Vec<Entry>)> {
    let mut file = Input::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    let mut size = [0; 8];
    file.read_exact(&mut size).ok()?;
    let size = u64::from_le_bytes(size);
    if size > limits::SAFETENSORS_PARSED_BYTES.min(length) {
        return None;
    }
    let mut head = size.to_le_bytes().to_vec();
    file.take(size).read_to_end(&mut head).ok()?;
    let header = header::read(&head, length);
    Some((header.data_start, header.entries))
}

/// CRC-32 of a tensor's bytes, read in pieces.
fn checksum(path: &Path, start: u64, entry: &Entry) -> Option<u32> {
    let mut file = Input::open(path).ok()?;
    file.seek(SeekFrom::Start(start)).ok()?;
    let mut left = file.take(entry.end - entry.start);
    let mut hasher = crc32fast::Hasher::new();
    let mut piece = vec![0; 1 << 20];
    let mut read = 0;
    loop {
        match left.read(&mut piece).ok()? {
            0 => break,
            n => {
                hasher.update(&piece[..n]);
                read += n as u64;
            }
        }
    }
    (read == entry.end - entry.start).then(|| hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::super::measure;
    use super::*;

    fn file(tensors: &[(&str, [f32; 2])]) -> Vec<u8> {
        let tensors: Vec<(&str, &[usize], &[f32])> =
            tensors.iter().map(|(name, values)| (*name, &[2][..], &values[..])).collect();
        measure::file_of(&tensors)
    }

    #[test]
    fn a_copy_is_told_from_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let base = [("model.embed_tokens.weight", [1.0, 2.0]), ("model.norm.weight", [3.0, 4.0])];
        std::fs::write(folder.path().join("model.safetensors"), file(&base)).unwrap();
        let adapter = measure::measure(&file(&[
            ("base_model.model.lm_head.modules_to_save.weight", [1.0, 2.0]),
            ("base_model.model.model.absent.weight", [1.0, 2.0]),
            ("base_model.model.model.norm.weight", [3.0, 4.5]),
        ]));
        let found = Base::open(folder.path()).unwrap().compare(&adapter);
        assert_eq!(found, Comparison { equal: 1, changed: 1, unknown: 1 });
    }
}
