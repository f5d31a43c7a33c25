//! Zip archives as an attacker writes them: the central directory and the local headers are both read, since loaders
//! differ in which one they believe, and a wrong checksum or size hides nothing.

use std::collections::BTreeMap;

use super::deflate::{self, Stop};
use super::{Allowance, Member, Problem, Problems, leaves_folder, little_endian, member_name, not_read};
use crate::audit::limits;

const LOCAL: &[u8] = b"PK\x03\x04";
const CENTRAL: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
/// An end record and its comment.
const END_REACH: usize = 22 + 65_535;

/// What a directory says of a member.
#[derive(Clone, Debug)]
struct Entry {
    name: String,
    method: u16,
    flags: u16,
    checksum: u32,
    packed: usize,
    /// Of the local header.
    offset: usize,
}

/// Whether a file ends as a zip archive does, whatever it begins with.
pub(super) fn has_end_record(bytes: &[u8]) -> bool {
    end_record(bytes).is_some_and(|end| {
        let (size, offset) = (little_endian::<4>(bytes, end + 12), little_endian::<4>(bytes, end + 16));
        // The directory lies before its end record: at the place it names, or shifted by what was put before it.
        matches!((size, offset), (Some(size), Some(_)) if size > 0
            && end.checked_sub(size as usize).is_some_and(|start| bytes[start..].starts_with(CENTRAL)))
    })
}

/// The members of an archive.
pub(super) fn members(bytes: &[u8], allowance: &mut Allowance, problems: &mut Problems) -> Vec<Member> {
    let central = central_directory(bytes);
    let mut entries: BTreeMap<usize, Entry> = BTreeMap::new();
    for entry in central {
        entries.entry(entry.offset).or_insert(entry);
    }
    let listed = entries.len();
    // In the order of their starts, so that one pass tells what lies inside of a listed member.
    let known: Vec<(usize, usize)> = entries
        .values()
        .map(|entry| (entry.offset, data_start(bytes, entry.offset).saturating_add(entry.packed)))
        .collect();
    let (mut next, mut inside) = (0, 0);
    for offset in occurrences(bytes, LOCAL) {
        while let Some((_, end)) = known.get(next).filter(|(start, _)| *start <= offset) {
            inside = inside.max(*end);
            next += 1;
        }
        if offset < inside || entries.contains_key(&offset) {
            continue;
        }
        if let Some(entry) = local_header(bytes, offset) {
            if listed > 0 && !entry.name.ends_with('/') {
                problems.push(Problem::Inconsistent {
                    member: entry.name.clone(),
                    what: "the central directory does not list it",
                });
            }
            entries.insert(offset, entry);
        }
        if entries.len() > allowance.members {
            break;
        }
    }
    let mut members: Vec<Member> = Vec::new();
    let mut names = std::collections::BTreeSet::new();
    for entry in entries.values() {
        if entry.name.ends_with('/') && entry.packed == 0 {
            if leaves_folder(&entry.name) {
                problems.push(Problem::Traversal { member: entry.name.clone() });
            }
            continue;
        }
        if !names.insert(entry.name.clone()) {
            problems.push(Problem::Duplicate { member: entry.name.clone() });
        }
        if allowance.members == 0 || allowance.bytes == 0 {
            problems.push(not_read(&entry.name, "the limit of archive members is reached"));
            break;
        }
        if let Some(member) = member(bytes, entry, allowance, problems) {
            allowance.members -= 1;
            allowance.bytes = allowance.bytes.saturating_sub(member.bytes.len());
            members.push(member);
        }
    }
    members
}

fn member(bytes: &[u8], entry: &Entry, allowance: &Allowance, problems: &mut Problems) -> Option<Member> {
    let name = entry.name.clone();
    if leaves_folder(&name) {
        problems.push(Problem::Traversal { member: name.clone() });
    }
    let Some(local) = local_header(bytes, entry.offset) else {
        problems.push(not_read(&name, "the central directory points at no local header"));
        return None;
    };
    if local.name != entry.name {
        problems
            .push(Problem::Inconsistent { member: name.clone(), what: "its local header has another name" });
    }
    if entry.flags & 1 != 0 {
        problems.push(not_read(&name, "it is encrypted"));
        return None;
    }
    let start = data_start(bytes, entry.offset);
    // Where the sizes stand after the data, only the end of the file bounds it; DEFLATE ends by itself.
    let open = entry.packed == 0 && entry.flags & 8 != 0;
    let end = if open { bytes.len() } else { start.saturating_add(entry.packed) };
    if end > bytes.len() {
        problems.push(not_read(&name, "it is cut off"));
    }
    let data = bytes.get(start..end.min(bytes.len()))?;
    let limit = allowance.next();
    let (content, stop) = match entry.method {
        0 if open => {
            let end = occurrences(data, b"PK").next().unwrap_or(data.len());
            (data[..end.min(limit)].to_vec(), None)
        }
        0 if data.len() > limit => (data[..limit].to_vec(), Some(Stop::Limit)),
        0 => (data.to_vec(), None),
        8 => deflate::raw(data, limit),
        _ => {
            problems.push(not_read(&name, "its compression method is unknown"));
            return None;
        }
    };
    if deflate::is_bomb(if open { data.len() } else { entry.packed }, content.len(), stop.as_ref()) {
        problems.push(Problem::Bomb { member: name.clone(), packed: entry.packed });
    }
    match stop {
        Some(Stop::Limit) => problems.push(not_read(&name, "it unpacks to more than the limit")),
        Some(Stop::Damaged) => problems.push(not_read(&name, "its compressed data is damaged")),
        None if !open && crc32fast::hash(&content) != entry.checksum => {
            problems.push(Problem::Checksum { member: name.clone() });
        }
        None => {}
    }
    Some(Member { name, bytes: content })
}

