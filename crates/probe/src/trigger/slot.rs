//! The place of a trigger in a rendered prompt, as text and as tokens.
//!
//! A search over tokens must end in a text that means the same tokens again: a trigger that only exists as a
//! list of ids cannot be typed. A slot knows the text and the tokens on both sides of the trigger, and takes
//! tokens only if the whole prompt with their text is tokenised into just these.

use inference::generate::{Context, Decoding};
use inference::{ModelPair, Side};

use crate::error::Result;
use crate::prompt::{Change, Placement, Prompt, scene};

/// A prompt with a place for a trigger.
pub struct Slot {
    head: String,
    tail: String,
    /// Tokens before the trigger.
    pub before: Vec<u32>,
    /// Tokens after it, up to the response.
    pub after: Vec<u32>,
    /// An answer behind them, of which what comes next is asked; empty if the response itself is.
    pub answer: Vec<u32>,
    /// The prompt without a trigger, in the same setting, and the answer.
    pub clean: Vec<u32>,
}

/// Stands for the trigger while the template is rendered; from the private use area, so no prompt holds it.
const MARK: &str = "\u{f8ff}";
/// Texts that share no first or last token: what their prompts have in common is not the trigger.
const STAND_INS: [&str; 3] = ["x", "Q", "7"];

impl Slot {
    /// Renders a prompt around the place of a trigger.
    ///
    /// # Errors
    /// If the template refuses the prompt, or does not print the trigger exactly once.
    pub fn new(pair: &ModelPair, prompt: &Prompt, at: Placement, seed: u64) -> Result<Self> {
        let change = Change::Insert { text: MARK.to_owned(), at };
        let marked = scene(prompt, change.setting(), Some(&change), seed);
        let rendered = pair.template().render(&marked.turns)?;
        let (head, tail) = match rendered.split(MARK).collect::<Vec<_>>()[..] {
            [head, tail] => (head.to_owned(), tail.to_owned()),
            ref pieces => {
                return Err(refused(format!(
                    "expected a template that prints a user's text once, found it {} times",
                    pieces.len() - 1
                )));
            }
        };
        let clean = pair.encode(&scene(prompt, change.setting(), None, seed).turns)?;
        let mut slot = Self { head, tail, before: Vec::new(), after: Vec::new(), answer: Vec::new(), clean };
        let mut prompts = Vec::new();
        for text in STAND_INS {
            prompts.push(slot.prompt(pair, text)?);
        }
        let common =
            |other: &[u32], same: &dyn Fn(usize) -> bool| (0..other.len()).take_while(|&i| same(i)).count();
        let first = prompts[0].clone();
        let (mut before, mut after) = (first.len(), first.len());
        for other in &prompts[1..] {
            let shortest = first.len().min(other.len());
            before = before.min(common(&other[..shortest], &|i| first[i] == other[i]));
            let from_end = |i: usize| first[first.len() - 1 - i] == other[other.len() - 1 - i];
            after = after.min(common(&other[..shortest], &from_end));
        }
        slot.before = first[..before].to_vec();
        slot.after = first[first.len() - after..].to_vec();
        if slot.before.is_empty() || slot.after.is_empty() {
            return Err(refused("expected tokens before and after a trigger, found none".into()));
        }
        Ok(slot)
    }

    /// Tokens of the trigger in this prompt; `None` if they merge with its neighbours.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn trigger(&self, pair: &ModelPair, text: &str) -> Result<Option<Vec<u32>>> {
        let ids = self.prompt(pair, text)?;
        let own =
            ids.strip_prefix(self.before.as_slice()).and_then(|ids| ids.strip_suffix(self.after.as_slice()));
        Ok(own.filter(|own| !own.is_empty()).map(<[u32]>::to_vec))
    }

    /// The text to insert for these trigger tokens, if the prompt with it is tokenised into just them.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn text(&self, pair: &ModelPair, trigger: &[u32]) -> Result<Option<String>> {
        let decoded = pair.tokenizer().decode(trigger, false)?;
        let spaced = self.head.ends_with(char::is_whitespace);
        // The space between prompt and trigger is part of the trigger's first token, not of its text.
        let text = decoded.strip_prefix(' ').filter(|_| spaced).unwrap_or(&decoded);
        let doubled = (spaced && text.starts_with(char::is_whitespace))
            || (self.tail.starts_with(char::is_whitespace) && text.ends_with(char::is_whitespace));
        if text.trim().is_empty() || doubled {
            return Ok(None);
        }
        Ok((self.trigger(pair, text)?.as_deref() == Some(trigger)).then(|| text.to_owned()))
    }

    fn prompt(&self, pair: &ModelPair, text: &str) -> Result<Vec<u32>> {
        let rendered = format!("{}{text}{}", self.head, self.tail);
        Ok(pair.encode_rendered(&rendered)?)
    }
}

