//! Tar archives: POSIX ustar, with the long names of GNU and pax.

use super::{Allowance, Member, Problem, Problems, leaves_folder, member_name, not_read};

const BLOCK: usize = 512;

/// Whether a file begins with a tar header whose checksum is right.
pub(crate) fn is_tar(bytes: &[u8]) -> bool {
    bytes.get(..BLOCK).is_some_and(checksum_is_right)
}

/// The members of an archive.
pub(super) fn members(bytes: &[u8], allowance: &mut Allowance, problems: &mut Problems) -> Vec<Member> {
    let mut members: Vec<Member> = Vec::new();
    let mut offset = 0usize;
    let mut long_name: Option<String> = None;
    while let Some(header) = bytes.get(offset..offset + BLOCK) {
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        if !checksum_is_right(header) {
            problems.push(not_read("*", "a header's checksum is wrong"));
            break;
        }
        let Some(size) = octal(&header[124..136]) else {
            problems.push(not_read("*", "a header's size is no number"));
            break;
        };
        let start = offset + BLOCK;
        let end = start.saturating_add(size);
        let content = bytes.get(start..end.min(bytes.len())).unwrap_or_default();
        let name = long_name.take().unwrap_or_else(|| name(header));
        if end > bytes.len() {
            problems.push(not_read(&name, "it is cut off"));
        }
        match header[156] {
            b'L' => long_name = Some(text(content)),
            b'x' | b'g' => long_name = pax_path(content),
            b'1' | b'2' => {
                let target = text(&header[157..257]);
                if leaves_folder(&target) {
                    problems.push(Problem::Link { member: name, target });
                }
            }
            0 | b'0' | b'7' => {
                if leaves_folder(&name) {
                    problems.push(Problem::Traversal { member: name.clone() });
                }
                if members.iter().any(|other| other.name == name) {
                    problems.push(Problem::Duplicate { member: name.clone() });
                }
                if allowance.members == 0 || content.len() > allowance.next() {
                    problems.push(not_read(&name, "the limit of archive members is reached"));
                    break;
                }
                allowance.members -= 1;
                allowance.bytes -= content.len();
                members.push(Member { name, bytes: content.to_vec() });
            }
            b'5' => {
                if leaves_folder(&name) {
                    problems.push(Problem::Traversal { member: name });
                }
            }
            _ => problems.push(not_read(&name, "it is a device or of an unknown type")),
        }
        let Some(next) = size.checked_next_multiple_of(BLOCK).and_then(|size| start.checked_add(size)) else {
            break;
        };
        offset = next;
        if offset >= bytes.len() {
            break;
        }
    }
    members
}

fn checksum_is_right(header: &[u8]) -> bool {
    let Some(stored) = octal(&header[148..156]) else { return false };
    let sum: usize = header
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { usize::from(b' ') } else { usize::from(*byte) })
        .sum();
    stored == sum
}

/// An octal number padded with spaces and NULs.
fn octal(field: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(field).ok()?;
    let digits = text.trim_matches(|character| character == ' ' || character == '\0');
    usize::from_str_radix(digits, 8).ok()
}

fn name(header: &[u8]) -> String {
    let name = text(&header[..100]);
    let prefix = text(&header[345..500]);
    if header[257..262] == *b"ustar" && !prefix.is_empty() { format!("{prefix}/{name}") } else { name }
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    member_name(&field[..end])
}

/// The `path` of a pax header, whose lines are `LENGTH KEY=VALUE`.
fn pax_path(content: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(content);
    let record = text.lines().find_map(|line| line.split_once(' ')?.1.strip_prefix("path="))?;
    Some(member_name(record.as_bytes()))
}
