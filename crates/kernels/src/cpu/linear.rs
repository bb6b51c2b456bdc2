//! Products of floats with packed weights.

use super::codes::{self, PackedRows};
use super::memory::{contiguous, from_vec, to_vec};
use super::panels::WIDTH;
use super::simd::{LANES, vectorised};
use crate::packed_matrix::PackedMatrix;
use burn::backend::Flex;
use burn::prelude::*;
use rayon::prelude::*;

/// Input rows up to which a weight is unpacked row by row into the cache rather than as a whole.
const FEW_ROWS: usize = 12;

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

/// `[rows, out]` from blocks of columns `from .. to`, `[rows, to - from]` each, that are computed in
/// parallel; for few rows. Blocks start at multiples of a panel.
pub(super) fn by_columns(
    rows: usize,
    out: usize,
    block: impl Fn(usize, usize) -> Vec<f32> + Sync,
) -> Tensor<Flex, 2> {
    let width = out.div_ceil(4 * rayon::current_num_threads()).next_multiple_of(WIDTH);
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

vectorised! {
    fn float_dot(a: &[f32], b: &[f32]) -> f32 {
        // Four vectors of sums hide the latency of an addition.
        let mut lanes = [0.0f32; 4 * LANES];
        let (a_chunks, b_chunks) = (a.chunks_exact(4 * LANES), b.chunks_exact(4 * LANES));
        let rest = a_chunks.remainder().iter().zip(b_chunks.remainder());
        for (a, b) in a_chunks.zip(b_chunks) {
            for i in 0..4 * LANES {
                lanes[i] += a[i] * b[i];
            }
        }
        for (lane, (a, b)) in lanes.iter_mut().zip(rest) {
            *lane += a * b;
        }
        let mut width = 2 * LANES;
        while width > 0 {
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
            width /= 2;
        }
        lanes[0]
    }
}
