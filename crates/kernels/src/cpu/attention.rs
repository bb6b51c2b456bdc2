//! Attention, one pass for each head while its scores are in the cache.

use super::lines::Scratch;
use super::math;
use super::memory::{contiguous, copy_row, filled, from_vec};
use super::pack;
use super::parallel::{self, Shared};
use super::simd::{lane_sum, vectorised};
use super::tile::{FloatPanel, HEIGHT, Unit, WIDTH};
use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::prelude::*;
use std::ops::Range;

/// Scores are never below this, so that masked entries cannot become NaN.
const LOWEST: f32 = -1e30;

/// Query rows of one task at most.
const MOST_QUERIES: usize = 128;

#[expect(unsafe_code, reason = "the result is not written twice")]
pub(crate) fn attention(
    unit: Unit,
    q: Tensor<Flex, 4>,
    k: Tensor<Flex, 4>,
    v: Tensor<Flex, 4>,
    mask: Option<Tensor<Flex, 4>>,
    causal: bool,
    scale: f64,
) -> Tensor<Flex, 4> {
    let [batch, heads, queries, d_head] = q.dims();
    let [_, _, keys, d_value] = v.dims();
    if batch * heads * queries * keys * d_value * d_head == 0 {
        return crate::portable::attention(q, k, v, mask, causal, scale);
    }
    let job = Job {
        unit,
        q: Strided::new(q),
        k: Strided::new(k),
        v: Strided::new(v),
        mask: mask.map(|m| Mask::new(m, keys)),
        causal,
        scale: scale as f32,
        sizes: Sizes { heads, queries, keys, d_head, d_value },
    };
    // All heads of a query side by side, [batch, queries, heads, d_value]: merging heads, which always
    // follows, then moves nothing.
    let fill = |out: &mut [f32]| {
        let shared = Shared::new(out);
        let per_head = queries.div_ceil(MOST_QUERIES);
        let cost = batch * heads * queries * keys * (d_head + d_value) / 64;
        parallel::blocks(batch * heads * per_head, cost, |block| {
            let (at, part) = (block / per_head, block % per_head);
            let first = part * MOST_QUERIES;
            let rows = first..(first + MOST_QUERIES).min(queries);
            job.run(at / heads, at % heads, rows, &shared);
        });
    };
    // SAFETY: blocks cover every query of every head, and `run` only writes.
    let out = unsafe { filled(batch * queries * heads * d_value, fill) };
    from_vec(out, [batch, queries, heads, d_value]).swap_dims(1, 2)
}

#[derive(Clone, Copy)]
struct Sizes {
    heads: usize,
    queries: usize,
    keys: usize,
    d_head: usize,
    d_value: usize,
}

struct Job {
    unit: Unit,
    q: Strided,
    k: Strided,
    v: Strided,
    mask: Option<Mask>,
    causal: bool,
    scale: f32,
    sizes: Sizes,
}

impl Job {
    /// Some queries of one head, [`HEIGHT`] at a time, whose scores stay in the first-level cache.
    fn run(&self, batch: usize, head: usize, queries: Range<usize>, out: &Shared<'_, f32>) {
        let Sizes { d_head, d_value, .. } = self.sizes;
        let seen = self.visible(queries.end - 1);
        let keys = Packed::new(self.k.matrix(batch, head, 0).transpose(), [d_head, seen]);
        let values = Packed::new(self.v.matrix(batch, head, 0), [seen, d_value]);
        let stride = seen.next_multiple_of(WIDTH);
        let mut scores = Scratch::new(HEIGHT * stride);
        let mut q = Scratch::new(HEIGHT * d_head);
        for first in queries.clone().step_by(HEIGHT) {
            let m = HEIGHT.min(queries.end - first);
            let (x, x_stride) = self.q.matrix(batch, head, first).rows([m, d_head], &mut q);
            keys.times(self.unit, x, x_stride, m, |row, lane, sums| {
                copy_row(sums, &mut scores[row * stride + lane..][..WIDTH]);
            });
            for (i, row) in scores.chunks_exact_mut(stride).enumerate().take(m) {
                let (row, hidden) = row[..seen].split_at_mut(self.visible(first + i));
                let mask = self.mask.as_ref().map(|m| &m.row(batch, head, first + i)[..row.len()]);
                softmax_row(row, mask.unwrap_or(&[]), self.scale);
                hidden.fill(0.0);
            }
            values.times(self.unit, &scores, stride, m, |row, lane, sums| {
                self.store([batch, head, first + row], lane, sums, out);
            });
        }
    }

    /// Keys that a query sees.
    fn visible(&self, query: usize) -> usize {
        let Sizes { queries, keys, .. } = self.sizes;
        if self.causal { query + 1 + keys - queries } else { keys }
    }

    /// Entries `lane ..` of the result of one query of one head.
    #[expect(unsafe_code, reason = "tasks write disjoint parts of the result")]
    fn store(
        &self,
        [batch, head, query]: [usize; 3],
        lane: usize,
        sums: &[f32; WIDTH],
        out: &Shared<'_, f32>,
    ) {
        let Sizes { heads, queries, d_value, .. } = self.sizes;
        let width = WIDTH.min(d_value - lane);
        let at = ((batch * queries + query) * heads + head) * d_value + lane;
        // SAFETY: a query of a head belongs to one task, which stores its lanes one after the other.
        copy_row(sums, unsafe { out.range(at, width) });
    }
}

