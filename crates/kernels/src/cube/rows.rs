//! Fake quantization of rows as one kernel: a cube for each row finds its range or its mean, then rounds it.

use super::tree::{THREADS, largest, total};
use crate::quantize::TokenQuant;
use burn_cubecl::CubeRuntime;
use burn_cubecl::ops::numeric::empty_device_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Cubes that a launch has at most; each takes every so manieth row.
const CUBES: usize = 32_768;

/// The whole number next to `x`, of two equally near ones the even one.
#[cube]
fn round_half_even(x: f32) -> f32 {
    let floor = x.floor();
    let above = x - floor;
    let odd = floor - (floor * 0.5f32).floor() * 2.0f32;
    let mut rounded = floor;
    if above > 0.5f32 {
        rounded = floor + 1.0f32;
    } else if above == 0.5f32 {
        rounded = floor + odd;
    }
    rounded
}

/// A scale as a divisor: 1 where it is zero.
#[cube]
fn or_one(scale: f32) -> f32 {
    if scale == 0.0f32 { 1.0f32.runtime() } else { scale }
}

/// `fixed`: `scale` and `zero_point` hold for all rows; else they follow from each row's range divided by `divisor`,
/// which `widened` makes include zero.
#[cube(launch)]
#[allow(clippy::too_many_arguments, reason = "a kernel's arguments are its interface")]
fn fake_quantize_kernel<F: Float>(
    input: &Tensor<F>,
    output: &mut Tensor<F>,
    low: f32,
    high: f32,
    divisor: f32,
    fixed_scale: f32,
    fixed_zero_point: f32,
    #[comptime] symmetric: bool,
    #[comptime] widened: bool,
    #[comptime] fixed: bool,
    #[define(F)] _dtype: StorageType,
) {
    let rows = input.shape(0);
    let columns = input.shape(1);
    let step = CUBE_DIM_X as usize;
    let mut row = CUBE_POS_X as usize;
    while row < rows {
        let from = row * input.stride(0);
        let to = row * output.stride(0);
        let mut scale = fixed_scale;
        let mut zero_point = fixed_zero_point;
        if comptime!(!fixed) {
            let mut above = f32::cast_from(input[from]);
            let mut below = -above;
            let mut at = UNIT_POS_X as usize;
            while at < columns {
                let x = f32::cast_from(input[from + at * input.stride(1)]);
                if x > above {
                    above = x;
                }
                if -x > below {
                    below = -x;
                }
                at += step;
            }
            above = largest(above);
            below = largest(below);
            if comptime!(symmetric) {
                let mut most = above;
                if below > above {
                    most = below;
                }
                scale = or_one(most / divisor);
                zero_point = 0.0f32;
            } else {
                if comptime!(widened) {
                    if above < 0.0f32 {
                        above = 0.0f32;
                    }
                    if below < 0.0f32 {
                        below = 0.0f32;
                    }
                }
                scale = or_one((above + below) / divisor);
                zero_point = round_half_even(-below / scale);
            }
        }
        let zero = zero_point * scale;
        let mut at = UNIT_POS_X as usize;
        while at < columns {
            let x = f32::cast_from(input[from + at * input.stride(1)]);
            let mut code = round_half_even((x - zero) / scale);
            if code < low {
                code = low;
            }
            if code > high {
                code = high;
            }
            output[to + at * output.stride(1)] = F::cast_from(code * scale + zero);
            at += step;
        }
        row += CUBE_COUNT_X as usize;
    }
}

/// See [`crate::fake_quantize_rows`]; `x` has rows and columns.
pub(super) fn fake_quantize<R: CubeRuntime>(x: CubeTensor<R>, q: TokenQuant) -> CubeTensor<R> {
    let (low, high) = q.code_limits();
    let (scale, zero_point) = q.range.map_or((1.0, 0.0), |(min, max)| q.scale_and_zero_point(min, max));
    let rows = x.meta.shape()[0];
    let output = empty_device_dtype(x.client.clone(), x.device.clone(), x.meta.shape().clone(), x.dtype);
    let (client, dtype) = (x.client.clone(), x.dtype);
    fake_quantize_kernel::launch::<R>(
        &client,
        CubeCount::Static(rows.min(CUBES) as u32, 1, 1),
        CubeDim::new_1d(THREADS),
        x.into_tensor_arg(),
        output.clone().into_tensor_arg(),
        low,
        high,
        q.divisor(),
        scale,
        zero_point,
        q.symmetric,
        !q.full_range,
        q.range.is_some(),
        dtype.into(),
    );
    output
}

