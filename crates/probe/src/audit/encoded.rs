//! Programs and pickles hidden in text: base64 and hex that decode to something that runs.

use super::kind::Kind;

/// Shorter strings are names and numbers.
const SHORTEST: usize = 24;
/// Of longer strings the head says enough.
const LONGEST: usize = 1 << 20;
/// What decoded text has if it is a program.
const PROGRAM: &[&str] = &[
    "import os",
    "import sys",
    "import subprocess",
    "import socket",
    "__import__(",
    "exec(",
    "eval(",
    "os.system",
    "subprocess.",
    "#!/bin/",
    "powershell",
    "/bin/sh",
    "/bin/bash",
    "curl http",
    "curl -",
    "wget http",
    "/dev/tcp/",
    "<script",
];

/// What runs that a text is the base64 or hex of, if it is.
pub(super) fn program(text: &str) -> Option<&'static str> {
    let text = text.trim();
    let text = match text.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,")) {
        Some((_, content)) => content,
        None => text,
    };
    if text.len() < SHORTEST {
        return None;
    }
    let end = (0..=text.len().min(LONGEST)).rev().find(|&end| text.is_char_boundary(end))?;
    let head = &text[..end];
    let bytes = hex(head).or_else(|| base64(head))?;
    match Kind::of(&bytes, bytes.len() as u64) {
        Kind::Pickle => Some("a Python pickle"),
        Kind::PythonBytecode => Some("compiled Python"),
        Kind::Native(_) => Some("a native program"),
        Kind::Zip => Some("a zip archive"),
        Kind::Text => {
            let text = std::str::from_utf8(&bytes).ok()?;
            PROGRAM.iter().any(|piece| text.contains(piece)).then_some("a program")
        }
        _ => None,
    }
}

/// Decodes standard or URL-safe base64, with or without padding and line breaks; `None` for anything else.
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    let (bytes, end) = base64_head(text.as_bytes());
    text.as_bytes()[end..].iter().all(|byte| matches!(byte, b'=' | b'\n' | b'\r')).then_some(bytes)
}

/// Decodes base64, standard or URL-safe, with line breaks, up to the first byte that is none; and where that stands.
pub(super) fn base64_head(text: &[u8]) -> (Vec<u8>, usize) {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0u32);
    for (at, byte) in text.iter().enumerate() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            b'\n' | b'\r' => continue,
            _ => return (bytes, at),
        };
        bits = (bits << 6) | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    (bytes, text.len())
}

/// Decodes hex; `None` for anything else.
pub(super) fn hex(text: &str) -> Option<Vec<u8>> {
    let text = text.strip_prefix("0x").unwrap_or(text);
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_seen_through_encodings() {
        // `import os; os.system('id')`
        assert_eq!(program("aW1wb3J0IG9zOyBvcy5zeXN0ZW0oJ2lkJyk="), Some("a program"));
        assert_eq!(program("696d706f7274206f733b206f732e73797374656d282769642729"), Some("a program"));
        assert_eq!(program("data:text/plain;base64,aW1wb3J0IG9zOyBvcy5zeXN0ZW0oJ2lkJyk="), Some("a program"));
    }

    #[test]
    fn hashes_and_words_are_not_programs() {
        for text in [
            "12fd25f77366fa6b3b4b768ec3050bf629380bac12fd25f77366fa6b3b4b768e",
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            "short",
            "TheQuickBrownFoxJumpsOverTheLazyDog",
        ] {
            assert_eq!(program(text), None, "{text}");
        }
    }
}
