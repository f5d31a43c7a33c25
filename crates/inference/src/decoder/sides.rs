//! Which decoder a row runs on.
//!
//! Most adapters are low-rank branches beside the base's products, and all rows share one pass. One that replaces
//! weights of its base has a decoder of its own, which shares what is not replaced; a batch of both kinds is taken
//! apart by decoder, run, and put together again in row order.

use std::sync::Arc;

use candle_core::Tensor;

use super::architectures::Scalars;
use super::capture::{Activations, Capture};
use super::{Batch, Decoder, Output, Past, Positions, Sequence, Side, invocation};
use crate::adapter::Adapter;
use crate::adapter::delta::Branches;
use crate::error::Result;
use crate::prefix::{KvCache, Prefix};

/// Sequences of a batch that run on one decoder.
struct Group {
    /// `None` is the base's.
    decoder: Option<Arc<Decoder>>,
    members: Vec<usize>,
}

impl Decoder {
    /// The decoder that rows of a side run on, if it is not this one.
    ///
    /// # Errors
    /// If the weights that its adapter replaces do not fit.
    pub fn of_side(&self, adapters: &[Adapter], side: Side) -> Result<Option<Arc<Self>>> {
        match adapters.get(side.adapter) {
            Some(adapter) if !side.is_base() => adapter.decoder(self, side.scale),
            _ => Ok(None),
        }
    }

    /// Runs a batch.
    ///
    /// # Errors
    /// If a sequence is empty, too long, or follows a prefix of another side, or a wanted position
    /// does not exist.
    pub fn forward(&self, adapters: &[Adapter], batch: &mut Batch<'_, '_>) -> Result<Output> {
        self.forward_sides(adapters, batch, None)
    }

    /// The same, with the inner states at the positions where logits are wanted.
    ///
    /// # Errors
    /// As [`Self::forward`], or if an adapter of the batch has another number of layers than the base.
    pub fn forward_captured(
        &self,
        adapters: &[Adapter],
        batch: &mut Batch<'_, '_>,
    ) -> Result<(Output, Activations)> {
        self.captured(adapters, batch, false)
    }

    /// The same with the attention of those positions, which is computed once more, slowly, for them alone.
    ///
    /// # Errors
    /// As [`Self::forward_captured`], or if a sequence follows a prefix or a cache.
    pub fn forward_attended(
        &self,
        adapters: &[Adapter],
        batch: &mut Batch<'_, '_>,
    ) -> Result<(Output, Activations)> {
        self.captured(adapters, batch, true)
    }

    fn captured(
        &self,
        adapters: &[Adapter],
        batch: &mut Batch<'_, '_>,
        attention: bool,
    ) -> Result<(Output, Activations)> {
        let rows = wanted(batch).iter().sum();
        let capture = Arc::new(Capture::new(rows, &self.config, attention));
        let output = self.forward_sides(adapters, batch, Some(&capture))?;
        Ok((output, capture.activations(&self.sites)))
    }

    fn forward_sides(
        &self,
        adapters: &[Adapter],
        batch: &mut Batch<'_, '_>,
        capture: Option<&Arc<Capture>>,
    ) -> Result<Output> {
        let branches: Arc<[Branches]> = adapters.iter().map(|adapter| adapter.branches().clone()).collect();
        for sequence in batch.sequences.iter_mut().filter(|sequence| !sequence.side.is_base()) {
            if let Some(prompt) = adapters.get(sequence.side.adapter).and_then(Adapter::virtual_prompt) {
                let decoder = self.of_side(adapters, sequence.side)?;
                sequence
                    .past
                    .begin_with(|| prompt.prefix(decoder.as_deref().unwrap_or(self), sequence.side))?;
            }
        }
        match invocation::outdated(batch.sequences, &branches) {
            Some(outdated) => self.forward_anew(outdated, adapters, &branches, batch, capture),
            None => self.forward_by_side(adapters, &branches, batch, capture),
        }
    }

