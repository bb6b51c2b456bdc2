//! Quantization of rows.

use super::lines::Scratch;
use super::memory::{contiguous, from_vec, map_rows, rows_per_task};
use super::panels::Piece;
use super::parallel::{self, Shared};
use super::simd::{lane_range, vectorised};
use crate::quantize::{QuantizedRows, TokenQuant};
use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::prelude::*;
use rayon::prelude::*;

/// The codes and the scale rule of one [`TokenQuant`], with the limits worked out.
#[derive(Clone, Copy)]
pub(crate) struct Rule {
    q: TokenQuant,
    low: f32,
    high: f32,
}

impl Rule {
    pub(crate) fn new(q: TokenQuant) -> Self {
        let (low, high) = q.code_limits();
        Self { q, low, high }
    }

    /// Scale and zero of one row. A row with a NaN gets a NaN scale, so that it shows in whatever
    /// is computed from its codes.
    #[inline(always)]
    fn grid(&self, row: &[f32]) -> (f32, f32) {
        let (min, max) = match self.q.range {
            Some(range) => range,
            None => {
                let (min, max, numbers) = lane_range(row);
                if !numbers {
                    return (f32::NAN, 0.0);
                }
                (min, max)
            }
        };
        if row.is_empty() {
            return (1.0, 0.0);
        }
        let (scale, zero_point) = self.q.scale_and_zero_point(min, max);
        (scale, zero_point * scale)
    }

    /// The code of one value, as a float.
    #[inline(always)]
    fn code(&self, x: f32, scale: f32, zero: f32) -> f32 {
        let code = ((x - zero) / scale).round_ties_even();
        let code = if code < self.low { self.low } else { code };
        if code > self.high { self.high } else { code }
    }
}

pub(crate) fn round_half_even(x: Tensor<Flex, 2>) -> Tensor<Flex, 2> {
    map_rows(x, round_slice)
}

pub(crate) fn fake_quantize_rows(x: Tensor<Flex, 2>, q: TokenQuant) -> Tensor<Flex, 2> {
    let columns = x.dims()[1];
    let rule = Rule::new(q);
    map_rows(x, |rows| fake_quantize_slice(rows, columns, rule))
}

pub(crate) fn quantize_rows(x: Tensor<Flex, 2>, q: TokenQuant) -> QuantizedRows<Flex> {
    let [rows, columns] = x.dims();
    let rule = Rule::new(q);
    let x = contiguous(x);
    let mut codes = vec![0i32; rows * columns];
    let mut grids = vec![(1.0f32, 0.0f32); rows];
    if columns > 0 {
        let task = rows_per_task(rows, columns);
        let input = x.storage::<f32>().par_chunks(task * columns);
        codes
            .par_chunks_mut(task * columns)
            .zip(grids.par_chunks_mut(task))
            .zip(input)
            .for_each(|((codes, grids), x)| codes_slice(x, columns, rule, codes, grids));
    }
    let zero = grids.iter().map(|g| g.1).collect();
    QuantizedRows {
        codes: Tensor::from_primitive(FlexTensor::from_data(TensorData::new(codes, [rows, columns]))),
        scale: from_vec(grids.iter().map(|g| g.0).collect(), [rows, 1]),
        zero: (!q.symmetric).then(|| from_vec(zero, [rows, 1])),
    }
}

vectorised! {
    fn round_slice(values: &mut [f32]) {
        for v in values {
            *v = v.round_ties_even();
        }
    }
}

vectorised! {
    fn fake_quantize_slice(rows: &mut [f32], columns: usize, rule: Rule) {
        for row in rows.chunks_exact_mut(columns) {
            let (scale, zero) = rule.grid(row);
            if rule.q.symmetric {
                for v in row {
                    *v = rule.code(*v, scale, 0.0) * scale;
                }
            } else {
                for v in row {
                    *v = rule.code(*v, scale, zero) * scale + zero;
                }
            }
        }
    }
}

vectorised! {
    fn codes_slice(
        x: &[f32],
        columns: usize,
        rule: Rule,
        codes: &mut [i32],
        grids: &mut [(f32, f32)],
    ) {
        let rows = x.chunks_exact(columns).zip(codes.chunks_exact_mut(columns)).zip(grids);
        for ((row, codes), grid) in rows {
            *grid = rule.grid(row);
            for (v, code) in row.iter().zip(codes) {
                *code = rule.code(*v, grid.0, grid.1) as i32;
            }
        }
    }
}

