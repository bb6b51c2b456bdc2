//! Products of quantized inputs with packed weights, in integers.

use super::memory::contiguous;
use super::outputs::{self, Block, Finish, Results, Scaling};
use super::panels::Panels;
use super::quantize::{ByteRows, quantize_to_bytes};
use super::simd::vectorised;
use super::tile::{BytePanel, HEIGHT, Tile, Unit, WIDTH};
use crate::activation::Activation;
use crate::linear::PackedLayer;
use crate::quantize::TokenQuant;
use burn::backend::Flex;
use burn::prelude::*;
use burn::tensor::TensorPrimitive;

/// Tiles up to which codes that share bytes are spread anew for each of them.
const FEW_TILES: usize = 2;

/// See [`crate::linear_all`].
#[expect(unsafe_code, reason = "the result is not written twice")]
pub(crate) fn linear_quantized(
    unit: Unit,
    x: Tensor<Flex, 2>,
    q: TokenQuant,
    layers: Vec<PackedLayer<'_, Flex>>,
    activation: Activation,
) -> Vec<Tensor<Flex, 2>> {
    let [rows, columns] = x.dims();
    let x = contiguous(x);
    let mut quantized: Option<(usize, ByteRows)> = None;
    let mut outputs = Vec::with_capacity(layers.len());
    for (packed, bias) in layers {
        if rows * columns * packed.shape[0] == 0 {
            let x = Tensor::from_primitive(TensorPrimitive::Float(x.clone()));
            outputs.push(activation.forward(crate::portable::linear_quantized(x, q, packed, bias)));
            continue;
        }
        let panels = Panels::of(packed);
        // Inputs of weights with the same groups are padded alike: the codes are made once.
        let group = packed.group;
        let input = match quantized.take() {
            Some((padded_for, input)) if padded_for == group => input,
            _ => quantize_to_bytes(x.storage::<f32>(), &panels.pieces, q),
        };
        let finish = Finish::new(bias, activation);
        let product = Product { unit, x: &input, w: &panels };
        let sizes = [rows, panels.depth, panels.rows];
        // SAFETY: `block` stores all of it.
        outputs.push(unsafe {
            outputs::product(sizes, &finish, |block, results| product.block(block, results))
        });
        quantized = Some((group, input));
    }
    outputs
}

/// `sum_k (c s + z)(u a + b)`, over groups of `k` with their own `a` and `b`, as
/// `s sum_g (a sum cu + b sum c) + z sum_k (u a + b)`: only `sum cu` depends on both operands.
struct Product<'a> {
    unit: Unit,
    x: &'a ByteRows,
    w: &'a Panels,
}

