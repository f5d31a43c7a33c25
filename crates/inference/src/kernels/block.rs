//! How a matrix product is cut into tasks for threads and into blocks for caches.
//!
//! Rows and columns are cut, the contraction is not, so no cut changes a bit of the result.

use super::low_rank::Adapted;
use super::pack::{PANEL, PanelRow};
use super::rows::{SharedPlaces, build_shared};
use super::simd::{LANES, Simd};
use super::threads::threads;
use super::tier::Vectorized;
use super::tile::{PANEL_VECTORS, Product, accumulate_f32};
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Bytes of the left operand that one task keeps in its second-level cache.
const LEFT_BLOCK_BYTES: usize = 384 << 10;
/// Panel rows (of 192 bytes) that stay in the cache beside it. A longer contraction pauses there: the sums are stored
/// and taken up again later, exactly.
const PANEL_BLOCK_ROWS: usize = 1024;
/// Below this many multiply-adds, starting a second thread costs more than it saves.
const PARALLEL_PRODUCTS: usize = 1 << 18;
/// Panel rows (three cache lines each) between those that are multiplied and those that are asked for, where a panel
/// is read once; and where it is in the cache, so that the request costs nothing.
const AHEAD_ROWS: usize = 16;
const AHEAD_NONE: usize = 1;
/// Tasks for each thread, so that a thread which starts late is not waited for.
const TASKS_PER_THREAD: usize = 4;

/// The left operand: `rows` rows of `depth` elements, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Left<'a, T> {
    pub(super) elements: &'a [T],
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) depth: usize,
}

impl<T> Left<'_, T> {
    /// Some of the rows.
    pub(super) fn part(&self, rows: &Range<usize>) -> Self {
        Self { elements: &self.elements[rows.start * self.stride..], rows: rows.len(), ..*self }
    }
}

/// The product with the first `outputs` columns of `panels`, as `[rows, outputs]`, with the branches of `adapted` rows,
/// which are in order and do not overlap.
pub(super) fn product<P: Product>(
    product: P,
    left: Left<'_, P::Left>,
    panels: &[PanelRow<P::Right>],
    outputs: usize,
    adapted: &[Adapted<'_>],
) -> Vec<f32> {
    let Left { elements, stride, rows, depth } = left;
    let panel_rows = depth.div_ceil(P::LEFT_PER_ROW);
    let panel_count = outputs.div_ceil(PANEL);
    // All pointers of `Block` stay within these bounds.
    assert!(panels.len() == panel_rows * panel_count);
    assert!(rows == 0 || elements.len() >= (rows - 1) * stride + depth);
    if rows == 0 || outputs == 0 {
        return Vec::new();
    }
    let work = rows * outputs * depth * P::LEFT_PER_ROW;
    let threads = if work < PARALLEL_PRODUCTS { 1 } else { threads() };
    let block_row_bytes = depth.min(PANEL_BLOCK_ROWS * P::LEFT_PER_ROW) * size_of::<P::Left>();
    let row_blocks = rows.div_ceil((LEFT_BLOCK_BYTES / block_row_bytes.max(1)).max(1));
    let panel_blocks =
        if threads == 1 { 1 } else { (threads * TASKS_PER_THREAD).div_ceil(row_blocks).min(panel_count) };
    let of_row = &branches_of_rows(adapted, rows);
    let compute = |out: SharedPlaces<f32>| {
        let task = |i: usize| {
            let rows = part(rows, row_blocks, i / panel_blocks);
            let panel_range = part(panel_count, panel_blocks, i % panel_blocks);
            let block =
                Block { product, left, panels, panel_rows, outputs, adapted, of_row, rows, panel_range, out };
            product.run(block);
        };
        let tasks = 0..row_blocks * panel_blocks;
        if threads == 1 { tasks.for_each(task) } else { tasks.into_par_iter().for_each(task) }
    };
    // SAFETY: the blocks together write every column of every row.
    unsafe { build_shared(rows * outputs, compute) }
}

/// Part `i` of `0..len` cut into `parts` pieces whose lengths differ by at most one.
fn part(len: usize, parts: usize, i: usize) -> Range<usize> {
    len * i / parts..len * (i + 1) / parts
}

/// The part of a product that one task computes: some rows with some panels.
struct Block<'a, P: Product> {
    product: P,
    left: Left<'a, P::Left>,
    panels: &'a [PanelRow<P::Right>],
    panel_rows: usize,
    outputs: usize,
    adapted: &'a [Adapted<'a>],
    /// For each row the index of its branch.
    of_row: &'a [Option<usize>],
    rows: Range<usize>,
    panel_range: Range<usize>,
    out: SharedPlaces<f32>,
}

/// For each row the index of its branch.
fn branches_of_rows(adapted: &[Adapted<'_>], rows: usize) -> Vec<Option<usize>> {
    let mut of_row = vec![None; rows];
    for (index, adapted) in adapted.iter().enumerate() {
        of_row[adapted.rows.clone()].fill(Some(index));
    }
    of_row
}

impl<P: Product> Vectorized for Block<'_, P> {
    type Output = ();

    #[inline(always)]
    fn vectorized<S: Simd>(self, _: S) {
        let wide = self.rows.len() <= P::WIDE_TILE_ROWS;
        let (max_rows, max_vectors) =
            if wide { (P::WIDE_TILE_ROWS, PANEL_VECTORS) } else { (P::TILE_ROWS, P::S::TILE_VECTORS) };
        let pauses = self.panel_rows.div_ceil(PANEL_BLOCK_ROWS).max(1);
        let tiles = self.rows.len().div_ceil(max_rows);
        for steps in (0..pauses).map(|i| part(self.panel_rows, pauses, i)) {
            for panel in self.panel_range.clone() {
                let vectors = (self.outputs - panel * PANEL).min(PANEL).div_ceil(LANES);
                for vector in (0..vectors).step_by(max_vectors) {
                    for tile in 0..tiles {
                        let rows = part(self.rows.len(), tiles, tile);
                        // One tile streams its panel; the last of several has it in the cache already, and asks for
                        // the next one.
                        let ahead = if tiles == 1 {
                            AHEAD_ROWS
                        } else if tile + 1 == tiles {
                            self.panel_rows
                        } else {
                            AHEAD_NONE
                        };
                        let place = Place { steps: steps.clone(), panel, vector, ahead };
                        self.tile(
                            self.rows.start + rows.start,
                            rows.len(),
                            (vectors - vector).min(max_vectors),
                            &place,
                        );
                    }
                }
            }
        }
    }
}

