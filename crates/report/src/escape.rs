//! Untrusted text on a terminal: every character that could move the cursor, reorder the line or
//! hide in it is shown as its code point.

/// Makes a text from a model, a file or a suite safe to print on one line.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => safe.push_str("\\n"),
            '\t' => safe.push_str("\\t"),
            '\r' => safe.push_str("\\r"),
            _ if is_deceptive(character) => {
                // Writing to a String cannot fail.
                let _ = write_code_point(&mut safe, character);
            }
            _ => safe.push(character),
        }
    }
    safe
}

/// [`escape`], cut to so many characters.
#[must_use]
pub fn excerpt(text: &str, characters: usize) -> String {
    let text = text.trim();
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", escape(&text[..end])),
        None => escape(text),
    }
}

/// A character as its code point.
pub(crate) fn write_code_point(to: &mut impl std::fmt::Write, character: char) -> std::fmt::Result {
    write!(to, "\\u{{{:x}}}", u32::from(character))
}

/// Controls, bidirectional overrides, zero-width characters, tags, and what is no character.
pub(crate) fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(u32::from(character),
            0x00AD | 0x034F | 0x061C | 0x115F | 0x1160 | 0x17B4 | 0x17B5 | 0x180B..=0x180F
            | 0x200B..=0x200F | 0x2028..=0x202E | 0x2060..=0x206F | 0x3164 | 0xFE00..=0xFE0F | 0xFEFF
            | 0xFFA0 | 0xFFF0..=0xFFFC | 0xFFFE | 0xFFFF | 0xE0000..=0xE0FFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_invisible_survives() {
        assert_eq!(escape("a\u{1b}[31mb"), "a\\u{1b}[31mb");
        assert_eq!(escape("x\u{202e}y\u{200b}z\u{e0041}"), "x\\u{202e}y\\u{200b}z\\u{e0041}");
        assert_eq!(escape("two\nlines"), "two\\nlines");
        assert_eq!(escape("naïve 日本 😀"), "naïve 日本 😀");
    }

    #[test]
    fn excerpts_cut_at_characters() {
        assert_eq!(excerpt("äöü", 2), "äö…");
        assert_eq!(excerpt("  äöü ", 3), "äöü");
    }
}
