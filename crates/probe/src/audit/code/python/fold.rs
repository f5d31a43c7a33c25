//! Constant text in Python: what a string is that was cut into pieces so that no search finds it.

use std::collections::BTreeMap;

use tree_sitter::Node;

/// Expressions inside each other that are followed.
const DEPTH: usize = 150;
/// Characters of a folded string.
const LONGEST: usize = 1 << 16;

/// Names that stand for one constant text in the whole file.
pub(super) type Constants = BTreeMap<String, String>;

/// The text that an expression always has, if it has one.
pub(super) fn text(node: Node, source: &str, constants: &Constants) -> Option<String> {
    fold(node, source, constants, 0).filter(|text| text.len() <= LONGEST)
}

fn fold(node: Node, source: &str, constants: &Constants, depth: usize) -> Option<String> {
    if depth > DEPTH {
        return None;
    }
    let next = |node: Node| fold(node, source, constants, depth + 1);
    match node.kind() {
        "string" => string(node, source, constants, depth),
        "concatenated_string" => children(node).into_iter().map(next).collect(),
        "parenthesized_expression" => next(node.named_child(0)?),
        "identifier" => constants.get(slice(node, source)).cloned(),
        "binary_operator" => {
            let (left, right) = (node.child_by_field_name("left")?, node.child_by_field_name("right")?);
            match slice(node.child_by_field_name("operator")?, source) {
                "+" => Some(next(left)? + &next(right)?),
                _ => None,
            }
        }
        "subscript" => {
            // `[::-1]` turns a text around.
            let index = slice(node.child_by_field_name("subscript")?, source);
            let whole = next(node.child_by_field_name("value")?)?;
            (index.replace(' ', "") == "::-1").then(|| whole.chars().rev().collect())
        }
        "call" => call(node, source, constants, depth),
        _ => None,
    }
}

fn string(node: Node, source: &str, constants: &Constants, depth: usize) -> Option<String> {
    let mut out = String::new();
    let raw = slice(node, source)
        .split(['"', '\''])
        .next()
        .is_some_and(|prefix| prefix.to_lowercase().contains('r'));
    for child in children(node) {
        match child.kind() {
            "string_content" if raw => out.push_str(slice(child, source)),
            "string_content" => unescape(slice(child, source), &mut out),
            "interpolation" => {
                out.push_str(&fold(child.child_by_field_name("expression")?, source, constants, depth + 1)?);
            }
            _ => {}
        }
    }
    Some(out)
}

fn unescape(text: &str, out: &mut String) {
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let digits = match rest.as_bytes().first() {
            Some(b'x') => 2,
            Some(b'u') => 4,
            Some(b'U') => 8,
            _ => 0,
        };
        let code =
            rest.get(1..1 + digits).filter(|_| digits > 0).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        if let Some(character) = code.and_then(char::from_u32) {
            out.push(character);
            rest = &rest[1 + digits..];
        } else if let Some(character) = rest.chars().next() {
            out.push(match character {
                'n' => '\n',
                't' => '\t',
                other => other,
            });
            rest = &rest[character.len_utf8()..];
        }
    }
    out.push_str(rest);
}

fn call(node: Node, source: &str, constants: &Constants, depth: usize) -> Option<String> {
    let function = node.child_by_field_name("function")?;
    let arguments = arguments(node);
    let name = slice(function, source);
    match (function.kind(), name) {
        ("identifier", "chr") => {
            let code = slice(*arguments.first()?, source);
            character(code).map(String::from)
        }
        ("identifier", "str") => fold(*arguments.first()?, source, constants, depth + 1),
        ("attribute", _) => {
            let object = function.child_by_field_name("object")?;
            match slice(function.child_by_field_name("attribute")?, source) {
                "join" => {
                    let glue = fold(object, source, constants, depth + 1)?;
                    let parts = pieces(*arguments.first()?, source, constants, depth + 1)?;
                    Some(parts.join(&glue))
                }
                "decode" | "encode" | "strip" | "format"
                    if object.kind() != "identifier" || arguments.is_empty() =>
                {
                    fold(object, source, constants, depth + 1).or_else(|| bytes(object, source))
                }
                "lower" => Some(fold(object, source, constants, depth + 1)?.to_lowercase()),
                "replace" => {
                    let whole = fold(object, source, constants, depth + 1)?;
                    let from = fold(*arguments.first()?, source, constants, depth + 1)?;
                    let to = fold(*arguments.get(1)?, source, constants, depth + 1)?;
                    (!from.is_empty()).then(|| whole.replace(&from, &to))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// The parts that `join` puts together: of a list, of `map(chr, …)`, of `chr(c) for c in …`.
fn pieces(node: Node, source: &str, constants: &Constants, depth: usize) -> Option<Vec<String>> {
    match node.kind() {
        "list" | "tuple" => {
            children(node).into_iter().map(|part| fold(part, source, constants, depth + 1)).collect()
        }
        "generator_expression" | "list_comprehension" => {
            let body = node.child_by_field_name("body")?;
            let by_code = slice(body, source).starts_with("chr(");
            let clause = children(node).into_iter().find(|child| child.kind() == "for_in_clause")?;
            by_code.then(|| codes(clause.child_by_field_name("right")?, source)).flatten()
        }
        "call" if slice(node.child_by_field_name("function")?, source) == "map" => {
            let arguments = arguments(node);
            (slice(*arguments.first()?, source) == "chr").then(|| codes(*arguments.get(1)?, source)).flatten()
        }
        "call" if slice(node.child_by_field_name("function")?, source) == "reversed" => {
            let arguments = arguments(node);
            let whole = fold(*arguments.first()?, source, constants, depth + 1)?;
            Some(whole.chars().rev().map(String::from).collect())
        }
        _ => None,
    }
}

fn codes(node: Node, source: &str) -> Option<Vec<String>> {
    if !matches!(node.kind(), "list" | "tuple") {
        return None;
    }
    children(node).into_iter().map(|part| character(slice(part, source)).map(String::from)).collect()
}

/// `bytes([…])` as text.
fn bytes(node: Node, source: &str) -> Option<String> {
    if node.kind() != "call"
        || !matches!(slice(node.child_by_field_name("function")?, source), "bytes" | "bytearray")
    {
        return None;
    }
    let arguments = arguments(node);
    codes(*arguments.first()?, source).map(|parts| parts.concat())
}

fn character(code: &str) -> Option<char> {
    let code = match code.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok()?,
        None => code.parse().ok()?,
    };
    char::from_u32(code)
}

/// The arguments of a call. A generator alone stands in the place of the list.
pub(super) fn arguments(call: Node) -> Vec<Node> {
    match call.child_by_field_name("arguments") {
        Some(generator) if generator.kind() == "generator_expression" => vec![generator],
        Some(list) => children(list),
        None => Vec::new(),
    }
}

/// The named children of a node.
pub(super) fn children(node: Node) -> Vec<Node> {
    let mut cursor = node.walk();
    node.named_children(&mut cursor).collect()
}

/// The text of a node.
pub(super) fn slice<'a>(node: Node, source: &'a str) -> &'a str {
    source.get(node.byte_range()).unwrap_or("")
}
