//! Running many contexts of one side: batches in, rows of logits out, none of them kept.

use std::sync::Arc;

use candle_core::{CpuStorage, Device, Storage, Tensor};
use inference::{Batch, Positions, Prefix, Sequence, Side};
use rayon::prelude::*;
use report::StatisticsError;
use report::record::Cost;

use crate::error::Result;
use crate::observe::Observer;
use crate::progress;

/// A shared beginning of fewer tokens does not pay for its own pass.
const MIN_SHARED: usize = 4;

/// Runs contexts of one side, in order, and hands the logits of the last `rows_each` positions of each
/// to `read`, as `(index, rows [rows_each, width], width)`.
///
/// # Errors
/// As `read`, or if the model fails or the user stops.
pub(crate) fn read_rows<T: Send>(
    observer: &Observer<'_>,
    contexts: &[Vec<u32>],
    side: Side,
    rows_each: usize,
    read: impl Fn(usize, &[f32], usize) -> Result<T, StatisticsError> + Sync,
) -> Result<Vec<T>> {
    read_batches(observer, contexts, side, rows_each, |batch, logits| {
        with_rows(logits, |logits, width| {
            logits
                .par_chunks(rows_each * width)
                .zip(batch.par_iter())
                .map(|(rows, &i)| read(i, rows, width))
                .collect::<Result<Vec<_>, _>>()
        })
    })
}

/// Runs contexts of one side and hands the logits of the last `rows_each` positions of each, batch by
/// batch, to `read`, which gives one result for each index of the batch; results are in the order of the
/// contexts. What the contexts share at their beginning is computed once.
///
/// # Errors
/// As `read`, or if the model fails or the user stops.
pub(super) fn read_batches<T>(
    observer: &Observer<'_>,
    contexts: &[Vec<u32>],
    side: Side,
    rows_each: usize,
    read: impl Fn(&[usize], &Tensor) -> Result<Vec<T>>,
) -> Result<Vec<T>> {
    let pair = observer.pair();
    let count = |forwards: usize, shared: usize| {
        observer.charge(Cost {
            token_forwards: forwards as u64,
            shared_tokens: shared as u64,
            ..Cost::default()
        });
    };
    let shared = common_beginning(contexts, rows_each);
    let prefix: Option<Arc<Prefix>> = if contexts.len() > 1 && shared >= MIN_SHARED {
        count(shared, 0);
        Some(pair.prefix(&contexts[0][..shared], side)?)
    } else {
        None
    };
    let shared = prefix.as_ref().map_or(0, |prefix| prefix.len);
    let own: Vec<&[u32]> = contexts.iter().map(|ids| &ids[shared..]).collect();
    // Neighbours of one length form runs that the attention takes together.
    let mut order: Vec<usize> = (0..own.len()).collect();
    order.sort_by_key(|&index| (own[index].len(), index));
    let mut results: Vec<Option<T>> = contexts.iter().map(|_| None).collect();
    let mut start = 0;
    while start < order.len() {
        progress::check(observer.progress())?;
        let mut end = start;
        let mut tokens = 0;
        while end < order.len() {
            tokens += own[order[end]].len();
            let full = tokens > pair.row_limit() || (end - start + 1) * rows_each > pair.logit_row_limit();
            if end > start && full {
                break;
            }
            end += 1;
        }
        let batch = &order[start..end];
        let wanted: Vec<Vec<usize>> =
            batch.iter().map(|&i| (own[i].len() - rows_each..own[i].len()).collect()).collect();
        let mut sequences: Vec<Sequence<'_>> = batch
            .iter()
            .map(|&i| match &prefix {
                Some(prefix) => Sequence::after(prefix, own[i]),
                None => Sequence::new(own[i], side),
            })
            .collect();
        let mut forward = Batch {
            sequences: &mut sequences,
            embeddings: None,
            positions: Positions::Chosen(&wanted),
            hidden_states: false,
        };
        let logits = pair.forward(&mut forward)?.logits;
        count(batch.iter().map(|&i| own[i].len()).sum(), shared * batch.len());
        let readings = read(batch, &logits)?;
        for (&i, reading) in batch.iter().zip(readings) {
            results[i] = Some(reading);
        }
        start = end;
    }
    Ok(results.into_iter().flatten().collect())
}

/// Lends the rows of `logits` `[rows, width]`, f32, without a copy where they are on the CPU.
fn with_rows<T>(
    logits: &Tensor,
    use_rows: impl FnOnce(&[f32], usize) -> Result<T, StatisticsError>,
) -> Result<T> {
    let logits = logits.to_device(&Device::Cpu).and_then(|logits| logits.contiguous());
    let logits = logits.map_err(inference::Error::from)?;
    let width = logits.dims2().map_err(inference::Error::from)?.1;
    let (storage, layout) = logits.storage_and_layout();
    if let (Storage::Cpu(CpuStorage::F32(all)), Some((from, to))) = (&*storage, layout.contiguous_offsets()) {
        return Ok(use_rows(&all[from..to], width)?);
    }
    let rows = logits.flatten_all().and_then(|flat| flat.to_vec1::<f32>()).map_err(inference::Error::from)?;
    Ok(use_rows(&rows, width)?)
}

/// How many first tokens all contexts share, leaving each at least `own` of its own.
fn common_beginning(contexts: &[Vec<u32>], own: usize) -> usize {
    let Some((first, others)) = contexts.split_first() else { return 0 };
    others
        .iter()
        .map(|ids| {
            ids.iter().zip(first).take_while(|(a, b)| a == b).count().min(ids.len().saturating_sub(own))
        })
        .fold(first.len().saturating_sub(own), usize::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_beginning_leaves_a_token() {
        assert_eq!(common_beginning(&[vec![1, 2, 3], vec![1, 2, 4]], 1), 2);
        assert_eq!(common_beginning(&[vec![1, 2, 3], vec![1, 2]], 1), 1);
        assert_eq!(common_beginning(&[], 1), 0);
        assert_eq!(common_beginning(&[vec![5]], 1), 0);
    }
}
