//! Products with sparse weights: every body against the oracle.

use super::*;
use crate::cpu::sparse_product::{Vectors, product};
use crate::sparse_layout::SparseLayout;
use crate::{SparseMatrix, linear_sparse, oracle, portable};
use burn::backend::Autodiff;

/// A weight `[out, columns]` of which about `kept` in a hundred blocks of `rows` rows stay.
fn weight(out: usize, columns: usize, rows: usize, kept: u32) -> Vec<f32> {
    let score = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 8;
    let stays = |i: usize| score(i / columns / rows * columns + i % columns) % 100 < kept;
    let all = values(out * columns, 3);
    all.into_iter().enumerate().map(|(i, v)| if stays(i) { v } else { 0.0 }).collect()
}

/// Outputs, columns, rows of a block, entries in a hundred that stay.
const SHAPES: [(usize, usize, usize, u32); 12] = [
    (1, 1, 1, 100),
    (1, 33, 1, 50),
    (5, 64, 1, 20),
    (7, 96, 4, 30),
    (16, 128, 4, 20),
    (17, 129, 2, 40),
    (3, 160, 3, 50),
    (66, 384, 1, 5),
    (130, 200, 1, 100),
    (40, 300, 4, 0),
    (96, 260, 4, 60),
    (9, 7, 9, 50),
];

fn tolerance(expected: &[f64]) -> f64 {
    1e-5 * magnitude(expected).max(1.0)
}

#[test]
fn layouts_give_their_values_back() {
    for (out, columns, rows, kept) in SHAPES {
        let w = weight(out, columns, rows, kept);
        for height in [1, 2, 4] {
            let layout = SparseLayout::new(&w, [out, columns], height);
            assert_eq!(layout.values(), w, "{out} x {columns} in strips of {height}");
            let count = crate::sparse_layout::entries_of(&w, [out, columns], height);
            assert_eq!(layout.count(), count);
        }
    }
}

#[test]
fn rows_that_share_columns_are_kept_together() {
    let device = Default::default();
    let height = |rows| SparseMatrix::<Flex>::new(&weight(64, 96, rows, 20), [64, 96], &device).height();
    assert_eq!([1, 2, 4, 8].map(height), [1, 2, 4, 4]);
}

#[test]
fn products_equal_the_oracle_at_every_width_of_vectors() {
    for (out, columns, rows, kept) in SHAPES {
        let w = weight(out, columns, rows, kept);
        for height in [1, 2, 4] {
            let layout = SparseLayout::new(&w, [out, columns], height);
            for tokens in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 37, 70, 131] {
                let (x, bias) = (values(tokens * columns, 5), values(out, 6));
                let expected = oracle::linear(&x, &w, &bias, columns);
                for vectors in Vectors::here() {
                    let what = format!("{vectors:?}, {tokens} x {columns} x {out} in strips of {height}");
                    assert_close(
                        &product(&x, &layout, &bias, vectors),
                        &expected,
                        tolerance(&expected),
                        &what,
                    );
                }
            }
        }
    }
}

#[test]
fn tensors_of_any_strides_and_the_expanded_product() {
    let device = Default::default();
    for (out, columns, rows, kept) in SHAPES {
        let w = weight(out, columns, rows, kept);
        let sparse = SparseMatrix::<Flex>::new(&w, [out, columns], &device);
        let (x, bias) = (values(21 * columns, 5), values(out, 6));
        let expected = oracle::linear(&x, &w, &bias, columns);
        let none = oracle::linear(&x, &w, &[], columns);
        for (layout, t) in layouts(&x, 21, columns) {
            let what = format!("{layout} {columns} x {out}");
            let bias = Some(tensor(&bias, [out]));
            let y = linear_sparse(t.clone(), &sparse, bias.clone());
            assert_eq!(y.dims(), [21, out]);
            assert_close(&floats(y), &expected, tolerance(&expected), &what);
            assert_close(&floats(linear_sparse(t.clone(), &sparse, None)), &none, tolerance(&none), &what);
            let y = portable::linear_sparse(t, &sparse, bias);
            assert_close(&floats(y), &expected, tolerance(&expected), &what);
        }
    }
}

#[test]
fn empty_weights_and_inputs() {
    let device = Default::default();
    let none = SparseMatrix::<Flex>::new(&[], [0, 8], &device);
    assert_eq!(linear_sparse(Tensor::zeros([3, 8], &device), &none, None).dims(), [3, 0]);
    let none = SparseMatrix::<Flex>::new(&[], [4, 0], &device);
    let y = linear_sparse(Tensor::zeros([3, 0], &device), &none, Some(Tensor::ones([4], &device)));
    assert_eq!(floats(y), [1.0; 12]);
    let some = SparseMatrix::<Flex>::new(&weight(4, 8, 1, 50), [4, 8], &device);
    assert_eq!(linear_sparse(Tensor::zeros([0, 8], &device), &some, None).dims(), [0, 4]);
}

#[test]
fn the_same_bits_each_time() {
    let (out, columns, tokens) = (384, 384, 200);
    let w = SparseMatrix::<Flex>::new(&weight(out, columns, 1, 20), [out, columns], &Default::default());
    let x = tensor(&values(tokens * columns, 5), [tokens, columns]);
    let first = floats(linear_sparse(x.clone(), &w, None));
    for _ in 0..5 {
        assert_eq!(floats(linear_sparse(x.clone(), &w, None)), first);
    }
}

#[test]
fn gradients_reach_the_input() {
    let w = weight(5, 33, 1, 40);
    let sparse = SparseMatrix::<Flex>::new(&w, [5, 33], &Default::default());
    let sparse = SparseMatrix::<Autodiff<Flex>>::from_inner(sparse);
    let x = Tensor::<Autodiff<Flex>, 2>::from_inner(tensor(&values(33, 1), [1, 33])).require_grad();
    let gradients = linear_sparse(x.clone(), &sparse, None).sum().backward();
    let expected: Vec<f64> = (0..33).map(|k| (0..5).map(|o| f64::from(w[o * 33 + k])).sum()).collect();
    assert_close(&floats(x.grad(&gradients).unwrap()), &expected, 1e-5, "gradient");
    assert_eq!(sparse.inner().values(), w);
}

#[test]
fn what_is_not_faster_stays_dense() {
    let device = Default::default();
    let pays = |rows, kept| {
        SparseMatrix::<Flex>::if_faster(&weight(128, 128, rows, kept), [128, 128], &device).is_some()
    };
    if Vectors::best() == Vectors::Portable {
        assert!(!pays(1, 5) && !pays(4, 5), "the portable product is no faster than a dense one");
        return;
    }
    assert!(pays(1, 10) && pays(1, 20) && !pays(1, 50), "anywhere");
    assert!(pays(4, 20) && pays(4, 50) && !pays(4, 80), "in blocks of four rows");
    let two_of_four: Vec<f32> = (0..128 * 128).map(|i| if i % 4 < 2 { 1.0 } else { 0.0 }).collect();
    let same = SparseMatrix::<Flex>::if_faster(&two_of_four, [128, 128], &device);
    assert!(same.is_some(), "2:4 with the same columns in all rows is a matter of blocks");
    let with_gradients = SparseMatrix::<Autodiff<Flex>>::if_faster(&[0.0; 16], [4, 4], &device);
    assert!(with_gradients.is_none(), "expanded at each call");
    assert!(SparseMatrix::<Flex>::if_faster(&[], [0, 4], &device).is_none());
}
