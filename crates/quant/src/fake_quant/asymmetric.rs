//! Uniform asymmetric quantization.

use super::{Quantized, limits, nonzero, reduce};
use crate::rounding::Rounding;
use crate::scheme::WeightScheme;
use briquette_core::ScaleRule;
use briquette_kernels::round_half_even;
use burn::prelude::*;

/// `s = (max - min) / d`, `zero = round(min / s)`, `q = clamp(round((x - zero s) / s), 0, n-1)` with
/// `n = 2^bits`; zero itself is always exactly representable. `shrink`, `[groups, 1]`, narrows the range.
///
/// Paper: `d = n - 1` over a range that includes zero (Jacob et al. 2018, arXiv 1712.05877,
/// section 3). DeepSpeed's code: `d = n` over the bare range, so that the maximum is clipped.
pub(super) fn quantize<B: Backend>(
    x: Tensor<B, 2>,
    scheme: &WeightScheme,
    rounding: Rounding,
    shrink: Option<Tensor<B, 2>>,
    seed: u64,
) -> Quantized<B> {
    let (_, top) = limits(scheme);
    let (mut low, mut high) = (reduce::min(x.clone()), reduce::max(x.clone()));
    let mut steps = top + 1.0;
    if scheme.rule == ScaleRule::Paper {
        (low, high, steps) = (low.clamp_max(0.0), high.clamp_min(0.0), top);
    }
    if let Some(shrink) = shrink {
        (low, high) = (low * shrink.clone(), high * shrink);
    }
    let scale = nonzero((high - low.clone()) / steps);
    let zero = round_half_even(low / scale.clone());
    let shifted = (x - zero.clone() * scale.clone()) / scale.clone();
    let codes = rounding.round(shifted, seed).clamp(0.0, top);
    Quantized { codes, scale, zero: Some(zero) }
}
