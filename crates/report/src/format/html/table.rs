//! Tables that the page's script can sort and filter, as plain data.

use std::borrow::Cow;

/// A table.
pub(crate) struct Table {
    pub(crate) id: Cow<'static, str>,
    pub(crate) caption: &'static str,
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Vec<Cell>>,
}

/// A column's head.
pub(crate) struct Column {
    pub(crate) name: &'static str,
    /// Sorted by number, shown at the right.
    pub(crate) numeric: bool,
}

/// What stands in a cell.
pub(crate) struct Cell {
    /// How it looks.
    pub(crate) class: &'static str,
    pub(crate) text: String,
    /// The part of an answer from where it differs from the other side's.
    pub(crate) differing: String,
    /// What a numeric column is sorted by; a cell without it comes last.
    pub(crate) value: Option<f64>,
}

/// Characters of a text in a cell; more is cut, and the cut is shown.
const CHARACTERS: usize = 1500;

impl Table {
    /// Columns whose name begins with `#` are numeric.
    pub(crate) fn new(
        id: impl Into<Cow<'static, str>>,
        caption: &'static str,
        columns: &[&'static str],
    ) -> Self {
        let columns = columns
            .iter()
            .map(|name| Column { name: name.trim_start_matches('#'), numeric: name.starts_with('#') })
            .collect();
        Self { id: id.into(), caption, columns, rows: Vec::new() }
    }
}

impl Cell {
    fn new(class: &'static str, text: String, value: Option<f64>) -> Self {
        Self { class, text, differing: String::new(), value }
    }

    /// Words.
    pub(crate) fn words(text: &str) -> Self {
        Self::new("words", cut(text), None)
    }

    /// A text of a model, a suite or a file.
    pub(crate) fn raw(text: &str) -> Self {
        Self::new("raw", cut(text), None)
    }

    /// A number, or nothing.
    pub(crate) fn number(value: impl Into<Option<f64>>, decimals: usize) -> Self {
        let value = value.into();
        Self::new("number", value.map_or(String::new(), |value| format!("{value:.decimals$}")), value)
    }

    /// A small probability.
    pub(crate) fn p_value(value: impl Into<Option<f64>>) -> Self {
        let value = value.into();
        Self::new("number", value.map_or(String::new(), p_value), value)
    }

    /// A rate or a mean with its interval, sorted by its value.
    pub(crate) fn estimate(estimate: &crate::estimate::Estimate, decimals: usize) -> Self {
        let (value, lower, upper) = (estimate.value, estimate.lower, estimate.upper);
        let text = format!("{value:.decimals$} [{lower:.decimals$}, {upper:.decimals$}]");
        Self::new("number", text, Some(value))
    }

    /// An answer, and from where on it is not like the other one.
    pub(crate) fn answer(text: &str, other: &str) -> Self {
        let (alike, differing) = text.split_at(alike(text, other));
        Self { differing: cut(differing), ..Self::new("raw", cut(alike), None) }
    }
}

/// `0.013` or `2.2e-17`.
pub(crate) fn p_value(value: f64) -> String {
    if value >= 0.001 { format!("{value:.3}") } else { format!("{value:.1e}") }
}

/// A text, cut where it is longer than any reader reads.
pub(crate) fn cut(text: &str) -> String {
    match text.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("{}… (cut)", &text[..end]),
        None => text.to_owned(),
    }
}

/// Bytes that two texts have in common at their beginning, whole words only.
fn alike(text: &str, other: &str) -> usize {
    if text == other {
        return text.len();
    }
    let common = text
        .char_indices()
        .zip(other.chars())
        .take_while(|((_, a), b)| a == b)
        .last()
        .map_or(0, |((at, c), _)| at + c.len_utf8());
    if common == text.len() {
        return common;
    }
    text[..common].char_indices().rfind(|(_, c)| c.is_whitespace()).map_or(0, |(at, c)| at + c.len_utf8())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_part_at_a_word() {
        let parts = |text: &str, other: &str| {
            let cell = Cell::answer(text, other);
            (cell.text, cell.differing)
        };
        assert_eq!(parts("the big dog", "the bin"), ("the ".into(), "big dog".into()));
        assert_eq!(parts("same", "same"), ("same".into(), String::new()));
        assert_eq!(parts("the", "the end"), ("the".into(), String::new()));
        assert_eq!(parts("äx", "äy"), (String::new(), "äx".into()));
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let text = "ä".repeat(CHARACTERS + 1);
        assert!(cut(&text).ends_with("ä… (cut)"));
        assert_eq!(cut("short"), "short");
    }
}
