//! Quantization of rows, to codes or back to values, as one kernel: a cube for each row finds its range or its mean, then
//! rounds it.

use super::tree::{THREADS, largest, total};
use crate::quantize::TokenQuant;
use burn::prelude::Shape;
use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::ops::numeric::{empty_device_contiguous_dtype, empty_device_dtype};
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

/// How codes are made: known when a kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Rule {
    symmetric: bool,
    /// Whether a row's range is made to include zero.
    widened: bool,
    /// Whether scale and zero point hold for all rows; else they follow from each row's range.
    fixed: bool,
}

/// The numbers of a rule.
#[derive(CubeType, CubeLaunch)]
struct Numbers {
    low: f32,
    high: f32,
    divisor: f32,
    fixed_scale: f32,
    fixed_zero_point: f32,
}

/// What the codes of a row stand for: `(code + zero_point) * scale`.
#[derive(CubeType)]
struct Steps {
    scale: f32,
    zero_point: f32,
}

/// Steps of the row of `input` that begins at `from`, the same for all threads of the cube.
#[cube]
fn steps_of_row<F: Float>(
    input: &Tensor<F>,
    from: usize,
    numbers: &Numbers,
    #[comptime] rule: Rule,
) -> Steps {
    let mut scale = numbers.fixed_scale;
    let mut zero_point = numbers.fixed_zero_point;
    if comptime!(!rule.fixed) {
        let mut above = f32::cast_from(input[from]);
        let mut below = -above;
        let mut at = UNIT_POS_X as usize;
        while at < input.shape(1) {
            let x = f32::cast_from(input[from + at * input.stride(1)]);
            if x > above {
                above = x;
            }
            if -x > below {
                below = -x;
            }
            at += CUBE_DIM_X as usize;
        }
        above = largest(above);
        below = largest(below);
        if comptime!(rule.symmetric) {
            let mut most = above;
            if below > above {
                most = below;
            }
            scale = or_one(most / numbers.divisor);
            zero_point = 0.0f32;
        } else {
            if comptime!(rule.widened) {
                if above < 0.0f32 {
                    above = 0.0f32;
                }
                if below < 0.0f32 {
                    below = 0.0f32;
                }
            }
            scale = or_one((above + below) / numbers.divisor);
            zero_point = round_half_even(-below / scale);
        }
    }
    Steps { scale, zero_point }
}

/// The code of a value.
#[cube]
fn code_of(x: f32, steps: &Steps, numbers: &Numbers) -> f32 {
    let mut code = round_half_even((x - steps.zero_point * steps.scale) / steps.scale);
    if code < numbers.low {
        code = numbers.low;
    }
    if code > numbers.high {
        code = numbers.high;
    }
    code
}

#[cube(launch)]
fn fake_quantize_kernel<F: Float>(
    input: &Tensor<F>,
    output: &mut Tensor<F>,
    numbers: &Numbers,
    #[comptime] rule: Rule,
    #[define(F)] _dtype: StorageType,
) {
    let mut row = CUBE_POS_X as usize;
    while row < input.shape(0) {
        let from = row * input.stride(0);
        let to = row * output.stride(0);
        let steps = steps_of_row::<F>(input, from, numbers, rule);
        let zero = steps.zero_point * steps.scale;
        let mut at = UNIT_POS_X as usize;
        while at < input.shape(1) {
            let code = code_of(f32::cast_from(input[from + at * input.stride(1)]), &steps, numbers);
            output[to + at * output.stride(1)] = F::cast_from(code * steps.scale + zero);
            at += CUBE_DIM_X as usize;
        }
        row += CUBE_COUNT_X as usize;
    }
}

/// `shifted`: the zero point is part of what is written, so that a value is that times the scale alone.
#[cube(launch)]
#[allow(clippy::too_many_arguments, reason = "a kernel's arguments are its interface")]
fn quantize_kernel<F: Float, C: Numeric, S: Float>(
    input: &Tensor<F>,
    codes: &mut Tensor<C>,
    scales: &mut Tensor<S>,
    zeros: &mut Tensor<S>,
    numbers: &Numbers,
    #[comptime] rule: Rule,
    #[comptime] shifted: bool,
    #[define(F, C, S)] _dtypes: [StorageType; 3],
) {
    let mut row = CUBE_POS_X as usize;
    while row < input.shape(0) {
        let from = row * input.stride(0);
        let to = row * codes.stride(0);
        let steps = steps_of_row::<F>(input, from, numbers, rule);
        let mut at = UNIT_POS_X as usize;
        while at < input.shape(1) {
            let mut code = code_of(f32::cast_from(input[from + at * input.stride(1)]), &steps, numbers);
            if comptime!(shifted) {
                code += steps.zero_point;
            }
            codes[to + at * codes.stride(1)] = C::cast_from(code);
            at += CUBE_DIM_X as usize;
        }
        if UNIT_POS_X == 0 {
            scales[row * scales.stride(0)] = S::cast_from(steps.scale);
            if comptime!(!shifted) {
                zeros[row * zeros.stride(0)] = S::cast_from(steps.zero_point * steps.scale);
            }
        }
        row += CUBE_COUNT_X as usize;
    }
}

