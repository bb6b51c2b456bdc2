//! Operations that have gradients of their own, as nodes of burn's graph of operations.

mod batch_norm;
mod convolution;
mod straight_through;

pub(crate) use batch_norm::batch_norm_train;
pub(crate) use convolution::conv2d;
pub(crate) use straight_through::straight_through;

use burn::prelude::*;
use burn::tensor::TensorPrimitive;
use burn::tensor::ops::FloatTensor;

/// A tensor of these values.
fn tensor<B: Backend, const D: usize>(values: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(values))
}

/// The values of a tensor.
fn values<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> FloatTensor<B> {
    tensor.into_primitive().tensor()
}
