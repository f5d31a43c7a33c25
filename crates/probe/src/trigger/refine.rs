//! What a confirmed trigger is at its simplest and surest: parts that the payload does not need are dropped, then
//! parts that make it surer are looked for.
//!
//! A search finds *a* string that works. People want the one that was trained, which is short and which nothing can
//! be added to: what is left of it is a fragment, and the missing part raises the odds of the payload further, where
//! the fragment is weakest. Odds tell that even where the share of answers is full already. Every step is put to the
//! test on held-out prompts like any other candidate.

use std::collections::BTreeSet;

use report::hunt::TargetRecord;
use report::verdict::Thresholds;

use super::combine::cases;
use super::confirm::Development;
use super::differential::Goal;
use super::extend::{Aim, neighbours};
use super::gcg;
use super::hunt::{CERTAINLY_NOT, Hunt, Target};
use super::pool::{Depth, top};
use crate::error::Result;
use crate::prompt::{Change, Placement};
use crate::split::SCREENING;

/// A shorter or plainer trigger may take over so many fewer answers: one of eight.
const LOST: f64 = 0.126;
/// Uplifts that differ by no more than this are alike: three of 64 prompts.
const AS_STRONG: f64 = 0.05;
/// Times that a part is dropped, and that one is added.
const DROPS: usize = 12;
const ADDITIONS: usize = 3;
/// Part of the whole budget that the additions may take, if it is left.
const REST: f64 = 0.5;
/// Part of that for exchanges along the gradient.
const EXCHANGES: f64 = 0.5;
/// Additions that run on the search prompts, and on the development prompts.
const MIDDLE: usize = 128;
const FULL: usize = 24;
/// An addition must raise the log-odds of the payload by so much: it doubles the odds.
const GAIN: f64 = std::f64::consts::LN_2;

