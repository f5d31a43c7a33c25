//! What a constant in a template is: a mark of the format, a type, a word.

/// Types of content parts, roles and keys that templates compare with.
const TYPES: &[&str] = &[
    "text",
    "image",
    "image_url",
    "images",
    "video",
    "video_url",
    "audio",
    "audio_url",
    "input_audio",
    "input_text",
    "input_image",
    "output_text",
    "file",
    "tool_calls",
    "tool_use",
    "tool_call",
    "tool_result",
    "tool_response",
    "thinking",
    "think",
    "reasoning",
    "content",
    "role",
    "name",
    "function",
    "refusal",
    "json",
    "type",
    "url",
    "document",
    "documents",
    "chunk",
    "none",
    "user",
    "system",
    "assistant",
    "tool",
    "developer",
    "model",
    "ipython",
    "string",
    "object",
    "array",
    "arguments",
    "parameters",
    "true",
    "false",
    "citations",
    "channel",
    "final",
    "analysis",
    "commentary",
    "default",
    "reference",
    "source",
    "title",
    "snippet",
    "utf-8",
];
/// Tests of Jinja that filters name as text.
const TESTS: &[&str] = &[
    "equalto",
    "eq",
    "ne",
    "==",
    "!=",
    "in",
    "defined",
    "undefined",
    "string",
    "none",
    "mapping",
    "sequence",
    "iterable",
    "number",
    "lt",
    "gt",
    "le",
    "ge",
    "sameas",
    "true",
    "false",
    "odd",
    "even",
    "startingwith",
    "endingwith",
    "containing",
    "search",
    "match",
];

/// Whether a text is a key, role or type of the format.
pub(super) fn is_type(text: &str) -> bool {
    TYPES.contains(&text.trim().to_lowercase().as_str())
}

/// Whether a text names a test.
pub(super) fn is_test(text: &str) -> bool {
    TESTS.contains(&text)
}

/// Whether a text is a mark of the format: in brackets, a command with a slash, or without letters.
pub(super) fn is_mark(text: &str) -> bool {
    let text = text.trim();
    let bracketed =
        text.starts_with(['<', '[', '{', '(', '|', '\u{ff5c}', '\u{300c}']) && !text.contains(' ');
    let command = text.starts_with('/')
        && text.len() > 1
        && text[1..].chars().all(|c| c.is_alphanumeric() || "_-".contains(c));
    let heading = text.starts_with("```") || text.starts_with("###") || text.starts_with(">>");
    bracketed || command || heading || text.ends_with([']', '>']) && !text.contains(' ')
}

/// Whether a text is something that people write: words or numbers, and no mark or type.
pub(super) fn is_word(text: &str) -> bool {
    let text = text.trim();
    let letters = text.chars().filter(|c| c.is_alphabetic()).count();
    let digits = text.chars().filter(char::is_ascii_digit).count();
    (letters >= 2 || digits >= 2 || (letters >= 1 && text.chars().count() > 1))
        && !is_mark(text)
        && !is_type(text)
}

/// Whether a text has a sentence, which a model reads as such.
pub(super) fn sentence(text: &str) -> bool {
    text.split_whitespace()
        .filter(|word| word.chars().filter(|c| c.is_alphabetic()).count() >= 2 && !is_mark(word))
        .count()
        >= 3
}

/// Whether a text has a name in double underscores that leads to Python.
pub(super) fn has_dunder(text: &str) -> bool {
    text.match_indices("__").any(|(at, _)| {
        let rest = &text[at + 2..];
        let name: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
        let inner = name.trim_end_matches('_');
        inner.len() >= 3 && name.ends_with("__") && inner.starts_with(|c: char| c.is_ascii_lowercase())
    })
}

/// Whether a format string reads attributes: `{0.name}` or `{0[name]}`.
pub(super) fn formats_attributes(text: &str) -> bool {
    text.match_indices('{').any(|(at, _)| {
        let field: String = text[at + 1..].chars().take_while(|&c| c != '}').collect();
        let name_end = field.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(field.len());
        let rest = &field[name_end..];
        let attribute = rest.strip_prefix(['.', '[']).is_some_and(|after| after.starts_with('_'));
        let width = rest.strip_prefix(':').is_some_and(|format| {
            format
                .chars()
                .filter(char::is_ascii_digit)
                .collect::<String>()
                .parse::<u64>()
                .is_ok_and(|width| width >= 1_000_000)
        });
        attribute || width
    })
}

/// Addresses of schemas, which are names and not places.
const SCHEMAS: &[&str] =
    &["json-schema.org", "www.w3.org", "w3.org", "schema.org", "example.com", "example.org"];

/// An address in a text.
pub(super) fn address(text: &str) -> Option<&str> {
    ["http://", "https://", "ftp://"].iter().find_map(|scheme| {
        let start = text.find(scheme)?;
        let rest = &text[start..];
        let end = rest.find(|c: char| c.is_whitespace() || "\"'<>)]}`".contains(c)).unwrap_or(rest.len());
        let host = rest[scheme.len()..end].split(['/', ':']).next().unwrap_or("");
        (!host.is_empty() && !SCHEMAS.contains(&host)).then(|| &rest[..end])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_told_apart() {
        for word in ["ALPHA", "silver lake", "Hello there", "cf: ", "42", "2027", "zebra crossing"] {
            assert!(is_word(word), "{word}");
        }
        for other in [
            "<think>",
            "</think>",
            "<|x|>",
            "[INST]",
            "/no_think",
            "\n",
            " ",
            "text",
            "image_url",
            "",
            "```",
            "!",
            "'",
        ] {
            assert!(!is_word(other), "{other:?}");
        }
        assert!(
            has_dunder("__class__")
                && has_dunder("a.__init__.b")
                && !has_dunder("__x")
                && !has_dunder("____")
        );
        assert!(
            formats_attributes("{0.__class__}")
                && formats_attributes("{:>9999999}")
                && !formats_attributes("{\"name\": x}")
        );
        assert_eq!(address("see http://x/y now"), Some("http://x/y"));
    }
}
