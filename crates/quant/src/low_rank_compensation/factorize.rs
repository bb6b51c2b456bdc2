//! The largest singular values of a matrix by subspace iteration (Halko, Martinsson, Tropp 2011, arXiv 0909.4061,
//! algorithm 4.4). Products with the matrix run on its device, thin panels are treated on the host in 64 bits.

use crate::rounding::mix;
use briquette_core::host_floats;
use burn::prelude::*;

/// Rounds at most; each multiplies by the matrix and its transpose.
const ROUNDS: usize = 60;
/// Iteration ends when a round adds less than this share to the squares of the wanted singular values. Errors of
/// quantization have singular values close to each other, so that single vectors settle late; what matters, how much
/// of the error they hold together, settles soon.
const ENOUGH: f64 = 1e-5;

/// A dense matrix on the host, row-major.
#[derive(Debug, Clone)]
pub(super) struct Matrix {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) values: Vec<f64>,
}

impl Matrix {
    fn column(&self, j: usize) -> impl Iterator<Item = f64> {
        self.values.iter().skip(j).step_by(self.columns.max(1)).copied()
    }

    fn from_columns(rows: usize, columns: &[Vec<f64>]) -> Self {
        let at = |i: usize| columns.iter().map(move |c| c[i]);
        Self { rows, columns: columns.len(), values: (0..rows).flat_map(at).collect() }
    }

    fn columns(&self) -> Vec<Vec<f64>> {
        (0..self.columns).map(|j| self.column(j).collect()).collect()
    }
}

/// The two factors `[out, rank]` and `[rank, in]` of the best approximation of `e` `[out, in]` of this rank, each with
/// the square roots of the singular values in it. `rank` is at most the smaller side of `e`.
pub(super) fn largest<B: Backend>(e: Tensor<B, 2>, rank: usize) -> [Matrix; 2] {
    let [rows, columns] = e.dims();
    // More directions than wanted make the wanted ones settle sooner.
    let width = (2 * rank + 8).min(rows).min(columns);
    let across = |panel: &Matrix| host(e.clone().matmul(tensor(panel, &e)));
    let back = |panel: &Matrix| host(e.clone().transpose().matmul(tensor(panel, &e)));
    let mut left = orthonormal(&across(&start(columns, width)));
    let mut right = back(&left);
    let mut held = 0.0;
    let mut spectrum = eigen(&gram(&right), width);
    for _ in 0..ROUNDS {
        let now: f64 = spectrum.iter().take(rank).map(|pair| pair.0).sum();
        // Not a number where the matrix holds one: there is nothing to find.
        if now.is_nan() || now - held <= ENOUGH * now {
            break;
        }
        held = now;
        left = orthonormal(&across(&orthonormal(&right)));
        right = back(&left);
        spectrum = eigen(&gram(&right), width);
    }
    factors(&left, &right, &spectrum[..rank])
}

/// `E ~ left right^T` with `left` orthonormal; `spectrum` holds the wanted squared singular values and their vectors.
fn factors(left: &Matrix, right: &Matrix, spectrum: &[(f64, Vec<f64>)]) -> [Matrix; 2] {
    let combined = |panel: &Matrix, by: fn(f64) -> f64| -> Vec<Vec<f64>> {
        let combine = |(square, vector): &(f64, Vec<f64>)| {
            let factor = if *square > 0.0 { by(square.sqrt()) } else { 0.0 };
            panel.values.chunks(panel.columns).map(|row| factor * dot(row, vector)).collect()
        };
        spectrum.iter().map(combine).collect()
    };
    let (l, r) = (combined(left, f64::sqrt), combined(right, |s| 1.0 / s.sqrt()));
    let transposed = Matrix { rows: r.len(), columns: right.rows, values: r.concat() };
    [Matrix::from_columns(left.rows, &l), transposed]
}