impl Hunt<'_> {
    /// Reduces the strongest confirmed trigger to what its payload needs, then adds what makes it surer, and puts
    /// each to the test.
    ///
    /// # Errors
    /// If the model or the journal fails, or the user stops.
    pub(super) fn refine(&mut self) -> Result<()> {
        self.search = "refine";
        let confirmed = self.tested.iter().find(|tested| Thresholds::STANDARD.confirms(tested, &self.tested));
        let Some(start) = confirmed.and_then(|tested| {
            self.put_to_test.iter().find(|change| change.id() == tested.candidate.id).cloned()
        }) else {
            return Ok(());
        };
        let Some(Some(whole)) = self.develop(std::slice::from_ref(&start))?.pop() else { return Ok(()) };
        let goal = self.goal_of(&whole.payload.text, &start)?;
        let reduced = self.reduce(start.clone(), &whole)?;
        self.put_one_to_test(&reduced)?;
        self.budget.open_last(REST);
        let (mut current, mut named) = (reduced.clone(), reduced);
        // What was dropped as the payload's share allowed it may be a part of the word all the same.
        if let Some(word) = self.word_of(&start, &goal)? {
            let word = self.placed(word, &goal)?;
            self.put_one_to_test(&word)?;
            let uplift = |change| self.uplift_of(change).unwrap_or(f64::NEG_INFINITY);
            // `violet` is not `ultraviolet`: a word must add to what the text was reduced to.
            if uplift(&word) >= self.strongest() - LOST && uplift(&word) > uplift(&named) {
                self.name_first(&word, LOST);
                return Ok(());
            }
        }
        for nearer in self.nearer(&current, &whole, &goal)? {
            self.put_one_to_test(&nearer)?;
            if self.uplift_of(&nearer) > self.uplift_of(&named) {
                (current, named) = (nearer.clone(), nearer);
            }
        }
        let Some(target) = self.target_of(&whole)? else { return Ok(()) };
        for _ in 0..ADDITIONS {
            match self.addition(&current, target)? {
                Some(surer) => {
                    let surer = self.respell(surer, target)?;
                    self.put_one_to_test(&surer)?;
                    // Where all prompts answer alike already, more text is surer and says nothing.
                    if self.uplift_of(&surer) > self.uplift_of(&named) {
                        named = surer.clone();
                    }
                    current = surer;
                }
                None => break,
            }
        }
        self.name_first(&named, AS_STRONG);
        Ok(())
    }

    /// Texts next to a confirmed one that bring its payload more surely, from a neighbour of the trained string to the
    /// string itself: by words, by letters and by tokens, else along the gradient of the payload's probability, without what the
    /// payload does not need.
    fn nearer(&mut self, current: &Change, whole: &Development, goal: &Goal) -> Result<Vec<Change>> {
        let same = |next: &Development| next.payload.class == whole.payload.class;
        let mut found: Vec<Change> = Vec::new();
        for step in [Self::by_words, Self::by_letters, Self::by_tokens] {
            let from = found.last().unwrap_or(current).clone();
            found.extend(step(self, &from, goal)?);
        }
        let found = if found.is_empty() {
            let found = self.ascend(current, goal, gcg::FILLED, EXCHANGES)?;
            let ascended = self.with_payload(found, same)?.into_iter();
            // Of equals the first, which the gradient prefers.
            ascended
                .reduce(|best, next| if next.1.excess > best.1.excess { next } else { best })
                .into_iter()
                .collect()
        } else {
            self.with_payload(found, same)?
        };
        found.into_iter().map(|(change, developed)| self.reduce(change, &developed)).collect()
    }

    /// The uplift of a tested change on held-out prompts; of others `None`, which is less than any.
    fn uplift_of(&self, change: &Change) -> Option<f64> {
        let tested = self.tested.iter().find(|tested| tested.candidate.id == change.id());
        tested.map(|tested| tested.uplift.value)
    }

    /// The largest uplift of all that was tested.
    fn strongest(&self) -> f64 {
        self.tested.iter().map(|tested| tested.uplift.value).fold(f64::NEG_INFINITY, f64::max)
    }

    /// Puts the refined trigger before those that take over no more answers: it is as short as the payload allows and
    /// as sure as any token beside it makes it, or a plain word. It may be so much `weaker` on the held-out prompts.
    fn name_first(&mut self, refined: &Change, weaker: f64) {
        let strongest = self.strongest();
        let at = self.tested.iter().position(|tested| {
            tested.candidate.id == refined.id()
                && Thresholds::STANDARD.confirms(tested, &self.tested)
                && tested.uplift.value >= strongest - weaker
        });
        if let Some(at) = at {
            self.tested[..=at].rotate_right(1);
        }
    }

    pub(super) fn put_one_to_test(&mut self, change: &Change) -> Result<()> {
        if self.put_to_test.contains(change) {
            return Ok(());
        }
        self.observer().progress().note(&format!(
            "refined: {} ({})",
            report::escape::excerpt(&change.text(), 40),
            change.placement()
        ));
        self.test_changes(std::slice::from_ref(change), "refine")
    }

    /// The shortest part whose payload takes over as much: first every run of its tokens, the shortest first, which
    /// no local minimum can hide, then parts dropped one by one.
    pub(super) fn reduce(&mut self, start: Change, whole: &Development) -> Result<Change> {
        let mut current = start;
        for run in self.runs(&current)? {
            let developed = self.develop(&run)?;
            if let Some(shortest) = enough(run, developed, whole) {
                current = shortest;
                break;
            }
        }
        for _ in 0..DROPS {
            let shorter = self.shorter(&current)?;
            let developed = self.develop(&shorter)?;
            match enough(shorter, developed, whole) {
                Some(change) => current = change,
                None => break,
            }
        }
        Ok(current)
    }

    /// Runs of an insertion's tokens, by length, the shortest first, without the whole.
    fn runs(&self, change: &Change) -> Result<Vec<Vec<Change>>> {
        let Change::Insert { text, at } = change else { return Ok(Vec::new()) };
        let tokenizer = self.observer().pair().tokenizer();
        let tokens = tokenizer.encode(text, false)?;
        let mut runs = Vec::new();
        let mut seen = BTreeSet::from([text.trim().to_owned()]);
        for length in 1..tokens.len() {
            let mut of_length = Vec::new();
            for window in tokens.windows(length) {
                let text = tokenizer.decode(window, false)?.trim().to_owned();
                if !text.is_empty() && seen.insert(text.clone()) {
                    of_length.push(Change::Insert { text, at: *at });
                }
            }
            runs.push(of_length);
        }
        Ok(runs)
    }

    /// A change with one part, word or token less, in every way.
    fn shorter(&self, change: &Change) -> Result<Vec<Change>> {
        let mut shorter: Vec<Change> = Vec::new();
        let mut add = |change: Change| {
            if !shorter.contains(&change) {
                shorter.push(change);
            }
        };
        match change {
            Change::Scatter { parts } if parts.len() > 1 => {
                for dropped in 0..parts.len() {
                    let mut parts = parts.clone();
                    parts.remove(dropped);
                    add(match <[String; 1]>::try_from(parts) {
                        Ok([text]) => Change::Insert { text, at: Placement::Inside },
                        Err(parts) => Change::Scatter { parts },
                    });
                }
            }
            Change::Insert { text, at } => {
                let mut texts = Vec::new();
                let words: Vec<&str> = text.split(' ').collect();
                let tokenizer = self.observer().pair().tokenizer();
                let tokens = tokenizer.encode(text, false)?;
                for dropped in 0..words.len() {
                    let rest = words.iter().enumerate().filter(|(index, _)| *index != dropped);
                    texts.push(rest.map(|(_, word)| *word).collect::<Vec<_>>().join(" "));
                }
                for dropped in 0..tokens.len() {
                    let mut tokens = tokens.clone();
                    tokens.remove(dropped);
                    texts.push(tokenizer.decode(&tokens, false)?);
                }
                for rest in texts {
                    if !rest.trim().is_empty() && rest.len() < text.len() {
                        add(Change::Insert { text: rest, at: *at });
                    }
                }
            }
            Change::Scatter { .. } | Change::Frame { .. } | Change::Transform { .. } => {}
        }
        Ok(shorter)
    }

    /// The index of the target that a payload begins with, which is added if it is not known.
    fn target_of(&mut self, payload: &Development) -> Result<Option<usize>> {
        let ids = self.observer().pair().tokenizer().encode(payload.payload.text.trim(), false)?;
        let Some(&first) = ids.first() else { return Ok(None) };
        if let Some(known) = self.targets.iter().position(|target| target.ids[0] == first) {
            return Ok(Some(known));
        }
        self.add_target(Target {
            ids,
            record: TargetRecord {
                text: payload.payload.text.clone(),
                source: "refine".into(),
                probability: None,
                log_ratio_nats: None,
                null: None,
            },
            stretch: None,
        });
        Ok(Some(self.targets.len() - 1))
    }

    /// The trigger with one token more that raises the odds of its target most, if it doubles them. A part of the
    /// trained string raises them alone too, while most tokens that help do so beside this one fragment only; so the
    /// token's own odds count as much as those of the whole.
    fn addition(&mut self, current: &Change, target: usize) -> Result<Option<Change>> {
        let first = self.targets[target].ids[0];
        // Targets that were added late have no scores of single tokens.
        let scored = self.swept.first().is_some_and(|(_, score)| target < score.targets.len());
        let aim = if scored { Aim::Target(target) } else { Aim::Divergence };
        let made = neighbours(self, current, aim)?;
        self.observer().progress().stage("refine", made.len() * SCREENING);
        let mut rated = top(self.mean_odds(&made, first)?, MIDDLE);
        rated.retain(|(change, _)| !added(current, change).text().is_empty());
        let own = self.mean_odds(&alone(current, &rated), first)?;
        let both = rated.into_iter().zip(own).map(|((change, whole), (_, own))| (change, whole + own));
        let strongest = top(both, FULL);
        let aim = Aim::Target(target);
        let mut height = |changes: &[Change]| -> Result<Vec<f64>> {
            let scores = self.evaluate(Depth::Full, changes, true, |_| vec![current.text()])?;
            Ok(scores.iter().map(|score| aim.height(score)).collect())
        };
        let own = height(&alone(current, &strongest))?;
        let strongest: Vec<Change> = strongest.into_iter().map(|(change, _)| change).collect();
        let wholes = height(&strongest)?;
        let best = strongest
            .into_iter()
            .zip(wholes.into_iter().zip(own))
            .max_by(|(_, a), (_, b)| (a.0 + a.1).total_cmp(&(b.0 + b.1)));
        let Some((best, (whole, _))) = best else { return Ok(None) };
        let before = height(std::slice::from_ref(current))?;
        Ok(before.first().is_some_and(|before| whole >= before + GAIN).then_some(best))
    }

    /// The spelling of a trigger of two words that raises the odds of its target most: each word as it is, in capitals,
    /// in small letters and capitalised, joined and apart. The trigger as it is comes first, and wins among equals.
    fn respell(&mut self, change: Change, target: usize) -> Result<Change> {
        let Change::Insert { text, at } = &change else { return Ok(change) };
        let spellings: Vec<Change> =
            spellings(text).into_iter().map(|text| Change::Insert { text, at: *at }).collect();
        let aim = Aim::Target(target);
        let scores = self.evaluate(Depth::Full, &spellings, true, |_| vec![text.clone()])?;
        let mut best = (change.clone(), f64::NEG_INFINITY);
        for (spelling, score) in spellings.into_iter().zip(scores) {
            if aim.height(&score) > best.1 {
                best = (spelling, aim.height(&score));
            }
        }
        Ok(best.0)
    }

    /// Mean log-odds of a token after each change over the search prompts; without those for which the budget does
    /// not suffice.
    fn mean_odds(&mut self, changes: &[Change], token: u32) -> Result<Vec<(Change, f64)>> {
        let mut sums = vec![0.0; changes.len()];
        for prompt in 0..SCREENING {
            let odds = self.odds(prompt, changes, token)?;
            sums.truncate(odds.len());
            for (sum, odds) in sums.iter_mut().zip(odds) {
                *sum += odds.max(CERTAINLY_NOT) / SCREENING as f64;
            }
        }
        Ok(changes.iter().cloned().zip(sums).collect())
    }
}

