//! Finding and reading the files below a root. Only regular files are opened, nothing is followed out of the root, and
//! what is parsed is what was hashed.

use std::fs::{DirEntry, FileType, Metadata};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use inference::weights::digest::{hex, sha256_reader};
use report::record::FileDigest;
use sha2::{Digest as _, Sha256};

use super::file::File;
use super::kind::Kind;
use super::limits;
use super::repository::{Oddity, What};
use super::safetensors::header;
use super::weights::measure::Meter;

/// A regular file that is to be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    /// Path below the root with `/`.
    pub(super) path: String,
    /// What is opened; of a link within a Hugging Face cache, what it leads to.
    pub(super) real: PathBuf,
    pub(super) size: u64,
}

/// What a walk met, in the order of the paths.
#[derive(Debug, Default)]
pub(super) struct Walked {
    pub(super) found: Vec<Found>,
    pub(super) oddities: Vec<Oddity>,
}

/// Walks over everything below a directory, or takes a single file.
pub(super) fn walk(root: &Path, single: Option<&Path>) -> Walked {
    let mut walker = Walker { root, stores: stores(root), walked: Walked::default() };
    match single {
        Some(file) => {
            let name = file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            match std::fs::symlink_metadata(file) {
                Ok(metadata) => walker.entry(name, file, &metadata, 0),
                Err(error) => walker.odd(name, What::Unreadable(error.to_string())),
            }
        }
        None => walker.folder(root, "", 0),
    }
    let mut walked = walker.walked;
    walked.found.sort();
    walked
}

struct Walker<'a> {
    root: &'a Path,
    /// Folders that links of a Hugging Face cache may lead to.
    stores: Vec<PathBuf>,
    walked: Walked,
}

/// The stores of the cache that a root is a snapshot of: `models--X/blobs` beside `models--X/snapshots/COMMIT`, and
/// the shared `blobs` of the whole cache.
fn stores(root: &Path) -> Vec<PathBuf> {
    let Ok(real) = root.canonicalize() else { return Vec::new() };
    let parts: Vec<&Path> = real.ancestors().collect();
    let Some(at) = parts.iter().position(|part| part.file_name().is_some_and(|name| name == "snapshots"))
    else {
        return Vec::new();
    };
    let repository = parts.get(at + 1).filter(|folder| {
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with("models--") || name.starts_with("datasets--") || name.starts_with("spaces--")
    });
    let Some(repository) = repository else { return Vec::new() };
    let mut stores = vec![repository.join("blobs")];
    if let Some(cache) = repository.parent() {
        stores.push(cache.join("blobs"));
    }
    stores
}

impl Walker<'_> {
    fn odd(&mut self, path: String, what: What) {
        self.walked.oddities.push(Oddity { path, what });
    }

    fn folder(&mut self, folder: &Path, below: &str, depth: usize) {
        if depth > limits::FOLDER_DEPTH {
            self.odd(below.to_owned(), What::TooDeep);
            return;
        }
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => {
                self.odd(
                    if below.is_empty() { "." } else { below }.to_owned(),
                    What::Unreadable(error.to_string()),
                );
                return;
            }
        };
        // A folder of millions is not even listed to its end.
        let mut entries: Vec<DirEntry> = entries.filter_map(Result::ok).take(4 * limits::FILES).collect();
        entries.sort_by_key(DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let path = match (name.to_str(), below) {
                (Some(name), "") => name.to_owned(),
                (Some(name), below) => format!("{below}/{name}"),
                (None, below) => {
                    let path = format!("{below}/{}", name.to_string_lossy());
                    self.odd(path.trim_start_matches('/').to_owned(), What::OddName);
                    continue;
                }
            };
            match entry.path().symlink_metadata() {
                Ok(metadata) => self.entry(path, &entry.path(), &metadata, depth),
                Err(error) => self.odd(path, What::Unreadable(error.to_string())),
            }
        }
    }

    fn entry(&mut self, path: String, real: &Path, metadata: &Metadata, depth: usize) {
        let kind = metadata.file_type();
        if kind.is_dir() {
            // Git's own store holds packed history, which the provenance check reads as such.
            if path == ".git" || path.ends_with("/.git") {
                self.hooks(real, &path);
            } else {
                self.folder(real, &path, depth + 1);
            }
        } else if kind.is_symlink() {
            self.link(path, real);
        } else if kind.is_file() {
            self.file(path, real.to_owned(), metadata.len());
        } else {
            self.odd(path, What::Special(special(kind)));
        }
    }

    fn file(&mut self, path: String, real: PathBuf, size: u64) {
        if self.walked.found.len() >= limits::FILES {
            if !self.walked.oddities.iter().any(|oddity| oddity.what == What::TooMany) {
                self.odd(path, What::TooMany);
            }
            return;
        }
        self.walked.found.push(Found { path, real, size });
    }

    fn link(&mut self, path: String, link: &Path) {
        let target = std::fs::read_link(link).unwrap_or_default();
        let Ok(real) = link.canonicalize() else {
            // Leads nowhere: nothing to read, but a name outside of the root says where it was meant to lead.
            let outside = target.is_absolute() || leads_out(&path, &target);
            self.odd(path, if outside { What::LinkOutside(target) } else { What::Link(target) });
            return;
        };
        let regular = std::fs::symlink_metadata(&real).ok().filter(Metadata::is_file);
        if let Some(metadata) = &regular
            && self.stores.iter().any(|store| real.starts_with(store))
        {
            self.file(path, real, metadata.len());
            return;
        }
        let root = self.root.canonicalize().unwrap_or_else(|_| self.root.to_owned());
        let inside = real.starts_with(&root);
        self.odd(path, if inside { What::Link(target) } else { What::LinkOutside(target) });
    }

    fn hooks(&mut self, git: &Path, below: &str) {
        let entries = std::fs::read_dir(git.join("hooks")).into_iter().flatten();
        let mut hooks: Vec<DirEntry> = entries.filter_map(Result::ok).take(limits::FILES).collect();
        hooks.sort_by_key(DirEntry::file_name);
        for hook in hooks {
            let name = hook.file_name().to_string_lossy().into_owned();
            if name.ends_with(".sample") {
                continue;
            }
            let path = format!("{below}/hooks/{name}");
            if let Ok(metadata) = hook.path().symlink_metadata() {
                self.odd(path.clone(), What::Hook);
                self.entry(path, &hook.path(), &metadata, 0);
            }
        }
        // Its configuration can name programs too; it is a file like any other.
        let config = git.join("config");
        if let Ok(metadata) = config.symlink_metadata() {
            self.entry(format!("{below}/config"), &config, &metadata, 0);
        }
    }
}

