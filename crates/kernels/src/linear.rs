//! Products with weights, packed or not.

use crate::activation::Activation;
use crate::packed_matrix::PackedMatrix;
use crate::portable;
use crate::quantize::TokenQuant;
use crate::registry::lookup;
use burn::prelude::*;

/// The values of a packed weight, `[out, in]`: `(u - half) * scale`, `u * scale + zero` or
/// `(2 u - 1) * scale`, in exactly this order of operations.
pub fn unpack<B: Backend>(p: &PackedMatrix<B>) -> Tensor<B, 2> {
    match lookup::<B>() {
        Some(ops) => (ops.unpack)(p),
        None => portable::unpack(p),
    }
}

/// `x W^T + bias` with float inputs and a packed weight.
///
/// `x: [rows, in]`, `bias: [out]` -> `[rows, out]`.
///
/// # Panics
/// When the shapes do not fit.
pub fn linear_packed<B: Backend>(
    x: Tensor<B, 2>,
    p: &PackedMatrix<B>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, 2> {
    check_columns(&x, p);
    match lookup::<B>() {
        Some(ops) => (ops.linear_packed)(x, p, bias),
        None => portable::linear_packed(x, p, bias),
    }
}

/// `x W^T + bias` with inputs quantized row by row and a packed weight; in integers where the
/// backend has an integer product.
///
/// `x: [rows, in]`, `bias: [out]` -> `[rows, out]`. Equals
/// `fake_quantize_rows(x) unpack(p)^T + bias` up to float rounding.
///
/// # Panics
/// When the shapes do not fit or `q.bits` is not in 2 to 8.
pub fn linear_quantized<B: Backend>(
    x: Tensor<B, 2>,
    q: TokenQuant,
    p: &PackedMatrix<B>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, 2> {
    check_columns(&x, p);
    match lookup::<B>() {
        Some(ops) => (ops.linear_quantized)(x, q, p, bias),
        None => portable::linear_quantized(x, q, p, bias),
    }
}

/// A packed weight and the bias `[out]` of one layer.
pub type PackedLayer<'a, B> = (&'a PackedMatrix<B>, Option<Tensor<B, 1>>);

/// Several layers with packed weights on one input `x: [rows, in]`, each followed by `activation`:
/// [`linear_quantized`] where inputs are quantized by `q`, [`linear_packed`] where they are not. An input
/// that all of them quantize alike is quantized once.
///
/// # Panics
/// When the shapes do not fit or `q.bits` is not in 2 to 8.
pub fn linear_all<B: Backend>(
    x: Tensor<B, 2>,
    q: Option<TokenQuant>,
    layers: Vec<PackedLayer<'_, B>>,
    activation: Activation,
) -> Vec<Tensor<B, 2>> {
    layers.iter().for_each(|(p, _)| check_columns(&x, p));
    if let Some(ops) = lookup::<B>() {
        return (ops.linear_all)(x, q, layers, activation);
    }
    let one = |(p, bias)| match q {
        Some(q) => portable::linear_quantized(x.clone(), q, p, bias),
        None => portable::linear_packed(x.clone(), p, bias),
    };
    layers.into_iter().map(one).map(|y| activation.forward(y)).collect()
}

/// Rows that a stack of layers with packed weights had better be run on at once, where fewer than all are faster: what
/// one layer hands to the next then stays in the processor's caches. `None` where more rows are never slower.
pub fn rows_at_once<B: Backend>() -> Option<usize> {
    lookup::<B>().and_then(|ops| (ops.rows_at_once)())
}

/// `x W + bias` with a float weight, followed by `activation`.
///
/// `x: [rows, in]`, `w: [in, out]`, `bias: [out]` -> `[rows, out]`.
///
/// # Panics
/// When the shapes do not fit.
pub fn linear<B: Backend>(
    x: Tensor<B, 2>,
    w: Tensor<B, 2>,
    bias: Option<Tensor<B, 1>>,
    activation: Activation,
) -> Tensor<B, 2> {
    let ([_, columns], [rows, _]) = (x.dims(), w.dims());
    assert_eq!(columns, rows, "an input of {columns} columns for a weight of shape {:?}", w.dims());
    match lookup::<B>() {
        Some(ops) => (ops.linear)(x, w, bias, activation),
        None => portable::linear(x, w, bias, activation),
    }
}

/// Rows `ids: [batch, seq]` of a packed embedding `[vocabulary, width]` -> `[batch, seq, width]`.
/// Only the rows asked for are unpacked.
///
/// # Panics
/// When an id is not below the number of rows, on backends that check.
pub fn embedding_packed<B: Backend>(p: &PackedMatrix<B>, ids: Tensor<B, 2, Int>) -> Tensor<B, 3> {
    match lookup::<B>() {
        Some(ops) => (ops.embedding_packed)(p, ids),
        None => portable::embedding_packed(p, ids),
    }
}

fn check_columns<B: Backend>(x: &Tensor<B, 2>, p: &PackedMatrix<B>) {
    let columns = x.dims()[1];
    assert_eq!(columns, p.shape[1], "an input of {columns} columns for a weight of shape {:?}", p.shape);
}
