//! Products of quantized inputs with packed weights, in integers.

use super::codes::{self, PackedRows};
use super::dot::{self, ByteMatrix, LONGEST, Operands, Piece, TILE, Tile};
use super::linear::by_columns;
use super::memory::{contiguous, from_vec, to_vec};
use super::panels::{HEIGHT, Panels, WIDTH};
use super::quantize::{ByteRows, quantize_to_bytes};
use super::simd::vectorised;
use crate::packed_matrix::{Code, PackedMatrix};
use crate::quantize::TokenQuant;
use burn::backend::Flex;
use burn::prelude::*;
use rayon::prelude::*;

/// Bytes of the weight that stay in the first-level cache while all input rows of a task pass by.
const BLOCK_BYTES: usize = 24 << 10;

/// Most input rows of a task.
const MOST_ROWS: usize = 64;

/// Input rows from which rearranging the weight into panels pays: with one group, and with more.
const PANELS_FROM: [usize; 2] = [24, 8];

pub(crate) fn linear_quantized(
    x: Tensor<Flex, 2>,
    q: TokenQuant,
    p: &PackedMatrix<Flex>,
    bias: Option<Tensor<Flex, 1>>,
) -> Tensor<Flex, 2> {
    let [rows, columns] = x.dims();
    let out = p.shape[0];
    if rows == 0 || columns == 0 || out == 0 {
        return crate::portable::linear_quantized(x, q, p, bias);
    }
    let bytes = quantize_to_bytes(contiguous(x).storage::<f32>(), columns, q);
    let packed = PackedRows::new(p);
    let pieces = dot::pieces(columns, packed.group);
    let weight = Weight::new(&packed);
    let product = Product::new(&bytes, &weight, &packed, &pieces, bias.map(to_vec));
    let threads = rayon::current_num_threads();
    if rows < 2 * HEIGHT * threads {
        return by_columns(rows, out, |from, to| {
            let mut part = vec![0.0; rows * (to - from)];
            product.block([0, rows], [from, to], &mut part);
            part
        });
    }
    let task = rows.div_ceil(4 * threads).min(MOST_ROWS).next_multiple_of(HEIGHT);
    let mut y = vec![0.0f32; rows * out];
    y.par_chunks_mut(task * out).enumerate().for_each(|(i, y)| {
        let from = i * task;
        product.block([from, from + y.len() / out], [0, out], y);
    });
    from_vec(y, [rows, out])
}

/// Unsigned weight codes, one in a byte, of which [`middle`] is zero.
enum Weight<'a> {
    /// Eight bits are bytes already.
    Packed(&'a [u8], usize),
    Unpacked(Vec<u8>, usize),
}

impl<'a> Weight<'a> {
    fn new(packed: &'a PackedRows) -> Self {
        if packed.bits == 8 {
            return Self::Packed(packed.bytes(), packed.stride());
        }
        let mut codes = codes::all_codes(packed);
        if packed.code == Code::Binary {
            // `2 u - 1` with the middle 1, which is an integer, instead of `u` with the middle 1/2.
            codes.par_iter_mut().for_each(|u| *u *= 2);
        }
        Self::Unpacked(codes, packed.columns)
    }

    fn matrix(&self, rows: usize) -> ByteMatrix<'_, u8> {
        match self {
            Self::Packed(data, stride) => ByteMatrix { data, rows, stride: *stride },
            Self::Unpacked(data, stride) => ByteMatrix { data, rows, stride: *stride },
        }
    }
}

/// The code that stands for zero, where it is the same for all groups.
fn middle(packed: &PackedRows) -> i32 {
    match packed.code {
        Code::Symmetric => 1 << (packed.bits - 1),
        Code::Binary => 1,
        Code::Asymmetric => 0,
    }
}

