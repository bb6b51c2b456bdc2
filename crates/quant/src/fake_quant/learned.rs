//! Scales that are learned with the weights.

use super::{Quantized, inside, limits, position, reduce};
use crate::scheme::WeightScheme;
use briquette_kernels::round_half_even;
use burn::prelude::*;

/// Smallest scale: an optimizer's step may take a learned one to zero and beyond, where no code has a meaning. The
/// gradient passes on, so that the scale finds back.
const SMALLEST: f32 = 1e-8;

/// The scale `[groups, 1]` that learning starts from, for `x` `[groups, length]`: `mean|x|` for binary weights (BiT),
/// else `2 mean|x| / sqrt(Q)` (LSQ, section 2.1).
pub(super) fn first<B: Backend>(x: Tensor<B, 2>, scheme: &WeightScheme) -> Tensor<B, 2> {
    let mean = reduce::mean(x.abs());
    match scheme.bits {
        1 => mean,
        _ => mean * (2.0 / limits(scheme).1.sqrt()),
    }
}

/// The learned entry as it is used.
pub(super) fn positive<B: Backend>(learned: Tensor<B, 2>) -> Tensor<B, 2> {
    learned.clamp_min(SMALLEST)
}

/// `q = round(clamp(x / s))` (LSQ, equation 1).
pub(super) fn quantize<B: Backend>(
    x: Tensor<B, 2>,
    scheme: &WeightScheme,
    scale: Tensor<B, 2>,
) -> Quantized<B> {
    let (low, high) = limits(scheme);
    let codes = round_half_even((x / scale.clone()).clamp(low, high));
    Quantized { codes, scale, zero: None }
}

/// The derivative of the values of `q` to their scale, `[groups, length]`: `code - x/s` where `x/s` lies between the
/// outermost codes and `code` where not (LSQ, equation 3), the sign alone for binary weights; times the gradient
/// scale of LSQ's section 2.2.
pub(super) fn slope<B: Backend>(x: Tensor<B, 2>, q: &Quantized<B>, scheme: &WeightScheme) -> Tensor<B, 2> {
    let weights = x.dims()[1] as f32;
    let (_, high) = limits(scheme);
    let codes = q.codes.clone();
    let slope = match scheme.bits {
        1 => codes,
        _ => {
            let position = position(x, q);
            codes - position.clone() * inside(position, scheme)
        }
    };
    slope * (1.0 / (weights * high).sqrt())
}
