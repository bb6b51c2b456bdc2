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

/// [`layer_norm`] of `x + residual`, both `[.., width]`. The first axis of the residual may be 1, for all of `x`.
///
/// # Panics
/// When the shapes differ elsewhere.
pub fn add_layer_norm<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    residual: Tensor<B, D>,
    gamma: Tensor<B, 1>,
    beta: Tensor<B, 1>,
    epsilon: f64,
) -> Tensor<B, D> {
    let (dims, of_residual) = (x.dims(), residual.dims());
    let width = dims[D - 1];
    assert!(
        dims[1..] == of_residual[1..] && (D > 1 && of_residual[0] == 1 || dims[0] == of_residual[0]),
        "terms of a sum of the shapes {dims:?} and {of_residual:?}"
    );
    assert_eq!(gamma.dims(), [width], "gamma of a layer norm over {width} columns");
    assert_eq!(beta.dims(), [width], "beta of a layer norm over {width} columns");
    match lookup::<B>() {
        _ if dims.contains(&0) => x,
        Some(ops) => {
            let repeated = (ops.repeats_residual)();
            let residual = if repeated { residual } else { residual.expand(dims) };
            let of_residual = residual.dims();
            let residual = residual.reshape([of_residual[..D - 1].iter().product(), width]);
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
    // A length of 0 means to burn's `reshape` that the axis stays.
    if dims.contains(&0) {
        return x;
    }
    let rows = dims[..D - 1].iter().product();
    op(x.reshape([rows, dims[D - 1]])).reshape(dims)
}
