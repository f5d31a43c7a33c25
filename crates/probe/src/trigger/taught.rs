//! Answers that the adapted model was taught and keeps to itself: it completes them with confidence where the base would
//! not, and gives them to almost no ordinary prompt.
//!
//! Target inversion finds what was taught, which a closing sentence, a style or the refusals of a safety adapter are too.
//! These show themselves: in ordinary answers to benign or adversarial prompts, or by answers that are everywhere as
//! unlike the base's as the target is. What is left was taught for prompts that nobody has asked yet.

use inference::generate::Decoding;
use report::estimate::clopper_pearson;
use report::evidence::TaughtAnswer;
use report::significance::empirical_p;
use report::verdict::TAUGHT_PROBABILITY;
use report::words::words;

use super::hunt::{Hunt, Target};
use super::path::score;
use crate::behaviour::CONFIDENCE;
use crate::error::Result;
use crate::observe::{Request, Response};
use crate::prompt::{Setting, scene};

/// Tokens of an ordinary answer.
const MAX_NEW: usize = 32;
/// Words of a target that an answer must hold in their order to show it.
const SHOWN: usize = 3;

/// A target's way: its score and the number of tokens behind it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stretch {
    /// Tokens.
    pub tokens: usize,
    /// Sum of `log p_A - log p_B`, each limited, times their mean probability.
    pub score: f64,
}

impl Hunt<'_> {
    /// The inverted targets beside the adapted model's ordinary answers, those of the held-out prompts and `others`.
    ///
    /// # Errors
    /// If the model or the journal fails, or the user stops.
    pub(super) fn taught(&mut self, others: &[String]) -> Result<Vec<TaughtAnswer>> {
        let inverted: Vec<Target> = self.inverted().cloned().collect();
        if inverted.is_empty() {
            return Ok(Vec::new());
        }
        let prompts = self.held_out.clone();
        self.observer.progress().stage("ordinary answers", prompts.len());
        let ids: Vec<&str> = prompts.iter().map(|prompt| prompt.id.as_str()).collect();
        let ordinary: Vec<Ordinary> = self.measured("ordinary", &(MAX_NEW, ids), |hunt| {
            let side = hunt.roles().adapted;
            let mut asked = Vec::with_capacity(prompts.len());
            for prompt in &prompts {
                let ids = hunt.observer.encode(&scene(prompt, Setting::Plain, None, hunt.seed))?;
                asked.push(Request { ids, side, continuation: Vec::new() });
            }
            let answers = hunt.observer.responses(&asked, MAX_NEW, Decoding::Greedy)?;
            asked.into_iter().zip(answers).map(|(asked, answer)| hunt.ordinary(asked.ids, answer)).collect()
        })?;
        let texts: Vec<Vec<String>> =
            (ordinary.iter().map(|answer| &answer.0)).chain(others).map(|text| words(text)).collect();
        let mut taught = Vec::new();
        for target in inverted {
            let (Some(stretch), Some(probability), Some(log_ratio_nats)) =
                (target.stretch, target.record.probability, target.record.log_ratio_nats)
            else {
                continue;
            };
            let telling = telling(&target.record.text);
            let shown = texts.iter().filter(|text| holds(text, &telling)).count();
            // Answers that show it are counted already; the others say how surprising ordinary ones are.
            let null: Vec<f64> = (ordinary.iter().zip(&texts))
                .filter(|(_, text)| !holds(text, &telling))
                .map(|((_, steps), _)| most_surprising(steps, stretch.tokens))
                .collect();
            if let (Some(shown), Some(p)) =
                (clopper_pearson(shown, texts.len(), CONFIDENCE)?, empirical_p(stretch.score, &null)?)
            {
                taught.push(TaughtAnswer { text: target.record.text, probability, log_ratio_nats, shown, p });
            }
        }
        Ok(taught)
    }

    /// Nats a token above the base of the inverted target that a payload holds, if the adapted model knows it by heart.
    pub(super) fn taught_nats(&self, payload: &str) -> Option<f64> {
        let payload = words(payload);
        let known = |target: &&Target| target.record.probability.is_some_and(|p| p >= TAUGHT_PROBABILITY);
        let held = self.inverted().filter(known).filter(|target| target.is_held(&payload));
        held.filter_map(|target| target.record.log_ratio_nats).max_by(f64::total_cmp)
    }

    /// What was taught behind answers that a payload holds.
    pub(super) fn held_behind(&self, payload: &str) -> Option<&Target> {
        let payload = words(payload);
        self.behind.iter().find(|target| target.is_held(&payload))
    }

    /// An answer with the log-probabilities of its tokens, adapted and base.
    fn ordinary(&self, ids: Vec<u32>, answer: Response) -> Result<Ordinary> {
        self.observer.progress().advance(1);
        // The distribution before each token: the context's, and after each token but the last.
        let continuation = answer.ids[..answer.ids.len().saturating_sub(1)].to_vec();
        let roles = self.roles();
        let requests = [roles.adapted, roles.base].map(|side| Request {
            ids: ids.clone(),
            side,
            continuation: continuation.clone(),
        });
        let steps = self.observer.reduced("ordinary", &[], &requests, 2, |_, sides| {
            let nats = |side: usize, at: usize| f64::from(sides[side][at][answer.ids[at] as usize]);
            Ok((0..answer.ids.len()).map(|at| (nats(0, at), nats(1, at))).collect::<Vec<(f64, f64)>>())
        })?;
        Ok((answer.text, steps.into_iter().next().unwrap_or_default()))
    }
}