/// `sum_k (c s + z)(u a + b)`, over groups of `k` with their own `a` and `b`, as
/// `s sum_g (a sum cu + b sum c) + z sum_k (u a + b)`: only `sum cu` depends on both operands.
struct Product<'a> {
    x: ByteMatrix<'a, i8>,
    w: ByteMatrix<'a, u8>,
    panels: Option<Panels<'a>>,
    pieces: &'a [Piece],
    /// `[out, groups]`, `a`.
    scales: &'a [f32],
    /// `[rows]`, `s` and `z`.
    grids: &'a [(f32, f64)],
    /// `[rows, pieces]`, sums of input codes times minus the weight's middle code.
    corrections: Vec<i32>,
    /// `[rows, groups]`, sums of input codes; for weights with zeros.
    input_sums: Vec<f32>,
    /// `[groups, out]`, `b`.
    zeros: Vec<f32>,
    /// `[out]`, sums of weight values; for inputs with zeros.
    weight_sums: Vec<f64>,
    bias: Option<Vec<f32>>,
}

impl<'a> Product<'a> {
    fn new(
        x: &'a ByteRows,
        weight: &'a Weight<'a>,
        packed: &'a PackedRows,
        pieces: &'a [Piece],
        bias: Option<Vec<f32>>,
    ) -> Self {
        let w = weight.matrix(packed.rows);
        let rows = x.grids.len();
        let worth_it = rows >= PANELS_FROM[usize::from(pieces.len() > 1)];
        let panels = if worth_it { Panels::new(w, &packed.scales, pieces) } else { None };
        let group_sums = |codes: &[i8]| codes.chunks(LONGEST).map(|c| dot::sum_signed(c) as f32).sum();
        let input_sums = match packed.zeros.is_empty() {
            true => vec![],
            false => x.codes.par_chunks(packed.group).map(group_sums).collect(),
        };
        let weight_sums = match x.has_zero {
            true => (0..packed.rows).into_par_iter().map(|row| weight_sum(w, packed, row)).collect(),
            false => vec![],
        };
        Self {
            x: ByteMatrix { data: x.codes.as_slice(), rows, stride: packed.columns },
            w,
            panels,
            pieces,
            scales: &packed.scales,
            grids: &x.grids,
            corrections: corrections(x, packed, pieces),
            input_sums,
            zeros: transposed(&packed.zeros, packed.groups()),
            weight_sums,
            bias,
        }
    }

    /// Rows and columns (from, to) of the product into `y`, row-major without gaps.
    fn block(&self, rows: [usize; 2], columns: [usize; 2], y: &mut [f32]) {
        match &self.panels {
            Some(panels) => self.panel_block(panels, rows, columns, y),
            None => self.dot_block(rows, columns, y),
        }
    }

    /// `columns` starts at a multiple of [`WIDTH`].
    fn panel_block(&self, panels: &Panels<'_>, rows: [usize; 2], columns: [usize; 2], y: &mut [f32]) {
        for w in (columns[0]..columns[1]).step_by(WIDTH) {
            let n = WIDTH.min(columns[1] - w);
            for x in (rows[0]..rows[1]).step_by(HEIGHT) {
                let m = HEIGHT.min(rows[1] - x);
                let mut tile = panels.tile(self.x, &self.corrections, [x, m], w / WIDTH);
                for (i, sums) in tile.iter_mut().enumerate().take(m) {
                    let at = (x + i - rows[0]) * (columns[1] - columns[0]) + w - columns[0];
                    self.finish(x + i, w, &mut sums[..n], &mut y[at..at + n]);
                }
            }
        }
    }

    fn dot_block(&self, rows: [usize; 2], columns: [usize; 2], y: &mut [f32]) {
        let operands = Operands::new(self.x, self.w, self.pieces, &self.corrections, self.scales);
        let block = (BLOCK_BYTES / self.x.stride).next_multiple_of(TILE).max(TILE);
        for from in (columns[0]..columns[1]).step_by(block) {
            let to = (from + block).min(columns[1]);
            for x in (rows[0]..rows[1]).step_by(TILE) {
                let m = TILE.min(rows[1] - x);
                for w in (from..to).step_by(TILE) {
                    let n = TILE.min(to - w);
                    let mut tile = dot::tile(&operands, Tile { x, w, m, n });
                    for (i, sums) in tile.iter_mut().enumerate().take(m) {
                        let at = (x + i - rows[0]) * (columns[1] - columns[0]) + w - columns[0];
                        self.finish(x + i, w, &mut sums[..n], &mut y[at..at + n]);
                    }
                }
            }
        }
    }

