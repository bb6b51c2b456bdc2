//! Products of floats with weights, packed or not.

use super::codes::PackedRows;
use super::lines::Scratch;
use super::memory::{self, contiguous, filled, from_vec};
use super::outputs::{self, Block, Finish, Results};
use super::panels::Panels;
use super::parallel::{self, Shared};
use super::tile::{FloatPanel, HEIGHT, Unit, WIDTH};
use crate::activation::Activation;
use crate::packed_matrix::PackedMatrix;
use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::prelude::*;
use std::ops::Range;

/// Input rows up to which the tiles of this crate read a packed weight's panels. For more, the gemm crate multiplies blocks
/// that were unpacked into the cache: either way the weight is never in memory as floats.
const FEW_ROWS: usize = 256;

/// Multiplications below which a second thread costs more than it brings.
const PARALLEL_FROM: usize = 1 << 21;

/// See [`crate::linear_packed`], with an activation behind.
pub(crate) fn linear_packed(
    unit: Unit,
    x: Tensor<Flex, 2>,
    p: &PackedMatrix<Flex>,
    bias: Option<Tensor<Flex, 1>>,
    activation: Activation,
) -> Tensor<Flex, 2> {
    let rows = x.dims()[0];
    if rows * p.shape[0] * p.shape[1] == 0 {
        return activation.forward(crate::portable::linear_packed(x, p, bias));
    }
    if by_panels(rows) {
        return panels(unit, x, &Panels::of(p), &Finish::new(bias, activation));
    }
    multiply(&Matrix::new(x), &Weight::Packed(&PackedRows::new(p)), p.shape, bias, activation)
}

/// Whether so many rows are multiplied with panels.
pub(crate) fn by_panels(rows: usize) -> bool {
    rows <= FEW_ROWS
}

/// Few rows times a packed weight, which each block of them unpacks panel by panel.
#[expect(unsafe_code, reason = "the result is not written twice")]
fn panels(unit: Unit, x: Tensor<Flex, 2>, panels: &Panels, finish: &Finish) -> Tensor<Flex, 2> {
    let [rows, columns] = x.dims();
    let x = contiguous(x);
    let x = x.storage::<f32>();
    let height = rows.div_ceil(rows.div_ceil(HEIGHT));
    let work = |block: Block, results: &Results<'_>| {
        let mut values = Scratch::<f32>::new(columns * WIDTH);
        let mut room = panels.room(true);
        let mut tile = [[0.0; WIDTH]; HEIGHT];
        for panel in block.panels {
            panels.values(panel, &mut room, &mut values);
            let w = FloatPanel { data: &values, stride: WIDTH, depth: columns };
            for row in block.rows.clone().step_by(height) {
                let m = height.min(block.rows.end - row);
                let x = (&x[row * columns..][..m * columns], columns);
                unit.floats(w, x, m, (tile.as_flattened_mut(), WIDTH));
                // SAFETY: blocks do not overlap.
                unsafe { results.store(&tile[..m], row, panel) };
            }
        }
    };
    // SAFETY: all rows of all panels of the block are stored.
    unsafe { outputs::product([rows, 4 * columns, panels.rows], finish, work) }
}

/// See [`crate::linear`]: `w: [in, out]`, however it lies in memory.
pub(crate) fn linear(
    x: Tensor<Flex, 2>,
    w: Tensor<Flex, 2>,
    bias: Option<Tensor<Flex, 1>>,
    activation: Activation,
) -> Tensor<Flex, 2> {
    let ([rows, columns], [_, out]) = (x.dims(), w.dims());
    if rows * columns * out == 0 {
        return crate::portable::linear(x, w, bias, activation);
    }
    multiply(&Matrix::new(x), &Weight::Floats(&Matrix::new(w)), [out, columns], bias, activation)
}

/// A weight whose values the gemm crate is to read.
enum Weight<'a> {
    /// `[in, out]`.
    Floats(&'a Matrix),
    /// `[out, in]`.
    Packed(&'a PackedRows),
}

impl Weight<'_> {
    /// Some outputs of a weight of `k` inputs: their values, and how far apart those of neighbouring inputs and outputs
    /// are. `room` is for values that have to be unpacked.
    fn part<'a>(
        &'a self,
        outputs: Range<usize>,
        k: usize,
        room: &'a mut Scratch<f32>,
    ) -> (&'a [f32], [usize; 2]) {
        match self {
            Self::Floats(w) => (&w.values()[outputs.start * w.strides[1]..], w.strides),
            Self::Packed(w) => {
                *room = Scratch::new(outputs.len() * k);
                let mut codes = Scratch::new(k);
                for (row, to) in outputs.zip(room.chunks_exact_mut(k)) {
                    w.values(row, &mut codes, to);
                }
                (room, [1, k])
            }
        }
    }
}

