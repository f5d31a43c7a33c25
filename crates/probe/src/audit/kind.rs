//! What a file is by its content. Its name is a claim of the author.

use super::pickle;

/// What a file's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No bytes.
    Empty,
    /// A Python pickle.
    Pickle,
    /// A zip archive, PyTorch checkpoints and `.npz` among them.
    Zip,
    /// A tar archive.
    Tar,
    /// A gzip stream.
    Gzip,
    /// A zlib stream, as joblib writes.
    Zlib,
    /// An archive that is not opened: its name.
    Archive(&'static str),
    /// A safetensors file, by its header.
    Safetensors,
    /// A GGUF file.
    Gguf,
    /// A NumPy array.
    Npy,
    /// An HDF5 container, as Keras writes; its layers can hold code.
    Hdf5,
    /// A native program or library: its format.
    Native(&'static str),
    /// Compiled Python.
    PythonBytecode,
    /// A git-lfs pointer where a file should be.
    LfsPointer,
    /// A picture, font, sound or document: its format.
    Media(&'static str),
    /// UTF-8 without NUL.
    Text,
    /// Anything else.
    Binary,
}

/// Magic numbers at the start of a file.
const MAGIC: &[(&[u8], Kind)] = &[
    (b"PK\x03\x04", Kind::Zip),
    (b"PK\x05\x06", Kind::Zip),
    (b"\x1f\x8b", Kind::Gzip),
    (b"7z\xbc\xaf\x27\x1c", Kind::Archive("7z")),
    (b"BZh", Kind::Archive("bzip2")),
    (b"\xfd7zXZ\x00", Kind::Archive("xz")),
    (b"\x28\xb5\x2f\xfd", Kind::Archive("zstd")),
    (b"\x04\x22\x4d\x18", Kind::Archive("lz4")),
    (b"Rar!\x1a\x07", Kind::Archive("rar")),
    (b"GGUF", Kind::Gguf),
    (b"\x93NUMPY", Kind::Npy),
    (b"\x89HDF\r\n\x1a\n", Kind::Hdf5),
    (b"\x7fELF", Kind::Native("ELF")),
    (b"MZ", Kind::Native("PE")),
    (b"\xfe\xed\xfa\xce", Kind::Native("Mach-O")),
    (b"\xfe\xed\xfa\xcf", Kind::Native("Mach-O")),
    (b"\xce\xfa\xed\xfe", Kind::Native("Mach-O")),
    (b"\xcf\xfa\xed\xfe", Kind::Native("Mach-O")),
    (b"\xca\xfe\xba\xbe", Kind::Native("Mach-O or Java")),
    (b"\0asm", Kind::Native("WebAssembly")),
    (b"version https://git-lfs.github.com/spec/", Kind::LfsPointer),
    (b"\x89PNG\r\n\x1a\n", Kind::Media("PNG")),
    (b"\xff\xd8\xff", Kind::Media("JPEG")),
    (b"GIF8", Kind::Media("GIF")),
    (b"%PDF-", Kind::Media("PDF")),
    (b"RIFF", Kind::Media("RIFF")),
];

impl Kind {
    /// What these bytes are; `size` is the whole file's, of which they may be the head.
    #[must_use]
    pub fn of(bytes: &[u8], size: u64) -> Self {
        if bytes.is_empty() {
            return Self::Empty;
        }
        // The header of a safetensors file has a length where others have their magic number.
        if is_safetensors(bytes, size) {
            return Self::Safetensors;
        }
        let magic = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, kind)| *kind);
        match magic {
            // `MZ` and `BZh` also begin words.
            Some(Self::Native("PE")) if !is_pe(bytes) => {}
            Some(Self::Archive("bzip2")) if !bytes.get(3).is_some_and(u8::is_ascii_digit) => {}
            Some(kind) => return kind,
            None => {}
        }
        if is_python_bytecode(bytes) {
            return Self::PythonBytecode;
        }
        if super::archive::tar::is_tar(bytes) {
            return Self::Tar;
        }
        if pickle::is_pickle(bytes) {
            return Self::Pickle;
        }
        if is_text(bytes, size) {
            return Self::Text;
        }
        if is_zlib(bytes) { Self::Zlib } else { Self::Binary }
    }

    /// The word that messages use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "an empty file",
            Self::Pickle => "a Python pickle",
            Self::Zip => "a zip archive",
            Self::Tar => "a tar archive",
            Self::Gzip => "a gzip stream",
            Self::Zlib => "a zlib stream",
            Self::Archive(name) | Self::Native(name) | Self::Media(name) => name,
            Self::Safetensors => "a safetensors file",
            Self::Gguf => "a GGUF file",
            Self::Npy => "a NumPy array",
            Self::Hdf5 => "an HDF5 file",
            Self::PythonBytecode => "compiled Python",
            Self::LfsPointer => "a git-lfs pointer",
            Self::Text => "text",
            Self::Binary => "unknown binary data",
        }
    }
}

/// Whether a length that fits and an opening brace, which may follow spaces, are where safetensors has them.
fn is_safetensors(bytes: &[u8], size: u64) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else { return false };
    let length = u64::from_le_bytes(*length);
    let first = rest.iter().find(|byte| !byte.is_ascii_whitespace());
    length > 0 && length <= size.saturating_sub(8) && first == Some(&b'{')
}

/// Whether the header of a portable executable is where the DOS header says.
fn is_pe(bytes: &[u8]) -> bool {
    let Some(offset) = bytes.get(0x3c..0x40).and_then(|field| field.first_chunk::<4>()) else { return false };
    let offset = u32::from_le_bytes(*offset) as usize;
    bytes.get(offset..).is_some_and(|header| header.starts_with(b"PE\0\0"))
}

/// CPython's magic number is a small version number and `\r\n`; flags, which are 0 to 3, follow since 3.7.
fn is_python_bytecode(bytes: &[u8]) -> bool {
    matches!(bytes, [_, 0x0b..=0x0f, b'\r', b'\n', 0..=3, 0, 0, 0, ..])
}

fn is_zlib(bytes: &[u8]) -> bool {
    matches!(bytes, [0x78, flags, ..] if (0x7800 + u16::from(*flags)) % 31 == 0)
}

fn is_text(bytes: &[u8], size: u64) -> bool {
    let cut = bytes.len() as u64 != size;
    let valid = match std::str::from_utf8(bytes) {
        Ok(_) => true,
        // The head of a long file may end inside a character.
        Err(error) => cut && error.error_len().is_none(),
    };
    valid && !bytes.contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Kind {
        Kind::of(bytes, bytes.len() as u64)
    }

    #[test]
    fn content_decides() {
        assert_eq!(of(b""), Kind::Empty);
        assert_eq!(of(b"hello"), Kind::Text);
        assert_eq!(of(b"MZ is how this sentence begins"), Kind::Text);
        assert_eq!(of(b"\x7fELF\x02\x01"), Kind::Native("ELF"));
        assert_eq!(of(b"\x80\x04]\x94."), Kind::Pickle);
        assert_eq!(of(b"\x02\0\0\0\0\0\0\0{}"), Kind::Safetensors);
        assert_eq!(of(b"\xff\0\0\0\0\0\0\0{}"), Kind::Binary);
        assert_eq!(of(b"\xa7\x0d\r\n\0\0\0\0rest"), Kind::PythonBytecode);
        assert_eq!(of(b"version https://git-lfs.github.com/spec/v1\n"), Kind::LfsPointer);
    }
}
