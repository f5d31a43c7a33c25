//! `tokenizer.model`: the SentencePiece file that slow tokenizers read, a message of Protocol Buffers. Only the fields
//! that decide what is read and written are kept; the wire format needs no schema to be walked.

use std::collections::HashMap;

use report::audit::{Finding, Severity};
use serde_json::Value;

use super::{DECODER, FILES, NORMALIZER, NOT_COMPARED, VOCABULARY, add, vocabulary};
use crate::audit::file::File;
use crate::audit::findings::{Findings, listed};

/// Names that a message gives.
const NAMED: usize = 6;

/// Types of pieces in the file.
const USER_DEFINED: u64 = 4;

/// What a `tokenizer.model` says.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Model<'a> {
    /// Pieces with their types, in the order of their ids.
    pieces: Vec<(&'a str, u64)>,
    normalizer: Rules<'a>,
    denormalizer: Rules<'a>,
}

/// How text is rewritten.
#[derive(Debug, Default, PartialEq)]
struct Rules<'a> {
    name: &'a str,
    /// Compiled rules, and those that were given as a table.
    compiled: &'a [u8],
    table: &'a str,
}

/// A field of a message: its number, and its bytes or its number as a varint.
enum Field<'a> {
    Bytes(u64, &'a [u8]),
    Number(u64, u64),
    /// A fixed-size number, which nothing here needs.
    Skipped,
}

/// Reads a file. `None` if it is no such message.
pub(super) fn read(bytes: &[u8]) -> Option<Model<'_>> {
    let mut model = Model::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        match field(&mut rest)? {
            Field::Bytes(1, piece) => model.pieces.push(self::piece(piece)?),
            Field::Bytes(3, rules) => model.normalizer = self::rules(rules)?,
            Field::Bytes(5, rules) => model.denormalizer = self::rules(rules)?,
            _ => {}
        }
    }
    (!model.pieces.is_empty()).then_some(model)
}

fn piece(mut rest: &[u8]) -> Option<(&str, u64)> {
    // A piece without a type is a normal one.
    let (mut text, mut kind) = ("", 1);
    while !rest.is_empty() {
        match field(&mut rest)? {
            Field::Bytes(1, bytes) => text = std::str::from_utf8(bytes).ok()?,
            Field::Number(3, number) => kind = number,
            _ => {}
        }
    }
    Some((text, kind))
}

fn rules(mut rest: &[u8]) -> Option<Rules<'_>> {
    let mut rules = Rules::default();
    while !rest.is_empty() {
        match field(&mut rest)? {
            Field::Bytes(1, bytes) => rules.name = std::str::from_utf8(bytes).ok()?,
            Field::Bytes(2, bytes) => rules.compiled = bytes,
            Field::Bytes(6, bytes) => rules.table = std::str::from_utf8(bytes).ok()?,
            _ => {}
        }
    }
    Some(rules)
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<Field<'a>> {
    let key = varint(rest)?;
    let number = key >> 3;
    match key & 7 {
        0 => Some(Field::Number(number, varint(rest)?)),
        1 => rest.split_off(..8).map(|_| Field::Skipped),
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            rest.split_off(..length).map(|bytes| Field::Bytes(number, bytes))
        }
        5 => rest.split_off(..4).map(|_| Field::Skipped),
        _ => None,
    }
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *rest.split_off_first()?;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Looks at a file alone.
pub(super) fn examine(file: &File, findings: &mut Findings) {
    let Some(model) = read(&file.bytes).filter(|_| file.whole) else {
        let message = "expected a SentencePiece model, found something else";
        return findings.in_file(file, Finding::new(&NOT_COMPARED, &file.path, message));
    };
    for (id, (text, kind)) in model.pieces.iter().enumerate() {
        if *kind == USER_DEFINED {
            vocabulary::added(file, &format!("piece {id}"), text, findings);
        }
    }
    if !model.normalizer.table.is_empty() {
        let message = "rules of its own rewrite the text before it is read";
        add(file, &NORMALIZER, NORMALIZER.severity, "normalizer_spec", message.into(), findings);
    }
    if !model.denormalizer.compiled.is_empty() || !model.denormalizer.table.is_empty() {
        let message = "rules rewrite what the model answers";
        add(file, &DECODER, DECODER.severity, "denormalizer_spec", message.into(), findings);
    }
}