/// A matrix in panels, `[panel, rows, WIDTH]`.
struct Packed {
    data: Scratch<f32>,
    rows: usize,
}

impl Packed {
    fn new(of: Matrix<'_>, [rows, columns]: [usize; 2]) -> Self {
        let mut data = Scratch::new(columns.div_ceil(WIDTH) * rows * WIDTH);
        for (panel, to) in data.chunks_exact_mut(rows * WIDTH).enumerate() {
            let first = panel * WIDTH;
            pack::panel(of.data, [of.row_stride, of.column_stride], first, WIDTH.min(columns - first), to);
        }
        Self { data, rows }
    }

    /// `m` rows of `x`, `stride` apart, times the matrix: `store` gets row, first column and results.
    fn times(
        &self,
        unit: Unit,
        x: &[f32],
        stride: usize,
        m: usize,
        mut store: impl FnMut(usize, usize, &[f32; WIDTH]),
    ) {
        let mut tile = [[0.0; WIDTH]; HEIGHT];
        for (panel, data) in self.data.chunks_exact(self.rows * WIDTH).enumerate() {
            unit.floats(FloatPanel { data, stride: WIDTH, depth: self.rows }, x, stride, m, &mut tile);
            for (row, sums) in tile.iter().enumerate().take(m) {
                store(row, panel * WIDTH, sums);
            }
        }
    }
}

vectorised! {
    /// Softmax of `scores * scale + mask`, in place.
    fn softmax_row(scores: &mut [f32], mask: &[f32], scale: f32) {
        if mask.is_empty() {
            for s in scores.iter_mut() {
                *s *= scale;
            }
        } else {
            for (s, m) in scores.iter_mut().zip(mask) {
                let v = *s * scale + m;
                *s = if v < LOWEST { LOWEST } else { v };
            }
        }
        let (_, largest, _) = super::simd::lane_range(scores);
        for s in scores.iter_mut() {
            *s = math::exp::<FMA>(*s - largest);
        }
        let inverse = 1.0 / lane_sum(scores, f64::from);
        for s in scores.iter_mut() {
            *s = (f64::from(*s) * inverse) as f32;
        }
    }
}

/// An additive mask whose rows are contiguous.
struct Mask {
    data: FlexTensor,
    /// Batch, heads, queries: 0 where the axis is shared.
    strides: [usize; 3],
    keys: usize,
}

impl Mask {
    fn new(mask: Tensor<Flex, 4>, keys: usize) -> Self {
        let [batch, heads, queries, _] = mask.dims();
        let data = contiguous(mask.expand([batch, heads, queries, keys]));
        let stride = |dim: usize, of: usize| if dim == 1 { 0 } else { of };
        let strides =
            [stride(batch, heads * queries * keys), stride(heads, queries * keys), stride(queries, keys)];
        Self { data, strides, keys }
    }

    fn row(&self, batch: usize, head: usize, query: usize) -> &[f32] {
        let at = batch * self.strides[0] + head * self.strides[1] + query * self.strides[2];
        &self.data.storage::<f32>()[at..at + self.keys]
    }
}

/// A rank-4 tensor as it lies in memory; heads are usually not contiguous.
struct Strided {
    data: FlexTensor,
    offset: usize,
    strides: [usize; 4],
}

impl Strided {
    fn new(x: Tensor<Flex, 4>) -> Self {
        let mut data = x.into_primitive().tensor();
        if !data.layout().has_positive_strides() {
            data = data.to_contiguous();
        }
        let mut strides = [0; 4];
        for (to, from) in strides.iter_mut().zip(data.layout().strides()) {
            *to = from.unsigned_abs();
        }
        let offset = data.layout().start_offset();
        Self { data, offset, strides }
    }

    /// Rows `first ..` of one head.
    fn matrix(&self, batch: usize, head: usize, first: usize) -> Matrix<'_> {
        let [b, h, s, d] = self.strides;
        let at = self.offset + batch * b + head * h + first * s;
        Matrix { data: &self.data.storage::<f32>()[at..], row_stride: s, column_stride: d }
    }
}

#[derive(Clone, Copy)]
struct Matrix<'a> {
    data: &'a [f32],
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    fn transpose(self) -> Self {
        Self { row_stride: self.column_stride, column_stride: self.row_stride, ..self }
    }

    /// The first `rows` rows, each contiguous, and how far apart they are; in `room` if not as they lie.
    fn rows(self, [rows, columns]: [usize; 2], room: &'a mut [f32]) -> (&'a [f32], usize) {
        if self.column_stride == 1 {
            return (self.data, self.row_stride);
        }
        for (i, to) in room.chunks_exact_mut(columns).enumerate().take(rows) {
            let row = self.data[i * self.row_stride..].iter().step_by(self.column_stride);
            to.iter_mut().zip(row).for_each(|(to, v)| *to = *v);
        }
        (room, columns)
    }
}