impl Product<'_> {
    #[expect(unsafe_code, reason = "stores the block that is this task's")]
    fn block(&self, block: Block, results: &Results<'_>) {
        let tiles = block.rows.len().div_ceil(HEIGHT);
        let height = block.rows.len().div_ceil(tiles);
        // For few tiles, spreading codes in registers costs less than storing them spread.
        let mut room = self.w.room(tiles > FEW_TILES || !self.unit.spreads());
        let (mut sums, mut tile) = ([[0; WIDTH]; HEIGHT], [[0.0; WIDTH]; HEIGHT]);
        for panel in block.panels {
            let width = self.w.width(panel);
            let codes = self.w.codes(panel, &mut room);
            for row in block.rows.clone().step_by(height) {
                let m = height.min(block.rows.end - row);
                if self.one_scale() {
                    let rows = &self.x.codes[row * self.w.depth..][..m * self.w.depth];
                    self.unit.bytes(codes, rows, self.w.depth, m, &mut sums);
                    // SAFETY: blocks do not overlap.
                    unsafe { results.store_sums(&sums[..m], &self.scaling(row, panel), row, panel) };
                    continue;
                }
                self.sums(codes, [row, m], panel, &mut sums, &mut tile);
                self.scale(row, panel, &mut tile[..m], width);
                // SAFETY: as above.
                unsafe { results.store(&tile[..m], row, panel) };
            }
        }
    }

    /// Whether a result is one sum times the scales of its row and of its output.
    fn one_scale(&self) -> bool {
        self.w.pieces.len() == 1 && self.w.zeros(0, 0).is_none() && !self.x.has_zero
    }

    fn scaling(&self, row: usize, panel: usize) -> Scaling<'_> {
        Scaling {
            inputs: &self.x.sums[row..],
            grids: &self.x.grids[row..],
            middle: self.w.middle,
            scales: self.w.scales(panel, 0),
        }
    }

    /// `sum_g (a sum c (u - middle) + b sum c)` into `m` rows of `tile`.
    fn sums(
        &self,
        panel_codes: BytePanel<'_>,
        [row, m]: [usize; 2],
        panel: usize,
        sums: &mut Tile<i32>,
        tile: &mut Tile<f32>,
    ) {
        let (stride, count, width) = (self.w.depth, self.w.pieces.len(), self.w.width(panel));
        let rows = &self.x.codes[row * stride..][..m * stride];
        for (index, piece) in self.w.pieces.iter().enumerate() {
            let [from, length] = [piece.start, piece.length].map(|n| n * WIDTH * panel_codes.bits / 8);
            let codes = BytePanel { codes: &panel_codes.codes[from..][..length], ..panel_codes };
            self.unit.bytes(codes, &rows[piece.start..], stride, m, sums);
            let scales = self.w.scales(panel, piece.group);
            let inputs: [i32; HEIGHT] =
                std::array::from_fn(|i| if i < m { self.x.sums[(row + i) * count + index] } else { 0 });
            scale_sums(&sums[..m], &inputs, self.w.middle, &scales[..width], index == 0, tile);
            if let Some(zeros) = self.w.zeros(panel, piece.group) {
                add_zeros(&inputs, &zeros[..width], &mut tile[..m]);
            }
        }
    }

    /// From sums over the codes of the input to sums over its values.
    fn scale(&self, row: usize, panel: usize, tile: &mut [[f32; WIDTH]], width: usize) {
        let grids = &self.x.grids[row..][..tile.len()];
        if self.x.has_zero {
            scale_and_shift(tile, grids, &self.w.sums[panel * WIDTH..][..width]);
        } else {
            scale_only(tile, grids, width);
        }
    }
}

// Loops over a number of outputs that is known at run time only: were it a constant, the compiler would
// unroll them and vectorise those over rows instead, whose elements lie far apart.

vectorised! {
    /// `scale * (sum - middle * input)` for each output, in place of what `to` holds or added to it.
    fn scale_sums(
        sums: &[[i32; WIDTH]],
        inputs: &[i32; HEIGHT],
        middle: i32,
        scales: &[f32],
        first: bool,
        to: &mut Tile<f32>,
    ) {
        for ((sums, input), to) in sums.iter().zip(inputs).zip(to) {
            // Exact modulo 2^32, and the difference fits.
            let correction = input.wrapping_mul(middle);
            let value = |sum: i32, scale: f32| sum.wrapping_sub(correction) as f32 * scale;
            let outputs = sums.iter().zip(scales).zip(to);
            if first {
                outputs.for_each(|((sum, scale), to)| *to = value(*sum, *scale));
            } else {
                outputs.for_each(|((sum, scale), to)| *to += value(*sum, *scale));
            }
        }
    }
}

vectorised! {
    fn add_zeros(inputs: &[i32; HEIGHT], zeros: &[f32], to: &mut [[f32; WIDTH]]) {
        for (to, input) in to.iter_mut().zip(inputs) {
            to.iter_mut().zip(zeros).for_each(|(to, zero)| *to += *input as f32 * zero);
        }
    }
}

vectorised! {
    fn scale_only(tile: &mut [[f32; WIDTH]], grids: &[(f32, f64)], width: usize) {
        for (sums, (scale, _)) in tile.iter_mut().zip(grids) {
            sums[..width].iter_mut().for_each(|sum| *sum *= scale);
        }
    }
}

vectorised! {
    /// In double precision: both terms may be large and nearly cancel.
    fn scale_and_shift(tile: &mut [[f32; WIDTH]], grids: &[(f32, f64)], weight_sums: &[f64]) {
        for (sums, (scale, zero)) in tile.iter_mut().zip(grids) {
            for (sum, weight_sum) in sums.iter_mut().zip(weight_sums) {
                *sum = (f64::from(*sum) * f64::from(*scale) + zero * weight_sum) as f32;
            }
        }
    }
}
