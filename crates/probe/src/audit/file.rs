//! One file of a repository as the checks see it: read once, hashed, and these same bytes parsed.

use std::cell::OnceCell;

use inference::weights::digest::sha256_bytes;
use serde_json::Value;

use super::archive::Problems;
use super::kind::Kind;
use super::limits;
use super::weights::measure::Measured;

/// A regular file, or a member of an archive.
#[derive(Debug)]
pub struct File {
    /// Path below the root with `/`; a member's own path follows that of its archive after `!/`.
    pub path: String,
    /// Size of the whole file.
    pub size: u64,
    /// SHA-256 of the whole file, lower-case hex.
    pub sha256: String,
    /// What it is by its content.
    pub kind: Kind,
    /// The content, or its head where `whole` is false.
    pub bytes: Vec<u8>,
    /// Whether `bytes` is all of it.
    pub whole: bool,
    /// Archives around it; 0 for a file of the repository itself.
    pub archive_depth: usize,
    /// What was wrong with it as an archive.
    pub(crate) problems: Problems,
    /// Git's name of the content, where the hub's record needs it.
    pub(crate) git_sha1: Option<String>,
    /// Of safetensors: what its numbers are.
    pub(crate) weights: Option<Vec<Measured>>,
    json: OnceCell<Option<Value>>,
}

impl File {
    /// A file whose content is in memory.
    #[must_use]
    pub fn new(path: String, bytes: Vec<u8>, archive_depth: usize) -> Self {
        let sha256 = sha256_bytes(&bytes);
        Self::hashed(path, bytes.len() as u64, sha256, bytes, archive_depth)
    }

    /// A file of a known digest, of which `bytes` may be the head.
    pub(crate) fn hashed(
        path: String,
        size: u64,
        sha256: String,
        bytes: Vec<u8>,
        archive_depth: usize,
    ) -> Self {
        let kind = Kind::of(&bytes, size);
        let whole = bytes.len() as u64 == size;
        let (problems, json) = (Problems::default(), OnceCell::new());
        Self {
            path,
            size,
            sha256,
            kind,
            bytes,
            whole,
            archive_depth,
            problems,
            git_sha1: None,
            weights: None,
            json,
        }
    }

    /// The last part of the path.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// The path of its folder; empty for the root.
    #[must_use]
    pub fn folder(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    /// What follows the last dot of the name, in lower case; empty without one.
    #[must_use]
    pub fn extension(&self) -> String {
        self.name().rsplit_once('.').map_or(String::new(), |(_, extension)| extension.to_lowercase())
    }

    /// Whether it is a member of an archive.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.archive_depth > 0
    }

    /// The content, where it is text and wholly in memory.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        if self.kind == Kind::Text && self.whole { std::str::from_utf8(&self.bytes).ok() } else { None }
    }

    /// The content as JSON, parsed once, as far as it could be read; the JSON family reports what is wrong with it.
    #[must_use]
    pub fn json(&self) -> Option<&Value> {
        self.json.get_or_init(|| super::json::reader::read(self.text()?).value).as_ref()
    }

    /// Frees what only its own checks need: all content but that of small text files and SentencePiece models.
    pub(crate) fn release(&mut self, kept: &mut u64) {
        let text = (self.kind == Kind::Text || self.name() == "tokenizer.model") && self.whole;
        // A tokenizer is compared with the base's, and is longer than other texts.
        let most = if self.name() == "tokenizer.json" { limits::TOKENIZER_BYTES } else { limits::KEPT_BYTES };
        if text && self.size <= most && *kept + self.size <= limits::KEPT_TOTAL_BYTES {
            *kept += self.size;
            return;
        }
        self.bytes = Vec::new();
        self.whole = false;
        self.json = OnceCell::new();
    }
}
