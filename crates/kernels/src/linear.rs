//! Products with packed weights.

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
