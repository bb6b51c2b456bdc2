//! Attention, one pass for each head while its scores are in the cache.

use super::math;
use super::memory::{contiguous, from_vec};
use super::simd::{lane_sum, vectorised};
use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::prelude::*;
use rayon::prelude::*;

/// Scores are never below this, so that masked entries cannot become NaN.
const LOWEST: f32 = -1e30;

/// Query rows of one task at most: their scores over a thousand keys fit the second-level cache.
const MOST_QUERIES: usize = 128;

pub(crate) fn attention(
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
        q: Strided::new(q),
        k: Strided::new(k),
        v: Strided::new(v),
        mask: mask.map(|m| Mask::new(m, keys)),
        causal,
        scale: scale as f32,
        sizes: Sizes { heads, queries, keys, d_head, d_value },
    };
    let width = heads * d_value;
    let rows = rows_per_task(batch, queries);
    // One chunk is a range of queries of one batch entry, all heads side by side: [rows, heads,
    // d_value]. Merging heads, which always follows, then moves nothing.
    let mut out = vec![0.0f32; batch * queries * width];
    let tasks: Vec<(usize, &mut [f32])> = out
        .chunks_mut(queries * width)
        .enumerate()
        .flat_map(|(b, out)| {
            out.chunks_mut(rows * width).enumerate().map(move |(i, out)| (b * queries + i * rows, out))
        })
        .collect();
    tasks.into_par_iter().for_each(|(at, out)| job.run(at / queries, at % queries, out));
    from_vec(out, [batch, queries, heads, d_value]).swap_dims(1, 2)
}

/// Queries of one task: enough tasks for all threads, but not so few queries that the matrix
/// products spend their time rearranging keys and values.
fn rows_per_task(batch: usize, queries: usize) -> usize {
    let tasks = (2 * rayon::current_num_threads()).div_ceil(batch);
    queries.div_ceil(tasks).next_multiple_of(32).min(MOST_QUERIES)
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
    q: Strided,
    k: Strided,
    v: Strided,
    mask: Option<Mask>,
    causal: bool,
    scale: f32,
    sizes: Sizes,
}

impl Job {
    /// Queries from `first` of batch entry `batch`, as many as `out: [rows, heads, d_value]` holds.
    fn run(&self, batch: usize, first: usize, out: &mut [f32]) {
        let Sizes { heads, queries, keys, d_head, d_value } = self.sizes;
        let width = heads * d_value;
        let rows = out.len() / width;
        // Keys that the last query sees: those after it are masked for all.
        let visible = |row: usize| if self.causal { first + row + 1 + keys - queries } else { keys };
        let seen = visible(rows - 1);
        let mut scores = vec![0.0f32; rows * seen];
        for head in 0..heads {
            let q = self.q.matrix(batch, head, first);
            let k = self.k.matrix(batch, head, 0).transpose();
            product(q, k, [rows, d_head, seen], &mut scores, seen);
            for (i, row) in scores.chunks_exact_mut(seen).enumerate() {
                let (row, hidden) = row.split_at_mut(visible(i));
                let mask = self.mask.as_ref().map(|m| &m.row(batch, head, first + i)[..row.len()]);
                softmax(row, mask, self.scale);
                hidden.fill(0.0);
            }
            let weights = Matrix { data: &scores, row_stride: seen, column_stride: 1 };
            let v = self.v.matrix(batch, head, 0);
            product(weights, v, [rows, seen, d_value], &mut out[head * d_value..], width);
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
            *s = math::exp(*s - largest);
        }
        let inverse = 1.0 / lane_sum(scores, f64::from);
        for s in scores.iter_mut() {
            *s = (f64::from(*s) * inverse) as f32;
        }
    }
}

fn softmax(scores: &mut [f32], mask: Option<&[f32]>, scale: f32) {
    softmax_row(scores, mask.unwrap_or(&[]), scale);
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

impl Matrix<'_> {
    fn transpose(self) -> Self {
        Self { row_stride: self.column_stride, column_stride: self.row_stride, ..self }
    }

    /// Whether `rows` by `columns` elements lie inside the slice.
    fn holds(&self, rows: usize, columns: usize) -> bool {
        (rows - 1) * self.row_stride + (columns - 1) * self.column_stride < self.data.len()
    }
}

/// `out = a b` for `a: [m, k]`, `b: [k, n]`; row `i` of the result starts at `i * stride`.
#[expect(unsafe_code, reason = "the matrix product of the gemm crate takes pointers")]
fn product(a: Matrix<'_>, b: Matrix<'_>, [m, k, n]: [usize; 3], out: &mut [f32], stride: usize) {
    assert!(m * k * n > 0 && a.holds(m, k) && b.holds(k, n), "operands smaller than {m} x {k} x {n}");
    assert!((m - 1) * stride + n <= out.len(), "no room for {m} x {n} results");
    // SAFETY: all elements that the sizes and strides reach are inside the slices, as asserted, and
    // the result is borrowed mutably, so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            stride as isize,
            false,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
