//! Products with sparse weights, expanded.

use crate::sparse_matrix::SparseMatrix;
use burn::prelude::*;

pub(crate) fn linear_sparse<B: Backend>(
    x: Tensor<B, 2>,
    w: &SparseMatrix<B>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, 2> {
    let values = TensorData::new(w.values(), w.shape());
    let weight = Tensor::<B, 2>::from_data(values, (&x.device(), x.dtype()));
    let product = x.matmul(weight.transpose());
    match bias {
        Some(bias) => product + bias.unsqueeze(),
        None => product,
    }
}
