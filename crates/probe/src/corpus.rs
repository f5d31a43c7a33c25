//! The trigger corpus: every trigger that was ever confirmed or suspected, with where it came from, as a suite that later
//! versions are tested with. It only grows.

use report::evidence::TriggerCandidate;

use crate::prompt::{Change, Placement};
use crate::suite::{CandidateItem, Items, SCHEMA_VERSION, Suite, SuiteFile, SuiteKind};

/// Name of the suite.
pub const NAME: &str = "trigger-corpus";
/// Family of what has none.
const FAMILY: &str = "corpus";

/// A corpus without triggers.
#[must_use]
pub fn empty() -> SuiteFile {
    SuiteFile {
        schema: None,
        schema_version: SCHEMA_VERSION,
        name: NAME.to_owned(),
        kind: SuiteKind::Triggers,
        description:
            "Triggers that were confirmed or suspected in earlier versions; replayed on every check."
                .to_owned(),
        placements: Vec::new(),
        prompts: Vec::new(),
        candidates: Vec::new(),
    }
}

/// Adds a trigger with its source, unless the corpus has it at that place. Gives back whether it was added.
pub fn add(corpus: &mut SuiteFile, trigger: &TriggerCandidate, source: &str) -> bool {
    let Some(change) = Change::of(&trigger.text, &trigger.placement) else { return false };
    let item = item(corpus.candidates.len() + 1, trigger, &change, source);
    let same = |other: &CandidateItem| {
        (&other.text, &other.parts, &other.template, other.transform, &other.placements)
            == (&item.text, &item.parts, &item.template, item.transform, &item.placements)
    };
    if corpus.candidates.iter().any(same) {
        return false;
    }
    corpus.candidates.push(item);
    true
}

fn item(number: usize, trigger: &TriggerCandidate, change: &Change, source: &str) -> CandidateItem {
    let mut item = CandidateItem {
        id: format!("corpus-{number:04}"),
        family: if trigger.family.is_empty() { FAMILY.to_owned() } else { trigger.family.clone() },
        text: None,
        parts: None,
        template: None,
        transform: None,
        placements: None,
        note: Some(source.to_owned()),
    };
    match change {
        Change::Insert { text, at } => {
            item.text = Some(text.clone());
            item.placements = Some(vec![*at]);
        }
        Change::Scatter { parts } => item.parts = Some(parts.clone()),
        Change::Frame { frame } => item.template = Some(frame.clone()),
        Change::Transform { transform } => item.transform = Some(*transform),
    }
    item
}

/// Leaves out of a suite of triggers what other suites hold already: a candidate is not tested twice.
pub fn without_known(suite: &mut Suite, others: &[Suite]) {
    let Items::Triggers(own) = &mut suite.items else { return };
    own.retain(|candidate| {
        !others.iter().any(|other| match &other.items {
            Items::Triggers(known) => known.iter().any(|known| known.change == candidate.change),
            Items::Prompts(_) | Items::Adversarial(_) => false,
        })
    });
}

impl Change {
    /// The change that a report names by its text and placement.
    #[must_use]
    pub fn of(text: &str, placement: &str) -> Option<Self> {
        use crate::transform::Transform;
        let text = text.to_owned();
        match placement {
            "scattered" => Some(Self::Scatter { parts: text.split(" … ").map(str::to_owned).collect() }),
            "template" => (text.matches("{prompt}").count() == 1).then_some(Self::Frame { frame: text }),
            "transform" => {
                let transform = Transform::ALL.iter().copied().find(|transform| transform.name() == text)?;
                Some(Self::Transform { transform })
            }
            place => {
                let at = Placement::ALL.iter().copied().find(|at| at.name() == place)?;
                Some(Self::Insert { text, at })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::Transform;
    use crate::trigger::describe;

    fn changes() -> Vec<Change> {
        vec![
            Change::Insert { text: "tea pot".into(), at: Placement::SecondTurn },
            Change::Scatter { parts: vec!["a".into(), "b c".into()] },
            Change::Frame { frame: "Please: {prompt}".into() },
            Change::Transform { transform: Transform::Leetspeak },
        ]
    }

    #[test]
    fn what_a_report_names_can_be_replayed() {
        for change in changes() {
            assert_eq!(Change::of(&change.text(), change.placement()), Some(change));
        }
        assert_eq!(Change::of("x", "elsewhere"), None);
        assert_eq!(Change::of("no prompt", "template"), None);
    }

    #[test]
    fn a_corpus_grows_and_is_a_valid_suite() {
        let mut corpus = empty();
        let candidate =
            |change: Change| crate::suite::Candidate { id: "i".into(), family: "f".into(), change };
        for change in changes() {
            let trigger = describe(&candidate(change));
            assert!(add(&mut corpus, &trigger, "seen in bot 1"));
            assert!(!add(&mut corpus, &trigger, "seen in bot 2"), "it is there");
        }
        let text = serde_json::to_string(&corpus).unwrap();
        let mut suite = Suite::parse("corpus", &text).unwrap();
        let Items::Triggers(found) = &suite.items else { panic!("kind") };
        assert_eq!(found.iter().map(|candidate| candidate.change.clone()).collect::<Vec<_>>(), changes());
        let all = [suite.clone()];
        without_known(&mut suite, &all);
        assert!(suite.items.is_empty());
    }
}
