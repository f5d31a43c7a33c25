//! DEFLATE within limits: gzip and zlib streams, and the members of zip archives.

use miniz_oxide::inflate::{self, TINFLStatus};

use super::{Allowance, Member, Problem, Problems, not_read};
use crate::audit::file::File;
use crate::audit::kind::Kind;
use crate::audit::limits;

/// Why a stream was not unpacked to its end; what came out before is kept.
pub(super) enum Stop {
    /// It reached the limit.
    Limit,
    /// It is damaged or cut off.
    Damaged,
}

/// Unpacks raw DEFLATE data into at most `limit` bytes.
pub(super) fn raw(data: &[u8], limit: usize) -> (Vec<u8>, Option<Stop>) {
    outcome(inflate::decompress_to_vec_with_limit(data, limit))
}

fn outcome(result: Result<Vec<u8>, inflate::DecompressError>) -> (Vec<u8>, Option<Stop>) {
    match result {
        Ok(bytes) => (bytes, None),
        Err(error) if error.status == TINFLStatus::HasMoreOutput => (error.output, Some(Stop::Limit)),
        Err(error) => (error.output, Some(Stop::Damaged)),
    }
}

/// Whether so many bytes out of so few are a bomb rather than a file that packs well. What came out before the limit
/// is only a part of it.
pub(super) fn is_bomb(packed: usize, unpacked: usize, stop: Option<&Stop>) -> bool {
    let expansion = unpacked / packed.max(1);
    unpacked > (4 << 20)
        && (expansion > limits::EXPANSION || (matches!(stop, Some(Stop::Limit)) && expansion > 16))
}

/// The content of a gzip or zlib stream as one member.
pub(super) fn stream(archive: &File, allowance: &mut Allowance, problems: &mut Problems) -> Vec<Member> {
    let bytes = &archive.bytes;
    let limit = allowance.next();
    let (content, stop) = match archive.kind {
        Kind::Zlib => outcome(inflate::decompress_to_vec_zlib_with_limit(bytes, limit)),
        _ => match gzip_data(bytes) {
            Some(data) => raw(data, limit),
            None => {
                problems.push(not_read("*", "its gzip header is damaged"));
                return Vec::new();
            }
        },
    };
    allowance.bytes = allowance.bytes.saturating_sub(content.len());
    allowance.members = allowance.members.saturating_sub(1);
    let name = archive.name().rsplit_once('.').map_or("content", |(stem, _)| stem).to_owned();
    if is_bomb(bytes.len(), content.len(), stop.as_ref()) {
        problems.push(Problem::Bomb { member: name.clone(), packed: bytes.len() });
    }
    match stop {
        Some(Stop::Limit) => problems.push(not_read(&name, "it unpacks to more than the limit")),
        // Two bytes that look like zlib are no proof: other formats begin so too.
        Some(Stop::Damaged) if archive.kind == Kind::Zlib => {}
        Some(Stop::Damaged) => problems.push(not_read(&name, "its compressed data is damaged")),
        None => {}
    }
    if content.is_empty() { Vec::new() } else { vec![Member { name, bytes: content }] }
}

/// What follows a gzip header (RFC 1952).
fn gzip_data(bytes: &[u8]) -> Option<&[u8]> {
    let flags = *bytes.get(3)?;
    let mut offset = 10;
    if flags & 4 != 0 {
        offset += 2 + usize::from(u16::from_le_bytes([*bytes.get(offset)?, *bytes.get(offset + 1)?]));
    }
    for text in [8, 16] {
        if flags & text != 0 {
            offset += bytes.get(offset..)?.iter().position(|byte| *byte == 0)? + 1;
        }
    }
    if flags & 2 != 0 {
        offset += 2;
    }
    bytes.get(offset..)
}
