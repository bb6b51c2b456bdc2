//! What becomes of the sums of a tile: bias, activation, and their place in the result.

use super::math;
use super::memory::{self, from_vec, to_vec};
#[cfg(target_arch = "x86_64")]
use super::outputs_avx512;
use super::parallel::{self, Shared};
use super::simd::vectorised;
use super::tile::{HEIGHT, WIDTH};
use crate::activation::Activation;
use burn::backend::Flex;
use burn::prelude::*;
use std::ops::Range;

/// Rows of the input that pass by a panel while it is in the cache.
const ROWS: usize = 128;

/// Bias, padded to whole panels, and activation of one product.
pub(crate) struct Finish {
    bias: Vec<f32>,
    activation: Activation,
}

impl Finish {
    pub(crate) fn new(bias: Option<Tensor<Flex, 1>>, activation: Activation) -> Self {
        let mut bias = bias.map(to_vec).unwrap_or_default();
        bias.resize(bias.len().next_multiple_of(WIDTH), 0.0);
        Self { bias, activation }
    }

    /// Bias and activation for whole rows of `columns` results.
    pub(crate) fn rows(&self, y: &mut [f32], columns: usize) {
        let rows = y.len() / columns;
        memory::in_chunks(y, memory::rows_per_task(rows, columns) * columns, |chunk, _| {
            for row in chunk.chunks_exact_mut(columns) {
                if self.bias.is_empty() {
                    activate(row, self.activation);
                } else {
                    finish_row(row, &self.bias[..columns], self.activation);
                }
            }
        });
    }

    fn bias(&self, panel: usize) -> &[f32; WIDTH] {
        let part = self.bias.get(panel * WIDTH..(panel + 1) * WIDTH);
        part.and_then(|b| b.try_into().ok()).unwrap_or(&[0.0; WIDTH])
    }
}

/// Some input rows and some panels: the work of one task.
pub(crate) struct Block {
    pub(crate) rows: Range<usize>,
    pub(crate) panels: Range<usize>,
}

/// Where the results of a product go, `[rows, out]`.
pub(crate) struct Results<'a> {
    y: Shared<'a, f32>,
    out: usize,
    finish: &'a Finish,
}

/// What sums of products of codes stand for: `(sum - middle * input) * scale * grid` for the sums of the codes of each
/// row, its scale, and the scale of each output.
pub(crate) struct Scaling<'a> {
    /// Sums of codes, one for each row at least.
    pub(crate) inputs: &'a [i32],
    /// `(scale, zero)` of each row; all zeros are 0.
    pub(crate) grids: &'a [(f32, f64)],
    /// The weight's code of zero.
    pub(crate) middle: i32,
    /// Of the panel's outputs.
    pub(crate) scales: &'a [f32; WIDTH],
}

impl Results<'_> {
    /// Adds the bias to the rows of a tile, applies the activation, and stores them as rows `row ..` of a panel.
    ///
    /// # Panics
    /// When they are outside.
    ///
    /// # Safety
    /// Nobody else may be storing the same rows of the same panel.
    #[expect(unsafe_code, reason = "tasks write disjoint parts of the result")]
    pub(crate) unsafe fn store(&self, tile: &[[f32; WIDTH]], row: usize, panel: usize) {
        // SAFETY: as the caller promises.
        let mut to = unsafe { self.rows(row, tile.len(), panel) };
        finish_tile(tile, self.finish.bias(panel), self.finish.activation, &mut to);
    }

    /// [`store`](Self::store) for what sums stand for.
    ///
    /// # Panics
    /// When they are outside.
    ///
    /// # Safety
    /// Nobody else may be storing the same rows of the same panel.
    #[expect(unsafe_code, reason = "tasks write disjoint parts of the result")]
    pub(crate) unsafe fn store_sums(
        &self,
        sums: &[[i32; WIDTH]],
        scaling: &Scaling<'_>,
        row: usize,
        panel: usize,
    ) {
        // SAFETY: as the caller promises.
        let mut to = unsafe { self.rows(row, sums.len(), panel) };
        let (bias, activation) = (self.finish.bias(panel), self.finish.activation);
        #[cfg(target_arch = "x86_64")]
        if outputs_avx512::finish_sums(sums, scaling, bias, activation, &mut to) {
            return;
        }
        finish_sums(sums, scaling, bias, activation, &mut to);
    }

    /// `count` rows of a panel's outputs, the others empty.
    ///
    /// # Safety
    /// No two that are alive at once may overlap.
    #[expect(unsafe_code, reason = "tasks write disjoint parts of the result")]
    #[expect(clippy::mut_from_ref, reason = "as the caller promises, no two of them overlap")]
    unsafe fn rows(&self, row: usize, count: usize, panel: usize) -> [&mut [f32]; HEIGHT] {
        let width = WIDTH.min(self.out - panel * WIDTH);
        std::array::from_fn(|i| match i < count {
            // SAFETY: rows and panels are this caller's alone, as it promises.
            true => unsafe { self.y.range((row + i) * self.out + panel * WIDTH, width) },
            false => &mut [],
        })
    }
}

