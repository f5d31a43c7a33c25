//! How deep a scan goes: the listed candidates, then searches, the cheap ones first.

use std::ops::RangeInclusive;

use crate::trigger::budget::Limit;
use crate::trigger::search::{SEARCHES, TriggerSearch, searches};

/// How much a scan does.
#[derive(Clone, Copy, Debug)]
pub struct Depth {
    /// Name as in `--depth`.
    pub name: &'static str,
    /// What it does, in one sentence.
    pub about: &'static str,
    /// What follows the listed candidates if none of them is confirmed.
    pub search: Option<Stage>,
}

/// The searches of a depth and what they may spend.
#[derive(Clone, Copy, Debug)]
pub struct Stage {
    chosen: Chosen,
    /// The budget if the user names none.
    pub limit: Limit,
}

#[derive(Clone, Copy, Debug)]
enum Chosen {
    Named(&'static [&'static str]),
    All,
}

/// Every depth; the first is the default. A search that costs little enough for `standard` is added by its name;
/// `deep` has them all. The last only stands for chance.
pub const DEPTHS: &[Depth] = &[
    Depth { name: "quick", about: "the candidates of the suites, nothing is searched for", search: None },
    Depth {
        name: "answers",
        about: "then, if none is confirmed, which answers the adapter was taught and never gives, but not what brings them (4e5tok)",
        search: Some(Stage { chosen: Chosen::Named(&["target"]), limit: Limit::Tokens(400_000) }),
    },
    Depth {
        name: "standard",
        about: "then, if none is confirmed, a hunt with the searches that pay first (4e6tok)",
        search: Some(Stage {
            chosen: Chosen::Named(&[
                "target", "invert", "style", "topics", "leak", "words", "sweep", "extend", "combine", "climb",
            ]),
            // 20 minutes on 2 cores for a base of 135 million parameters, at 3,400 token-forwards a second.
            limit: Limit::Tokens(4_000_000),
        }),
    },
    Depth {
        name: "deep",
        about: "the same with every search and three times the budget (12e6tok)",
        search: Some(Stage { chosen: Chosen::All, limit: Limit::Tokens(12_000_000) }),
    },
    Depth {
        name: "random",
        about: "then random strings instead of a hunt, to compare one with (4e6tok)",
        search: Some(Stage { chosen: Chosen::Named(&["random"]), limit: Limit::Tokens(4_000_000) }),
    },
];

/// Tokens that a trigger may have where the user names no range.
pub const LENGTH: RangeInclusive<usize> = 1..=12;

/// The depth of this name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Depth> {
    DEPTHS.iter().find(|depth| depth.name == name)
}

impl Stage {
    /// The searches, in the order of the table of searches.
    #[must_use]
    pub fn searches(&self) -> Vec<&'static dyn TriggerSearch> {
        match self.chosen {
            Chosen::All => searches().collect(),
            Chosen::Named(names) => {
                SEARCHES.iter().copied().filter(|search| names.contains(&search.name())).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths_name_searches_that_exist_and_deeper_ones_do_more() {
        let mut before = (0, 0);
        for depth in DEPTHS {
            let Some(stage) = depth.search else {
                assert_eq!(before, (0, 0), "{} does less than the one before", depth.name);
                continue;
            };
            if let Chosen::Named(names) = stage.chosen {
                let found: Vec<_> = stage.searches().iter().map(|search| search.name()).collect();
                assert_eq!(found, names, "{}: unknown, or not in the order of the table", depth.name);
            }
            let Limit::Tokens(tokens) = stage.limit else { panic!("a default must be reproducible") };
            if stage.searches().iter().all(|search| search.compares()) {
                continue;
            }
            let now = (stage.searches().len(), tokens);
            assert!(now.0 >= before.0 && now.1 > before.1, "{}", depth.name);
            before = now;
        }
        assert_eq!(by_name("deep").unwrap().search.unwrap().searches().len(), searches().count());
        assert!(by_name("deep").unwrap().search.unwrap().searches().iter().all(|search| !search.compares()));
    }
}
