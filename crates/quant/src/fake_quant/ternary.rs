//! Ternary weights.

use super::{Quantized, nonzero};
use burn::prelude::*;

/// Ternary weight networks (Li, Liu 2016, arXiv 1605.04711, equations 3 and 6): threshold
/// `0.7 mean|x|`, scale = mean magnitude of the values above it.
pub(super) fn quantize<B: Backend>(x: Tensor<B, 2>) -> Quantized<B> {
    let magnitude = x.clone().abs();
    let threshold = magnitude.clone().mean_dim(1) * 0.7;
    let above = magnitude.clone().greater(threshold.expand(x.dims())).float();
    let count = nonzero(above.clone().sum_dim(1));
    let scale = nonzero((magnitude * above.clone()).sum_dim(1) / count);
    Quantized { codes: x.sign() * above, scale, zero: None }
}
