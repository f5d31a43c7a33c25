//! All layers of a decoder over a batch, forwards and backwards.
//!
//! A batch that is large enough is cut into parts of whole sequences, and each thread takes one part after the other
//! through all layers alone: nobody waits for another thread within a layer, and a part's rows stay in the caches from
//! one operation to the next. A small batch goes through in one part, whose products the threads share. A row's result
//! does not depend on its batch, so neither does it on the cut.
//!
//! candle's autograd clears and sums a buffer for every edge of its graph, in a second pool of threads that spins. Our
//! form therefore is one node for all layers, which keeps what their gradients need. Layers that have no such form are
//! differentiated by candle.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Storage, Tensor};
use rayon::prelude::*;

use super::capture::{Capture, Watched};
use super::layer::{Layer, Pass, Picked, Trace};
use super::rows::Rows;
use super::{Decoder, Sequence, invocation};
use crate::adapter::delta::Branches;
use crate::error::Result;
use crate::kernels;

/// Rows of a part: enough that a weight is used often once it is read, few enough for the caches.
const PART_ROWS: usize = 256;
/// Rows that a part must have for each thread. Every thread reads all weights, and all of them share the memory.
const LEAST_PART_ROWS: usize = 8;
/// A part may be so many times as long as its share.
const UNEVEN: usize = 2;

/// Some sequences of a batch, on their way through the layers.
struct Part<'s, 'a> {
    /// Rows of the batch.
    rows: Range<usize>,
    sequences: &'s mut [Sequence<'a>],
    pass: Pass,
}

impl Decoder {
    /// Rows `[rows, hidden]` through all layers. Gives the wanted ones, `[wanted, hidden]`, or all of them if the
    /// `states` before each layer are wanted, too; those are outside candle's graph in our fused form.
    pub(super) fn through_layers(
        &self,
        x: &Tensor,
        adapters: &Arc<[Branches]>,
        sequences: &mut [Sequence<'_>],
        wanted: &[u32],
        mut states: Option<&mut Vec<Tensor>>,
        capture: Option<&Arc<Capture>>,
    ) -> Result<Tensor> {
        let fused = self.compute.fused().is_some();
        let recorded = fused && x.track_op() && self.layers.iter().all(|layer| layer.is_recordable());
        let input = if recorded { x.detach() } else { x.clone() };
        let whole = states.is_some() || !fused || adapters.iter().any(Branches::has_sums);
        let mut parts = self.parts(adapters, sequences, wanted, whole, capture)?;
        let run = |part: &mut Part<'_, '_>, states: Option<&mut Vec<Tensor>>| {
            part.forward(&self.layers, &input, recorded, states)
        };
        let done: Vec<(Tensor, Vec<Trace>)> = match &mut parts[..] {
            [only] => vec![run(only, states.take())?],
            parts => parts
                .par_iter_mut()
                .with_max_len(1)
                .map(|part| kernels::alone(|| run(part, None)))
                .collect::<Result<_>>()?,
        };
        let (outputs, traces): (Vec<Tensor>, Vec<Vec<Trace>>) = done.into_iter().unzip();
        let output = joined(&outputs)?;
        if !recorded {
            return Ok(output);
        }
        let mut first = 0;
        let recordings = parts.into_iter().zip(traces).zip(&outputs).map(|((part, traces), output)| {
            let wanted = first..first + output.dims()[0];
            first = wanted.end;
            Recording { wanted, pass: part.pass, traces }
        });
        let parts = recordings.collect();
        Ok(x.apply_op1(Layers { layers: self.layers.clone(), output, parts })?)
    }

    /// Cuts a batch, or leaves it `whole`.
    fn parts<'s, 'a>(
        &self,
        adapters: &Arc<[Branches]>,
        mut sequences: &'s mut [Sequence<'a>],
        wanted: &[u32],
        whole: bool,
        capture: Option<&Arc<Capture>>,
    ) -> Result<Vec<Part<'s, 'a>>> {
        let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.ids.len()).collect();
        let cuts = if whole { None } else { cuts(&lengths, wanted, rayon::current_num_threads()) };
        let cuts = cuts.unwrap_or_else(|| std::iter::once(0..lengths.len()).collect());
        let mut parts = Vec::with_capacity(cuts.len());
        let (mut first_row, all, mut wanted) = (0, wanted.len(), wanted);
        for cut in cuts {
            let (own, others) = sequences.split_at_mut(cut.len());
            sequences = others;
            let mut rows = invocation::rows(own, adapters);
            let end = first_row + rows.total;
            let (own_wanted, rest) = wanted.split_at(wanted.partition_point(|&row| (row as usize) < end));
            let first_wanted = all - wanted.len();
            wanted = rest;
            let index: Vec<u32> = own_wanted.iter().map(|row| row - first_row as u32).collect();
            rows.watched = capture.map(|capture| Watched::new(capture, &index, first_wanted));
            let pass = Pass {
                angles: self.rotary.angles(&rows.spans)?,
                adapters: adapters.clone(),
                picked: self.picked(&rows, &index)?,
                rows,
            };
            parts.push(Part { rows: first_row..end, sequences: own, pass });
            first_row = end;
        }
        Ok(parts)
    }

    /// The wanted rows as a batch of their own: one-token spans with the sides of their rows.
    pub(super) fn picked(&self, rows: &Rows, wanted: &[u32]) -> Result<Picked> {
        Ok(Picked {
            index: Tensor::from_slice(wanted, wanted.len(), &self.compute.device)?,
            rows: rows.picked(wanted),
        })
    }
}

