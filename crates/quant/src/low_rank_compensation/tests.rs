//! Against an exact decomposition of small matrices, and the settings.

use super::*;
use briquette_core::host_floats;
use burn::backend::Flex;

type T = Tensor<Flex, 2>;

fn tensor(values: &[f32], shape: [usize; 2]) -> T {
    T::from_data(TensorData::new(values.to_vec(), shape), &Default::default())
}

/// Uneven numbers without any structure.
fn noise(shape: [usize; 2], seed: u64) -> Vec<f32> {
    let value = |i: usize| (crate::rounding::mix(seed + i as u64) >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
    (0..shape[0] * shape[1]).map(value).collect()
}

/// All singular values of `e`, exactly: the eigenvalues of `e e^T` in 64 bits, found by deflating power iteration to
/// convergence.
fn singular_values(e: &[f32], [rows, columns]: [usize; 2]) -> Vec<f64> {
    let mut a = vec![0.0f64; rows * rows];
    for (i, j) in (0..rows).flat_map(|i| (0..rows).map(move |j| (i, j))) {
        a[i * rows + j] =
            (0..columns).map(|k| f64::from(e[i * columns + k]) * f64::from(e[j * columns + k])).sum();
    }
    let mut found = Vec::new();
    for n in 0..rows {
        let mut v: Vec<f64> = (0..rows).map(|i| 1.0 + ((i * 7 + n) % 5) as f64).collect();
        let mut value = 0.0;
        for _ in 0..20_000 {
            let w: Vec<f64> =
                a.chunks(rows).map(|row| row.iter().zip(&v).map(|(x, y)| x * y).sum()).collect();
            let norm = w.iter().map(|x| x * x).sum::<f64>().sqrt();
            if norm < 1e-12 {
                value = 0.0;
                break;
            }
            (value, v) = (norm, w.iter().map(|x| x / norm).collect());
        }
        found.push(value.sqrt());
        for (i, j) in (0..rows).flat_map(|i| (0..rows).map(move |j| (i, j))) {
            a[i * rows + j] -= value * v[i] * v[j];
        }
    }
    found
}

fn correction(e: &[f32], shape: [usize; 2], rank: usize) -> [T; 2] {
    let zero = T::zeros(shape, &Default::default());
    Compensation::<Flex>::factors(&Correction { rank }, tensor(e, shape), zero)
}

fn square_norm(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v).powi(2)).sum()
}

#[test]
fn what_is_left_is_what_the_exact_decomposition_leaves() {
    for (shape, seed) in [([12, 20], 1u64), ([20, 12], 100), ([16, 16], 7), ([40, 30], 3000)] {
        let e = noise(shape, seed);
        let mut exact = singular_values(&e, shape);
        exact.truncate(shape[0].min(shape[1]));
        for rank in [1, 2, 5, 8] {
            let [left, right] = correction(&e, shape, rank);
            assert_eq!((left.dims(), right.dims()), ([shape[0], rank], [rank, shape[1]]));
            let rest = host_floats(tensor(&e, shape) - left.matmul(right));
            let best: f64 = exact[rank..].iter().map(|s| s * s).sum();
            let found = square_norm(&rest);
            assert!((found / best).sqrt() - 1.0 < 1e-3, "{shape:?} rank {rank}: {found} against {best}");
        }
    }
}

#[test]
fn singular_values_are_shared_evenly() {
    let shape = [12, 20];
    let e = noise(shape, 1);
    let exact = singular_values(&e, shape);
    let [left, right] = correction(&e, shape, 3);
    let norms = |t: T| host_floats(t.square().sum_dim(0));
    for (n, s) in exact.iter().take(3).enumerate() {
        // Single vectors of close singular values settle later than what they hold together.
        for found in [norms(left.clone())[n], norms(right.clone().transpose())[n]] {
            assert!((f64::from(found) / s - 1.0).abs() < 5e-3, "{found} against {s}");
        }
    }
}

#[test]
fn a_matrix_of_low_rank_comes_back_whole() {
    let (a, b) = (tensor(&noise([30, 3], 1), [30, 3]), tensor(&noise([3, 25], 500), [3, 25]));
    let e = host_floats(a.matmul(b));
    for rank in [3, 8] {
        let [left, right] = correction(&e, [30, 25], rank);
        let rest = host_floats(tensor(&e, [30, 25]) - left.matmul(right));
        // What rounding to 16 bits costs.
        assert!((square_norm(&rest) / square_norm(&e)).sqrt() < 1e-3);
    }
}

#[test]
fn nothing_to_give_back_gives_zeros() {
    let [left, right] = correction(&[0.0; 60], [6, 10], 4);
    assert!(host_floats(left).iter().chain(&host_floats(right)).all(|v| *v == 0.0));
    // The smallest matrices that a plan lets pass.
    let [left, right] = correction(&[2.0], [1, 1], 1);
    assert!((host_floats(left.matmul(right))[0] - 2.0).abs() < 2e-3);
}

#[test]
fn values_that_are_no_numbers_end_the_iteration() {
    let mut e = noise([6, 10], 3);
    e[17] = f32::NAN;
    let [left, _] = correction(&e, [6, 10], 2);
    assert_eq!(left.dims(), [6, 2]);
    e[17] = f32::INFINITY;
    correction(&e, [6, 10], 2);
}

#[test]
fn factors_are_what_16_bits_hold_and_repeat() {
    let e = noise([24, 24], 9);
    let [left, right] = correction(&e, [24, 24], 8);
    for value in host_floats(left.clone()).into_iter().chain(host_floats(right.clone())) {
        assert_eq!(f16::from_f32(value).to_f32(), value);
    }
    let [again, _] = correction(&e, [24, 24], 8);
    assert_eq!(left.to_data(), again.to_data());
    assert_eq!(stored(1e9), 65504.0);
    assert_eq!(stored(-1e9), -65504.0);
}

#[test]
fn settings() {
    let problems = |value: Value| {
        let mut out = Diagnostics::new();
        LowRankCompensation::read(&value, "l", &mut out);
        out.iter().map(|d| d.to_string()).collect::<Vec<_>>()
    };
    assert!(problems(json!({})).is_empty());
    assert!(problems(json!({"rank": 16})).is_empty());
    assert_eq!(
        problems(json!({"rank": 0, "ranks": 2})),
        ["l.rank: 0 is not at least 1", "l.ranks: unknown key `ranks`, did you mean `rank`?"]
    );
}