    /// The keys and values of embeddings `[positions, hidden]` that are no tokens, as what contexts of a side begin with.
    pub(crate) fn embedded_prefix(&self, embeddings: &Tensor, side: Side) -> Result<Prefix> {
        let dtype = self.compute.activation_dtype();
        let rounded = embeddings.to_dtype(self.compute.precision.dtype())?.to_dtype(dtype)?;
        let mut rounded = rounded.to_device(&self.compute.device)?;
        if matches!(self.config.architecture.scalars, Scalars::Granite) {
            // Its factor is of whatever enters the layers; Gemma's is of the table.
            rounded = (rounded * self.config.embedding_scale)?;
        }
        // No token has this id, so that nothing is taken for one.
        let ids = vec![u32::MAX; embeddings.dims()[0]];
        let mut cache = KvCache::new();
        let mut sequences = [Sequence { ids: &ids, side, past: Past::Cache(&mut cache) }];
        let mut batch = Batch {
            sequences: &mut sequences,
            embeddings: Some(&rounded),
            positions: Positions::Last,
            hidden_states: false,
        };
        self.forward_with(Arc::from([]), &mut batch)?;
        Ok(cache.freeze(side))
    }

    /// One pass for each decoder that the sides of a batch have.
    pub(super) fn forward_by_side(
        &self,
        adapters: &[Adapter],
        branches: &Arc<[Branches]>,
        batch: &mut Batch<'_, '_>,
        capture: Option<&Arc<Capture>>,
    ) -> Result<Output> {
        let mut groups: Vec<Group> = Vec::new();
        for (index, sequence) in batch.sequences.iter().enumerate() {
            let decoder = self.of_side(adapters, sequence.side)?;
            let same = |group: &&mut Group| match (&group.decoder, &decoder) {
                (None, None) => true,
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                _ => false,
            };
            match groups.iter_mut().find(same) {
                Some(group) => group.members.push(index),
                None => groups.push(Group { decoder, members: vec![index] }),
            }
        }
        match &groups[..] {
            [] => self.forward_seen(branches.clone(), batch, capture),
            [only] => only.decoder.as_deref().unwrap_or(self).forward_seen(branches.clone(), batch, capture),
            groups => self.forward_apart(groups, branches, batch, capture),
        }
    }

    /// One pass a group, the results in the order of the batch.
    fn forward_apart(
        &self,
        groups: &[Group],
        branches: &Arc<[Branches]>,
        batch: &mut Batch<'_, '_>,
        capture: Option<&Arc<Capture>>,
    ) -> Result<Output> {
        let lengths: Vec<usize> = batch.sequences.iter().map(|sequence| sequence.ids.len()).collect();
        let wanted = wanted(batch);
        let mut outputs = Vec::with_capacity(groups.len());
        for group in groups {
            let decoder = group.decoder.as_deref().unwrap_or(self);
            let mut own: Vec<Sequence<'_>> = group
                .members
                .iter()
                .map(|&index| {
                    let sequence = &mut batch.sequences[index];
                    let past = std::mem::replace(&mut sequence.past, Past::None);
                    Sequence { ids: sequence.ids, side: sequence.side, past }
                })
                .collect();
            let embeddings = batch
                .embeddings
                .map(|all| all.index_select(&rows(&group.members, &lengths, all)?, 0))
                .transpose()?;
            let chosen: Vec<Vec<usize>> = match batch.positions {
                Positions::Chosen(lists) => {
                    group.members.iter().filter_map(|&index| lists.get(index).cloned()).collect()
                }
                _ => Vec::new(),
            };
            let seen = capture.map(|capture| {
                let rows = group.members.iter().map(|&index| wanted.get(index).copied().unwrap_or(0)).sum();
                Arc::new(Capture::new(rows, &self.config, capture.has_attention()))
            });
            let output = decoder.forward_seen(
                branches.clone(),
                &mut Batch {
                    sequences: &mut own,
                    embeddings: embeddings.as_ref(),
                    positions: match batch.positions {
                        Positions::Chosen(_) => Positions::Chosen(&chosen),
                        other => other,
                    },
                    hidden_states: batch.hidden_states,
                },
                seen.as_ref(),
            );
            // Also after an error every sequence has its past again.
            for (&index, own) in group.members.iter().zip(own) {
                batch.sequences[index].past = own.past;
            }
            outputs.push(output?);
            if let (Some(capture), Some(seen)) = (capture, seen) {
                let starts = starts(&wanted);
                let places: Vec<usize> =
                    group.members.iter().flat_map(|&i| starts[i]..starts[i] + wanted[i]).collect();
                capture.take(&seen, &places);
            }
        }
        let order: Vec<usize> = groups.iter().flat_map(|group| group.members.iter().copied()).collect();
        let logits: Vec<&Tensor> = outputs.iter().map(|output| &output.logits).collect();
        let states = outputs[0].hidden_states.len();
        Ok(Output {
            logits: in_order(&logits, &order, &wanted)?,
            hidden_states: (0..states)
                .map(|state| {
                    let rows: Vec<&Tensor> =
                        outputs.iter().map(|output| &output.hidden_states[state]).collect();
                    in_order(&rows, &order, &lengths)
                })
                .collect::<Result<_>>()?,
        })
    }
}

