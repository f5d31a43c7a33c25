//! Pickles inside of other things: arrays of objects in NumPy files, base64 text, and the middle of other formats.

use super::imports::{Trust, trust};
use super::{Walk, walk};
use crate::audit::encoded::base64_head;

/// What follows the header of a `.npy` file whose elements are Python objects.
pub(super) fn objects(bytes: &[u8]) -> Option<&[u8]> {
    let major = *bytes.get(6)?;
    let (length, start): (usize, usize) = if major < 2 {
        (usize::from(u16::from_le_bytes([*bytes.get(8)?, *bytes.get(9)?])), 10)
    } else {
        let field = bytes.get(8..12)?.first_chunk::<4>()?;
        (u32::from_le_bytes(*field) as usize, 12)
    };
    let end = start.checked_add(length)?;
    let header = String::from_utf8_lossy(bytes.get(start..end.min(bytes.len()))?).into_owned();
    // The type is written as `'descr': '|O'`, or as a list of fields one of which is.
    let descr = header.split("descr").nth(1)?.split("fortran_order").next()?;
    let object = descr.split(['\'', '"']).any(|part| {
        let code = part.trim_start_matches(['|', '<', '>', '=']);
        code == "O"
            || code.strip_prefix('O').is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
    });
    object.then(|| bytes.get(end..).unwrap_or_default())
}

/// Whether a walk found a call of something dangerous: too specific to be a coincidence of bytes.
fn runs_something(walk: &Walk) -> bool {
    walk.imports.iter().any(|import| {
        import.used
            && import.literal
            && import.is_plausible()
            && trust(&import.module, &import.name) == Trust::Dangerous
    })
}

/// What a search for hidden pickles came to.
pub(super) enum Search {
    /// A pickle that calls something dangerous, and where it begins.
    Found(usize, Walk),
    /// None.
    Nothing,
    /// More beginnings than were followed.
    Exhausted,
}

/// Opcodes that all walks of one search may read; in honest data a walk ends after a few.
const OPCODES: usize = 1_000_000;
/// Bytes that are decoded in one search of a text.
const DECODED: usize = 16 << 20;

/// Looks for a pickle that calls something dangerous in a file that is no pickle.
pub(super) fn hidden(bytes: &[u8]) -> Search {
    let (mut from, mut opcodes) = (0, 0);
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == 0x80) {
        let start = from + at;
        if matches!(bytes.get(start + 1), Some(2..=5)) {
            let walk = walk(&bytes[start..]);
            if runs_something(&walk) {
                return Search::Found(start, walk);
            }
            opcodes += walk.opcodes + 1;
            if opcodes > OPCODES {
                return Search::Exhausted;
            }
        }
        from = start + 1;
    }
    Search::Nothing
}

/// Base64 of a pickle's first bytes: protocol 2 to 5 and what usually follows.
const BASE64_STARTS: &[&str] = &["gAJ", "gAN", "gAR", "gAS", "gAV", "gAW"];
/// Longest piece that is decoded.
const BASE64_BYTES: usize = 1 << 16;

/// Looks for base64 that decodes to a pickle which calls something dangerous.
pub(super) fn encoded(text: &str) -> Search {
    let (mut opcodes, mut bytes) = (0, 0);
    for start in BASE64_STARTS {
        for (at, _) in text.match_indices(start) {
            let piece = &text.as_bytes()[at..];
            let (content, _) = base64_head(&piece[..piece.len().min(BASE64_BYTES)]);
            let walk = walk(&content);
            if runs_something(&walk) {
                return Search::Found(at, walk);
            }
            opcodes += walk.opcodes + 1;
            bytes += content.len();
            if opcodes > OPCODES || bytes > DECODED {
                return Search::Exhausted;
            }
        }
    }
    Search::Nothing
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `cos\nsystem` of protocol 4: `\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.`
    const SYSTEM: &[u8] = b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.";

    #[test]
    fn base64_and_offsets_hide_nothing() {
        let text = "x = 'gASMAm9zjAZzeXN0ZW2TjAJpZIVSLg=='";
        let Search::Found(at, walk) = encoded(text) else { panic!("expected a pickle") };
        assert_eq!((at, walk.imports[0].path().as_str()), (5, "os.system"));
        let mut bytes = b"\x89PNG\r\n\x1a\n\x80\x02 and more".to_vec();
        bytes.extend_from_slice(SYSTEM);
        let Search::Found(at, _) = hidden(&bytes) else { panic!("expected a pickle") };
        assert_eq!(at, bytes.len() - SYSTEM.len());
        assert!(matches!(hidden(b"\x89PNG no pickle \x80\x04 here"), Search::Nothing));
        let decoys = b"\x80\x02NNNN".repeat(100_000);
        assert!(matches!(hidden(&decoys), Search::Exhausted));
    }

    #[test]
    fn arrays_of_objects_are_told_from_arrays_of_numbers() {
        let file = |descr: &str| {
            let header = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}\n");
            let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
            bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(SYSTEM);
            bytes
        };
        assert_eq!(objects(&file("'|O'")), Some(SYSTEM));
        assert_eq!(objects(&file("[('a', '<i4'), ('b', 'O')]")), Some(SYSTEM));
        assert_eq!(objects(&file("'<f4'")), None);
    }
}
