//! Views of tensors as flat rows, and fresh outputs filled row by row.

use super::threads::threads;
use candle_core::{CpuStorage, DType, Device, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Below this many elements, starting a second thread costs more than it saves.
const PARALLEL_ELEMENTS: usize = 1 << 15;

/// A matrix `[count, width]` whose rows are `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    data: &'a [f32],
    pub(super) count: usize,
    pub(super) width: usize,
    pub(super) stride: usize,
}

impl<'a> Rows<'a> {
    /// The last dimension of a tensor as rows; the earlier ones are counted together.
    pub(super) fn new(op: &'static str, storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let CpuStorage::F32(data) = storage else {
            bail!("{op}: expected f32, found {:?}", storage_dtype(storage))
        };
        let Some((count, width, stride)) = row_strides(layout) else {
            bail!("{op}: expected contiguous rows, found strides {:?}", layout.stride())
        };
        let start = layout.start_offset();
        let end = if count == 0 { start } else { start + (count - 1) * stride + width };
        let Some(data) = data.get(start..end) else {
            bail!("{op}: expected {end} elements, found {}", data.len())
        };
        Ok(Self { data, count, width, stride })
    }

    /// Rows of a plain slice.
    pub(super) fn of_slice(data: &'a [f32], width: usize) -> Self {
        Self { data, count: data.len().checked_div(width).unwrap_or(0), width, stride: width }
    }

    /// Row `i`.
    #[inline(always)]
    pub(super) fn row(&self, i: usize) -> &'a [f32] {
        &self.data[i * self.stride..i * self.stride + self.width]
    }

    /// Some of the rows.
    pub(super) fn part(&self, rows: &Range<usize>) -> Self {
        Self { data: &self.data[rows.start * self.stride..], count: rows.len(), ..*self }
    }

    /// All elements from the first row's first to the last row's last.
    pub(super) fn data(&self) -> &'a [f32] {
        self.data
    }
}

/// Rows, width and stride, if the tensor is a matrix of contiguous rows.
fn row_strides(layout: &Layout) -> Option<(usize, usize, usize)> {
    let width = *layout.dims().last()?;
    if layout.is_contiguous() {
        return Some((layout.shape().elem_count().checked_div(width).unwrap_or(0), width, width));
    }
    match (layout.dims(), layout.stride()) {
        (&[count, _], &[stride, inner]) if inner == 1 && stride >= width => Some((count, width, stride)),
        _ => None,
    }
}

/// The tensor itself if the operations can read it, else a contiguous copy.
pub(super) fn readable(op: &'static str, x: &Tensor) -> Result<Tensor> {
    if x.dtype() != DType::F32 || !matches!(x.device(), Device::Cpu) {
        bail!(
            "{op}: expected an f32 tensor on the cpu, found {:?} on {:?}",
            x.dtype(),
            x.device().location()
        );
    }
    if row_strides(x.layout()).is_some() { Ok(x.clone()) } else { x.contiguous() }
}

fn storage_dtype(storage: &CpuStorage) -> DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}

/// Calls `read` with the tensor's rows.
pub(super) fn with_rows<T>(
    op: &'static str,
    x: &Tensor,
    read: impl FnOnce(Rows<'_>) -> Result<T>,
) -> Result<T> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => read(Rows::new(op, storage, layout)?),
        _ => bail!("{op}: expected a tensor on the cpu, found {:?}", x.device().location()),
    }
}

/// A fresh `[count, width]` buffer. `fill` gets the index of a first row and the places of it and some rows after it;
/// it runs on several threads if the buffer is large.
///
/// # Safety
/// `fill` must write every place that it is given.
pub(super) unsafe fn build<T: Copy + Send + Sync>(
    count: usize,
    width: usize,
    fill: impl Fn(usize, &mut [MaybeUninit<T>]) + Sync,
) -> Vec<T> {
    let fill_all = |out: SharedPlaces<T>| {
        each_part(count, width, |first, rows| {
            // SAFETY: parts do not overlap.
            fill(first, unsafe { out.get(first * width, rows * width) });
        });
    };
    // SAFETY: the parts make up the whole, and `fill` writes them by the caller's promise.
    unsafe { build_shared(count * width, fill_all) }
}

/// Calls `task` with the first row and the number of rows of each part of a `[count, width]` buffer.
fn each_part(count: usize, width: usize, task: impl Fn(usize, usize) + Sync) {
    if count * width == 0 {
        return;
    }
    let rows = rows_per_task(count, width);
    let part = |i: usize| task(i * rows, rows.min(count - i * rows));
    if rows >= count { part(0) } else { (0..count.div_ceil(rows)).into_par_iter().for_each(part) }
}

/// The places of a fresh buffer that several threads fill, each its own part.
#[derive(Clone, Copy)]
pub(super) struct SharedPlaces<T>(*mut T);

// SAFETY: only `get` gives access, and its callers promise to stay apart.
unsafe impl<T: Send> Send for SharedPlaces<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedPlaces<T> {}

impl<T> SharedPlaces<T> {
    /// `len` places from `start`.
    ///
    /// # Safety
    /// They lie within the capacity that [`build_shared`] was given, and no other reference to any of them is alive.
    #[inline(always)]
    pub(super) unsafe fn get<'a>(self, start: usize, len: usize) -> &'a mut [MaybeUninit<T>] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start).cast(), len) }
    }
}

/// A fresh buffer of `len` elements, filled by `fill` from any number of threads.
///
/// # Safety
/// `fill` must write every place.
pub(super) unsafe fn build_shared<T: Copy>(len: usize, fill: impl FnOnce(SharedPlaces<T>)) -> Vec<T> {
    let mut out = Vec::with_capacity(len);
    fill(SharedPlaces(out.as_mut_ptr()));
    // SAFETY: the capacity is `len`, and all of it was written by the caller's promise.
    unsafe { out.set_len(len) };
    out
}

/// How many rows one task takes: all, if a second thread would not pay.
fn rows_per_task(count: usize, width: usize) -> usize {
    let threads = threads();
    if threads == 1 || count * width < PARALLEL_ELEMENTS {
        return count.max(1);
    }
    count.div_ceil(threads * 4).max(1)
}