/// Codes in signed bytes, the operand of an integer product.
pub(crate) struct ByteRows {
    /// `[rows, depth]`, padded as the pieces say; those of an asymmetric quantization less `2^(bits-1)`.
    pub(crate) codes: Scratch<i8>,
    /// `[rows, pieces]`, sums of codes.
    pub(crate) sums: Vec<i32>,
    /// `(scale, zero)` of each row: `value = code * scale + zero` with the codes as stored here.
    pub(crate) grids: Vec<(f32, f64)>,
    /// Whether the zeros are anything but zero.
    pub(crate) has_zero: bool,
}

/// Quantizes rows of as many columns as the pieces have, at least one.
#[expect(unsafe_code, reason = "tasks write disjoint rows")]
pub(crate) fn quantize_to_bytes(x: &[f32], pieces: &[Piece], q: TokenQuant) -> ByteRows {
    let last = pieces.last().expect("pieces of at least one column");
    let (columns, depth) = (last.column + last.columns, last.start + last.length);
    let rule = ByteRule::new(q);
    let rows = x.len() / columns;
    let mut codes = Scratch::new(rows * depth);
    let mut sums = vec![0; rows * pieces.len()];
    let mut grids = vec![(1.0, 0.0); rows];
    {
        let shared = (Shared::new(&mut codes), Shared::new(&mut sums), Shared::new(&mut grids));
        let task = rows_per_task(rows, columns);
        parallel::blocks(rows.div_ceil(task), x.len(), |block| {
            for row in block * task..((block + 1) * task).min(rows) {
                // SAFETY: a row belongs to one block, and all three are indexed by rows.
                let (codes, sums, grid) = unsafe {
                    (
                        shared.0.range(row * depth, depth),
                        shared.1.range(row * pieces.len(), pieces.len()),
                        shared.2.range(row, 1),
                    )
                };
                grid[0] = rule.row(&x[row * columns..][..columns], pieces, codes, sums);
            }
        });
    }
    ByteRows { codes, sums, grids, has_zero: !q.symmetric }
}

/// How rows become signed bytes.
#[derive(Clone, Copy)]
pub(crate) struct ByteRule {
    rule: Rule,
    /// What is taken off a code to make it signed.
    lowered: f32,
}

impl ByteRule {
    pub(crate) fn new(q: TokenQuant) -> Self {
        Self { rule: Rule::new(q), lowered: if q.symmetric { 0.0 } else { q.levels() / 2.0 } }
    }

    /// The scale of neighbouring values that share one, for a symmetric quantization.
    pub(crate) fn scale(&self, values: &[f32]) -> f32 {
        grid_of(values, self.rule).0
    }

    /// Codes and their sums of one row; its scale and zero.
    fn row(&self, row: &[f32], pieces: &[Piece], codes: &mut [i8], sums: &mut [i32]) -> (f32, f64) {
        let (scale, zero) = grid_of(row, self.rule);
        for (piece, sum) in pieces.iter().zip(sums) {
            let values = &row[piece.column..][..piece.columns];
            let codes = &mut codes[piece.start..][..piece.length];
            *sum = self.codes(values, (scale, zero), codes);
            codes[piece.columns..].fill(0);
        }
        // A constant row is all zero point: nothing is left to cancel, and padding stays exactly zero.
        let constant = !self.rule.q.symmetric && row.iter().all(|v| *v == row[0]);
        let (scale, zero) = match constant {
            true => (0.0, self.rule.code(row[0], scale, zero) * scale + zero),
            false => (scale, zero),
        };
        (scale, f64::from(zero) + f64::from(self.lowered) * f64::from(scale))
    }

    /// Codes of neighbouring values, and their sum.
    pub(crate) fn codes(&self, values: &[f32], (scale, zero): (f32, f32), codes: &mut [i8]) -> i32 {
        #[cfg(target_arch = "x86_64")]
        if self.rule.q.range.is_none() && super::round::applies(scale) {
            let Rule { low, high, .. } = self.rule;
            return super::round::codes(values, [scale, zero, low, high, self.lowered], codes);
        }
        byte_codes(values, scale, zero, *self, codes)
    }
}

vectorised! {
    fn grid_of(row: &[f32], rule: Rule) -> (f32, f32) {
        rule.grid(row)
    }
}

vectorised! {
    fn byte_codes(values: &[f32], scale: f32, zero: f32, rule: ByteRule, codes: &mut [i8]) -> i32 {
        let mut sum = 0i32;
        for (v, code) in values.iter().zip(codes) {
            *code = (rule.rule.code(*v, scale, zero) - rule.lowered) as i32 as i8;
            sum = sum.wrapping_add(i32::from(*code));
        }
        sum
    }
}
