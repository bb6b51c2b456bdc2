//! Uniform symmetric quantization.

use super::{Quantized, limits, nonzero, reduce};
use crate::rounding::Rounding;
use crate::scheme::WeightScheme;
use burn::prelude::*;

/// `s = M / levels`, `q = clamp(round(x / s))` with `M = shrink * max|x|` of the group; `shrink` is `[groups, 1]`
/// or nothing for 1.
///
/// Paper: ZeroQuant (arXiv 2206.01861), equation 1, with `levels = 2^(bits-1) - 1`. DeepSpeed's
/// code divides by `2^(bits-1)` instead and clips the positive maximum.
pub(super) fn quantize<B: Backend>(
    x: Tensor<B, 2>,
    scheme: &WeightScheme,
    rounding: Rounding,
    shrink: Option<Tensor<B, 2>>,
    seed: u64,
) -> Quantized<B> {
    let (low, high) = limits(scheme);
    let mut largest = reduce::max_abs(x.clone());
    if let Some(shrink) = shrink {
        largest = largest * shrink;
    }
    // The larger side of the codes: 2^(bits-1) in DeepSpeed's code, which uses -2^(bits-1) too.
    let scale = nonzero(largest / -low);
    let codes = rounding.round(x / scale.clone(), seed).clamp(low, high);
    Quantized { codes, scale, zero: None }
}
