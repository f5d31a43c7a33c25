//! SHA-256 of files, for provenance: the hash that model hubs and signatures use.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// SHA-256 of a file as lower-case hex, read in pieces.
///
/// # Errors
/// If the file cannot be read.
pub fn sha256_file(path: &Path) -> Result<String> {
    let digest = File::open(path).and_then(sha256_reader).map_err(Error::io(path))?;
    Ok(digest.0)
}

/// SHA-256 of all that a reader gives as lower-case hex, and its length in bytes, read in pieces.
///
/// # Errors
/// Those of the reader.
pub fn sha256_reader(mut reader: impl Read) -> std::io::Result<(String, u64)> {
    let (mut hasher, mut bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        let read = reader.read(&mut buffer)?;
        if read == 0 {
            return Ok((hex(&hasher.finalize()), bytes));
        }
        bytes += read as u64;
        hasher.update(&buffer[..read]);
    }
}

/// SHA-256 of bytes as lower-case hex.
#[must_use]
pub fn sha256_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes as lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_published_vector() {
        // FIPS 180-2, appendix B.1.
        assert_eq!(sha256_bytes(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
