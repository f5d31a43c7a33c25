//! What was found on disk below a root: regular files, and everything that is none.

use std::path::{Path, PathBuf};

use super::Signature;
use super::file::File;

/// A repository as the checks across files see it.
#[derive(Debug)]
pub struct Repository<'a> {
    /// The directory; of a single file, the one it is in.
    pub root: &'a Path,
    /// In the order of their paths, members of archives behind their archive. Only small text files still have their
    /// content.
    pub files: Vec<File>,
    /// What is no regular file, or was not read.
    pub(crate) oddities: Vec<Oddity>,
    /// The base model's directory or file, if the user named it.
    pub base: Option<&'a Path>,
    /// The signature that the user named.
    pub signature: Option<Signature<'a>>,
}

impl Repository<'_> {
    /// The file of this path.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Files of this name in any folder, archives left out.
    pub fn named<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'b File> + 'b {
        self.files.iter().filter(move |file| !file.is_member() && file.name() == name)
    }

    /// The file of this name in the same folder as another.
    #[must_use]
    pub fn beside(&self, file: &File, name: &str) -> Option<&File> {
        let folder = file.folder();
        self.files.iter().find(|other| other.folder() == folder && other.name() == name)
    }
}

/// Something that the walk met and did not read as a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Oddity {
    /// Path below the root.
    pub(crate) path: String,
    /// What it is.
    pub(crate) what: What,
}

/// What the walk met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A link that leads out of the root, and where to.
    LinkOutside(PathBuf),
    /// A link within the root, or to nothing.
    Link(PathBuf),
    /// A FIFO, socket or device.
    Special(&'static str),
    /// It cannot be read: the system's reason.
    Unreadable(String),
    /// More files than the limit.
    TooMany,
    /// Deeper than the limit.
    TooDeep,
    /// A name that is not UTF-8.
    OddName,
    /// Longer than what is held in memory: only its head was inspected.
    HeadOnly,
    /// A program that git runs by itself.
    Hook,
}
