//! Products with packed weights: in integers where the input is quantized, else in floats.

use super::codes::{self, PackedRows};
use super::dot::{self, ByteMatrix, LONGEST, Operands, Piece, TILE, Tile};
use super::memory::{contiguous, from_vec, to_vec};
use super::quantize::{ByteRows, quantize_to_bytes};
use super::simd::{LANES, vectorised};
use crate::packed_matrix::{Code, PackedMatrix};
use crate::quantize::TokenQuant;
use burn::backend::Flex;
use burn::prelude::*;
use rayon::prelude::*;

/// Input rows up to which a weight is unpacked row by row into the cache rather than as a whole.
const FEW_ROWS: usize = 4;

/// Weight rows that stay in the cache while all input rows of a task pass by.
const WEIGHT_BLOCK: usize = 64;

pub(crate) fn linear_packed(
    x: Tensor<Flex, 2>,
    p: &PackedMatrix<Flex>,
    bias: Option<Tensor<Flex, 1>>,
) -> Tensor<Flex, 2> {
    let [rows, columns] = x.dims();
    if rows == 0 || rows > FEW_ROWS || columns == 0 {
        let product = x.matmul(codes::unpack(p).transpose());
        return match bias {
            Some(bias) => product + bias.unsqueeze(),
            None => product,
        };
    }
    let packed = PackedRows::new(p);
    let bias = bias.map(to_vec);
    let x = contiguous(x);
    let x = x.storage::<f32>();
    let columns_of = |from: usize, to: usize| {
        let (mut codes, mut values) = (vec![0u8; columns], vec![0.0f32; columns]);
        let mut out = vec![0.0f32; rows * (to - from)];
        for o in from..to {
            packed.values(o, &mut codes, &mut values);
            for (i, x) in x.chunks_exact(columns).enumerate() {
                let product = float_dot(x, &values);
                out[i * (to - from) + o - from] = product + bias.as_ref().map_or(0.0, |b| b[o]);
            }
        }
        out
    };
    by_columns(rows, packed.rows, columns_of)
}

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
    let weight = Weight::new(&packed);
    let product = Product::new(&bytes, &weight, &packed, bias.map(to_vec));
    let threads = rayon::current_num_threads();
    if rows < 2 * TILE * threads {
        return by_columns(rows, out, |from, to| {
            let mut part = vec![0.0; rows * (to - from)];
            product.block((0, rows), (from, to), &mut part);
            part
        });
    }
    let task = rows.div_ceil(4 * threads).clamp(TILE, WEIGHT_BLOCK).next_multiple_of(TILE);
    let mut y = vec![0.0f32; rows * out];
    y.par_chunks_mut(task * out).enumerate().for_each(|(i, y)| {
        let from = i * task;
        product.block((from, from + y.len() / out), (0, out), y);
    });
    from_vec(y, [rows, out])
}

/// `[rows, out]` from blocks of columns that are computed in parallel, for few rows.
fn by_columns(rows: usize, out: usize, block: impl Fn(usize, usize) -> Vec<f32> + Sync) -> Tensor<Flex, 2> {
    let width = out.div_ceil(4 * rayon::current_num_threads()).next_multiple_of(TILE).max(16);
    let starts: Vec<usize> = (0..out).step_by(width).collect();
    let end = |from: usize| (from + width).min(out);
    let parts: Vec<Vec<f32>> = starts.par_iter().map(|from| block(*from, end(*from))).collect();
    let mut y = vec![0.0f32; rows * out];
    for (from, part) in starts.iter().zip(&parts) {
        let width = end(*from) - from;
        for (row, part) in part.chunks_exact(width).enumerate() {
            y[row * out + from..][..width].copy_from_slice(part);
        }
    }
    from_vec(y, [rows, out])
}

/// Unsigned weight codes, one in a byte, of which `middle` is zero.
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

    fn matrix(&self) -> ByteMatrix<'_, u8> {
        match self {
            Self::Packed(data, stride) => ByteMatrix { data, stride: *stride },
            Self::Unpacked(data, stride) => ByteMatrix { data, stride: *stride },
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
    packed: &'a PackedRows,
    /// `[rows]`, scale and zero of the input.
    grids: &'a [(f32, f64)],
    pieces: Vec<Piece>,
    /// `[rows, pieces]`, sums of input codes times minus the weight's middle code.
    corrections: Vec<i32>,
    /// `[rows, groups]`, sums of input codes; for weights with zeros.
    input_sums: Vec<f32>,
    /// `[out]`, sums of weight values; for inputs with zeros.
    weight_sums: Vec<f64>,
    bias: Option<Vec<f32>>,
}

