//! Uniform asymmetric quantization.

use super::{Quantized, nonzero};
use crate::rounding::Rounding;
use briquette_core::ScaleRule;
use briquette_kernels::round_half_even;
use burn::prelude::*;

/// `s = (max - min) / d`, `zero = round(min / s)`, `q = clamp(round((x - zero s) / s), 0, n-1)` with
/// `n = 2^bits`; zero itself is always exactly representable.
///
/// Paper: `d = n - 1` over a range that includes zero (Jacob et al. 2018, arXiv 1712.05877,
/// section 3). DeepSpeed's code: `d = n` over the bare range, so that the maximum is clipped.
pub(super) fn quantize<B: Backend>(
    x: Tensor<B, 2>,
    bits: u32,
    rule: ScaleRule,
    rounding: Rounding,
    shrink: f32,
    seed: u64,
) -> Quantized<B> {
    let n = (1u32 << bits) as f32;
    let (mut low, mut high) = (x.clone().min_dim(1), x.clone().max_dim(1));
    let mut steps = n;
    if rule == ScaleRule::Paper {
        (low, high, steps) = (low.clamp_max(0.0), high.clamp_min(0.0), n - 1.0);
    }
    let low = low * shrink;
    let scale = nonzero((high * shrink - low.clone()) / steps);
    let zero = round_half_even(low / scale.clone());
    let shifted = (x - zero.clone() * scale.clone()) / scale.clone();
    let codes = rounding.round(shifted, seed).clamp(0.0, n - 1.0);
    Quantized { codes, scale, zero: Some(zero) }
}
