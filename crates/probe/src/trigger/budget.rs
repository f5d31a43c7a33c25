//! What a hunt may spend, shared over its searches.

use std::fmt;
use std::str::FromStr;

use report::record::Cost;

/// A gradient step costs a forward and a backward pass; the backward pass costs about two forwards.
pub const GRADIENT_COST: u64 = 3;

/// The limit of a hunt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// Token-forwards: exactly reproducible.
    Tokens(u64),
    /// Seconds of work, as the journal recorded them: reproducible by resuming only.
    Seconds(f64),
}

impl FromStr for Limit {
    type Err = String;

    /// Reads `2e6tok`, `90s`, `10m` or `1.5h`.
    fn from_str(text: &str) -> Result<Self, String> {
        let reason = || format!("expected a budget such as `2e6tok`, `90s`, `10m` or `1h`, found `{text}`");
        let number = |digits: &str, unit: f64| {
            digits
                .parse::<f64>()
                .ok()
                .map(|number| number * unit)
                .filter(|number| number.is_finite() && *number > 0.0)
                .ok_or_else(reason)
        };
        if let Some(digits) = text.strip_suffix("tok") {
            let tokens = number(digits, 1.0)?;
            // Above 2^53 the number would not be what was written.
            return if (1.0..9e15).contains(&tokens) {
                Ok(Self::Tokens(tokens as u64))
            } else {
                Err(reason())
            };
        }
        for (suffix, unit) in [("s", 1.0), ("m", 60.0), ("h", 3600.0)] {
            if let Some(digits) = text.strip_suffix(suffix) {
                return number(digits, unit).map(Self::Seconds);
            }
        }
        Err(reason())
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tokens(tokens) => write!(f, "{tokens}tok"),
            Self::Seconds(seconds) => write!(f, "{seconds}s"),
        }
    }
}

/// What is spent and what is left. Each search gets its share of what the searches before it left over.
#[derive(Clone, Debug)]
pub struct Budget {
    limit: Limit,
    tokens: u64,
    seconds: f64,
    /// Spending, in the limit's unit, at which the running search ends.
    search_end: f64,
}

impl Budget {
    /// An untouched budget.
    #[must_use]
    pub fn new(limit: Limit) -> Self {
        let mut budget = Self { limit, tokens: 0, seconds: 0.0, search_end: 0.0 };
        budget.search_end = budget.total();
        budget
    }

    /// Counts what work has cost, gradient steps by [`GRADIENT_COST`], and its seconds.
    pub fn charge(&mut self, cost: Cost, seconds: f64) {
        // Tokens that also went backwards are among the forwards already.
        self.spend(cost.token_forwards + (GRADIENT_COST - 1) * cost.gradient_tokens, seconds);
    }

    /// Counts work: token-forwards (gradient steps already multiplied by [`GRADIENT_COST`]) and seconds.
    pub fn spend(&mut self, tokens: u64, seconds: f64) {
        self.tokens += tokens;
        self.seconds += seconds;
    }

    /// Gives the next search `share` of what is left, and the rest to those after it.
    pub fn open_share(&mut self, share: f64) {
        self.search_end = self.spent() + share.clamp(0.0, 1.0) * (self.total() - self.spent()).max(0.0);
    }

    /// Gives what comes last at most `part` of the whole, and no more than is left.
    pub fn open_last(&mut self, part: f64) {
        self.search_end = (self.spent() + part.clamp(0.0, 1.0) * self.total()).min(self.total());
    }

    /// Whether the running search has spent its share.
    #[must_use]
    pub fn exhausted(&self) -> bool {
        self.spent() >= self.search_end
    }

    /// How much of the running search's share is left, in the limit's unit.
    #[must_use]
    pub fn left(&self) -> f64 {
        (self.search_end - self.spent()).max(0.0)
    }

    /// Whether `tokens` more fit into the running search's share; by the pace so far under a time limit.
    #[must_use]
    pub fn affords(&self, tokens: u64) -> bool {
        match self.limit {
            Limit::Tokens(_) => tokens as f64 <= self.left(),
            // Before anything was run there is no pace, and nothing speaks against the first step.
            Limit::Seconds(_) if self.tokens == 0 => true,
            Limit::Seconds(_) => tokens as f64 * self.seconds / self.tokens as f64 <= self.left(),
        }
    }

    /// What was spent so far as a limit of its own, at least one token: what a null may spend.
    #[must_use]
    pub fn spent_as_limit(&self) -> Limit {
        match self.limit {
            Limit::Tokens(_) => Limit::Tokens(self.tokens.max(1)),
            Limit::Seconds(_) => Limit::Seconds(self.seconds),
        }
    }

    /// Token-forwards so far.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    fn spent(&self) -> f64 {
        match self.limit {
            Limit::Tokens(_) => self.tokens as f64,
            Limit::Seconds(_) => self.seconds,
        }
    }

    fn total(&self) -> f64 {
        match self.limit {
            Limit::Tokens(tokens) => tokens as f64,
            Limit::Seconds(seconds) => seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_read_with_their_unit() {
        assert_eq!("2e6tok".parse(), Ok(Limit::Tokens(2_000_000)));
        assert_eq!("10m".parse(), Ok(Limit::Seconds(600.0)));
        assert_eq!("1.5h".parse(), Ok(Limit::Seconds(5400.0)));
        for wrong in ["", "10", "-3m", "0s", "nantok", "1e99tok", "tok", "infm"] {
            assert!(wrong.parse::<Limit>().is_err(), "{wrong}");
        }
        assert_eq!(Limit::Tokens(5).to_string().parse(), Ok(Limit::Tokens(5)));
    }

    #[test]
    fn what_a_search_leaves_goes_to_the_next() {
        let mut budget = Budget::new(Limit::Tokens(1000));
        budget.open_share(0.25);
        assert!(budget.affords(250) && !budget.affords(251));
        budget.spend(100, 1.0);
        assert!(!budget.exhausted());
        budget.open_share(0.5);
        budget.spend(450, 1.0);
        assert!(budget.exhausted());
        budget.open_share(1.0);
        assert!(budget.affords(450) && !budget.affords(451));
    }

    #[test]
    fn minutes_are_counted_by_the_pace_so_far() {
        let mut budget = Budget::new(Limit::Seconds(10.0));
        assert!(budget.affords(1_000_000), "no pace is known yet");
        budget.spend(100, 2.0);
        assert!(budget.affords(400) && !budget.affords(401));
    }
}