impl<'a> Product<'a> {
    fn new(x: &'a ByteRows, weight: &'a Weight<'a>, packed: &'a PackedRows, bias: Option<Vec<f32>>) -> Self {
        let w = weight.matrix();
        let pieces = dot::pieces(packed.columns, packed.group);
        let middle = middle(packed);
        let corrections = piece_sums(x, packed.columns, &pieces, |sum| -middle * sum);
        let group_sums = |codes: &[i8]| codes.chunks(LONGEST).map(|c| dot::sum_signed(c) as f32).sum();
        let input_sums = match packed.zeros.is_empty() {
            true => vec![],
            false => x.codes.par_chunks(packed.group).map(group_sums).collect(),
        };
        let weight_sums = match x.has_zero {
            true => (0..packed.rows).into_par_iter().map(|row| weight_sum(w, packed, row)).collect(),
            false => vec![],
        };
        let x_matrix = ByteMatrix { data: x.codes.as_slice(), stride: packed.columns };
        Self { x: x_matrix, w, packed, grids: &x.grids, pieces, corrections, input_sums, weight_sums, bias }
    }

    /// Rows and columns (from, to) of the product into `y`, row-major without gaps.
    fn block(&self, rows: (usize, usize), columns: (usize, usize), y: &mut [f32]) {
        let width = columns.1 - columns.0;
        for w_block in (columns.0..columns.1).step_by(WEIGHT_BLOCK) {
            let w_end = (w_block + WEIGHT_BLOCK).min(columns.1);
            for x in (rows.0..rows.1).step_by(TILE) {
                let m = TILE.min(rows.1 - x);
                for w in (w_block..w_end).step_by(TILE) {
                    let n = TILE.min(w_end - w);
                    let tile = self.tile(Tile { x, w, m, n });
                    for (i, values) in tile.iter().enumerate().take(m) {
                        let at = (x - rows.0 + i) * width + w - columns.0;
                        y[at..at + n].copy_from_slice(&values[..n]);
                    }
                }
            }
        }
    }

    fn tile(&self, at: Tile) -> [[f32; TILE]; TILE] {
        let operands = Operands {
            x: self.x,
            w: self.w,
            pieces: &self.pieces,
            corrections: &self.corrections,
            scales: &self.packed.scales,
            groups: self.packed.groups(),
        };
        let mut sums = dot::tile(&operands, at);
        if !self.input_sums.is_empty() {
            self.add_weight_zeros(at, &mut sums);
        }
        for (i, sums) in sums.iter_mut().enumerate().take(at.m) {
            let (scale, zero) = self.grids[at.x + i];
            if self.weight_sums.is_empty() {
                for sum in sums.iter_mut() {
                    *sum *= scale;
                }
            } else {
                // Both terms may be large and nearly cancel.
                for (sum, weight_sum) in sums.iter_mut().zip(&self.weight_sums[at.w..]) {
                    *sum = (f64::from(*sum) * f64::from(scale) + zero * weight_sum) as f32;
                }
            }
            if let Some(bias) = &self.bias {
                for (sum, bias) in sums.iter_mut().zip(&bias[at.w..]) {
                    *sum += bias;
                }
            }
        }
        sums
    }

    /// Adds `sum_g b sum c`.
    fn add_weight_zeros(&self, at: Tile, sums: &mut [[f32; TILE]; TILE]) {
        let groups = self.packed.groups();
        for (i, sums) in sums.iter_mut().enumerate().take(at.m) {
            let codes = &self.input_sums[(at.x + i) * groups..][..groups];
            for (j, sum) in sums.iter_mut().enumerate().take(at.n) {
                let zeros = &self.packed.zeros[(at.w + j) * groups..][..groups];
                *sum += codes.iter().zip(zeros).map(|(c, z)| c * z).sum::<f32>();
            }
        }
    }
}

/// `f` of the sum of codes in every piece, `[rows, pieces]`.
fn piece_sums(x: &ByteRows, columns: usize, pieces: &[Piece], f: impl Fn(i32) -> i32 + Sync) -> Vec<i32> {
    let sum = |row: &[i8], piece: &Piece| f(dot::sum_signed(&row[piece.column..][..piece.length]));
    let mut sums = vec![0; x.grids.len() * pieces.len()];
    sums.par_chunks_mut(pieces.len()).zip(x.codes.par_chunks(columns)).for_each(|(sums, row)| {
        for (to, piece) in sums.iter_mut().zip(pieces) {
            *to = sum(row, piece);
        }
    });
    sums
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

vectorised! {
    fn float_dot(a: &[f32], b: &[f32]) -> f32 {
        let mut lanes = [0.0f32; 2 * LANES];
        let (a_chunks, b_chunks) = (a.chunks_exact(2 * LANES), b.chunks_exact(2 * LANES));
        let rest = a_chunks.remainder().iter().zip(b_chunks.remainder());
        for (a, b) in a_chunks.zip(b_chunks) {
            for i in 0..2 * LANES {
                lanes[i] += a[i] * b[i];
            }
        }
        for (lane, (a, b)) in lanes.iter_mut().zip(rest) {
            *lane += a * b;
        }
        let mut width = LANES;
        while width > 0 {
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
            width /= 2;
        }
        lanes[0]
    }
}