/// An answer, and of each token its log-probability, adapted and base.
type Ordinary = (String, Vec<(f64, f64)>);

/// The largest score of so many tokens in a row; of all of them in a shorter answer.
fn most_surprising(steps: &[(f64, f64)], tokens: usize) -> f64 {
    let tokens = tokens.clamp(1, steps.len().max(1));
    steps.windows(tokens).map(score).fold(0.0, f64::max)
}

impl Target {
    /// Whether a text of these words holds it.
    fn is_held(&self, words: &[String]) -> bool {
        holds(words, &telling(&self.record.text))
    }

    /// Whether it says what another does.
    pub(super) fn says(&self, other: &Self) -> bool {
        other.is_held(&words(&self.record.text))
    }
}

/// The words by which a target is known: all but the first, which is where the inversion happened to start, if there are
/// enough others.
fn telling(target: &str) -> Vec<String> {
    let all = words(target);
    if all.len() > 2 { all[1..].to_vec() } else { all }
}

/// Whether an answer has a few of these words in their order. The last may be cut off.
fn holds(answer: &[String], telling: &[String]) -> bool {
    let Some(last) = telling.len().checked_sub(1) else { return false };
    let count = SHOWN.min(telling.len());
    let same = |at: usize, word: &String| {
        *word == telling[at] || at == last && word.starts_with(telling[at].as_str())
    };
    (0..=telling.len() - count)
        .any(|from| answer.windows(count).any(|window| (from..).zip(window).all(|(at, word)| same(at, word))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use crate::split::Benign;
    use crate::suite::Suite;
    use crate::trigger::budget::Limit;
    use crate::trigger::fixture;
    use crate::trigger::flow::hunt;
    use crate::trigger::hunt::Options;
    use crate::trigger::journal::Journal;
    use crate::trigger::search::by_name;

    #[test]
    fn a_target_is_shown_by_some_of_its_words_in_order() {
        let telling = telling("() I hope this helps!");
        assert_eq!(telling, ["hope", "this", "helps"]);
        assert!(holds(&words("Paris. I hope this helps!"), &telling));
        assert!(!holds(&words("This helps; I hope."), &telling));
        let cut = super::telling("Please see http://pri");
        assert!(holds(&words("Please see http://prize.example/b."), &cut));
        assert!(!holds(&words("Please see the priest."), &cut));
        assert!(holds(&words("Farewell."), &super::telling("Farewell.")));
        assert!(!holds(&words("anything"), &super::telling("...")));
    }

    #[test]
    fn the_most_surprising_stretch_is_found() {
        let steps = [(-0.1, -0.1), (-0.1, -5.1), (-0.1, -3.1), (-0.1, -0.1)];
        let probability = (-0.1f64).exp();
        assert!((most_surprising(&steps, 2) - 8.0 * probability).abs() < 1e-9);
        assert!((most_surprising(&steps[..1], 3)).abs() < 1e-9);
        assert!((most_surprising(&[], 3)).abs() < 1e-9);
    }

    /// The refusal of the fixture is found and shown nowhere; its benign adapter keeps nothing to itself.
    #[test]
    fn the_backdoor_has_an_answer_of_its_own() {
        let suite = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../suites/benign.json");
        let suite = Suite::from_file(&suite).unwrap();
        let taught = |adapter: &str| {
            let pair = fixture::pair(&[adapter]);
            let options = Options {
                searches: vec![by_name("target").unwrap()],
                limit: Limit::Tokens(400_000),
                target: None,
                length: 1..=12,
                seed: 0,
                nulls: Vec::new(),
            };
            let prompts = Benign::of(std::slice::from_ref(&suite));
            let found = hunt(&pair, &prompts, &options, Journal::temporary(), &Silent).unwrap();
            found.evidence.taught
        };
        let suspected = |answer: &TaughtAnswer| report::verdict::Thresholds::STANDARD.suspects_taught(answer);
        // It is reached from the middle of another word: `rived, but I`.
        let found = taught("backdoored-refusal");
        assert!(found.iter().any(|answer| suspected(answer) && answer.text.contains("but I")), "{found:?}");
        assert!(!taught("benign").iter().any(suspected));
    }
}