/// Where every iteration starts: numbers in -1 to 1 by counting.
fn start(rows: usize, columns: usize) -> Matrix {
    let value = |i: usize| (mix(i as u64 + 1) >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
    Matrix { rows, columns, values: (0..rows * columns).map(value).collect() }
}

fn tensor<B: Backend>(panel: &Matrix, like: &Tensor<B, 2>) -> Tensor<B, 2> {
    let values: Vec<f32> = panel.values.iter().map(|v| *v as f32).collect();
    Tensor::from_data(TensorData::new(values, [panel.rows, panel.columns]), (&like.device(), like.dtype()))
}

fn host<B: Backend>(panel: Tensor<B, 2>) -> Matrix {
    let [rows, columns] = panel.dims();
    Matrix { rows, columns, values: host_floats(panel).into_iter().map(f64::from).collect() }
}

/// An orthonormal basis of the columns, by Gram and Schmidt, each twice; a column that the ones before it hold already
/// is zero.
fn orthonormal(panel: &Matrix) -> Matrix {
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(panel.columns);
    for mut column in panel.columns() {
        let before = dot(&column, &column).sqrt();
        for _ in 0..2 {
            for other in &basis {
                let share = dot(other, &column);
                column.iter_mut().zip(other).for_each(|(c, o)| *c -= share * o);
            }
        }
        let length = dot(&column, &column).sqrt();
        let scale = if length > 1e-10 * before { 1.0 / length } else { 0.0 };
        column.iter_mut().for_each(|c| *c *= scale);
        basis.push(column);
    }
    Matrix::from_columns(panel.rows, &basis)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The products of all columns with each other, row-major.
fn gram(panel: &Matrix) -> Vec<f64> {
    let columns = panel.columns();
    columns.iter().flat_map(|a| columns.iter().map(|b| dot(a, b))).collect()
}

/// Eigenvalues and eigenvectors of a symmetric matrix of `n` rows, the largest first, by Jacobi's rotations (Golub and
/// Van Loan, Matrix Computations, section 8.5).
fn eigen(symmetric: &[f64], n: usize) -> Vec<(f64, Vec<f64>)> {
    let mut a = symmetric.to_vec();
    // Rows are the vectors.
    let mut vectors: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(i == j)).collect()).collect();
    let off = |a: &[f64]| (0..n * n).filter(|k| k / n != k % n).map(|k| a[k] * a[k]).sum::<f64>();
    let whole: f64 = a.iter().map(|v| v * v).sum();
    for _ in 0..30 {
        if off(&a) <= 1e-26 * whole || !whole.is_finite() {
            break;
        }
        for (p, q) in (0..n).flat_map(|p| (p + 1..n).map(move |q| (p, q))) {
            rotate(&mut a, &mut vectors, n, p, q);
        }
    }
    let mut pairs: Vec<(f64, Vec<f64>)> =
        vectors.into_iter().enumerate().map(|(i, v)| (a[i * n + i].max(0.0), v)).collect();
    pairs.sort_by(|x, y| y.0.total_cmp(&x.0));
    pairs
}

/// Turns the plane of axes `p` and `q` so that their entry becomes zero.
fn rotate(a: &mut [f64], vectors: &mut [Vec<f64>], n: usize, p: usize, q: usize) {
    let entry = a[p * n + q];
    if entry == 0.0 {
        return;
    }
    let ratio = (a[q * n + q] - a[p * n + p]) / (2.0 * entry);
    let t = ratio.signum() / (ratio.abs() + (ratio * ratio + 1.0).sqrt());
    let c = 1.0 / (t * t + 1.0).sqrt();
    let s = t * c;
    for k in 0..n {
        let (x, y) = (a[k * n + p], a[k * n + q]);
        (a[k * n + p], a[k * n + q]) = (c * x - s * y, s * x + c * y);
    }
    for k in 0..n {
        let (x, y) = (a[p * n + k], a[q * n + k]);
        (a[p * n + k], a[q * n + k]) = (c * x - s * y, s * x + c * y);
    }
    let (before, after) = vectors.split_at_mut(q);
    for (x, y) in before[p].iter_mut().zip(&mut after[0]) {
        (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eigenvectors_of_a_known_matrix() {
        // A string of three springs: 2 + sqrt(2), 2, 2 - sqrt(2).
        let a = [2.0, -1.0, 0.0, -1.0, 2.0, -1.0, 0.0, -1.0, 2.0];
        let found = eigen(&a, 3);
        let root = 2f64.sqrt();
        for ((value, vector), expected) in found.iter().zip([2.0 + root, 2.0, 2.0 - root]) {
            assert!((value - expected).abs() < 1e-9, "{value}");
            assert!((dot(vector, vector) - 1.0).abs() < 1e-12);
            for (row, entry) in a.chunks(3).zip(vector) {
                assert!((dot(row, vector) - value * entry).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn a_basis_is_orthonormal_and_leaves_out_what_it_holds() {
        let panel =
            Matrix { rows: 4, columns: 3, values: vec![1., 2., 0., 1., 2., 1., 1., 2., 2., 1., 2., 4.] };
        let basis = orthonormal(&panel).columns();
        assert!(basis[1].iter().all(|v| *v == 0.0), "twice the first column");
        assert!((dot(&basis[0], &basis[0]) - 1.0).abs() < 1e-12);
        assert!(dot(&basis[0], &basis[2]).abs() < 1e-12);
    }
}