impl Part<'_, '_> {
    fn forward(
        &mut self,
        layers: &[Arc<Layer>],
        x: &Tensor,
        recorded: bool,
        mut states: Option<&mut Vec<Tensor>>,
    ) -> Result<(Tensor, Vec<Trace>)> {
        let mut x = x.narrow(0, self.rows.start, self.rows.len())?;
        let mut traces = Vec::with_capacity(if recorded { layers.len() } else { 0 });
        for (index, layer) in layers.iter().enumerate() {
            if let Some(states) = &mut states {
                states.push(x.clone());
            }
            if let Some((before, watched)) = index.checked_sub(1).zip(self.pass.rows.watched.as_ref()) {
                watched.residual(before, &x)?;
            }
            let picked = index + 1 == layers.len() && states.is_none();
            let (output, trace) = layer.forward(&x, &self.pass, self.sequences, picked, recorded)?;
            x = output;
            traces.extend(trace);
            if index + 1 == layers.len()
                && let Some(watched) = &self.pass.rows_after_attention(picked).watched
            {
                watched.residual(index, &x)?;
            }
        }
        Ok((x, traces))
    }
}

/// All layers as a node of the graph, with what their gradients need.
struct Layers {
    layers: Arc<[Arc<Layer>]>,
    output: Tensor,
    parts: Vec<Recording>,
}

/// A part that went through.
struct Recording {
    /// Rows of the output.
    wanted: Range<usize>,
    pass: Pass,
    traces: Vec<Trace>,
}

impl Layers {
    /// The gradient of the input `[rows, hidden]` from that of the output.
    fn gradient(&self, grad: &Tensor) -> Result<Tensor> {
        self.layers.iter().for_each(|layer| layer.prepare_gradient());
        let backward = |part: &Recording| -> Result<Tensor> {
            let mut grad = grad.narrow(0, part.wanted.start, part.wanted.len())?;
            for (layer, trace) in self.layers.iter().zip(&part.traces).rev() {
                grad = layer.gradient(trace, &part.pass, &grad)?;
            }
            Ok(grad)
        };
        let parts: Vec<Tensor> = match &self.parts[..] {
            [only] => vec![backward(only)?],
            parts => parts
                .par_iter()
                .with_max_len(1)
                .map(|part| kernels::alone(|| backward(part)))
                .collect::<Result<_>>()?,
        };
        joined(&parts)
    }
}

impl CustomOp1 for Layers {
    fn name(&self) -> &'static str {
        "decoder layers"
    }

    /// The layers have run already.
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let output = self.output.contiguous()?;
        let (storage, layout) = output.storage_and_layout();
        match (&*storage, layout.start_offset()) {
            (Storage::Cpu(storage), 0) => Ok((storage.clone(), output.shape().clone())),
            _ => Err(candle_core::Error::Msg("expected the fused form on the cpu".into())),
        }
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        // As in the forward pass, everything runs within the pool.
        rayon::scope(|_| self.gradient(grad)).map(Some).map_err(candle_core::Error::wrap)
    }
}

fn joined(parts: &[Tensor]) -> Result<Tensor> {
    Ok(if let [only] = parts { only.clone() } else { Tensor::cat(parts, 0)? })
}

/// Ranges of sequences of about equal numbers of rows, as many for each thread; `None` if the batch is too small, or
/// cannot be cut well.
fn cuts(lengths: &[usize], wanted: &[u32], threads: usize) -> Option<Vec<Range<usize>>> {
    let total: usize = lengths.iter().sum();
    let threads = threads.max(1);
    let rounds = total.div_ceil(threads * PART_ROWS).max(1);
    let count = rounds * threads;
    let share = total.div_ceil(count);
    if count == 1 || share < LEAST_PART_ROWS * threads || lengths.len() < count {
        return None;
    }
    let mut cuts = Vec::with_capacity(count);
    let (mut first, mut rows, mut part_rows, mut wanted) = (0, 0, 0, wanted);
    for (index, length) in lengths.iter().enumerate() {
        rows += length;
        part_rows += length;
        // The part ends where its share of all rows does.
        if rows * count < (cuts.len() + 1) * total && index + 1 < lengths.len() {
            continue;
        }
        let own = wanted.partition_point(|&row| (row as usize) < rows);
        if own == 0 || part_rows > UNEVEN * share {
            return None;
        }
        wanted = &wanted[own..];
        cuts.push(first..index + 1);
        (first, part_rows) = (index + 1, 0);
    }
    Some(cuts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last_rows(lengths: &[usize]) -> Vec<u32> {
        let ends = lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        });
        ends.map(|end| end as u32 - 1).collect()
    }

    #[test]
    fn parts_are_even_whole_and_as_many_for_each_thread() {
        for (lengths, threads, expected) in [
            (vec![64; 16], 2, Some(vec![0..4, 4..8, 8..12, 12..16])),
            (vec![64; 16], 1, Some(vec![0..4, 4..8, 8..12, 12..16])),
            (vec![64; 4], 2, Some(vec![0..2, 2..4])),
            (vec![1; 32], 2, Some(vec![0..16, 16..32])),
            (vec![1; 31], 2, Some(vec![0..16, 16..31])),
            (vec![1; 30], 2, None),
            (vec![64; 16], 16, None),
            (vec![512], 2, None),
            (vec![10, 10, 600, 10], 2, None),
            (vec![64; 4], 1, None),
            (vec![100, 30, 70, 60], 2, Some(vec![0..2, 2..4])),
        ] {
            assert_eq!(cuts(&lengths, &last_rows(&lengths), threads), expected, "{lengths:?} {threads}");
        }
    }

    #[test]
    fn a_part_without_a_wanted_row_is_not_made() {
        assert_eq!(cuts(&[64; 4], &[255], 2), None);
        assert!(cuts(&[64; 4], &[0, 130, 255], 2).is_some());
    }
}
