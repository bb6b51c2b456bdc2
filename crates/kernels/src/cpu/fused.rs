//! Normalization and activations in one pass.

use super::math;
use super::memory::{map_rows, to_vec, zip_rows};
use super::simd::{lane_sum, vectorised};
use burn::backend::Flex;
use burn::prelude::*;

pub(crate) fn layer_norm(
    x: Tensor<Flex, 2>,
    gamma: Tensor<Flex, 1>,
    beta: Tensor<Flex, 1>,
    epsilon: f64,
) -> Tensor<Flex, 2> {
    let (gamma, beta) = (to_vec(gamma), to_vec(beta));
    map_rows(x, |rows| normalize_rows(rows, &gamma, &beta, epsilon))
}

/// See [`crate::add_layer_norm`].
pub(crate) fn add_layer_norm(
    x: Tensor<Flex, 2>,
    residual: Tensor<Flex, 2>,
    gamma: Tensor<Flex, 1>,
    beta: Tensor<Flex, 1>,
    epsilon: f64,
) -> Tensor<Flex, 2> {
    let (gamma, beta) = (to_vec(gamma), to_vec(beta));
    zip_rows(x, residual, |row, other| {
        add_slice(row, other);
        normalize_rows(row, &gamma, &beta, epsilon);
    })
}

pub(crate) fn gelu(x: Tensor<Flex, 2>) -> Tensor<Flex, 2> {
    map_rows(x, gelu_slice)
}

pub(crate) fn gelu_tanh(x: Tensor<Flex, 2>) -> Tensor<Flex, 2> {
    map_rows(x, gelu_tanh_slice)
}

vectorised! {
    /// In double precision between the values read and written: it costs little beside the memory.
    fn normalize_rows(rows: &mut [f32], gamma: &[f32], beta: &[f32], epsilon: f64) {
        let width = gamma.len() as f64;
        for row in rows.chunks_exact_mut(gamma.len()) {
            let mean = lane_sum(row, f64::from) / width;
            let centred = |v: f32| f64::from(v) - mean;
            let variance = lane_sum(row, |v| centred(v) * centred(v)) / width;
            let inverse = 1.0 / (variance + epsilon).sqrt();
            for ((v, g), b) in row.iter_mut().zip(gamma).zip(beta) {
                *v = (centred(*v) * inverse * f64::from(*g) + f64::from(*b)) as f32;
            }
        }
    }
}

vectorised! {
    fn add_slice(values: &mut [f32], others: &[f32]) {
        for (v, o) in values.iter_mut().zip(others) {
            *v += o;
        }
    }
}

vectorised! {
    fn gelu_slice(values: &mut [f32]) {
        for v in values {
            *v = math::gelu::<FMA>(*v);
        }
    }
}

vectorised! {
    fn gelu_tanh_slice(values: &mut [f32]) {
        for v in values {
            *v = math::gelu_tanh::<FMA>(*v);
        }
    }
}
