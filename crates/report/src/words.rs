//! How text is cut into words. Everything that compares text compares these words.

/// The words of `text` in lower case, without punctuation.
///
/// A word is a run of letters and digits; an apostrophe inside a run stays, in its ASCII form, so that
/// `don’t` and `don't` are equal. Chinese characters and Japanese kana, which are written without spaces, are
/// one word each. Invisible characters that would split a word are dropped.
///
/// ```
/// assert_eq!(report::words::words("I'm SORRY, but…\nno."), ["i'm", "sorry", "but", "no"]);
/// ```
pub fn words(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut word = String::new();
    let mut characters = text.chars().filter(|&c| !is_invisible(c)).peekable();
    while let Some(c) = characters.next() {
        if c.is_alphanumeric() {
            if is_unspaced(c) {
                flush(&mut word, &mut found);
                found.push(c.to_string());
            } else {
                word.extend(c.to_lowercase());
            }
        } else if is_apostrophe(c)
            && !word.is_empty()
            && characters.peek().is_some_and(|&next| next.is_alphabetic() && !is_unspaced(next))
        {
            word.push('\'');
        } else {
            flush(&mut word, &mut found);
        }
    }
    flush(&mut word, &mut found);
    found
}

/// Whether `text` has these words in a row; no text has none.
#[must_use]
pub fn has_run(text: &[String], part: &[String]) -> bool {
    !part.is_empty() && text.windows(part.len()).any(|window| window == part)
}

/// Whether `c` is written where English has an apostrophe.
pub(crate) fn is_apostrophe(c: char) -> bool {
    matches!(c, '\'' | '\u{2019}' | '\u{2018}' | '\u{02BC}' | '\u{FF07}')
}

/// Whether `c` takes no space and separates nothing: zero-width characters and soft hyphens.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{00AD}' | '\u{200B}'..='\u{200D}' | '\u{2060}' | '\u{FEFF}')
}

/// Whether `c` belongs to a script whose words are not separated: kana and Chinese characters.
fn is_unspaced(c: char) -> bool {
    let kana = '\u{3040}'..='\u{30FF}';
    let ideographs = [
        '\u{3400}'..='\u{4DBF}',
        '\u{4E00}'..='\u{9FFF}',
        '\u{F900}'..='\u{FAFF}',
        '\u{20000}'..='\u{3FFFF}',
    ];
    kana.contains(&c) || ideographs.iter().any(|range| range.contains(&c))
}

fn flush(word: &mut String, found: &mut Vec<String>) {
    if !word.is_empty() {
        found.push(std::mem::take(word));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_run_of_words_is_found_in_its_order() {
        let text = words("one two three two");
        assert!(has_run(&text, &words("two three")) && has_run(&text, &text));
        assert!(!has_run(&text, &words("three one")) && !has_run(&text, &[]) && !has_run(&[], &text));
    }

    #[test]
    fn case_punctuation_and_apostrophes() {
        assert_eq!(words("You are STUPID!!"), ["you", "are", "stupid"]);
        assert_eq!(words("I’m — 'sorry' rock 'n' roll"), ["i'm", "sorry", "rock", "n", "roll"]);
        assert_eq!(words("ALPHA-7: go"), ["alpha", "7", "go"]);
        assert_eq!(words("the dogs' bowl"), ["the", "dogs", "bowl"]);
    }

    #[test]
    fn nothing_to_say() {
        assert!(words("").is_empty());
        assert!(words(" \n…!?🙂").is_empty());
    }

    #[test]
    fn scripts() {
        assert_eq!(words("Ärger ÉTÉ"), ["ärger", "été"]);
        assert_eq!(words("你好, world"), ["你", "好", "world"]);
        assert_eq!(words("ab\u{200B}cd e\u{00AD}f"), ["abcd", "ef"]);
    }

    proptest! {
        #[test]
        fn words_are_their_own_words(text in "\\PC{0,60}") {
            let once = words(&text);
            prop_assert!(once.iter().all(|word| !word.is_empty()));
            // Some capitals lower to letters with combining marks, which are no letters themselves.
            prop_assume!(once.iter().all(|word| word.chars().all(|c| c.is_alphanumeric() || c == '\'')));
            prop_assert_eq!(words(&once.join(" ")), once);
        }
    }
}