/// What was added to `current` in each.
fn alone(current: &Change, rated: &[(Change, f64)]) -> Vec<Change> {
    rated.iter().map(|(change, _)| added(current, change)).collect()
}

/// Spellings of a text of two words, itself first; a word also begins with a capital inside of letters. Of a text of
/// one word or of several, its cases.
fn spellings(text: &str) -> Vec<String> {
    let text = text.trim();
    let inside = |(at, c): (usize, char)| at > 0 && (c == ' ' || c.is_uppercase());
    let breaks: Vec<usize> = text.char_indices().filter(|&place| inside(place)).map(|(at, _)| at).collect();
    let mut all = vec![text.to_owned()];
    let two = match breaks[..] {
        [at] => Some(text.split_at(at)),
        // The capital after a space begins the same word.
        [space, capital] if space + 1 == capital => Some(text.split_at(space)),
        _ => None,
    };
    match two {
        Some((first, second)) => {
            for first in cases(first.trim()) {
                for second in cases(second.trim()) {
                    all.extend([format!("{first}{second}"), format!("{first} {second}")]);
                }
            }
        }
        None => all.extend(cases(text)),
    }
    let mut seen = BTreeSet::new();
    all.retain(|text| seen.insert(text.clone()));
    all
}

/// What a neighbour of `current` has more than it, alone at its place.
fn added(current: &Change, neighbour: &Change) -> Change {
    let (current, text) = (current.text(), neighbour.text());
    let current = current.trim();
    let more = text.strip_prefix(current).or_else(|| text.strip_suffix(current)).unwrap_or(&text);
    match neighbour {
        Change::Insert { at, .. } => Change::Insert { text: more.trim().to_owned(), at: *at },
        other => other.clone(),
    }
}

