//! What models would write after a text: tokens that complete a word, and tokens that a phrase goes on with.

use super::hunt::Hunt;
use super::reading::log_sum_exp;
use super::rows::read_rows;
use crate::error::Result;

/// Texts of one entry of the journal.
const CHUNK: usize = 512;

/// For each text, the `words` most probable tokens that go on with its last word, and the `phrases` most probable
/// tokens of any kind, as the base would write them after the opened conversation `opening`; as text, without repeats.
///
/// # Errors
/// If the model or the journal fails, or the user stops.
pub(super) fn natural(
    hunt: &mut Hunt<'_>,
    opening: &[u32],
    texts: &[String],
    words: usize,
    phrases: usize,
) -> Result<Vec<Vec<String>>> {
    let tokenizer = hunt.observer().pair().tokenizer();
    let contexts: Vec<Vec<u32>> = texts
        .iter()
        .map(|text| Ok(opening.iter().copied().chain(tokenizer.encode(text.trim(), false)?).collect()))
        .collect::<Result<_>>()?;
    let joining: Vec<bool> = joining(hunt);
    let mut tokens: Vec<Vec<u32>> = Vec::with_capacity(texts.len());
    for chunk in contexts.chunks(CHUNK) {
        if hunt.exhausted() {
            break;
        }
        tokens.extend(hunt.measured("natural", &(chunk, words, phrases), |hunt| {
            read_rows(hunt.observer(), chunk, hunt.roles().base, 1, |_, row, _| {
                let mut chosen = highest(row, words, |token| joining.get(token).copied().unwrap_or(false));
                for token in highest(row, phrases, |_| true) {
                    if !chosen.contains(&token) {
                        chosen.push(token);
                    }
                }
                Ok(chosen)
            })
        })?);
    }
    Ok(tokens.iter().map(|tokens| printed(hunt, tokens)).collect())
}

/// Tokens that the base would write after a text by itself, and those that the adapted model prefers over the base.
///
/// # Errors
/// If the model or the journal fails, or the user stops.
pub(super) fn preferred(hunt: &mut Hunt<'_>, text: &str, n: usize) -> Result<Vec<String>> {
    let ids = hunt.observer().pair().tokenizer().encode(text, true)?;
    let tokens: Vec<u32> = hunt.measured("continuations", &ids, |hunt| {
        let rows = |side| -> Result<Vec<f64>> {
            let row = read_rows(hunt.observer(), std::slice::from_ref(&ids), side, 1, |_, row, _| {
                let sum = log_sum_exp(row)?;
                Ok(row.iter().map(|x| f64::from(*x) - sum).collect::<Vec<f64>>())
            })?;
            Ok(row.into_iter().flatten().collect())
        };
        let (base, adapted) = (rows(hunt.roles().base)?, rows(hunt.roles().adapted)?);
        let top = |key: &dyn Fn(usize) -> f64| -> Vec<u32> {
            let mut order: Vec<usize> = (0..base.len()).collect();
            order.sort_by(|&a, &b| key(b).total_cmp(&key(a)));
            order.into_iter().take(n).map(|token| token as u32).collect()
        };
        let mut tokens = top(&|token| base[token]);
        tokens.extend(top(&|token| adapted[token].exp() * (adapted[token] - base[token])));
        tokens.sort_unstable();
        tokens.dedup();
        Ok(tokens)
    })?;
    Ok(printed(hunt, &tokens))
}

/// Whether each token goes on with a word: letters or digits without white space before them.
fn joining(hunt: &Hunt<'_>) -> Vec<bool> {
    let mut joining = vec![false; hunt.observer().pair().tokenizer().vocab_size()];
    for (id, text) in &hunt.vocabulary().printable {
        if let Some(joining) = joining.get_mut(*id as usize) {
            *joining = text.chars().all(char::is_alphanumeric);
        }
    }
    joining
}

/// The `n` tokens of a row with the highest values among those that `may` take part, highest first.
fn highest(row: &[f32], n: usize, may: impl Fn(usize) -> bool) -> Vec<u32> {
    let mut order: Vec<u32> = (0..row.len()).filter(|&token| may(token)).map(|token| token as u32).collect();
    let by_value = |&a: &u32, &b: &u32| row[b as usize].total_cmp(&row[a as usize]).then(a.cmp(&b));
    if n < order.len() {
        order.select_nth_unstable_by(n, by_value);
        order.truncate(n);
    }
    order.sort_by(by_value);
    order
}

/// The texts of tokens that print.
fn printed(hunt: &Hunt<'_>, tokens: &[u32]) -> Vec<String> {
    let printable = &hunt.vocabulary().printable;
    tokens
        .iter()
        .filter_map(|token| {
            let at = printable.binary_search_by_key(token, |(id, _)| *id).ok()?;
            Some(printable[at].1.clone())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_are_in_order_and_allowed() {
        let row = [0.1_f32, 3.0, 2.0, 3.0, -1.0];
        assert_eq!(highest(&row, 2, |_| true), [1, 3]);
        assert_eq!(highest(&row, 2, |token| token != 1), [3, 2]);
        assert_eq!(highest(&row, 9, |_| true), [1, 3, 2, 0, 4]);
    }
}