    /// From `sum_g a sum cu` of one row and the outputs `out ..` to results.
    fn finish(&self, row: usize, out: usize, sums: &mut [f32], y: &mut [f32]) {
        let n = sums.len();
        if !self.zeros.is_empty() {
            let groups = self.zeros.len() / self.w.rows;
            let codes = &self.input_sums[row * groups..][..groups];
            add_zeros(sums, codes, &self.zeros[out..], self.w.rows);
        }
        let (scale, zero) = self.grids[row];
        match self.weight_sums.get(out..out + n) {
            Some(weight_sums) => scale_and_shift(sums, scale, zero, weight_sums, y),
            None => scale_only(sums, scale, y),
        }
        if let Some(bias) = &self.bias {
            for (y, bias) in y.iter_mut().zip(&bias[out..]) {
                *y += bias;
            }
        }
    }
}

vectorised! {
    /// Adds `sum_g b sum c`; row `g` of `zeros` starts at `g * stride`.
    fn add_zeros(sums: &mut [f32], codes: &[f32], zeros: &[f32], stride: usize) {
        for (code, zeros) in codes.iter().zip(zeros.chunks(stride)) {
            for (sum, zero) in sums.iter_mut().zip(zeros) {
                *sum += code * zero;
            }
        }
    }
}

vectorised! {
    fn scale_only(sums: &[f32], scale: f32, y: &mut [f32]) {
        for (y, sum) in y.iter_mut().zip(sums) {
            *y = sum * scale;
        }
    }
}

vectorised! {
    /// In double precision: both terms may be large and nearly cancel.
    fn scale_and_shift(sums: &[f32], scale: f32, zero: f64, weight_sums: &[f64], y: &mut [f32]) {
        let scale = f64::from(scale);
        for ((y, sum), weight_sum) in y.iter_mut().zip(sums).zip(weight_sums) {
            *y = (f64::from(*sum) * scale + zero * weight_sum) as f32;
        }
    }
}

/// Minus the weight's middle code times the sum of input codes of every piece, `[rows, pieces]`.
fn corrections(x: &ByteRows, packed: &PackedRows, pieces: &[Piece]) -> Vec<i32> {
    let middle = middle(packed);
    let mut out = vec![0; x.grids.len() * pieces.len()];
    if middle != 0 {
        out.par_chunks_mut(pieces.len()).zip(x.codes.par_chunks(packed.columns)).for_each(|(out, row)| {
            for (to, piece) in out.iter_mut().zip(pieces) {
                *to = -middle * dot::sum_signed(&row[piece.column..][..piece.length]);
            }
        });
    }
    out
}

/// The sum of one row's values.
fn weight_sum(w: ByteMatrix<'_, u8>, packed: &PackedRows, row: usize) -> f64 {
    let codes = &w.data[row * w.stride..][..packed.columns];
    let offset = f64::from(middle(packed)) * packed.group as f64;
    let group_sum = |(group, codes): (usize, &[u8])| {
        let at = row * packed.groups() + group;
        let sum: f64 = codes.chunks(LONGEST).map(|c| f64::from(dot::sum_unsigned(c))).sum();
        let zero = packed.zeros.get(at).copied().map_or(0.0, f64::from);
        (sum - offset) * f64::from(packed.scales[at]) + zero * packed.group as f64
    };
    codes.chunks_exact(packed.group).enumerate().map(group_sum).sum()
}

/// `[out, groups]` to `[groups, out]`.
fn transposed(values: &[f32], groups: usize) -> Vec<f32> {
    let rows = values.len() / groups;
    (0..values.len()).map(|i| values[i % rows * groups + i / rows]).collect()
}
