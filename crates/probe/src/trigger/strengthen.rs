//! From a text that takes over some answers to one that takes over most of them.
//!
//! What a search of words finds first is seldom the trigger: a neighbour of it, with words beside it that are not needed.
//! Its payload is known by then, which is the best guide there is. So the text is reduced to what its payload needs,
//! climbed letter by letter, and from there tokens are exchanged along the gradient of the payload's probability; at last a
//! word of the dictionary is looked for that has a token of it. What comes of it is put to the test like any other
//! candidate.

use report::evidence::TestedTrigger;
use report::verdict::Thresholds;

use super::confirm::Development;
use super::differential::Goal;
use super::gcg;
use super::hunt::Hunt;
use crate::error::Result;
use crate::prompt::Change;

/// Texts of different payloads that one round starts from, and the part of the whole budget that each may take.
const STARTS: usize = 2;
const PART: f64 = 0.12;
/// Part of that for the reduced text; the rest is for the text as it was found.
const REDUCED: f64 = 0.4;
/// Part of the whole budget for words that have a token of the text.
const COMPLETED: f64 = 0.06;
/// Starts of a whole hunt, and the lower end of the uplift from which a text is one: what moves one answer in ten is
/// often nothing, and what is spent on it is lost to the searches.
const OF_HUNT: usize = 3;
const MIN_UPLIFT: f64 = 0.2;
/// Of what the gradient leads to: texts whose answers are read, and those that are put to the test.
const READ: usize = 6;
const TESTED: usize = 2;

impl Hunt<'_> {
    /// Strengthens the strongest texts that take over some answers and no majority, or that are longer than they need to
    /// be. Returns whether a trigger is confirmed.
    ///
    /// # Errors
    /// If the model or the journal fails, or the user stops.
    pub(super) fn strengthen(&mut self) -> Result<bool> {
        let before = self.search;
        self.search = "strengthen";
        for start in self.promising() {
            if self.strengthened.len() == OF_HUNT || self.confirmed() {
                break;
            }
            self.strengthened.push(start.clone());
            self.budget.open_last(PART);
            self.strengthen_one(&start)?;
        }
        self.search = before;
        Ok(self.confirmed())
    }

    /// The strongest tested insertions, of each payload one, without those that had their turn.
    fn promising(&self) -> Vec<Change> {
        let mut tested: Vec<&TestedTrigger> = self
            .tested
            .iter()
            .filter(|tested| Thresholds::STANDARD.suspects(tested) && tested.uplift.lower >= MIN_UPLIFT)
            .collect();
        tested.sort_by(|a, b| b.uplift.lower.total_cmp(&a.uplift.lower));
        let mut starts: Vec<Change> = Vec::new();
        let mut payloads: Vec<&str> = Vec::new();
        for tested in tested {
            let found = self.put_to_test.iter().find(|change| change.id() == tested.candidate.id);
            let class = tested.payload.class.as_str();
            if let Some(change @ Change::Insert { .. }) = found
                && starts.len() < STARTS
                && !payloads.contains(&class)
                && !self.strengthened.contains(change)
            {
                starts.push(change.clone());
                payloads.push(class);
            }
        }
        starts
    }

    fn strengthen_one(&mut self, start: &Change) -> Result<()> {
        let Some(Some(whole)) = self.develop(std::slice::from_ref(start))?.pop() else { return Ok(()) };
        self.observer().progress().note(&format!(
            "strengthening {} ({}): {}",
            report::escape::excerpt(&start.text(), 40),
            start.placement(),
            report::escape::excerpt(&whole.payload.text, 60),
        ));
        let goal = self.goal_of(&whole.payload.text, start)?;
        let mut nearest = self.reduce(start.clone(), &whole)?;
        self.put_one_to_test(&nearest)?;
        if let Some(spelt) = self.by_letters(&nearest, &goal)? {
            self.put_one_to_test(&spelt)?;
            nearest = spelt;
        }
        // What the payload needs is next to the trigger; what it does not need has room for the rest of the trigger.
        for (from, part) in [(&nearest, REDUCED), (start, 1.0)] {
            if !self.confirmed() && !self.exhausted() {
                let found = self.ascend(from, &goal, gcg::FILLED, part)?;
                self.test_strongest(found, "strengthen", |next| next.payload.class == whole.payload.class)?;
            }
        }
        if !self.confirmed() {
            self.budget.open_last(COMPLETED);
            if let Some(word) = self.word_of(start, &goal)? {
                self.put_one_to_test(&word)?;
            }
        }
        Ok(())
    }

    /// The strongest texts on the way from an insertion along the gradient of a goal, strongest first, for a part of what
    /// is left of the share. A text of fewer `tokens` is filled up.
    pub(super) fn ascend(
        &mut self,
        from: &Change,
        goal: &Goal,
        tokens: usize,
        part: f64,
    ) -> Result<Vec<Change>> {
        let Change::Insert { text, at } = from else { return Ok(Vec::new()) };
        if goal.tokens() == 0 {
            Ok(Vec::new())
        } else {
            gcg::ascend(self, *at, text, goal.clone(), tokens, part)
        }
    }

    /// Reads what the first of some texts lead to that were not tested yet, and puts the strongest of those with a payload
    /// that is `wanted` to the test; `family` names the step.
    pub(super) fn test_strongest(
        &mut self,
        found: Vec<Change>,
        family: &str,
        wanted: impl Fn(&Development) -> bool,
    ) -> Result<()> {
        let found: Vec<Change> =
            found.into_iter().filter(|change| !self.put_to_test.contains(change)).take(READ).collect();
        let mut strongest = self.with_payload(found, wanted)?;
        // A stable sort: of equals, the one that the gradient prefers.
        strongest.sort_by(|a, b| b.1.excess.total_cmp(&a.1.excess));
        strongest.truncate(TESTED);
        let changes: Vec<Change> = strongest.into_iter().map(|(change, _)| change).collect();
        self.test_changes(&changes, family)
    }

    /// Those of some texts that lead to a payload that is `wanted`, in their order, with what they do.
    pub(super) fn with_payload(
        &mut self,
        found: Vec<Change>,
        wanted: impl Fn(&Development) -> bool,
    ) -> Result<Vec<(Change, Development)>> {
        let developed = self.develop(&found)?;
        let found = found.into_iter().zip(developed);
        Ok(found
            .filter_map(|(change, developed)| Some((change, developed?)))
            .filter(|(_, next)| wanted(next))
            .collect())
    }
}