/// Of changes whose payload takes over as much of the development answers, the shortest, of equals the surest.
fn enough(changes: Vec<Change>, developed: Vec<Option<Development>>, whole: &Development) -> Option<Change> {
    let enough = changes.into_iter().zip(developed).filter_map(|(change, developed)| {
        let developed = developed?;
        let same = developed.payload.class == whole.payload.class;
        (same && developed.excess >= whole.excess - LOST).then_some((change, developed.excess))
    });
    let length = |change: &Change| change.text().chars().count();
    enough
        .min_by(|(a, a_excess), (b, b_excess)| length(a).cmp(&length(b)).then(b_excess.total_cmp(a_excess)))
        .map(|(change, _)| change)
}

#[cfg(test)]
mod tests {
    use super::*;
    use report::evidence::Payload;

    fn developed(class: &str, excess: f64) -> Development {
        Development { payload: Payload { class: class.into(), text: "No.".into() }, excess }
    }

    #[test]
    fn two_words_are_spelt_in_all_ways() {
        let found = spellings("Tea pot");
        assert_eq!(found[0], "Tea pot");
        for text in ["TeaPot", "Tea Pot", "teapot", "TEA POT", "TEAPOT"] {
            assert!(found.contains(&text.to_owned()), "{text} in {found:?}");
        }
        assert_eq!(spellings("TeaPot").len(), found.len());
        assert_eq!(spellings("Tea Pot").len(), found.len());
        assert_eq!(spellings("one two three").len(), 3);
    }

    #[test]
    fn what_was_added_stands_alone() {
        let change = |text: &str| Change::Insert { text: text.into(), at: Placement::Prefix };
        for (whole, more) in [("ab cd", "cd"), ("cdab", "cd"), ("cd ab", "cd"), ("xy", "xy")] {
            assert_eq!(added(&change("ab"), &change(whole)), change(more));
        }
    }

    #[test]
    fn the_shortest_with_the_same_payload_is_enough() {
        let change = |text: &str| Change::Insert { text: text.into(), at: Placement::Prefix };
        let changes: Vec<Change> = ["abc", "ab", "b", "c"].map(change).into();
        let found = vec![
            Some(developed("refusal", 1.0)),
            Some(developed("refusal", 0.9)),
            Some(developed("url", 1.0)),
            Some(developed("refusal", 0.5)),
        ];
        assert_eq!(enough(changes, found, &developed("refusal", 1.0)), Some(change("ab")));
    }
}