/// Magnitude of the value at a place of a row.
#[cube]
fn magnitude<F: Float>(input: &Tensor<F>, at: usize) -> f32 {
    let mut x = f32::cast_from(input[at]);
    if x < 0.0f32 {
        x = -x;
    }
    x
}

/// `share` is one by the number of columns. Binary: the sign, zero counting as positive, times the mean magnitude.
/// Ternary: zero up to 0.7 times the mean magnitude, beyond it the sign times the mean of what is beyond.
#[cube(launch)]
fn fake_few_kernel<F: Float>(
    input: &Tensor<F>,
    output: &mut Tensor<F>,
    share: f32,
    #[comptime] ternary: bool,
    #[define(F)] _dtype: StorageType,
) {
    let rows = input.shape(0);
    let columns = input.shape(1);
    let step = CUBE_DIM_X as usize;
    let mut row = CUBE_POS_X as usize;
    while row < rows {
        let from = row * input.stride(0);
        let to = row * output.stride(0);
        let mut sum = 0.0f32;
        let mut at = UNIT_POS_X as usize;
        while at < columns {
            sum += magnitude::<F>(input, from + at * input.stride(1));
            at += step;
        }
        let mut scale = total(sum) * share;
        let mut threshold = 0.0f32;
        if comptime!(ternary) {
            threshold += scale * 0.7f32;
            let mut beyond = 0.0f32;
            let mut count = 0.0f32;
            let mut at = UNIT_POS_X as usize;
            while at < columns {
                let x = magnitude::<F>(input, from + at * input.stride(1));
                if x > threshold {
                    beyond += x;
                    count += 1.0f32;
                }
                at += step;
            }
            let beyond = total(beyond);
            scale = beyond / or_one(total(count));
        }
        let mut at = UNIT_POS_X as usize;
        while at < columns {
            let x = f32::cast_from(input[from + at * input.stride(1)]);
            let mut value = scale;
            if x < 0.0f32 {
                value = -scale;
            }
            if comptime!(ternary) {
                if magnitude::<F>(input, from + at * input.stride(1)) <= threshold {
                    value = 0.0f32.runtime();
                }
            }
            output[to + at * output.stride(1)] = F::cast_from(value);
            at += step;
        }
        row += CUBE_COUNT_X as usize;
    }
}

/// See [`crate::fake_binarize_rows`]; `x` has rows and columns.
pub(super) fn fake_binarize<R: CubeRuntime>(x: CubeTensor<R>) -> CubeTensor<R> {
    fake_few(x, false)
}

/// See [`crate::fake_ternarize_rows`]; `x` has rows and columns.
pub(super) fn fake_ternarize<R: CubeRuntime>(x: CubeTensor<R>) -> CubeTensor<R> {
    fake_few(x, true)
}

fn fake_few<R: CubeRuntime>(x: CubeTensor<R>, ternary: bool) -> CubeTensor<R> {
    let [rows, columns] = x.meta.shape().dims();
    let output = empty_device_dtype(x.client.clone(), x.device.clone(), x.meta.shape().clone(), x.dtype);
    let (client, dtype) = (x.client.clone(), x.dtype);
    fake_few_kernel::launch::<R>(
        &client,
        CubeCount::Static(rows.min(CUBES) as u32, 1, 1),
        CubeDim::new_1d(THREADS),
        x.into_tensor_arg(),
        output.clone().into_tensor_arg(),
        1.0 / columns as f32,
        ternary,
        dtype.into(),
    );
    output
}
