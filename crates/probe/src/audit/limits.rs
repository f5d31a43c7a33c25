//! Every limit of the audit in one place. What exceeds one becomes a finding, never a silent pass; all of them stand
//! in the report.

use std::collections::BTreeMap;

/// Files and folders below the root.
pub(crate) const FILES: usize = 2_000;
/// Folders inside each other.
pub(crate) const FOLDER_DEPTH: usize = 16;
/// A file is held in memory up to this size; of a longer one the head is inspected, and safetensors are streamed.
pub(crate) const FILE_BYTES: u64 = 64 << 20;
/// The head of a longer file.
pub(crate) const HEAD_BYTES: usize = 16 << 20;
/// Files of a text form up to this size stay in memory for checks across files.
pub(crate) const KEPT_BYTES: u64 = 4 << 20;
/// The tokenizers of the largest published vocabularies take 20 to 35 MB.
pub(crate) const TOKENIZER_BYTES: u64 = 24 << 20;
/// All kept files together.
pub(crate) const KEPT_TOTAL_BYTES: u64 = 32 << 20;
/// Archives inside each other.
pub(crate) const ARCHIVE_DEPTH: usize = 3;
/// Members that are read from all archives of a repository together.
pub(crate) const MEMBERS: usize = 4_000;
/// One member, unpacked.
pub(crate) const MEMBER_BYTES: usize = 32 << 20;
/// All members of a repository together, unpacked.
pub(crate) const UNPACKED_BYTES: usize = 128 << 20;
/// Unpacked bytes for each packed byte, above which an archive is a bomb. DEFLATE itself reaches 1,032.
pub(crate) const EXPANSION: usize = 100;
/// Opcodes of one pickle.
pub(crate) const PICKLE_OPCODES: usize = 2_000_000;
/// Header of a safetensors file; the reference implementation's own limit.
pub(crate) const SAFETENSORS_HEADER_BYTES: u64 = 100_000_000;
/// As much of it is parsed; the header of a hundred thousand tensors is shorter.
pub(crate) const SAFETENSORS_PARSED_BYTES: u64 = 16 << 20;
/// Rank of a LoRA factor whose spectrum is computed.
pub(crate) const RANK: u64 = 512;
/// Bytes of such a factor.
pub(crate) const FACTOR_BYTES: u64 = 48 << 20;
/// Factors B that are kept of one file, to compare layers.
pub(crate) const KEPT_FACTOR_BYTES: usize = 48 << 20;
/// Findings of one rule in one file; the rest is counted.
pub(crate) const FINDINGS_A_RULE: usize = 10;
/// Findings of a repository; beyond, those of a rule that was found already are only counted.
pub(crate) const FINDINGS: usize = 4_000;

/// The limits as the report lists them.
#[must_use]
pub fn all() -> BTreeMap<String, u64> {
    [
        ("files", FILES as u64),
        ("folder depth", FOLDER_DEPTH as u64),
        ("bytes of a file in memory", FILE_BYTES),
        ("bytes of a longer file's head", HEAD_BYTES as u64),
        ("archive depth", ARCHIVE_DEPTH as u64),
        ("archive members", MEMBERS as u64),
        ("bytes of an archive member", MEMBER_BYTES as u64),
        ("bytes of all archive members", UNPACKED_BYTES as u64),
        ("unpacked bytes for each packed byte", EXPANSION as u64),
        ("opcodes of a pickle", PICKLE_OPCODES as u64),
        ("bytes of a safetensors header", SAFETENSORS_HEADER_BYTES),
        ("rank of a factor whose spectrum is computed", RANK),
        ("bytes of a factor whose spectrum is computed", FACTOR_BYTES),
        ("bytes of a safetensors header that is parsed", SAFETENSORS_PARSED_BYTES),
        ("findings of a rule in a file", FINDINGS_A_RULE as u64),
        ("findings of a repository", FINDINGS as u64),
    ]
    .into_iter()
    .map(|(name, limit)| (name.to_owned(), limit))
    .collect()
}
