//! Products with sparse weights.

use super::memory::{contiguous, from_vec, to_vec};
use super::sparse_product::{Vectors, product};
use crate::sparse_matrix::SparseMatrix;
use burn::backend::Flex;
use burn::prelude::*;

/// Whether this machine's product with a sparse weight was measured to be worth it.
pub(crate) fn runs_sparse() -> bool {
    Vectors::best() != Vectors::Portable
}

pub(crate) fn linear_sparse(
    x: Tensor<Flex, 2>,
    w: &SparseMatrix<Flex>,
    bias: Option<Tensor<Flex, 1>>,
) -> Tensor<Flex, 2> {
    let [rows, columns] = x.dims();
    if rows * columns == 0 {
        return crate::portable::linear_sparse(x, w, bias);
    }
    let bias = bias.map(to_vec).unwrap_or_default();
    let x = contiguous(x);
    let y = product(x.storage::<f32>(), &w.layout, &bias, Vectors::best());
    from_vec(y, [rows, w.shape()[0]])
}
