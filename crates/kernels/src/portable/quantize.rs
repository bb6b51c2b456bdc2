//! Rounding and quantization of rows.

use crate::quantize::{QuantizedRows, TokenQuant};
use burn::prelude::*;
use burn::tensor::DType;

pub(crate) fn round_half_even<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    // burn's `round` ties as the device likes. `floor` and these differences are exact: `up` is
    // x - floor(x) without rounding, except just below zero, where both ways lead to zero.
    let floor = x.clone().floor();
    let above = x - floor.clone();
    let odd = floor.clone() - (floor.clone() * 0.5).floor() * 2.0;
    // burn makes numbers of truths in the backend's default type, which need not be that of `x`.
    let up = above.clone().greater_elem(0.5).float().cast(floor.dtype());
    let tie = above.equal_elem(0.5).float().cast(floor.dtype());
    floor + up + tie * odd
}

/// The same for backends that carry out sums as they are written ([`keeps_sums`](crate::CompressOps::keeps_sums)): a
/// number of 2^23 and more has no room for a fraction, and IEEE 754 rounds what is cut off half to even. All of it is
/// elementwise, so that fusing backends make one kernel of it and its neighbours.
pub(crate) fn round_by_adding<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    if x.dtype() != DType::F32 {
        return round_half_even(x);
    }
    const WHOLE: f32 = (1u32 << 23) as f32;
    let large = x.full_like(WHOLE).mask_fill(x.clone().lower_elem(0.0), -WHOLE);
    let whole = x.clone().abs().greater_equal_elem(WHOLE);
    ((x.clone() + large.clone()) - large).mask_where(whole, x)
}

/// Codes as floats, with the scale and the zero of each row.
struct Rows<B: Backend> {
    codes: Tensor<B, 2>,
    scale: Tensor<B, 2>,
    zero: Option<Tensor<B, 2>>,
}

pub(crate) fn fake_quantize_rows<B: Backend>(x: Tensor<B, 2>, q: TokenQuant) -> Tensor<B, 2> {
    let rows = quantize(x, q);
    let product = rows.codes * rows.scale;
    match rows.zero {
        Some(zero) => product + zero,
        None => product,
    }
}

pub(crate) fn fake_binarize_rows<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    let scale = reduce(x.clone().abs(), Tensor::mean_dim);
    let positive = x.clone().greater_equal_elem(0.0).float().cast(x.dtype());
    (positive * 2.0 - 1.0) * scale
}

pub(crate) fn fake_ternarize_rows<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    let magnitude = x.clone().abs();
    let threshold = reduce(magnitude.clone(), Tensor::mean_dim) * 0.7;
    let above = magnitude.clone().greater(threshold.expand(x.dims())).float().cast(x.dtype());
    let count = one_for_zero(reduce(above.clone(), Tensor::sum_dim));
    let scale = reduce(magnitude * above.clone(), Tensor::sum_dim) / count;
    x.sign() * above * scale
}

pub(crate) fn quantize_rows<B: Backend>(x: Tensor<B, 2>, q: TokenQuant) -> QuantizedRows<B> {
    let rows = quantize(x, q);
    QuantizedRows { codes: rows.codes.int(), scale: rows.scale, zero: rows.zero }
}

fn quantize<B: Backend>(x: Tensor<B, 2>, q: TokenQuant) -> Rows<B> {
    if q.symmetric { symmetric(x, q) } else { asymmetric(x, q) }
}

fn symmetric<B: Backend>(x: Tensor<B, 2>, q: TokenQuant) -> Rows<B> {
    let (low, high) = q.code_limits();
    let scale = match q.range {
        Some((min, max)) => constant(&x, q.scale_and_zero_point(min, max).0),
        None => one_for_zero(reduce(x.clone().abs(), Tensor::max_dim) / q.divisor()),
    };
    let codes = crate::round_half_even(x / scale.clone()).clamp(low, high);
    Rows { codes, scale, zero: None }
}

fn asymmetric<B: Backend>(x: Tensor<B, 2>, q: TokenQuant) -> Rows<B> {
    let (low, high) = q.code_limits();
    let (scale, zero_point) = match q.range {
        Some((min, max)) => {
            let (scale, zero_point) = q.scale_and_zero_point(min, max);
            (constant(&x, scale), constant(&x, zero_point))
        }
        None => {
            let mut min = reduce(x.clone(), Tensor::min_dim);
            let mut max = reduce(x.clone(), Tensor::max_dim);
            if !q.full_range {
                (min, max) = (min.clamp_max(0.0), max.clamp_min(0.0));
            }
            let scale = one_for_zero((max - min.clone()) / q.divisor());
            (scale.clone(), crate::round_half_even(min / scale))
        }
    };
    let zero = zero_point * scale.clone();
    let codes = crate::round_half_even((x - zero.clone()) / scale.clone()).clamp(low, high);
    Rows { codes, scale, zero: Some(zero) }
}

/// `[rows, 1]` of one value.
fn constant<B: Backend>(x: &Tensor<B, 2>, value: f32) -> Tensor<B, 2> {
    Tensor::full([x.dims()[0], 1], value, (&x.device(), x.dtype()))
}

/// `[rows, columns]` to `[rows, 1]`; rows without columns reduce to zero.
fn reduce<B: Backend>(x: Tensor<B, 2>, op: impl Fn(Tensor<B, 2>, usize) -> Tensor<B, 2>) -> Tensor<B, 2> {
    // Some backends refuse to launch on, or reduce, nothing.
    if x.shape().num_elements() == 0 { constant(&x, 0.0) } else { op(x, 1) }
}

fn one_for_zero<B: Backend>(scale: Tensor<B, 2>) -> Tensor<B, 2> {
    let zero = scale.clone().equal_elem(0.0);
    scale.mask_fill(zero, 1.0)
}
