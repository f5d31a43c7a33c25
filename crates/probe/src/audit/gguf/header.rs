//! The header of a GGUF file (versions 1 to 3), read within the bytes that are there: no count is believed before the
//! file could hold it.

use std::collections::BTreeSet;

/// Arrays inside each other; the format's writers use one.
const ARRAY_DEPTH: usize = 4;
/// Texts that are kept: chat templates and the like.
const TEXT_BYTES: usize = 1 << 20;

/// What is wrong with a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Magic number or version.
    Version(String),
    /// A count or length beyond what the file holds.
    Count(String),
    /// Arrays nested too deeply.
    Nesting(String),
    /// One key or tensor name twice.
    Duplicate(String),
    /// A type that the format does not have.
    Type(String),
    /// Dimensions or offsets that cannot be.
    Layout(String),
    /// The header reaches beyond the part of the file that is in memory.
    NotInMemory,
}

/// A tensor as the header describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tensor {
    pub(super) name: String,
    /// Relative to the start of the data.
    pub(super) start: u64,
    pub(super) bytes: u64,
}

/// A header.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub(super) tensors: Vec<Tensor>,
    /// Texts of the metadata.
    pub(super) texts: Vec<(String, String)>,
    /// Where the data begins.
    pub(super) data_start: u64,
    pub(super) alignment: u64,
    pub(super) faults: Vec<Fault>,
}

/// Elements of a block and its bytes, by the number of a tensor type (ggml.h). Numbers that are missing were removed
/// from the format or never given.
const TYPES: &[(u32, u64, u64)] = &[
    (0, 1, 4),
    (1, 1, 2),
    (2, 32, 18),
    (3, 32, 20),
    (6, 32, 22),
    (7, 32, 24),
    (8, 32, 34),
    (9, 32, 36),
    (10, 256, 84),
    (11, 256, 110),
    (12, 256, 144),
    (13, 256, 176),
    (14, 256, 210),
    (15, 256, 292),
    (16, 256, 66),
    (17, 256, 74),
    (18, 256, 98),
    (19, 256, 50),
    (20, 32, 18),
    (21, 256, 110),
    (22, 256, 82),
    (23, 256, 136),
    (24, 1, 1),
    (25, 1, 2),
    (26, 1, 4),
    (27, 1, 8),
    (28, 1, 8),
    (29, 256, 56),
    (30, 1, 2),
    (34, 256, 54),
    (35, 256, 66),
    (39, 32, 17),
];

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    size: u64,
    /// Bytes of counts and lengths: 4 in version 1, then 8.
    wide: bool,
}

