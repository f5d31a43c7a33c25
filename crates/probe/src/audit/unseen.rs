//! Characters that nobody sees and programs read: direction overrides, tags, zero-width characters.
//!
//! Scripts and emoji need some of them, so their neighbours decide: a joiner between Latin letters is no part of any
//! writing.

use report::audit::Severity;

/// Characters of one kind on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unseen {
    /// Line, counted from 1.
    pub(super) line: usize,
    /// What they are.
    pub(super) what: &'static str,
    /// How bad.
    pub(super) severity: Severity,
}

/// Consecutive zero-width characters that carry bits.
const RUN: usize = 3;

/// Everything unseen in a text that its script does not need, at most one of a kind a line.
pub(super) fn find(text: &str) -> Vec<Unseen> {
    let mut found: Vec<Unseen> = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        if line.is_ascii() {
            continue;
        }
        let characters: Vec<char> = line.chars().collect();
        let right_to_left = characters.iter().any(|&c| is_right_to_left(c));
        let mut kinds: Vec<(&'static str, Severity)> = Vec::new();
        let mut at = 0;
        while at < characters.len() {
            let (length, kind) = look(&characters, at, right_to_left);
            if let Some(kind) = kind
                && !kinds.contains(&kind)
            {
                kinds.push(kind);
            }
            at += length;
        }
        found.extend(kinds.into_iter().map(|(what, severity)| Unseen { line: index + 1, what, severity }));
    }
    found
}

/// What stands at a place: how many characters belong to it, and what is wrong with them.
fn look(line: &[char], at: usize, right_to_left: bool) -> (usize, Option<(&'static str, Severity)>) {
    let run = |is: fn(char) -> bool| line[at..].iter().take_while(|&&c| is(c)).count();
    match line[at] {
        '\u{202d}' | '\u{202e}' => (1, Some(("a direction override", Severity::High))),
        '\u{202a}'..='\u{202c}' | '\u{2066}'..='\u{2069}' => {
            (1, (!right_to_left).then_some(("a direction mark in text of one direction", Severity::Medium)))
        }
        '\u{e0000}'..='\u{e007f}' => {
            let length = run(|c| matches!(c, '\u{e0000}'..='\u{e007f}'));
            // Flags of regions are a black flag, tags, and the end tag.
            let flag =
                at > 0 && line[at - 1] == '\u{1f3f4}' && line[at + length - 1] == '\u{e007f}' && length <= 8;
            (length, (!flag).then_some(("tag characters, which spell text that nobody sees", Severity::High)))
        }
        '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}' => {
            let length = run(|c| matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}'));
            (
                length,
                (length > 2).then_some(("a run of variation selectors, which carries bytes", Severity::High)),
            )
        }
        c if is_zero_width(c) => {
            let length = run(is_zero_width);
            let before = at.checked_sub(1).map(|before| line[before]);
            let after = line.get(at + length).copied();
            let latin = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
            let kind = if length >= RUN {
                Some(("a run of zero-width characters, which carries bits", Severity::High))
            } else if latin(before) && latin(after) {
                Some(("a zero-width character inside a word", Severity::Medium))
            } else if matches!(c, '\u{200c}' | '\u{200d}')
                && [before, after].iter().flatten().any(|c| !c.is_ascii())
            {
                None
            } else {
                Some(("a zero-width character", Severity::Low))
            };
            (length, kind)
        }
        _ => (1, None),
    }
}

/// Whether a character takes no room and shows nothing. Marks of direction are text where letters run both ways.
pub(super) fn is_zero_width(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{180e}' | '\u{3164}' | '\u{ffa0}' | '\u{115f}' | '\u{1160}')
}

fn is_right_to_left(c: char) -> bool {
    matches!(c, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}' | '\u{10800}'..='\u{10fff}' | '\u{1e800}'..='\u{1efff}')
}

/// Whether any character is unseen, whatever is around it: for places where no script is expected.
pub(super) fn any(text: &str) -> bool {
    text.chars().any(|c| {
        is_zero_width(c) || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{e0000}'..='\u{e01ef}')
    })
}

/// The text that tag characters of a text spell.
pub(super) fn tagged(text: &str) -> String {
    text.chars()
        .filter_map(|c| {
            u32::from(c)
                .checked_sub(0xe0000)
                .filter(|code| (0x20..0x7f).contains(code))
                .and_then(char::from_u32)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(text: &str) -> Option<Severity> {
        find(text).into_iter().map(|unseen| unseen.severity).max()
    }

    #[test]
    fn hidden_text_is_found() {
        assert_eq!(worst("run \u{202e}sh.txt"), Some(Severity::High));
        assert_eq!(worst("fine\u{e0061}\u{e0062}"), Some(Severity::High));
        assert_eq!(worst("x\u{fe01}\u{fe02}\u{fe03}\u{fe04}"), Some(Severity::High));
        assert_eq!(worst("PE\u{200b}FT"), Some(Severity::Medium));
        assert_eq!(worst("a\u{200b}\u{200c}\u{200b}\u{200c}b"), Some(Severity::High));
        assert_eq!(tagged("x\u{e0061}\u{e0062}"), "ab");
    }

    #[test]
    fn scripts_and_emoji_are_not() {
        for text in [
            "\u{feff}plain",
            "می\u{200c}تواند",
            "क्\u{200d}ष",
            "👨\u{200d}👩\u{200d}👧 ❤\u{fe0f}",
            "עברית \u{200f}(LoRA)\u{200f}",
            "🏴\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}",
            "naïve 日本語",
        ] {
            assert_eq!(worst(text), None, "{text:?}");
        }
        assert_eq!(worst("a heading\u{200b}"), Some(Severity::Low));
    }
}
