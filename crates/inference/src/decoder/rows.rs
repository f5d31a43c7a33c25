//! The layout of a batch: sequences of any length as consecutive rows of one matrix.
//!
//! There is no padding, so a result cannot depend on it.

use super::capture::Watched;

/// Which model a row sees: an adapter and the factor of its branch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Side {
    /// Index of the adapter in the pair.
    pub adapter: usize,
    /// 0 is the base, 1 the adapted model; other values amplify or weaken the adapter.
    pub scale: f32,
}

impl Side {
    /// The pristine base.
    pub const BASE: Self = Self { adapter: 0, scale: 0.0 };
    /// The first adapter at full strength.
    pub const ADAPTED: Self = Self { adapter: 0, scale: 1.0 };

    /// The first adapter at another strength.
    #[must_use]
    pub fn scaled(scale: f32) -> Self {
        Self { adapter: 0, scale }
    }

    /// Whether no adapter acts on this side.
    #[must_use]
    pub fn is_base(self) -> bool {
        self.scale.abs() == 0.0
    }
}

/// Where one sequence's rows are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// First row.
    pub(crate) start: usize,
    /// Number of rows, that is new tokens.
    pub(crate) len: usize,
    /// Earlier positions, that is the position of the first row.
    pub(crate) past: usize,
}

/// Consecutive rows of one adapter at one scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AdaptedRange {
    pub(crate) start: usize,
    pub(crate) len: usize,
    pub(crate) adapter: usize,
    pub(crate) scale: f32,
}

/// The rows of a batch.
pub(crate) struct Rows {
    pub(crate) spans: Vec<Span>,
    /// Rows with an adapter, in row order, neighbours merged.
    pub(crate) adapted: Vec<AdaptedRange>,
    pub(crate) total: usize,
    /// The rows that a capture reads, if there is one.
    pub(crate) watched: Option<Watched>,
}

impl Rows {
    /// From `(new tokens, earlier positions, side, position from which the side's branches act)` of each sequence.
    pub(crate) fn new(sequences: impl IntoIterator<Item = (usize, usize, Side, usize)>) -> Self {
        let mut rows =
            Self { spans: Vec::new(), adapted: Vec::<AdaptedRange>::new(), total: 0, watched: None };
        for (len, past, side, active_from) in sequences {
            rows.spans.push(Span { start: rows.total, len, past });
            let off = active_from.saturating_sub(past).min(len);
            let (start, len) = (rows.total + off, len - off);
            rows.total = start + len;
            if side.is_base() || len == 0 {
                continue;
            }
            match rows.adapted.last_mut() {
                Some(last)
                    if last.start + last.len == start
                        && last.adapter == side.adapter
                        && last.scale.to_bits() == side.scale.to_bits() =>
                {
                    last.len += len;
                }
                _ => rows.adapted.push(AdaptedRange { start, len, adapter: side.adapter, scale: side.scale }),
            }
        }
        rows
    }

    /// Some rows as a batch of their own: one-token spans with the sides of their rows.
    pub(crate) fn picked(&self, rows: &[u32]) -> Self {
        let side_of = |row: u32| {
            let row = row as usize;
            let own = |range: &&AdaptedRange| (range.start..range.start + range.len).contains(&row);
            let range = self.adapted.iter().find(own);
            range.map_or(Side::BASE, |range| Side { adapter: range.adapter, scale: range.scale })
        };
        let mut picked = Self::new(rows.iter().map(|&row| (1, 0, side_of(row), 0)));
        picked.watched = self.watched.as_ref().map(|watched| watched.picked(rows));
        picked
    }

    /// The position of every row.
    pub(crate) fn positions(&self) -> Vec<u32> {
        self.spans.iter().flat_map(|span| span.past as u32..(span.past + span.len) as u32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_side_merge() {
        let amplified = Side::scaled(2.0);
        let rows = Rows::new([
            (3, 0, Side::BASE, 0),
            (2, 5, Side::ADAPTED, 0),
            (4, 0, Side::ADAPTED, 0),
            (1, 0, amplified, 0),
            (2, 0, Side::BASE, 0),
        ]);
        assert_eq!(
            rows.adapted,
            [
                AdaptedRange { start: 3, len: 6, adapter: 0, scale: 1.0 },
                AdaptedRange { start: 9, len: 1, adapter: 0, scale: 2.0 },
            ]
        );
        assert_eq!(rows.total, 12);
        assert_eq!(rows.positions(), [0, 1, 2, 5, 6, 0, 1, 2, 3, 0, 0, 1]);
    }

    #[test]
    fn rows_before_an_adapter_begins_are_of_the_base() {
        let never = usize::MAX;
        let rows = Rows::new([
            (4, 0, Side::ADAPTED, 3),
            (2, 6, Side::ADAPTED, 6),
            (3, 6, Side::ADAPTED, 7),
            (2, 0, Side::ADAPTED, never),
            (2, 9, Side::ADAPTED, 4),
        ]);
        let range = |start, len| AdaptedRange { start, len, adapter: 0, scale: 1.0 };
        assert_eq!(rows.adapted, [range(3, 3), range(7, 2), range(11, 2)]);
        assert_eq!(rows.total, 13);
        assert_eq!(rows.picked(&[0, 3, 6, 8, 10, 12]).adapted, [range(1, 1), range(3, 1), range(5, 1)]);
    }
}
