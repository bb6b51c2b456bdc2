//! Tiles in plain loops, for every processor.

use super::{DEPTH, FloatPanel, Tile, WIDTH};
use crate::cpu::simd::vectorised;

/// Rows that one pass over a float panel serves.
const ROWS: usize = 4;
/// Outputs of one pass: sums of four rows then fit 16 registers of four lanes.
const LANES: usize = 8;

vectorised! {
    /// See [`super::Unit::bytes`].
    fn bytes(w: &[u8], x: &[i8], stride: usize, m: usize, sums: &mut Tile<i32>) {
        let depth = w.len() / WIDTH;
        for (i, sums) in sums.iter_mut().enumerate().take(m) {
            *sums = [0; WIDTH];
            let row = &x[i * stride..][..depth];
            for (x, w) in row.chunks_exact(DEPTH).zip(w.chunks_exact(DEPTH * WIDTH)) {
                let x: [i32; DEPTH] = std::array::from_fn(|c| i32::from(x[c]));
                for (sum, w) in sums.iter_mut().zip(w.chunks_exact(DEPTH)) {
                    let products = i32::from(w[0]) * x[0] + i32::from(w[1]) * x[1];
                    // Wrapping, though nothing wraps: a check would keep the loop scalar.
                    *sum = sum.wrapping_add(products + i32::from(w[2]) * x[2] + i32::from(w[3]) * x[3]);
                }
            }
        }
    }
}

vectorised! {
    /// See [`super::Unit::floats`].
    fn floats(w: FloatPanel<'_>, x: &[f32], stride: usize, m: usize, to: &mut [f32], to_stride: usize) {
        for from in (0..m).step_by(ROWS) {
            let rows: [&[f32]; ROWS] = std::array::from_fn(|i| &x[(from + i).min(m - 1) * stride..][..w.depth]);
            for lane in (0..WIDTH).step_by(LANES) {
                let mut part = [[0.0f32; LANES]; ROWS];
                for k in 0..w.depth {
                    let w: &[f32] = &w.data[k * w.stride + lane..][..LANES];
                    for (part, row) in part.iter_mut().zip(&rows) {
                        for (sum, w) in part.iter_mut().zip(w) {
                            *sum += row[k] * w;
                        }
                    }
                }
                for (row, part) in (from..m).zip(&part) {
                    to[row * to_stride + lane..][..LANES].copy_from_slice(part);
                }
            }
        }
    }
}
