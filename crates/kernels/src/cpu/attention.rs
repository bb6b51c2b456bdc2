//! Attention, one pass for each head while its scores are in the cache.

use super::lines::Scratch;
use super::math;
use super::memory::{contiguous, filled, from_vec};
use super::pack;
use super::parallel::{self, Shared};
use super::simd::{LANES, lane_max, vectorised};
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
        let (stride, out_stride) = (seen.next_multiple_of(WIDTH), d_value.next_multiple_of(WIDTH));
        let (mut scores, mut sums) = (Scratch::new(HEIGHT * stride), Scratch::new(HEIGHT * out_stride));
        let mut q = Scratch::new(HEIGHT * d_head);
        for first in queries.clone().step_by(HEIGHT) {
            let m = HEIGHT.min(queries.end - first);
            let x = self.q.matrix(batch, head, first).rows([m, d_head], &mut q);
            keys.times(self.unit, x, m, (&mut scores, stride));
            let mut inverses = [0.0; HEIGHT];
            let rows = scores.chunks_exact_mut(stride).zip(&mut inverses).enumerate().take(m);
            for (i, (row, inverse)) in rows {
                let (row, hidden) = row[..seen].split_at_mut(self.visible(first + i));
                let mask = self.mask.as_ref().map(|m| &m.row(batch, head, first + i)[..row.len()]);
                *inverse = 1.0 / exponentials(row, mask.unwrap_or(&[]), self.scale);
                hidden.fill(0.0);
            }
            values.times(self.unit, (&scores, stride), m, (&mut sums, out_stride));
            for (i, (row, inverse)) in sums.chunks_exact(out_stride).zip(&inverses).enumerate().take(m) {
                self.store([batch, head, first + i], row, *inverse, out);
            }
        }
    }

    /// Keys that a query sees.
    fn visible(&self, query: usize) -> usize {
        let Sizes { queries, keys, .. } = self.sizes;
        if self.causal { query + 1 + keys - queries } else { keys }
    }

    /// The result of one query of one head, `factor` times what is in `row`.
    #[expect(unsafe_code, reason = "tasks write disjoint parts of the result")]
    fn store(&self, [batch, head, query]: [usize; 3], row: &[f32], factor: f32, out: &Shared<'_, f32>) {
        let Sizes { heads, queries, d_value, .. } = self.sizes;
        let at = ((batch * queries + query) * heads + head) * d_value;
        // SAFETY: a query of a head belongs to one task.
        scale_into(row, factor, unsafe { out.range(at, d_value) });
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

    /// `m` rows of `x` times the matrix, each padded to whole panels, into rows of `to`; both with how far rows are apart.
    fn times(&self, unit: Unit, x: (&[f32], usize), m: usize, (to, to_stride): (&mut [f32], usize)) {
        for (panel, data) in self.data.chunks_exact(self.rows * WIDTH).enumerate() {
            let w = FloatPanel { data, stride: WIDTH, depth: self.rows };
            unit.floats(w, x, m, (&mut to[panel * WIDTH..], to_stride));
        }
    }
}

vectorised! {
    /// `exp(score * scale + mask)` in place, with the largest of the exponents taken off all of them, and their sum.
    fn exponentials(scores: &mut [f32], mask: &[f32], scale: f32) -> f32 {
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
        let largest = lane_max(scores);
        let mut sums = [0.0f32; LANES];
        let (chunks, rest) = scores.as_chunks_mut::<LANES>();
        for chunk in chunks {
            for (s, sum) in chunk.iter_mut().zip(&mut sums) {
                *s = math::exp_below_0::<FMA>(*s - largest);
                *sum += *s;
            }
        }
        for (s, sum) in rest.iter_mut().zip(&mut sums) {
            *s = math::exp_below_0::<FMA>(*s - largest);
            *sum += *s;
        }
        sums.iter().sum()
    }
}

vectorised! {
    fn scale_into(row: &[f32], factor: f32, to: &mut [f32]) {
        for (to, v) in to.iter_mut().zip(row) {
            *to = v * factor;
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