fn end_record(bytes: &[u8]) -> Option<usize> {
    let from = bytes.len().saturating_sub(END_REACH);
    let tail = &bytes[from..];
    tail.windows(END.len()).rposition(|window| window == END).map(|at| from + at)
}

/// What the central directory lists, also where something was put before the archive or its size is a lie.
fn central_directory(bytes: &[u8]) -> Vec<Entry> {
    let Some(end) = end_record(bytes) else { return Vec::new() };
    let size = little_endian::<4>(bytes, end + 12).unwrap_or(0) as usize;
    let stated = little_endian::<4>(bytes, end + 16).unwrap_or(0) as usize;
    // With zip64 both are 0xFFFFFFFF; the directory then is where its signature is.
    let start = match end.checked_sub(size).filter(|start| bytes[*start..].starts_with(CENTRAL)) {
        Some(start) => start,
        None if bytes.get(stated..).is_some_and(|rest| rest.starts_with(CENTRAL)) => stated,
        None => match occurrences(bytes, CENTRAL).next() {
            Some(start) => start,
            None => return Vec::new(),
        },
    };
    let shift =
        end.checked_sub(size).filter(|real| *real == start).map_or(0, |real| real.saturating_sub(stated));
    let mut entries = Vec::new();
    let mut at = start;
    while bytes.get(at..).is_some_and(|rest| rest.starts_with(CENTRAL)) {
        let Some((entry, next)) = central_entry(bytes, at, shift) else { break };
        entries.push(entry);
        // One more than is read, so that the limit is reported.
        if entries.len() > limits::MEMBERS {
            break;
        }
        at = next;
    }
    entries
}

fn central_entry(bytes: &[u8], at: usize, shift: usize) -> Option<(Entry, usize)> {
    let name_bytes = little_endian::<2>(bytes, at + 28)? as usize;
    let extra_bytes = little_endian::<2>(bytes, at + 30)? as usize;
    let comment_bytes = little_endian::<2>(bytes, at + 32)? as usize;
    let name = bytes.get(at + 46..at + 46 + name_bytes)?;
    let extra = bytes.get(at + 46 + name_bytes..at + 46 + name_bytes + extra_bytes)?;
    let unpacked = little_endian::<4>(bytes, at + 24)?;
    let mut packed = little_endian::<4>(bytes, at + 20)?;
    let mut offset = little_endian::<4>(bytes, at + 42)?;
    // Zip64: the fields that are all ones stand in an extra field, in this order.
    let mut wide = zip64(extra);
    for (field, saturated) in
        [(None, unpacked == 0xFFFF_FFFF), (Some(&mut packed), true), (Some(&mut offset), true)]
    {
        let needed = match &field {
            None => saturated,
            Some(value) => **value == 0xFFFF_FFFF,
        };
        if needed && let Some((value, rest)) = wide.split_first_chunk::<8>() {
            wide = rest;
            if let Some(field) = field {
                *field = u64::from_le_bytes(*value);
            }
        }
    }
    let entry = Entry {
        name: member_name(name),
        flags: little_endian::<2>(bytes, at + 8)? as u16,
        method: little_endian::<2>(bytes, at + 10)? as u16,
        checksum: little_endian::<4>(bytes, at + 16)? as u32,
        packed: usize::try_from(packed).ok()?,
        offset: usize::try_from(offset).ok()?.checked_add(shift)?,
    };
    Some((entry, at + 46 + name_bytes + extra_bytes + comment_bytes))
}

/// The content of the zip64 extra field; empty without one.
fn zip64(extra: &[u8]) -> &[u8] {
    let mut at = 0;
    while let (Some(id), Some(size)) = (little_endian::<2>(extra, at), little_endian::<2>(extra, at + 2)) {
        let end = at + 4 + size as usize;
        if id == 1 {
            return extra.get(at + 4..end.min(extra.len())).unwrap_or_default();
        }
        at = end;
    }
    &[]
}

fn local_header(bytes: &[u8], at: usize) -> Option<Entry> {
    if !bytes.get(at..)?.starts_with(LOCAL) {
        return None;
    }
    let name_bytes = little_endian::<2>(bytes, at + 26)? as usize;
    let name = bytes.get(at + 30..at + 30 + name_bytes)?;
    Some(Entry {
        name: member_name(name),
        flags: little_endian::<2>(bytes, at + 6)? as u16,
        method: little_endian::<2>(bytes, at + 8)? as u16,
        checksum: little_endian::<4>(bytes, at + 14)? as u32,
        packed: little_endian::<4>(bytes, at + 18)? as usize,
        offset: at,
    })
}

/// Where a member's data begins; its local header has name and extra fields of its own lengths.
fn data_start(bytes: &[u8], offset: usize) -> usize {
    let name = little_endian::<2>(bytes, offset.saturating_add(26)).unwrap_or(0) as usize;
    let extra = little_endian::<2>(bytes, offset.saturating_add(28)).unwrap_or(0) as usize;
    offset.saturating_add(30 + name + extra)
}

fn occurrences<'a>(bytes: &'a [u8], what: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let mut from = 0;
    std::iter::from_fn(move || {
        while let Some(at) = bytes.get(from..)?.iter().position(|byte| *byte == what[0]) {
            let found = from + at;
            from = found + 1;
            if bytes[found..].starts_with(what) {
                return Some(found);
            }
        }
        from = bytes.len();
        None
    })
}
