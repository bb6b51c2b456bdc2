//! Products of floats with weights, packed or not.

use super::codes;
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

/// Input rows up to which a packed weight is unpacked panel by panel into the cache rather than as a whole.
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
    if rows > FEW_ROWS {
        return linear(x, codes::unpack(p).transpose(), bias, activation);
    }
    by_panels(unit, x, &Panels::of(p), &Finish::new(bias, activation))
}

/// Few rows times a packed weight.
#[expect(unsafe_code, reason = "the result is not written twice")]
fn by_panels(unit: Unit, x: Tensor<Flex, 2>, panels: &Panels, finish: &Finish) -> Tensor<Flex, 2> {
    let [rows, columns] = x.dims();
    let x = contiguous(x);
    let x = x.storage::<f32>();
    let height = rows.div_ceil(rows.div_ceil(HEIGHT));
    let work = |block: Block, results: &Results<'_>| {
        let mut values = Scratch::<f32>::new(columns * WIDTH);
        let mut room = panels.room();
        let mut tile = [[0.0; WIDTH]; HEIGHT];
        for panel in block.panels {
            panels.values(panel, &mut room, &mut values);
            let w = FloatPanel { data: &values, stride: WIDTH, depth: columns };
            for row in block.rows.clone().step_by(height) {
                let m = height.min(block.rows.end - row);
                unit.floats(w, &x[row * columns..][..m * columns], columns, m, &mut tile);
                // SAFETY: blocks do not overlap.
                unsafe { results.store(&mut tile, row, m, panel) };
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
    let (x, w) = (Matrix::new(x), Matrix::new(w));
    let mut y = multiply(&x, &w, [rows, columns, out]);
    if bias.is_some() || activation != Activation::Identity {
        Finish::new(bias, activation).rows(&mut y, out);
    }
    from_vec(y, [rows, out])
}

/// `x w` for `x: [m, k]` and `w: [k, n]`.
#[expect(unsafe_code, reason = "the matrix product of the gemm crate takes pointers")]
fn multiply(x: &Matrix, w: &Matrix, [m, k, n]: [usize; 3]) -> Vec<f32> {
    assert!(x.holds(m, k) && w.holds(k, n), "operands smaller than {m} x {k} x {n}");
    let product = |y: &mut [f32]| {
        let y = Shared::new(y);
        let parts = Parts::of(m, n);
        parallel::blocks(parts.count(), m * k * n / (PARALLEL_FROM / memory::PARALLEL_FROM), |part| {
            let (rows, columns) = parts.get(part);
            let ([x_row, x_column], [w_row, w_column]) = (x.strides, w.strides);
            // SAFETY: all elements that sizes and strides reach are inside of the slices, as asserted, and the
            // result has room for `m` by `n`. Parts do not overlap; each of their elements is written and none
            // read: its factor is left out.
            unsafe {
                gemm::gemm(
                    rows.len(),
                    columns.len(),
                    k,
                    y.at(rows.start * n + columns.start),
                    1,
                    n.cast_signed(),
                    false,
                    x.values().as_ptr().add(rows.start * x_row),
                    x_column.cast_signed(),
                    x_row.cast_signed(),
                    w.values().as_ptr().add(columns.start * w_column),
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
        });
    };
    // SAFETY: the products of the parts write every element and read none.
    unsafe { filled(m * n, product) }
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
    offset: usize,
    strides: [usize; 2],
}

impl Matrix {
    fn new(x: Tensor<Flex, 2>) -> Self {
        let mut data = x.into_primitive().tensor();
        if !data.layout().has_positive_strides() {
            data = data.to_contiguous();
        }
        let strides = data.layout().strides();
        let strides = [strides[0].unsigned_abs(), strides[1].unsigned_abs()];
        Self { offset: data.layout().start_offset(), strides, data }
    }

    fn values(&self) -> &[f32] {
        &self.data.storage::<f32>()[self.offset..]
    }

    /// Whether `rows` by `columns` elements are inside; both at least one.
    fn holds(&self, rows: usize, columns: usize) -> bool {
        (rows - 1) * self.strides[0] + (columns - 1) * self.strides[1] < self.values().len()
    }
}