/// How many positions of each sequence are wanted.
fn wanted(batch: &Batch<'_, '_>) -> Vec<usize> {
    match batch.positions {
        Positions::All => batch.sequences.iter().map(|sequence| sequence.ids.len()).collect(),
        Positions::Last => vec![1; batch.sequences.len()],
        Positions::Chosen(lists) => lists.iter().map(Vec::len).collect(),
    }
}

/// Indices of the rows of some sequences.
fn rows(members: &[usize], lengths: &[usize], like: &Tensor) -> candle_core::Result<Tensor> {
    let starts = starts(lengths);
    let rows: Vec<u32> =
        members.iter().flat_map(|&i| starts[i] as u32..(starts[i] + lengths[i]) as u32).collect();
    Tensor::from_slice(&rows, rows.len(), like.device())
}

/// Parts one under the other, whose rows are those of sequences in `order`, in the sequences' own order.
fn in_order(parts: &[&Tensor], order: &[usize], lengths: &[usize]) -> Result<Tensor> {
    let stacked = Tensor::cat(parts, 0)?;
    let of_order: Vec<usize> = order.iter().map(|&i| lengths[i]).collect();
    let mut place = vec![0; order.len()];
    for (position, start) in starts(&of_order).into_iter().enumerate() {
        place[order[position]] = start;
    }
    let index: Vec<u32> =
        place.iter().zip(lengths).flat_map(|(&start, &len)| start as u32..(start + len) as u32).collect();
    let index = Tensor::from_slice(&index, index.len(), stacked.device())?;
    Ok(stacked.index_select(&index, 0)?)
}

fn starts(lengths: &[usize]) -> Vec<usize> {
    let sums = lengths.iter().scan(0, |end, length| {
        let start = *end;
        *end += length;
        Some(start)
    });
    sums.collect()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn parts_come_back_in_the_order_of_the_sequences() {
        // Sequences of 2, 1 and 3 rows; the first pass had 0 and 2, the second 1.
        let first = Tensor::new(&[[0f32], [1.], [3.], [4.], [5.]], &Device::Cpu).unwrap();
        let second = Tensor::new(&[[2f32]], &Device::Cpu).unwrap();
        let all = in_order(&[&first, &second], &[0, 2, 1], &[2, 1, 3]).unwrap();
        assert_eq!(all.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [0., 1., 2., 3., 4., 5.]);
        let picked = rows(&[0, 2], &[2, 1, 3], &all).unwrap();
        assert_eq!(picked.to_vec1::<u32>().unwrap(), [0, 1, 3, 4, 5]);
    }
}
