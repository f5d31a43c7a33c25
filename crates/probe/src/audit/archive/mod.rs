//! Archives are opened in memory, within limits, and their members are files like any other.

pub(super) mod check;
mod deflate;
pub(super) mod tar;
mod zip;

use std::mem::discriminant;

use super::file::File;
use super::gguf;
use super::kind::Kind;
use super::limits;

/// What is wrong with an archive. Members are read all the same, as far as that is possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// A member that would be written outside of the folder that it is unpacked in.
    Traversal { member: String },
    /// A link to somewhere else.
    Link { member: String, target: String },
    /// Content that does not match its checksum: a tampered archive, which loaders read all the same.
    Checksum { member: String },
    /// A member that only one of the two directories of a zip has, or that they describe differently.
    Inconsistent { member: String, what: &'static str },
    /// Two members of one name: readers disagree which one counts.
    Duplicate { member: String },
    /// Far more unpacked than packed.
    Bomb { member: String, packed: usize },
    /// What was not read, and why.
    NotRead { member: String, why: &'static str },
}

/// What is wrong with an archive: the first few of each kind, and how many more there were. Names of members are the
/// attacker's, so that many of them are memory.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    pub(crate) first: Vec<Problem>,
    /// Of each kind: one of it, without what it names, and the number left out.
    pub(crate) more: Vec<(Problem, usize)>,
}

impl Problems {
    fn push(&mut self, problem: Problem) {
        let kind = discriminant(&problem);
        if self.first.iter().filter(|known| discriminant(*known) == kind).count() < limits::FINDINGS_A_RULE {
            self.first.push(problem);
            return;
        }
        match self.more.iter_mut().find(|(known, _)| discriminant(known) == kind) {
            Some((_, count)) => *count += 1,
            None => self.more.push((problem, 1)),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_empty()
    }
}

/// A member in memory.
struct Member {
    name: String,
    bytes: Vec<u8>,
}

/// What an archive may still unpack; one for a whole repository.
#[derive(Debug)]
pub(super) struct Allowance {
    members: usize,
    bytes: usize,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { members: limits::MEMBERS, bytes: limits::UNPACKED_BYTES }
    }
}

impl Allowance {
    fn exhausted(&self) -> bool {
        self.members == 0 || self.bytes == 0
    }

    /// How many bytes the next member may have.
    fn next(&self) -> usize {
        self.bytes.min(limits::MEMBER_BYTES)
    }
}

/// The members of an archive, with what is wrong in `archive.problems`. Files of other kinds have none.
pub(super) fn expand(archive: &mut File, allowance: &mut Allowance) -> Vec<File> {
    let mut problems = Problems::default();
    let members = if !archive.whole {
        // Reported as a file of which only the head was inspected.
        Vec::new()
    } else if archive.archive_depth >= limits::ARCHIVE_DEPTH
        && matches!(archive.kind, Kind::Zip | Kind::Tar | Kind::Gzip | Kind::Zlib)
    {
        problems.push(not_read("*", "archives are nested too deeply"));
        Vec::new()
    } else if allowance.exhausted() && matches!(archive.kind, Kind::Zip | Kind::Tar | Kind::Gzip | Kind::Zlib)
    {
        problems.push(not_read("*", "the limit of archive members is reached"));
        Vec::new()
    } else {
        match archive.kind {
            Kind::Zip => zip::members(&archive.bytes, allowance, &mut problems),
            Kind::Tar => tar::members(&archive.bytes, allowance, &mut problems),
            Kind::Gguf => {
                gguf::templates(archive).into_iter().map(|(name, bytes)| Member { name, bytes }).collect()
            }
            Kind::Gzip | Kind::Zlib => deflate::stream(archive, allowance, &mut problems),
            // Something that is no archive at its start can be one for a reader that looks at its end.
            Kind::Text | Kind::Empty => Vec::new(),
            _ if zip::has_end_record(&archive.bytes) => {
                zip::members(&archive.bytes, allowance, &mut problems)
            }
            _ => Vec::new(),
        }
    };
    archive.problems = problems;
    members
        .into_iter()
        .map(|member| {
            let path = format!("{}!/{}", archive.path, member.name.replace('\0', "\u{fffd}"));
            File::new(path, member.bytes, archive.archive_depth + 1)
        })
        .collect()
}

/// Whether a file that is no archive at its start has one at its end.
fn is_hidden(file: &File) -> bool {
    let archive =
        matches!(file.kind, Kind::Zip | Kind::Tar | Kind::Gzip | Kind::Zlib | Kind::Text | Kind::Empty);
    file.whole && !archive && zip::has_end_record(&file.bytes)
}

fn not_read(member: &str, why: &'static str) -> Problem {
    Problem::NotRead { member: member.to_owned(), why }
}

/// Whether a member's path leads out of the folder that the archive is unpacked in.
fn leaves_folder(name: &str) -> bool {
    let name = name.replace('\\', "/");
    let drive = name.as_bytes().get(1) == Some(&b':') && name.as_bytes()[0].is_ascii_alphabetic();
    name.starts_with('/') || drive || name.split('/').any(|part| part == "..")
}

/// A member's name, cut where no file system would take it: names are kept for every member, and those inside of each
/// other add up.
fn member_name(bytes: &[u8]) -> String {
    const LONGEST: usize = 512;
    String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]).into_owned()
}

/// Reads a little-endian integer of `N` bytes at an offset.
fn little_endian<const N: usize>(bytes: &[u8], offset: usize) -> Option<u64> {
    let field = bytes.get(offset..offset.checked_add(N)?)?;
    let mut whole = [0u8; 8];
    whole[..N].copy_from_slice(field);
    Some(u64::from_le_bytes(whole))
}
