//! Uniform symmetric quantization.

use super::{Quantized, nonzero, symmetric_levels};
use crate::rounding::Rounding;
use briquette_core::ScaleRule;
use burn::prelude::*;

/// `s = M / levels`, `q = clamp(round(x / s))` with `M = shrink * max|x|` of the group.
///
/// Paper: ZeroQuant (arXiv 2206.01861), equation 1, with `levels = 2^(bits-1) - 1`. DeepSpeed's
/// code divides by `2^(bits-1)` instead and clips the positive maximum.
pub(super) fn quantize<B: Backend>(
    x: Tensor<B, 2>,
    bits: u32,
    rule: ScaleRule,
    rounding: Rounding,
    shrink: f32,
    seed: u64,
) -> Quantized<B> {
    let (levels, low, high) = symmetric_levels(bits, rule);
    let largest = x.clone().abs().max_dim(1) * shrink;
    let scale = nonzero(largest / levels);
    let codes = rounding.round(x / scale.clone(), seed).clamp(low, high);
    Quantized { codes, scale, zero: None }
}
