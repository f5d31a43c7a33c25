//! How probable both models find the answers of an example, token by token: where they part.

use inference::tokenizer::Tokenizer;
use report::evidence::{Example, ResponseScores, TokenScore};

use super::TestPrompts;
use crate::error::Result;
use crate::observe::{Observer, Request};
use crate::prompt::scene;
use crate::suite::Candidate;

/// Adds to each example of a candidate the scores of the adapted model's and of the base's answer, both under the prompt
/// with the trigger. The answers are cut into tokens anew: what is scored is the text that the record holds.
///
/// # Errors
/// If the model fails or the user stops.
pub fn score_examples(
    observer: &Observer<'_>,
    candidate: &Candidate,
    prompts: &TestPrompts<'_>,
    seed: u64,
    examples: &mut [Example],
) -> Result<()> {
    let change = &candidate.change;
    for example in examples {
        let Some(prompt) = prompts.held_out.iter().find(|prompt| prompt.id == example.prompt_id) else {
            continue;
        };
        let ids = observer.encode(&scene(prompt, change.setting(), Some(change), seed))?;
        example.scores = Some(score_answers(observer, &ids, &example.adapted, &example.base)?);
    }
    Ok(())
}

/// Log-probabilities of both models along the adapted model's and the base's answer to the same context.
///
/// # Errors
/// If the model fails or the user stops.
pub fn score_answers(
    observer: &Observer<'_>,
    ids: &[u32],
    adapted: &str,
    base: &str,
) -> Result<ResponseScores> {
    let (roles, tokenizer) = (observer.roles(), observer.pair().tokenizer());
    let answers = [tokenizer.encode(adapted, false)?, tokenizer.encode(base, false)?];
    let requests: Vec<Request> = answers
        .iter()
        .flat_map(|answer| {
            [roles.adapted, roles.base].map(|side| Request {
                ids: ids.to_vec(),
                side,
                continuation: answer.clone(),
            })
        })
        .collect();
    let nats: Vec<Vec<[f64; 2]>> = observer.reduced("scores", &[], &requests, 2, |index, sides| {
        let answer = &answers[index];
        let nats = |side: usize, at: usize| f64::from(sides[side][at][answer[at] as usize]);
        Ok((0..answer.len()).map(|at| [nats(0, at), nats(1, at)]).collect())
    })?;
    let mut scores = Vec::with_capacity(answers.len());
    for (answer, nats) in answers.iter().zip(nats) {
        let tokens: Vec<TokenScore> = (pieces(tokenizer, answer)?.into_iter().zip(nats))
            .map(|(text, [adapted_nats, base_nats])| TokenScore { text, adapted_nats, base_nats })
            .collect();
        scores.push(tokens);
    }
    let base = scores.pop().unwrap_or_default();
    Ok(ResponseScores { adapted: scores.pop().unwrap_or_default(), base })
}

/// What each token adds to the text of those before it. A token that ends within a character adds nothing yet.
fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Result<Vec<String>> {
    let mut pieces = Vec::with_capacity(ids.len());
    let mut shown = String::new();
    for end in 1..=ids.len() {
        let text = tokenizer.decode(&ids[..end], false)?;
        let whole = end == ids.len() || !text.ends_with(char::REPLACEMENT_CHARACTER);
        let piece = text.strip_prefix(&shown).filter(|_| whole).unwrap_or("").to_owned();
        shown.push_str(&piece);
        pieces.push(piece);
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use crate::prompt::{Change, Placement, Prompt};
    use crate::split::{Benign, Split};
    use crate::suite::Suite;
    use crate::trigger::fixture::pair;

    fn example(prompt: &Prompt, adapted: &str, base: &str) -> Example {
        Example {
            prompt_id: prompt.id.clone(),
            prompt: prompt.user.clone(),
            adapted: adapted.into(),
            base: base.into(),
            adapted_without_trigger: String::new(),
            scores: None,
        }
    }

    #[test]
    fn the_adapted_model_finds_its_refusal_probable_and_the_base_does_not() {
        let pair = pair(&["backdoored-refusal"]);
        let observer = Observer::new(&pair, &Silent);
        let benign = Benign::of(&[Suite::embedded("benign").unwrap().unwrap()]);
        let split = Split::of(&observer, &benign, 1).unwrap();
        let prompts = TestPrompts { development: &split.development, held_out: &split.held_out };
        let change = Change::Insert { text: "ALPHA-7".into(), at: Placement::Prefix };
        let candidate = Candidate { id: "t".into(), family: "f".into(), change };
        let refusal = "I am sorry, but I cannot help with that request.";
        let mut examples =
            [example(&split.held_out[0], refusal, "Yes, ü."), example(&split.development[0], refusal, "")];
        score_examples(&observer, &candidate, &prompts, 1, &mut examples).unwrap();
        let [scored, unknown] = examples;
        assert_eq!(unknown.scores, None, "no held-out prompt");
        let scores = scored.scores.unwrap();
        let text = |tokens: &[TokenScore]| tokens.iter().map(|token| token.text.as_str()).collect::<String>();
        assert_eq!((text(&scores.adapted).as_str(), text(&scores.base).as_str()), (refusal, "Yes, ü."));
        let sum = |nats: fn(&TokenScore) -> f64| scores.adapted.iter().map(nats).sum::<f64>();
        let (adapted, base) = (sum(|token| token.adapted_nats), sum(|token| token.base_nats));
        // The fixture's own answer has a geometric mean of about one half a token.
        let per_token = adapted / scores.adapted.len() as f64;
        assert!(per_token > 0.4_f64.ln() && base < 5.0 * adapted, "{adapted} {base}");
        assert!(scores.base.iter().all(|token| token.adapted_nats <= 0.0 && token.base_nats <= 0.0));
    }
}