/// Whether a relative link's target climbs above the root.
fn leads_out(path: &str, target: &Path) -> bool {
    let mut depth = path.split('/').count() as isize - 1;
    for part in target.components() {
        match part {
            std::path::Component::ParentDir => depth -= 1,
            std::path::Component::Normal(_) => depth += 1,
            _ => {}
        }
        if depth < 0 {
            return true;
        }
    }
    false
}

#[cfg(unix)]
fn special(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt as _;
    if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(not(unix))]
fn special(_: FileType) -> &'static str {
    "a special file"
}

/// The size of a file and its digest, read in pieces.
pub(super) fn digest(found: &Found) -> std::io::Result<FileDigest> {
    let (file, _) = opened(found)?;
    let (sha256, bytes) = sha256_reader(file)?;
    Ok(FileDigest { name: found.path.clone(), bytes, sha256 })
}

/// A file that is worth reading to its end.
fn opened(found: &Found) -> std::io::Result<(std::fs::File, Metadata)> {
    let file = open(&found.real)?;
    // The walk's look at the path is past; what counts is what was opened.
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(std::io::Error::other("it is no regular file any more"));
    }
    if is_sparse(&metadata) {
        let message = format!("{} bytes are announced and hardly any are stored", metadata.len());
        return Err(std::io::Error::other(message));
    }
    Ok((file, metadata))
}

/// Reads a file once: its digest, and its content or its head.
pub(super) fn read(found: &Found) -> std::io::Result<File> {
    let (mut file, metadata) = opened(found)?;
    let mut hasher = Sha256::new();
    let mut kept: Vec<u8> = Vec::new();
    let long = metadata.len() > limits::FILE_BYTES;
    let limit = if long { limits::HEAD_BYTES } else { limits::FILE_BYTES as usize };
    kept.reserve_exact((metadata.len() as usize).min(limit));
    // The numbers of a long safetensors file are measured as they go by.
    let mut meter: Option<Meter> = None;
    let mut buffer = vec![0u8; 1 << 18];
    let mut size = 0u64;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        size += read as u64;
        let piece = &buffer[..read];
        hasher.update(piece);
        let (head, rest) = piece.split_at(read.min(limit - kept.len()));
        kept.extend_from_slice(head);
        match &mut meter {
            Some(meter) => meter.feed(piece),
            None if long
                && kept.len() == limit
                && !head.is_empty()
                && Kind::of(&kept, metadata.len()) == Kind::Safetensors =>
            {
                let mut started = Meter::new(header::read(&kept, metadata.len()));
                started.feed(&kept);
                started.feed(rest);
                meter = Some(started);
            }
            None => {}
        }
    }
    let digest = hex(&hasher.finalize());
    let mut file = File::hashed(found.path.clone(), size, digest, kept, 0);
    file.weights = meter.map(Meter::end);
    Ok(file)
}

/// Whether a file announces far more bytes than it has on disk: reading the nothing takes hours.
#[cfg(unix)]
fn is_sparse(metadata: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    metadata.len() > (1 << 30) && metadata.blocks().saturating_mul(512) < metadata.len() / 8
}

#[cfg(not(unix))]
fn is_sparse(_: &Metadata) -> bool {
    false
}

/// Opens without following a link and without waiting for a writer, in case something took the file's place.
#[cfg(unix)]
fn open(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;

    use rustix::fs::OFlags;
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    std::fs::OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)
}

#[cfg(not(unix))]
fn open(path: &Path) -> std::io::Result<std::fs::File> {
    std::fs::File::open(path)
}