/// Where a tile lies along the contraction and the columns.
struct Place {
    /// How many panel rows ahead weights are asked for.
    ahead: usize,
    /// Panel rows.
    steps: Range<usize>,
    panel: usize,
    /// First vector of the panel.
    vector: usize,
}

impl<P: Product> Block<'_, P> {
    /// Computes a tile of `rows` rows and `vectors` vectors of columns.
    #[inline(always)]
    fn tile(&self, row: usize, rows: usize, vectors: usize, place: &Place) {
        macro_rules! sized {
            ($($rows:literal)*) => {
                match (rows, vectors) {
                    $(($rows, 1) if $rows <= P::TILE_ROWS => self.sized_tile::<$rows, 1>(row, place),
                    ($rows, 2) if $rows <= P::WIDE_TILE_ROWS => self.sized_tile::<$rows, 2>(row, place),
                    ($rows, 3) if $rows <= P::WIDE_TILE_ROWS => self.sized_tile::<$rows, 3>(row, place),)*
                    _ => unreachable!("a tile of {rows} rows and {vectors} vectors"),
                }
            };
        }
        sized!(1 2 3 4 5 6 7 8 9)
    }

    #[inline(always)]
    fn sized_tile<const R: usize, const W: usize>(&self, row: usize, place: &Place) {
        let Place { steps, panel, vector, ahead } = place;
        let s = self.product.simd();
        let Left { elements, stride, depth, .. } = self.left;
        let column = panel * PANEL + vector * LANES;
        // The places of tile row `i` and vector `w`.
        let places = |i: usize, w: usize| -> &mut [MaybeUninit<f32>] {
            let start = column + w * LANES;
            // SAFETY: within the result, whose rows have `outputs` elements; no other task has this row and column,
            // and no other reference into this tile is alive.
            unsafe { self.out.get((row + i) * self.outputs + start, (self.outputs - start).min(LANES)) }
        };
        let mut acc = [[s.splat(0.0); W]; R];
        if steps.start > 0 {
            for (i, sums) in acc.iter_mut().enumerate() {
                for (w, sum) in sums.iter_mut().enumerate() {
                    let stored = places(i, w);
                    // SAFETY: the steps before these have written the sums.
                    let stored = unsafe { &*(std::ptr::from_ref(stored) as *const [f32]) };
                    *sum = s.load_at(stored, 0);
                }
            }
        }
        let first = steps.start * P::LEFT_PER_ROW;
        let end = depth.min(steps.end * P::LEFT_PER_ROW);
        // SAFETY: `product` has checked the extents; the rows are below `left.rows` and the steps below `panel_rows`.
        unsafe {
            let a = elements.as_ptr().add(row * stride + first);
            let b = self.panels.as_ptr().add(panel * self.panel_rows + steps.start).cast::<P::Right>();
            self.product.accumulate(end - first, a, stride, b.add(vector * LANES), *ahead, &mut acc);
        }
        if !self.adapted.is_empty() && steps.end == self.panel_rows {
            let branches = &self.of_row[row..row + R];
            if branches.iter().any(|branch| *branch != branches[0]) {
                // A copy, so that the sums above can stay in registers: these rows are told apart by index.
                let mut mixed = acc;
                for (i, sums) in mixed.iter_mut().enumerate() {
                    if let Some(index) = branches[i] {
                        let sums = std::array::from_mut(sums);
                        self.add_branch(&self.adapted[index], row + i, *panel, *vector, sums);
                    }
                    for (w, sum) in sums.iter().enumerate() {
                        s.store_at(*sum, places(i, w), 0);
                    }
                }
                return;
            }
            if let Some(index) = branches[0] {
                self.add_branch(&self.adapted[index], row, *panel, *vector, &mut acc);
            }
        }
        for (i, sums) in acc.iter().enumerate() {
            for (w, sum) in sums.iter().enumerate() {
                s.store_at(*sum, places(i, w), 0);
            }
        }
    }

    /// Continues the sums of rows that have one branch with those of the branch.
    #[inline(always)]
    fn add_branch<const R: usize, const W: usize>(
        &self,
        adapted: &Adapted<'_>,
        row: usize,
        panel: usize,
        vector: usize,
        acc: &mut [[<P::S as Simd>::V; W]; R],
    ) {
        let (right, ranks) = adapted.right.panel(panel);
        if ranks.is_empty() {
            return;
        }
        let (left, stride) = (adapted.left.data(), adapted.left.stride);
        let first = (row - adapted.rows.start) * stride + ranks.start;
        assert!(left.len() >= first + (R - 1) * stride + ranks.len() && right.len() == ranks.len());
        // SAFETY: the left half's extent is checked just above, and a panel has one row a rank.
        unsafe {
            let a = (left.as_ptr().add(first), stride, 1);
            let b = (right.as_ptr().cast::<f32>().add(vector * LANES), PANEL, LANES);
            accumulate_f32(self.product.simd(), ranks.len(), a, b, 0, acc);
        }
    }
}
