//! Which of the screened candidates are put to the test.

use std::collections::BTreeMap;

use crate::trigger::screen::Screening;

/// Finalists by divergence, and further ones by collapse.
pub(super) const BY_DIVERGENCE: usize = 18;
pub(super) const BY_COLLAPSE: usize = 6;
/// Placements of one text, and candidates of one family, among the finalists: an adapter that reacts
/// to everything odd must not fill them with one kind of oddity.
const PLACEMENTS_OF_ONE: usize = 2;
const OF_ONE_FAMILY: usize = 5;

/// Indices into the screening's entries: the strongest by divergence, then by collapse.
pub(super) fn finalists(screening: &Screening) -> Vec<usize> {
    let mut chosen: Vec<usize> = Vec::new();
    let mut placements: BTreeMap<&str, usize> = BTreeMap::new();
    let mut families: BTreeMap<&str, usize> = BTreeMap::new();
    let measured: Vec<usize> = (0..screening.entries.len())
        .filter(|&i| screening.entries[i].1.difference_nats.is_some_and(|d| d > 0.0))
        .collect();
    let mut by_collapse = measured.clone();
    let collapse = |i: usize| screening.entries[i].1.collapse_nats.unwrap_or(f64::NEG_INFINITY);
    by_collapse.sort_by(|&a, &b| collapse(b).total_cmp(&collapse(a)).then(a.cmp(&b)));
    for (list, limit) in [(measured, BY_DIVERGENCE), (by_collapse, BY_DIVERGENCE + BY_COLLAPSE)] {
        for entry in list {
            if chosen.len() >= limit {
                break;
            }
            let candidate = &screening.entries[entry].1.candidate;
            let used = placements.entry(&candidate.text).or_default();
            let related = families.entry(&candidate.family).or_default();
            if !chosen.contains(&entry) && *used < PLACEMENTS_OF_ONE && *related < OF_ONE_FAMILY {
                *used += 1;
                *related += 1;
                chosen.push(entry);
            }
        }
    }
    chosen
}
