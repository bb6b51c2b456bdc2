//! Elementwise and row operations that are worth one pass over memory.

use crate::portable;
use crate::registry::lookup;
use burn::prelude::*;

/// Layer normalization over the last axis (Ba et al. 2016, arXiv 1607.06450):
/// `(x - mean) / sqrt(variance + epsilon) * gamma + beta` with the biased variance.
///
/// `x: [.., width]`, `gamma` and `beta: [width]`.
///
/// # Panics
/// When the widths differ.
pub fn layer_norm<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    gamma: Tensor<B, 1>,
    beta: Tensor<B, 1>,
    epsilon: f64,
) -> Tensor<B, D> {
    let width = x.dims()[D - 1];
    assert_eq!(gamma.dims(), [width], "gamma of a layer norm over {width} columns");
    assert_eq!(beta.dims(), [width], "beta of a layer norm over {width} columns");
    match lookup::<B>() {
        Some(ops) => by_rows(x, |x| (ops.layer_norm)(x, gamma, beta, epsilon)),
        None => portable::layer_norm(x, gamma, beta, epsilon),
    }
}

/// [`layer_norm`] of `x + residual`, both `[.., width]`.
///
/// # Panics
/// When the shapes differ.
pub fn add_layer_norm<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    residual: Tensor<B, D>,
    gamma: Tensor<B, 1>,
    beta: Tensor<B, 1>,
    epsilon: f64,
) -> Tensor<B, D> {
    let dims = x.dims();
    let width = dims[D - 1];
    assert_eq!(dims, residual.dims(), "shapes of the terms of a sum");
    assert_eq!(gamma.dims(), [width], "gamma of a layer norm over {width} columns");
    assert_eq!(beta.dims(), [width], "beta of a layer norm over {width} columns");
    let rows = dims[..D - 1].iter().product();
    match lookup::<B>() {
        Some(ops) => {
            let residual = residual.reshape([rows, width]);
            by_rows(x, |x| (ops.add_layer_norm)(x, residual, gamma, beta, epsilon))
        }
        None => portable::layer_norm(x + residual, gamma, beta, epsilon),
    }
}

/// `x * Phi(x)` with the normal distribution function (Hendrycks and Gimpel 2016, arXiv 1606.08415).
pub fn gelu<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    match lookup::<B>() {
        Some(ops) => by_rows(x, ops.gelu),
        None => portable::gelu(x),
    }
}

/// The tanh form of [`gelu`] (same paper, section 2), GPT-2's `gelu_new`:
/// `x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))`.
pub fn gelu_tanh<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    match lookup::<B>() {
        Some(ops) => by_rows(x, ops.gelu_tanh),
        None => portable::gelu_tanh(x),
    }
}

/// Runs a rank-2 operation on `[product of the leading axes, last axis]`.
pub(crate) fn by_rows<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    op: impl FnOnce(Tensor<B, 2>) -> Tensor<B, 2>,
) -> Tensor<B, D> {
    let dims = x.dims();
    let rows = dims[..D - 1].iter().product();
    op(x.reshape([rows, dims[D - 1]])).reshape(dims)
}