fn rule(q: TokenQuant) -> Rule {
    Rule { symmetric: q.symmetric, widened: !q.full_range, fixed: q.range.is_some() }
}

fn numbers<R: CubeRuntime>(q: TokenQuant) -> NumbersLaunch<R> {
    let (low, high) = q.code_limits();
    let (scale, zero_point) = q.range.map_or((1.0, 0.0), |(min, max)| q.scale_and_zero_point(min, max));
    NumbersLaunch::new(low, high, q.divisor(), scale, zero_point)
}

/// See [`crate::fake_quantize_rows`]; `x` has rows and columns.
pub(super) fn fake_quantize<R: CubeRuntime>(x: CubeTensor<R>, q: TokenQuant) -> CubeTensor<R> {
    let rows = x.meta.shape()[0];
    let output = empty_device_dtype(x.client.clone(), x.device.clone(), x.meta.shape().clone(), x.dtype);
    let (client, dtype) = (x.client.clone(), x.dtype);
    fake_quantize_kernel::launch::<R>(
        &client,
        CubeCount::Static(rows.min(CUBES) as u32, 1, 1),
        CubeDim::new_1d(THREADS),
        x.into_tensor_arg(),
        output.clone().into_tensor_arg(),
        numbers(q),
        rule(q),
        dtype.into(),
    );
    output
}

/// Rows as whole numbers, and what to multiply them with.
pub(super) struct Codes<R: CubeRuntime> {
    /// `[rows, columns]`.
    pub(super) codes: CubeTensor<R>,
    /// `[rows, 1]`.
    pub(super) scales: CubeTensor<R>,
    /// `[rows, 1]`, `zero_point * scale`; holds nothing where the codes are shifted.
    pub(super) zeros: CubeTensor<R>,
}

/// See [`crate::quantize_rows`], with codes of an integer type; `x` has rows and columns.
pub(super) fn quantize<R: CubeRuntime>(x: CubeTensor<R>, q: TokenQuant, codes: DType) -> Codes<R> {
    let scales = x.dtype;
    quantize_to(x, q, codes, scales, false)
}

/// Rows as whole 32-bit floats, `code + zero_point`, and their scales; `x` has rows and columns.
pub(super) fn quantize_to_floats<R: CubeRuntime>(x: CubeTensor<R>, q: TokenQuant) -> Codes<R> {
    quantize_to(x, q, DType::F32, DType::F32, true)
}

fn quantize_to<R: CubeRuntime>(
    x: CubeTensor<R>,
    q: TokenQuant,
    codes: DType,
    scales: DType,
    shifted: bool,
) -> Codes<R> {
    let [rows, _] = x.meta.shape().dims();
    let (client, device) = (x.client.clone(), x.device.clone());
    let one = || empty_device_contiguous_dtype(client.clone(), device.clone(), Shape::new([rows, 1]), scales);
    let output = Codes {
        codes: empty_device_dtype(client.clone(), device.clone(), x.meta.shape().clone(), codes),
        scales: one(),
        zeros: one(),
    };
    let dtypes = [x.dtype.into(), codes.into(), scales.into()];
    quantize_kernel::launch::<R>(
        &client,
        CubeCount::Static(rows.min(CUBES) as u32, 1, 1),
        CubeDim::new_1d(THREADS),
        x.into_tensor_arg(),
        output.codes.clone().into_tensor_arg(),
        output.scales.clone().into_tensor_arg(),
        output.zeros.clone().into_tensor_arg(),
        numbers(q),
        rule(q),
        shifted,
        dtypes,
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
#[allow(clippy::collapsible_if, reason = "`&&` of a kernel does not stop at the first")]
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