/// Reads the header of a file of `size` bytes, of which `bytes` may be the head.
pub(super) fn read(bytes: &[u8], size: u64) -> Header {
    let mut header = Header { alignment: 32, ..Header::default() };
    let mut reader = Reader { bytes, at: 0, size, wide: true };
    if let Err(fault) = reader.header(&mut header) {
        header.faults.push(fault);
    }
    header
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8], Fault> {
        let end = (self.at as u64).checked_add(count).filter(|end| *end <= self.size).ok_or_else(|| {
            let left = self.size - self.at as u64;
            Fault::Count(format!("{what}: expected at most the {left} bytes that follow, found {count}"))
        })?;
        let field = self.bytes.get(self.at..end as usize).ok_or(Fault::NotInMemory)?;
        self.at = end as usize;
        Ok(field)
    }

    fn u32(&mut self, what: &str) -> Result<u32, Fault> {
        let field = self.take(4, what)?;
        Ok(u32::from_le_bytes([field[0], field[1], field[2], field[3]]))
    }

    fn u64(&mut self, what: &str) -> Result<u64, Fault> {
        let field = self.take(8, what)?;
        Ok(field.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }

    fn length(&mut self, what: &str) -> Result<u64, Fault> {
        if self.wide { self.u64(what) } else { self.u32(what).map(u64::from) }
    }

    /// A count of things of at least so many bytes each.
    fn count(&mut self, least: u64, what: &str) -> Result<u64, Fault> {
        let count = self.length(what)?;
        let left = self.size - self.at as u64;
        if count.checked_mul(least).is_none_or(|bytes| bytes > left) {
            return Err(Fault::Count(format!(
                "{what}: {count} of at least {least} bytes cannot be in the {left} bytes that follow"
            )));
        }
        Ok(count)
    }

    fn text(&mut self, what: &str) -> Result<String, Fault> {
        let count = self.length(what)?;
        let field = self.take(count, what)?;
        Ok(String::from_utf8_lossy(&field[..field.len().min(TEXT_BYTES)]).into_owned())
    }

    fn header(&mut self, header: &mut Header) -> Result<(), Fault> {
        if self.take(4, "the magic number")? != b"GGUF" {
            return Err(Fault::Version("expected the magic number `GGUF`".into()));
        }
        let version = self.u32("the version")?;
        if !(1..=3).contains(&version) {
            let swapped = (1..=3).contains(&version.swap_bytes());
            let what = if swapped { "a big-endian file" } else { "another one" };
            return Err(Fault::Version(format!("expected version 1 to 3, found {version} ({what})")));
        }
        self.wide = version > 1;
        let unit = if self.wide { 8 } else { 4 };
        // A tensor needs a name, dimensions, a type and an offset; a key its text and a value.
        let tensors = self.count(unit + 4 + 4 + 8, "tensors")?;
        let keys = self.count(unit + 4 + 1, "keys")?;
        let mut seen = BTreeSet::new();
        for _ in 0..keys {
            let key = self.text("a key")?;
            if !seen.insert(key.clone()) {
                header.faults.push(Fault::Duplicate(key.clone()));
            }
            let kind = self.u32("a value's type")?;
            self.value(&key, kind, 0, header)?;
        }
        if !header.alignment.is_power_of_two() {
            header.faults.push(Fault::Layout(format!("an alignment of {}", header.alignment)));
            header.alignment = 32;
        }
        seen.clear();
        for _ in 0..tensors {
            self.tensor(&mut seen, header)?;
        }
        header.data_start = (self.at as u64).next_multiple_of(header.alignment);
        header.tensors.sort_by(|a, b| (a.start, a.bytes, &a.name).cmp(&(b.start, b.bytes, &b.name)));
        Ok(())
    }

    fn value(&mut self, key: &str, kind: u32, depth: usize, header: &mut Header) -> Result<(), Fault> {
        match kind {
            8 => {
                let text = self.text(key)?;
                if depth == 0 {
                    header.texts.push((key.to_owned(), text));
                }
            }
            9 => {
                if depth >= ARRAY_DEPTH {
                    return Err(Fault::Nesting(format!("`{key}`: more than {ARRAY_DEPTH} arrays")));
                }
                let kind = self.u32("an array's type")?;
                let unit = if self.wide { 8 } else { 4 };
                let least = match kind {
                    8 => unit,
                    9 => unit + 4,
                    kind => fixed(kind).ok_or_else(|| unknown(key, kind))?,
                };
                let count = self.count(least, key)?;
                match kind {
                    8 | 9 => {
                        for _ in 0..count {
                            self.value(key, kind, depth + 1, header)?;
                        }
                    }
                    _ => {
                        self.take(count * least, key)?;
                    }
                }
            }
            kind => {
                let bytes = self.take(fixed(kind).ok_or_else(|| unknown(key, kind))?, key)?;
                if key == "general.alignment" && kind == 4 {
                    header.alignment =
                        u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
                }
            }
        }
        Ok(())
    }

    fn tensor(&mut self, seen: &mut BTreeSet<String>, header: &mut Header) -> Result<(), Fault> {
        let name = self.text("a tensor's name")?;
        if !seen.insert(name.clone()) {
            header.faults.push(Fault::Duplicate(name.clone()));
        }
        let dimensions = self.u32("a tensor's dimensions")?;
        if dimensions > 8 {
            return Err(Fault::Layout(format!("`{name}`: {dimensions} dimensions, expected at most 4")));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(self.length("a dimension")?);
        }
        let kind = self.u32("a tensor's type")?;
        let start = self.u64("a tensor's offset")?;
        let Some((_, block, bytes)) = TYPES.iter().find(|(number, ..)| *number == kind) else {
            header.faults.push(Fault::Type(format!("`{name}` has tensor type {kind}")));
            return Ok(());
        };
        let elements = shape.iter().try_fold(1u64, |product, side| product.checked_mul(*side));
        let bytes = elements.and_then(|elements| elements.div_ceil(*block).checked_mul(*bytes));
        match bytes.filter(|bytes| start.checked_add(*bytes).is_some_and(|end| end <= self.size)) {
            Some(bytes) => header.tensors.push(Tensor { name, start, bytes }),
            None => {
                let what = format!("`{name}` of shape {shape:?} at {start} does not fit {} bytes", self.size);
                header.faults.push(Fault::Layout(what));
            }
        }
        if start % header.alignment != 0 {
            header.faults.push(Fault::Layout(format!("an offset of {start} is not aligned")));
        }
        Ok(())
    }
}

/// Bytes of a value of a fixed size.
const fn fixed(kind: u32) -> Option<u64> {
    Some(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => return None,
    })
}

fn unknown(key: &str, kind: u32) -> Fault {
    Fault::Type(format!("`{key}` has value type {kind}"))
}
