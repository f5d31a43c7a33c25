//! Which side of a pair stands where the adapted model stands, and which where its control does.
//!
//! A scan compares an adapter with its base. A null asks what the same procedure finds where nobody hid anything: a
//! benign adapter in the adapted model's place, or base and adapter exchanged.

use inference::Side;

/// The two sides of a comparison.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roles {
    /// The control.
    pub base: Side,
    /// The side under suspicion.
    pub adapted: Side,
}

impl Roles {
    /// The pair's first adapter against the base.
    pub const SCAN: Self = Self { base: Side::BASE, adapted: Side::ADAPTED };

    /// Another adapter of the pair, by index, against the base.
    #[must_use]
    pub fn of_adapter(adapter: usize) -> Self {
        Self { base: Side::BASE, adapted: Side { adapter, scale: 1.0 } }
    }

    /// Both sides, the control first.
    #[must_use]
    pub fn both(self) -> [Side; 2] {
        [self.base, self.adapted]
    }

    /// The control in the place of the side under suspicion, and the other way round.
    #[must_use]
    pub fn exchanged(self) -> Self {
        Self { base: self.adapted, adapted: self.base }
    }

    /// The side under suspicion with its difference to the control `factor` times as large: 1 is the side itself.
    #[must_use]
    pub fn amplified(self, factor: f32) -> Side {
        let (from, to) = (self.base, self.adapted);
        // The base has no adapter of its own: the index is that of the side which has one.
        let adapter = if to.is_base() { from.adapter } else { to.adapter };
        Side { adapter, scale: from.scale + factor * (to.scale - from.scale) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amplification_leads_away_from_the_control() {
        assert_eq!(Roles::SCAN.amplified(1.0), Side::ADAPTED);
        assert_eq!(Roles::of_adapter(3).amplified(2.0), Side { adapter: 3, scale: 2.0 });
        let exchanged = Roles::of_adapter(3).exchanged();
        assert!(exchanged.amplified(1.0).is_base());
        assert_eq!(exchanged.amplified(2.0), Side { adapter: 3, scale: -1.0 });
    }
}
