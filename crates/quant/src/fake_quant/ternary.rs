//! Ternary weights.

use super::{Quantized, as_numbers, nonzero, reduce};
use burn::prelude::*;

/// Ternary weight networks (Li, Liu 2016, arXiv 1605.04711, equations 3 and 6): threshold
/// `0.7 mean|x|`, scale = mean magnitude of the values above it.
pub(super) fn quantize<B: Backend>(x: Tensor<B, 2>) -> Quantized<B> {
    let magnitude = x.clone().abs();
    let threshold = reduce::mean(magnitude.clone()) * 0.7;
    let above = as_numbers(magnitude.clone().greater(threshold.expand(x.dims())), &x);
    let count = nonzero(reduce::sum(above.clone()));
    let scale = nonzero(reduce::sum(magnitude * above.clone()) / count);
    Quantized { codes: x.sign() * above, scale, zero: None }
}