/// `x w` for `x: [m, k]` and a weight of `n` outputs, with bias and activation; no size is 0.
#[expect(unsafe_code, reason = "the result is not written twice")]
fn multiply(
    x: &Matrix,
    w: &Weight<'_>,
    [n, k]: [usize; 2],
    bias: Option<Tensor<Flex, 1>>,
    activation: Activation,
) -> Tensor<Flex, 2> {
    let m = x.rows;
    let product = |y: &mut [f32]| {
        let y = Shared::new(y);
        let parts = Parts::of(m, n);
        parallel::blocks(parts.count(), m * k * n / (PARALLEL_FROM / memory::PARALLEL_FROM), |part| {
            let (rows, columns) = parts.get(part);
            let mut room = Scratch::new(0);
            let w = w.part(columns.clone(), k, &mut room);
            let x = (&x.values()[rows.start * x.strides[0]..], x.strides);
            let sizes = [rows.len(), columns.len(), k];
            // SAFETY: parts do not overlap.
            unsafe { multiply_part(x, w, sizes, &y, [rows.start * n + columns.start, n]) };
        });
    };
    // SAFETY: the products of the parts write every element and read none.
    let mut y = unsafe { filled(m * n, product) };
    if bias.is_some() || activation != Activation::Identity {
        Finish::new(bias, activation).rows(&mut y, n);
    }
    from_vec(y, [m, n])
}

/// Writes `x w` for `x: [m, k]` and `w: [k, n]`, each with the strides of its axes, from `at` on into rows that are
/// `stride` apart.
///
/// # Panics
/// When an operand or the result is too short.
///
/// # Safety
/// Nobody else may be using these elements of the result.
#[expect(unsafe_code, reason = "the matrix product of the gemm crate takes pointers")]
unsafe fn multiply_part(
    (x, [x_row, x_column]): (&[f32], [usize; 2]),
    (w, [w_row, w_column]): (&[f32], [usize; 2]),
    [m, n, k]: [usize; 3],
    y: &Shared<'_, f32>,
    [at, stride]: [usize; 2],
) {
    assert!((m - 1) * x_row + (k - 1) * x_column < x.len(), "{m} x {k} inputs in {}", x.len());
    assert!((k - 1) * w_row + (n - 1) * w_column < w.len(), "{k} x {n} weights in {}", w.len());
    y.at(at + (m - 1) * stride + n - 1);
    // SAFETY: all elements that sizes and strides reach are inside of the slices, as asserted, and those of the result
    // are the caller's. Each of them is written and none read: its factor is left out.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            y.at(at),
            1,
            stride.cast_signed(),
            false,
            x.as_ptr(),
            x_column.cast_signed(),
            x_row.cast_signed(),
            w.as_ptr(),
            w_column.cast_signed(),
            w_row.cast_signed(),
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// A result shared out to threads: a few parts for each, none so small that arranging its operands counts.
struct Parts {
    size: [usize; 2],
    part: [usize; 2],
}

impl Parts {
    /// Rows and columns of a part at least.
    const LEAST: [usize; 2] = [64, 96];

    fn of(m: usize, n: usize) -> Self {
        let wanted = 2 * rayon::current_num_threads();
        let across = wanted.min(n / Self::LEAST[1]).max(1);
        let down = wanted.div_ceil(across).min(m / Self::LEAST[0]).max(1);
        Self { size: [m, n], part: [m.div_ceil(down), n.div_ceil(across).next_multiple_of(32)] }
    }

    fn counts(&self) -> [usize; 2] {
        [self.size[0].div_ceil(self.part[0]), self.size[1].div_ceil(self.part[1])]
    }

    fn count(&self) -> usize {
        self.counts().iter().product()
    }

    /// Rows and columns of a part.
    fn get(&self, part: usize) -> (Range<usize>, Range<usize>) {
        let across = self.counts()[1];
        let range =
            |axis: usize, at: usize| at * self.part[axis]..((at + 1) * self.part[axis]).min(self.size[axis]);
        (range(0, part / across), range(1, part % across))
    }
}

/// A matrix as it lies in memory.
struct Matrix {
    data: FlexTensor,
    rows: usize,
    offset: usize,
    strides: [usize; 2],
}

impl Matrix {
    fn new(x: Tensor<Flex, 2>) -> Self {
        let rows = x.dims()[0];
        let mut data = x.into_primitive().tensor();
        if !data.layout().has_positive_strides() {
            data = data.to_contiguous();
        }
        let strides = data.layout().strides();
        let strides = [strides[0].unsigned_abs(), strides[1].unsigned_abs()];
        Self { rows, offset: data.layout().start_offset(), strides, data }
    }

    fn values(&self) -> &[f32] {
        &self.data.storage::<f32>()[self.offset..]
    }
}