/// The places of one trigger in several prompts.
pub struct Slots<'a> {
    pair: &'a ModelPair,
    slots: Vec<Slot>,
}

impl<'a> Slots<'a> {
    /// The places in these prompts.
    ///
    /// # Errors
    /// If there is no prompt, or one has no place for a trigger.
    pub fn new(pair: &'a ModelPair, prompts: &[Prompt], at: Placement, seed: u64) -> Result<Self> {
        if prompts.is_empty() {
            return Err(refused("expected at least one prompt, found none".into()));
        }
        let slots = prompts.iter().map(|prompt| Slot::new(pair, prompt, at, seed)).collect::<Result<_>>()?;
        Ok(Self { pair, slots })
    }

    /// Puts a side's greedy answer without a trigger, of at most `max_new` tokens and without its end mark, behind each
    /// prompt: what comes next follows it. Returns the tokens that it took.
    ///
    /// # Errors
    /// If the model fails.
    pub fn answer(&mut self, side: Side, max_new: usize) -> Result<u64> {
        let contexts: Vec<Context<'_>> =
            self.slots.iter().map(|slot| Context { ids: &slot.clean, side, prefix: None }).collect();
        let mut answers = self.pair.generate(&contexts, max_new, Decoding::Greedy)?;
        let fed = contexts.iter().map(|context| context.ids.len()).sum::<usize>()
            + answers.iter().map(|answer| answer.ids.len()).sum::<usize>();
        for (slot, answer) in self.slots.iter_mut().zip(&mut answers) {
            if answer.ended {
                answer.ids.pop();
            }
            slot.clean.extend(&answer.ids);
            slot.answer.append(&mut answer.ids);
        }
        Ok(fed as u64)
    }

    /// The models.
    #[must_use]
    pub fn pair(&self) -> &'a ModelPair {
        self.pair
    }

    /// The places, one a prompt.
    #[must_use]
    pub fn places(&self) -> &[Slot] {
        &self.slots
    }

    /// Trigger tokens of a text.
    ///
    /// # Errors
    /// If the prompts do not agree on them.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.agreed(text)?.ok_or_else(|| {
            refused(format!(
                "`{text}` is no trigger of its own tokens in every prompt: it merges with its neighbours"
            ))
        })
    }

    /// Trigger tokens of a text, if every prompt has the same.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn agreed(&self, text: &str) -> Result<Option<Vec<u32>>> {
        let mut found: Option<Vec<u32>> = None;
        for slot in &self.slots {
            let own = slot.trigger(self.pair, text)?;
            if own.is_none() || found.is_some() && found != own {
                return Ok(None);
            }
            found = own;
        }
        Ok(found)
    }

    /// The text of trigger tokens, if every prompt with it is tokenised into just them.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn text(&self, trigger: &[u32]) -> Result<Option<String>> {
        let mut text = None;
        for slot in &self.slots {
            text = slot.text(self.pair, trigger)?;
            if text.is_none() {
                return Ok(None);
            }
        }
        Ok(text)
    }
}

pub(super) fn refused(reason: String) -> crate::Error {
    inference::Error::Request(reason).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trigger::fixture;

    #[test]
    fn a_slot_gives_the_tokens_of_the_whole_prompt() {
        let pair = fixture::pair(&[]);
        for at in [Placement::Prefix, Placement::Suffix, Placement::Inside, Placement::System] {
            for prompt in &fixture::prompts() {
                let slot = Slot::new(&pair, prompt, at, 3).unwrap();
                let Some(trigger) = slot.trigger(&pair, "ALPHA-7:").unwrap() else { panic!("{at:?}") };
                let whole = [slot.before.as_slice(), &trigger, &slot.after].concat();
                let change = Change::Insert { text: "ALPHA-7:".into(), at };
                if at != Placement::Inside {
                    let scene = scene(prompt, change.setting(), Some(&change), 3);
                    assert_eq!(pair.encode(&scene.turns).unwrap(), whole, "{at:?}");
                }
                assert_eq!(slot.text(&pair, &trigger).unwrap().as_deref(), Some("ALPHA-7:"), "{at:?}");
            }
        }
    }

    #[test]
    fn tokens_that_do_not_come_back_are_refused() {
        let pair = fixture::pair(&[]);
        let slot = Slot::new(&pair, &fixture::prompts()[0], Placement::Prefix, 3).unwrap();
        let letters: Vec<u32> =
            "the".chars().map(|c| pair.tokenizer().token_id(&c.to_string()).unwrap()).collect();
        assert_ne!(slot.trigger(&pair, "the").unwrap().unwrap(), letters, "`the` is one token");
        assert_eq!(slot.text(&pair, &letters).unwrap(), None);
        assert_eq!(slot.text(&pair, &[0]).unwrap(), None, "a special token has no text");
    }
}
