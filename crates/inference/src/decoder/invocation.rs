//! Where the branches of an activated LoRA (aLoRA) begin to act in a context.
//!
//! They act from the last occurrence of the adapter's invocation tokens on, and nowhere in a context without them
//! (Greenewald et al. 2025, <https://arxiv.org/abs/2504.12397>; `calculate_alora_offsets` of PEFT). The context is all
//! that a pass has before it, shared prefixes included. A growing cache keeps what its first pass, the prompt, settled,
//! as PEFT's `generate` does: tokens that the model says do not invoke its adapter.

use std::sync::Arc;

use candle_core::Tensor;

use super::capture::Capture;
use super::rows::Rows;
use super::{Batch, Decoder, Output, Past, Positions, Sequence};
use crate::adapter::Adapter;
use crate::adapter::delta::Branches;
use crate::error::Result;
use crate::prefix::KvCache;

/// The place of the last occurrence of some tokens.
pub(crate) fn last_occurrence(ids: &[u32], tokens: &[u32]) -> Option<usize> {
    if tokens.is_empty() {
        return None;
    }
    ids.windows(tokens.len()).rposition(|window| window == tokens)
}

/// The rows of a batch, each with the branches that act on it.
pub(super) fn rows(sequences: &[Sequence<'_>], adapters: &[Branches]) -> Rows {
    Rows::new(sequences.iter().map(|s| (s.ids.len(), s.past_len(), s.side, active_from(s, adapters))))
}

/// The position from which the branches of a sequence's side act; past any position if they do not.
pub(super) fn active_from(sequence: &Sequence<'_>, adapters: &[Branches]) -> usize {
    let invocation = adapters.get(sequence.side.adapter).and_then(Branches::invocation);
    let Some(tokens) = invocation.filter(|_| !sequence.side.is_base()) else { return 0 };
    if let Past::Cache(cache) = &sequence.past
        && let Some(settled) = cache.settled()
    {
        return settled;
    }
    let mut context = sequence.past.prefix().map_or_else(Vec::new, |prefix| prefix.ids());
    context.extend_from_slice(sequence.ids);
    last_occurrence(&context, tokens).unwrap_or(usize::MAX)
}

/// For each sequence the tokens of its prefix, if branches act on other positions of the prefix than those for which
/// its keys and values were computed; `None` if there is no such sequence.
pub(super) fn outdated(sequences: &[Sequence<'_>], adapters: &[Branches]) -> Option<Vec<Vec<u32>>> {
    if adapters.iter().all(|branches| branches.invocation().is_none()) {
        return None;
    }
    let again = |sequence: &Sequence<'_>| match (&sequence.past, sequence.past.prefix()) {
        (Past::Cache(cache), _) if cache.settled().is_some() => Vec::new(),
        (_, Some(prefix)) if !prefix.begins(active_from(sequence, adapters)) => prefix.ids(),
        _ => Vec::new(),
    };
    let outdated: Vec<Vec<u32>> = sequences.iter().map(again).collect();
    outdated.iter().any(|ids| !ids.is_empty()).then_some(outdated)
}

impl Decoder {
    /// Runs a batch in which some prefixes cannot be continued: their tokens are run again before the new ones.
    pub(super) fn forward_anew(
        &self,
        outdated: Vec<Vec<u32>>,
        adapters: &[Adapter],
        branches: &Arc<[Branches]>,
        batch: &mut Batch<'_, '_>,
        capture: Option<&Arc<Capture>>,
    ) -> Result<Output> {
        let leads: Vec<usize> = outdated.iter().map(Vec::len).collect();
        let lengths: Vec<usize> = batch.sequences.iter().map(|sequence| sequence.ids.len()).collect();
        let embeddings = match batch.embeddings {
            Some(own) => Some(self.with_leads(own, &outdated, adapters, batch.sequences)?),
            None => None,
        };
        let chosen: Vec<Vec<usize>> = match batch.positions {
            Positions::Chosen(lists) => lists
                .iter()
                .zip(&leads)
                .map(|(list, lead)| list.iter().map(|position| lead + position).collect())
                .collect(),
            Positions::All => {
                leads.iter().zip(&lengths).map(|(lead, len)| (*lead..lead + len).collect()).collect()
            }
            Positions::Last => leads.iter().zip(&lengths).map(|(lead, len)| vec![lead + len - 1]).collect(),
        };
        let whole: Vec<Vec<u32>> = outdated
            .into_iter()
            .zip(batch.sequences.iter())
            .map(|(mut ids, sequence)| {
                ids.extend_from_slice(sequence.ids);
                ids
            })
            .collect();
        let mut own = Vec::with_capacity(whole.len());
        for ((ids, sequence), lead) in whole.iter().zip(batch.sequences.iter_mut()).zip(&leads) {
            let past = match &mut sequence.past {
                Past::Cache(cache) => {
                    if *lead > 0 {
                        **cache = KvCache::new();
                    }
                    Past::Cache(cache)
                }
                Past::Shared(prefix) if *lead == 0 => Past::Shared(prefix.clone()),
                _ => Past::None,
            };
            own.push(Sequence { ids, side: sequence.side, past });
        }
        let mut output = self.forward_by_side(
            adapters,
            branches,
            &mut Batch {
                sequences: &mut own,
                embeddings: embeddings.as_ref(),
                positions: Positions::Chosen(&chosen),
                hidden_states: batch.hidden_states,
            },
            capture,
        )?;
        if !output.hidden_states.is_empty() {
            let mut first = 0;
            let mut kept = Vec::new();
            for (lead, len) in leads.iter().zip(&lengths) {
                kept.extend((first + lead) as u32..(first + lead + len) as u32);
                first += lead + len;
            }
            let index = Tensor::from_slice(&kept, kept.len(), &self.compute.device)?;
            for states in &mut output.hidden_states {
                *states = states.index_select(&index, 0)?;
            }
        }
        Ok(output)
    }

    /// Input embeddings `[rows, hidden]` with those of the tokens that are run again before each sequence's own.
    fn with_leads(
        &self,
        own: &Tensor,
        leads: &[Vec<u32>],
        adapters: &[Adapter],
        sequences: &[Sequence<'_>],
    ) -> Result<Tensor> {
        let (mut pieces, mut first) = (Vec::new(), 0);
        for (ids, sequence) in leads.iter().zip(sequences) {
            if !ids.is_empty() {
                let decoder = self.of_side(adapters, sequence.side)?;
                pieces.push(decoder.as_deref().unwrap_or(self).embed(ids)?);
            }
            pieces.push(own.narrow(0, first, sequence.ids.len())?);
            first += sequence.ids.len();
        }
        Ok(Tensor::cat(&pieces, 0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_several_occurrences_counts() {
        assert_eq!(last_occurrence(&[1, 2, 3, 1, 2, 4], &[1, 2]), Some(3));
        assert_eq!(last_occurrence(&[1, 1, 1], &[1, 1]), Some(1), "they may overlap");
        assert_eq!(last_occurrence(&[1, 2], &[1, 2, 3]), None);
        assert_eq!(last_occurrence(&[1, 2], &[]), None);
    }
}
