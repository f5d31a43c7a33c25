//! Commits and trees out of a git store, loose or packed. Only what the history needs is read, within limits.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use inference::weights::digest::hex;
use inference::weights::json::read_bounded;
use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;

/// Commits and trees of adapters are some kilobytes.
const OBJECT_BYTES: usize = 4 << 20;
/// Packed bytes that are read for one object.
const PACKED_BYTES: u64 = 1 << 20;
const INDEX_BYTES: u64 = 64 << 20;
const PACKS: usize = 32;
/// Deltas of deltas; git itself makes at most 50.
const DELTAS: usize = 60;

/// A git store.
pub(super) struct Objects {
    folder: PathBuf,
    packs: Vec<(PathBuf, Vec<u8>)>,
}

impl Objects {
    /// Opens the store of a `.git` folder.
    pub(super) fn open(git: &Path) -> Self {
        let folder = git.join("objects");
        let mut packs = Vec::new();
        let mut names: Vec<PathBuf> = std::fs::read_dir(folder.join("pack"))
            .map(|entries| {
                entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).take(4 * PACKS).collect()
            })
            .unwrap_or_default();
        names.sort();
        for path in names
            .iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "idx"))
            .take(PACKS)
        {
            if let Ok(index) = read_bounded(path, INDEX_BYTES)
                && index.starts_with(b"\xfftOc\0\0\0\x02")
            {
                packs.push((path.with_extension("pack"), index));
            }
        }
        Self { folder, packs }
    }

    /// The content of an object of a kind (`commit` or `tree`).
    pub(super) fn read(&self, id: &[u8; 20], kind: &str) -> Option<Vec<u8>> {
        let (found, content) = self.any(id, 0)?;
        (found == kind).then_some(content)
    }

    fn any(&self, id: &[u8; 20], depth: usize) -> Option<(&'static str, Vec<u8>)> {
        self.loose(id).or_else(|| {
            self.packs.iter().find_map(|(pack, index)| self.packed(pack, offset(index, id)?, depth))
        })
    }

    fn loose(&self, id: &[u8; 20]) -> Option<(&'static str, Vec<u8>)> {
        let name = hex(id);
        let packed = read_bounded(&self.folder.join(&name[..2]).join(&name[2..]), PACKED_BYTES).ok()?;
        let bytes = decompress_to_vec_zlib_with_limit(&packed, OBJECT_BYTES).ok()?;
        let end = bytes.iter().position(|&byte| byte == 0)?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let kind = match head.split(' ').next()? {
            "commit" => "commit",
            "tree" => "tree",
            _ => return None,
        };
        Some((kind, bytes[end + 1..].to_vec()))
    }

    fn packed(&self, pack: &Path, at: u64, depth: usize) -> Option<(&'static str, Vec<u8>)> {
        if depth > DELTAS {
            return None;
        }
        if !std::fs::symlink_metadata(pack).ok()?.is_file() {
            return None;
        }
        let mut file = File::open(pack).ok()?;
        file.seek(SeekFrom::Start(at)).ok()?;
        let mut bytes = Vec::new();
        file.take(PACKED_BYTES).read_to_end(&mut bytes).ok()?;
        let first = *bytes.first()?;
        let mut next = 1;
        let mut last = first;
        while last & 0x80 != 0 {
            last = *bytes.get(next)?;
            next += 1;
        }
        match (first >> 4) & 7 {
            kind @ (1 | 2) => {
                let content = inflate(bytes.get(next..)?)?;
                Some((if kind == 1 { "commit" } else { "tree" }, content))
            }
            6 => {
                let mut byte = *bytes.get(next)?;
                next += 1;
                let mut back = u64::from(byte & 0x7f);
                while byte & 0x80 != 0 {
                    byte = *bytes.get(next)?;
                    next += 1;
                    back = back.checked_add(1)?.checked_mul(128)? | u64::from(byte & 0x7f);
                }
                let (kind, base) = self.packed(pack, at.checked_sub(back)?, depth + 1)?;
                Some((kind, apply(&base, &inflate(bytes.get(next..)?)?)?))
            }
            7 => {
                let base: [u8; 20] = bytes.get(next..next + 20)?.try_into().ok()?;
                let (kind, base) = self.any(&base, depth + 1)?;
                Some((kind, apply(&base, &inflate(bytes.get(next + 20..)?)?)?))
            }
            _ => None,
        }
    }
}

/// Unpacks a stream that other data follow.
fn inflate(bytes: &[u8]) -> Option<Vec<u8>> {
    decompress_to_vec_zlib_with_limit(bytes, OBJECT_BYTES).ok()
}

/// Where an object is in a pack, by the pack's index of version 2.
fn offset(index: &[u8], id: &[u8; 20]) -> Option<u64> {
    let word =
        |at: usize| index.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
    let fan = |byte: usize| word(8 + 4 * byte).map(|count| count as usize);
    let total = fan(255)?;
    let (mut low, mut high) =
        (if id[0] == 0 { 0 } else { fan(usize::from(id[0]) - 1)? }, fan(usize::from(id[0]))?);
    let names = 8 + 4 * 256;
    while low < high {
        let middle = low.midpoint(high);
        let name = index.get(names + 20 * middle..names + 20 * middle + 20)?;
        match name.cmp(id.as_slice()) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
            std::cmp::Ordering::Equal => {
                let offsets = names + 24 * total;
                let small = word(offsets + 4 * middle)?;
                if small & 0x8000_0000 == 0 {
                    return Some(u64::from(small));
                }
                let at = offsets + 4 * total + 8 * (small & 0x7fff_ffff) as usize;
                return Some((u64::from(word(at)?) << 32) | u64::from(word(at + 4)?));
            }
        }
    }
    None
}

/// Applies a delta to its base.
fn apply(base: &[u8], delta: &[u8]) -> Option<Vec<u8>> {
    let mut at = 0;
    let mut size = || -> Option<usize> {
        let (mut value, mut shift) = (0_usize, 0);
        loop {
            let byte = *delta.get(at)?;
            at += 1;
            value |= usize::from(byte & 0x7f).checked_shl(shift)?;
            shift += 7;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
    };
    let _ = size()?;
    let target = size()?;
    if target > OBJECT_BYTES {
        return None;
    }
    let mut out = Vec::new();
    while let Some(&command) = delta.get(at) {
        at += 1;
        if command & 0x80 == 0 {
            let end = at + usize::from(command);
            out.extend_from_slice(delta.get(at..end)?);
            at = end;
        } else {
            let mut field = |bits: std::ops::Range<u32>| -> Option<usize> {
                let mut value = 0;
                for (place, bit) in bits.enumerate() {
                    if command & (1 << bit) != 0 {
                        value |= usize::from(*delta.get(at)?) << (8 * place);
                        at += 1;
                    }
                }
                Some(value)
            };
            let start = field(0..4)?;
            let length = match field(4..7)? {
                0 => 0x10000,
                length => length,
            };
            out.extend_from_slice(base.get(start..start + length)?);
        }
        if out.len() > target {
            return None;
        }
    }
    (out.len() == target).then_some(out)
}

/// An id out of 40 hex digits.
pub(super) fn id(text: &str) -> Option<[u8; 20]> {
    let text = text.trim();
    if text.len() != 40 || !text.is_ascii() {
        return None;
    }
    let mut id = [0; 20];
    for (index, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(id)
}
