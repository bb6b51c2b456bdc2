//! Portable bodies, CPU bodies and oracle against each other.
#![allow(clippy::unwrap_used)]

mod batch_norm;
mod convolution;
mod convolution_gradients;
mod fused;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod gpu;
mod optimizer;
mod packed;
mod quantize;
mod sparse;

use burn::backend::Flex;
use burn::prelude::*;

/// Values in about (-2, 2), the same every time.
fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453) | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next() + next()).collect()
}

fn tensor<const D: usize>(values: &[f32], shape: [usize; D]) -> Tensor<Flex, D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), &Default::default())
}

/// The same matrix three times over: contiguous, transposed in memory, and a slice of a larger one.
fn layouts(values: &[f32], rows: usize, columns: usize) -> Vec<(&'static str, Tensor<Flex, 2>)> {
    let x = tensor(values, [rows, columns]);
    let transposed = tensor(&floats(x.clone().transpose()), [columns, rows]).transpose();
    let padded = Tensor::cat(vec![x.clone() * 0.0 + 9.0, x.clone(), x.clone() * 0.0 - 9.0], 1);
    let sliced = padded.narrow(1, columns, columns);
    vec![("contiguous", x), ("transposed", transposed), ("sliced", sliced)]
}

fn floats<const D: usize>(x: Tensor<Flex, D>) -> Vec<f32> {
    host(x)
}

/// What a GPU hands over of nothing points nowhere in particular, and may not be aligned.
fn host<B: Backend, const D: usize>(x: Tensor<B, D>) -> Vec<f32> {
    if x.shape().num_elements() == 0 {
        return Vec::new();
    }
    x.into_data().convert::<f32>().into_vec().unwrap()
}

fn ints(x: Tensor<Flex, 2, Int>) -> Vec<i32> {
    x.into_data().convert::<i32>().into_vec().unwrap()
}

#[track_caller]
fn assert_close(got: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}: lengths");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*g) - e).abs();
        assert!(error <= tolerance, "{what}: element {i} is {g}, not {e}");
    }
}

/// Mean absolute value, the unit of relative errors of whole results.
fn magnitude(values: &[f64]) -> f64 {
    values.iter().map(|v| v.abs()).sum::<f64>() / values.len().max(1) as f64
}