/// Compares a file with the base's of the same name.
pub(super) fn compare(file: &File, ours: &Model<'_>, base: &Model<'_>, findings: &mut Findings) {
    let differ: Vec<String> = ours
        .pieces
        .iter()
        .zip(&base.pieces)
        .enumerate()
        .filter(|(_, ((mine, _), (theirs, _)))| mine != theirs)
        .map(|(id, ((mine, _), (theirs, _)))| format!("{id} is `{mine}`, not `{theirs}`"))
        .collect();
    if !differ.is_empty() {
        add(file, &VOCABULARY, VOCABULARY.severity, "pieces", named("ids", &differ), findings);
    }
    if ours.pieces.len() < base.pieces.len() {
        let message = format!("{} pieces, the base has {}", ours.pieces.len(), base.pieces.len());
        add(file, &VOCABULARY, Severity::Medium, "pieces", message, findings);
    }
    for (mine, theirs, rule, what) in [
        (&ours.normalizer, &base.normalizer, &NORMALIZER, "normalizer"),
        (&ours.denormalizer, &base.denormalizer, &DECODER, "denormalizer"),
    ] {
        if (mine.compiled, mine.table) != (theirs.compiled, theirs.table) {
            let message = format!("the {what} differs from the base's");
            add(file, rule, Severity::Medium, &format!("{what}_spec"), message, findings);
        }
    }
}

/// Compares a file with the vocabulary of `tokenizer.json` beside it. Ids that only one of them has say nothing: byte
/// pieces and added tokens are written in different ways.
pub(super) fn disagreement(file: &File, ours: &Model<'_>, fast: &Value, findings: &mut Findings) {
    let ids: HashMap<&str, u64> = match fast.pointer("/model/vocab") {
        Some(Value::Object(vocabulary)) => {
            vocabulary.iter().filter_map(|(token, id)| Some((token.as_str(), id.as_u64()?))).collect()
        }
        // A unigram model is a list of pairs.
        Some(Value::Array(pieces)) => {
            pieces.iter().zip(0..).filter_map(|(piece, id)| Some((piece.get(0)?.as_str()?, id))).collect()
        }
        _ => return,
    };
    let differ: Vec<String> = ours
        .pieces
        .iter()
        .zip(0u64..)
        .filter(|((text, _), id)| ids.get(text).is_some_and(|other| other != id))
        .map(|((text, _), _)| format!("`{text}`"))
        .collect();
    if !differ.is_empty() {
        let message = named("tokenizer.json has other ids for", &differ);
        add(file, &FILES, FILES.severity, "pieces", message, findings);
    }
}

fn named(what: &str, names: &[String]) -> String {
    format!("{what} {}", listed(names.iter().map(String::as_str), NAMED))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by the SentencePiece library; see fixtures/README.md.
    const MODEL: &[u8] = include_bytes!("../../../../../fixtures/audit/sentencepiece/tokenizer.model");

    #[test]
    fn a_model_of_the_library_is_read() {
        let model = read(MODEL).unwrap();
        assert_eq!(model.pieces.len(), 64);
        assert_eq!(&model.pieces[..3], [("<unk>", 2), ("<s>", 3), ("</s>", 3)]);
        assert_eq!(model.pieces[3], ("<tool>", USER_DEFINED));
        assert!(model.pieces.iter().any(|(text, kind)| *text == "\u{2581}the" && *kind == 1));
        assert_eq!(model.normalizer.name, "identity");
        assert!(model.normalizer.compiled.is_empty() && model.denormalizer.compiled.is_empty());
    }

    #[test]
    fn what_is_cut_is_no_model() {
        let whole = read(MODEL).unwrap();
        for end in 1..MODEL.len() {
            // Between two fields a file may end; what was read until then is as in the whole.
            let read = read(&MODEL[..end]);
            assert!(read.is_none_or(|model| whole.pieces.starts_with(&model.pieces)), "{end}");
        }
        assert_eq!(read(&MODEL[..MODEL.len() - 1]), None);
        assert_eq!(read(b""), None);
        assert_eq!(read(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn exchanged_pieces_are_named() {
        let base = read(MODEL).unwrap();
        let mut ours = read(MODEL).unwrap();
        ours.pieces.swap(10, 20);
        let file = File::new("tokenizer.model".into(), MODEL.to_vec(), 0);
        let mut findings = Findings::default();
        examine(&file, &mut findings);
        compare(&file, &base, &read(MODEL).unwrap(), &mut findings);
        assert!(findings.into_all().is_empty(), "an ordinary file is quiet");
        let mut findings = Findings::default();
        compare(&file, &ours, &base, &mut findings);
        let fast = serde_json::json!({"model": {"vocab": {ours.pieces[10].0: 20, "<unk>": 0}}});
        disagreement(&file, &ours, &fast, &mut findings);
        let found: Vec<String> = findings.into_all().into_iter().map(|found| found.rule).collect();
        assert_eq!(found, ["TOK-002", "TOK-011"]);
    }
}
