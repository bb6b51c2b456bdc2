//! What becomes of the sums of a tile: bias, activation, and their place in the result.

use super::math;
use super::memory::{self, from_vec, to_vec};
use super::parallel::{self, Shared};
use super::simd::vectorised;
use super::tile::{HEIGHT, Tile, WIDTH};
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

impl Results<'_> {
    /// Adds the bias to `m` rows of a tile, applies the activation, and stores them as rows `row ..` of a panel.
    ///
    /// # Panics
    /// When they are outside.
    ///
    /// # Safety
    /// Nobody else may be storing the same rows of the same panel.
    #[expect(unsafe_code, reason = "tasks write disjoint parts of the result")]
    pub(crate) unsafe fn store(&self, tile: &mut Tile<f32>, row: usize, m: usize, panel: usize) {
        let width = WIDTH.min(self.out - panel * WIDTH);
        finish_tile(&mut tile[..m], &self.finish.bias(panel)[..width], self.finish.activation);
        for (i, sums) in tile.iter().enumerate().take(m) {
            // SAFETY: rows and panels are this caller's alone, as it promises.
            let y = unsafe { self.y.range((row + i) * self.out + panel * WIDTH, width) };
            memory::copy_row(sums, y);
        }
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

/// Adds the bias to each output and applies the activation.
///
/// Their number is known at run time only: were it a constant, the compiler would vectorise over the rows of a
/// tile, whose elements lie far apart.
#[inline(always)]
fn finish<const FMA: bool>(row: &mut [f32], bias: &[f32], activation: Activation) {
    let outputs = row.iter_mut().zip(bias);
    match activation {
        Activation::Identity => outputs.for_each(|(v, b)| *v += b),
        Activation::Relu => outputs.for_each(|(v, b)| *v = if *v + b < 0.0 { 0.0 } else { *v + b }),
        Activation::Gelu => outputs.for_each(|(v, b)| *v = math::gelu::<FMA>(*v + b)),
        Activation::GeluTanh => outputs.for_each(|(v, b)| *v = math::gelu_tanh::<FMA>(*v + b)),
    }
}

vectorised! {
    fn finish_tile(tile: &mut [[f32; WIDTH]], bias: &[f32], activation: Activation) {
        for row in tile {
            finish::<FMA>(row, bias, activation);
        }
    }
}

vectorised! {
    fn finish_row(row: &mut [f32], bias: &[f32], activation: Activation) {
        finish::<FMA>(row, bias, activation);
    }
}

vectorised! {
    fn activate(row: &mut [f32], activation: Activation) {
        match activation {
            Activation::Identity => {}
            Activation::Relu => row.iter_mut().for_each(|v| *v = if *v < 0.0 { 0.0 } else { *v }),
            Activation::Gelu => row.iter_mut().for_each(|v| *v = math::gelu::<FMA>(*v)),
            Activation::GeluTanh => row.iter_mut().for_each(|v| *v = math::gelu_tanh::<FMA>(*v)),
        }
    }
}