/// The result `[rows, out]` of a product whose blocks `work` computes, in parallel. `depth` is the number
/// of products in a sum.
///
/// Few rows are shared out by panels, so that no part of the weight is read twice.
///
/// # Safety
/// `work` must store every row of every panel of its block.
#[expect(unsafe_code, reason = "the result is not written twice")]
pub(crate) unsafe fn product(
    [rows, depth, out]: [usize; 3],
    finish: &Finish,
    work: impl Fn(Block, &Results<'_>) + Sync,
) -> Tensor<Flex, 2> {
    let panels = out.div_ceil(WIDTH);
    let row_blocks = rows.div_ceil(ROWS);
    let height = rows.div_ceil(row_blocks).next_multiple_of(HEIGHT);
    let panel_blocks = (4 * rayon::current_num_threads()).div_ceil(row_blocks).min(panels);
    let width = panels.div_ceil(panel_blocks);
    let (row_blocks, panel_blocks) = (rows.div_ceil(height), panels.div_ceil(width));
    let fill = |y: &mut [f32]| {
        let results = Results { y: Shared::new(y), out, finish };
        parallel::blocks(row_blocks * panel_blocks, rows * out * depth / 64, |block| {
            let (row, panel) = (block / panel_blocks * height, block % panel_blocks * width);
            let block =
                Block { rows: row..(row + height).min(rows), panels: panel..(panel + width).min(panels) };
            work(block, &results);
        });
    };
    // SAFETY: blocks cover all rows and panels, and `work` stores them, as the caller promises.
    let y = unsafe { memory::filled(rows * out, fill) };
    from_vec(y, [rows, out])
}

/// What the activation makes of each value, in place. In loops rather than closures, which would not be compiled for
/// the vector unit.
#[inline(always)]
pub(super) fn activate_all<const FMA: bool>(row: &mut [f32], activation: Activation) {
    match activation {
        Activation::Identity => {}
        Activation::Relu => {
            for v in row {
                *v = if *v < 0.0 { 0.0 } else { *v };
            }
        }
        Activation::Gelu => {
            for v in row {
                *v = math::gelu::<FMA>(*v);
            }
        }
        Activation::GeluTanh => {
            for v in row {
                *v = math::gelu_tanh::<FMA>(*v);
            }
        }
    }
}

// The number of outputs is known at run time only: were it a constant, the compiler would vectorise over the rows of a
// tile, whose elements lie far apart.

vectorised! {
    fn finish_tile(tile: &[[f32; WIDTH]], bias: &[f32; WIDTH], activation: Activation, to: &mut [&mut [f32]]) {
        for (sums, to) in tile.iter().zip(to) {
            for ((to, sum), bias) in to.iter_mut().zip(sums).zip(bias) {
                *to = sum + bias;
            }
            activate_all::<FMA>(to, activation);
        }
    }
}

vectorised! {
    fn finish_sums(
        sums: &[[i32; WIDTH]],
        scaling: &Scaling<'_>,
        bias: &[f32; WIDTH],
        activation: Activation,
        to: &mut [&mut [f32]],
    ) {
        let rows = sums.iter().zip(scaling.inputs).zip(scaling.grids).zip(to);
        for (((sums, input), (grid, _)), to) in rows {
            // Exact modulo 2^32, and the difference fits.
            let correction = input.wrapping_mul(scaling.middle);
            for (((to, sum), scale), bias) in to.iter_mut().zip(sums).zip(scaling.scales).zip(bias) {
                *to = sum.wrapping_sub(correction) as f32 * scale * grid + bias;
            }
            activate_all::<FMA>(to, activation);
        }
    }
}

vectorised! {
    fn finish_row(row: &mut [f32], bias: &[f32], activation: Activation) {
        for (v, bias) in row.iter_mut().zip(bias) {
            *v += bias;
        }
        activate_all::<FMA>(row, activation);
    }
}

vectorised! {
    fn activate(row: &mut [f32], activation: Activation) {
        activate_all::<FMA>(row, activation);
    }
}
