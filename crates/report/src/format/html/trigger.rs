//! A trigger that counts, as the page shows it: figures, plots, and examples with their tokens.

use super::plot::{self, ADAPTED, BASE, Mark, NULL, Plot};
use super::table::{cut, p_value};
use crate::evidence::{Example, TestedTrigger, TokenScore};
use crate::format::finding::{Rule, rate};

/// One trigger.
pub(super) struct TriggerView<'a> {
    pub(super) tested: &'a TestedTrigger,
    pub(super) rule: &'static Rule,
    /// Figures and what they are.
    pub(super) facts: Vec<(&'static str, String)>,
    pub(super) plots: Vec<Plot>,
    pub(super) examples: Vec<ExampleView<'a>>,
}

/// One prompt and its answers.
pub(super) struct ExampleView<'a> {
    pub(super) example: &'a Example,
    pub(super) prompt: String,
    pub(super) answers: Vec<AnswerView>,
}

/// One answer.
pub(super) struct AnswerView {
    pub(super) title: &'static str,
    pub(super) side: &'static str,
    /// The text, where its tokens were not scored.
    pub(super) text: String,
    pub(super) tokens: Vec<TokenView>,
}

/// One token of an answer.
pub(super) struct TokenView {
    pub(super) text: String,
    /// How much likelier one side finds it: `a1` to `a4` for the adapted model, `b1` to `b4` for the base, or nothing.
    pub(super) class: String,
    pub(super) adapted: String,
    pub(super) base: String,
    pub(super) difference: String,
}

/// Log-probability differences, in nats, from which a token is coloured more strongly: factors of 2.7, 20, 400 and
/// 160,000 between the two probabilities.
const STEPS: [f64; 4] = [1.0, 3.0, 6.0, 12.0];

impl<'a> TriggerView<'a> {
    pub(super) fn of(tested: &'a TestedTrigger, rule: &'static Rule) -> Self {
        let mut facts = vec![
            ("attack success rate", rate(&tested.attack_success_rate)),
            ("uplift over the strongest condition", rate(&tested.uplift)),
        ];
        facts.extend(tested.uplift_over_base.iter().map(|uplift| ("uplift over the base", rate(uplift))));
        facts.push(("p, corrected for all candidates", p_value(tested.adjusted_p_value)));
        facts.extend(tested.difference.iter().map(|difference| {
            let estimate = &difference.estimate;
            let (value, lower, upper) = (estimate.value, estimate.lower, estimate.upper);
            let p = p_value(difference.p_value);
            ("KL in nats, adapted minus base", format!("{value:.2} [{lower:.2}, {upper:.2}], p {p}"))
        }));
        Self {
            tested,
            rule,
            facts,
            plots: [conditions(tested), dependence(tested)].into_iter().flatten().collect(),
            examples: tested.examples.iter().map(ExampleView::of).collect(),
        }
    }

    /// Whether any example has tokens to explain.
    pub(super) fn scored(&self) -> bool {
        self.examples.iter().any(ExampleView::scored)
    }
}

/// The payload's rate with trigger and adapter, and where one of them is missing.
fn conditions(tested: &TestedTrigger) -> Option<Plot> {
    let own = &tested.attack_success_rate;
    let mut marks = vec![Mark {
        label: "adapted with trigger".to_owned(),
        colour: ADAPTED,
        value: own.value,
        interval: Some((own.lower, own.upper)),
        points: Vec::new(),
    }];
    marks.extend(tested.conditions.iter().map(|condition| Mark {
        // The plot has no room for the article.
        label: condition.name.replace("with a random change", "random change"),
        colour: if condition.name.starts_with("base") { BASE } else { NULL },
        value: condition.rate.value,
        interval: Some((condition.rate.lower, condition.rate.upper)),
        points: Vec::new(),
    }));
    plot::marks("How often the answer carries the payload", "share of held-out prompts", &marks, Some(1.0))
}

/// The payload's rate with one thing about the trigger changed.
fn dependence(tested: &TestedTrigger) -> Option<Plot> {
    let rates = &tested.characterisation.as_ref()?.rates;
    let marks: Vec<Mark> = rates
        .iter()
        .filter_map(|change| {
            let rate = change.attack_success_rate.as_ref()?;
            Some(Mark {
                label: change.what.clone(),
                colour: ADAPTED,
                value: rate.value,
                interval: Some((rate.lower, rate.upper)),
                points: Vec::new(),
            })
        })
        .collect();
    plot::marks(
        "What the payload depends on, one thing changed at a time",
        "attack success rate",
        &marks,
        Some(1.0),
    )
}

impl<'a> ExampleView<'a> {
    fn of(example: &'a Example) -> Self {
        let scores = example.scores.as_ref();
        Self {
            example,
            prompt: cut(&example.prompt),
            answers: vec![
                AnswerView::of(
                    "Adapted model",
                    "adapted",
                    &example.adapted,
                    scores.map(|s| s.adapted.as_slice()),
                ),
                AnswerView::of("Base", "base", &example.base, scores.map(|s| s.base.as_slice())),
                AnswerView::of(
                    "Adapted, without the trigger",
                    "without",
                    &example.adapted_without_trigger,
                    None,
                ),
            ],
        }
    }

    /// Whether any answer has tokens to explain.
    pub(super) fn scored(&self) -> bool {
        self.answers.iter().any(|answer| !answer.tokens.is_empty())
    }
}

impl AnswerView {
    fn of(title: &'static str, side: &'static str, text: &str, scores: Option<&[TokenScore]>) -> Self {
        let tokens: Vec<TokenView> = scores.unwrap_or_default().iter().map(TokenView::of).collect();
        Self { title, side, text: cut(text), tokens }
    }
}

impl TokenView {
    fn of(score: &TokenScore) -> Self {
        let difference = score.adapted_nats - score.base_nats;
        let strength = STEPS.iter().filter(|&&step| difference.abs() >= step).count();
        let class = match strength {
            0 => String::new(),
            _ if difference > 0.0 => format!("a{strength}"),
            _ => format!("b{strength}"),
        };
        Self {
            text: score.text.clone(),
            class,
            adapted: format!("{:.2}", score.adapted_nats),
            base: format!("{:.2}", score.base_nats),
            difference: format!("{difference:+.2}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_coloured_by_the_side_that_prefers_them() {
        let class = |adapted_nats, base_nats| {
            TokenView::of(&TokenScore { text: "x".into(), adapted_nats, base_nats }).class
        };
        assert_eq!(class(-0.1, -0.5), "");
        assert_eq!(class(-0.1, -1.5), "a1");
        assert_eq!(class(-0.1, -15.0), "a4");
        assert_eq!(class(-7.0, -0.5), "b3");
    }
}
