//! Batch normalization while it learns.

use crate::activation::Activation;
use crate::portable;
use crate::registry::lookup;
use burn::prelude::*;

/// What [`batch_norm_train`] computes.
#[derive(Clone, Debug)]
pub struct BatchNormalized<B: Backend> {
    /// The result, `[batch, channels, height, width]`.
    pub y: Tensor<B, 4>,
    /// Mean of each channel of this batch, `[channels]`. It has no gradient.
    pub mean: Tensor<B, 1>,
    /// Variance of each channel of this batch, divided by the number of values, `[channels]`. It has no gradient.
    pub variance: Tensor<B, 1>,
}

/// What the gradients of [`batch_norm_train`] are computed from. Vectors are `[channels]`.
#[derive(Clone, Debug)]
pub struct BatchNormPass<B: Backend> {
    /// The input.
    pub x: Tensor<B, 4>,
    /// The output, where it was rectified.
    pub rectified: Option<Tensor<B, 4>>,
    /// Factor of each channel.
    pub gamma: Tensor<B, 1>,
    /// Mean of each channel.
    pub mean: Tensor<B, 1>,
    /// Variance of each channel.
    pub variance: Tensor<B, 1>,
    /// Was added to the variance.
    pub epsilon: f64,
}

/// Gradients of [`batch_norm_train`].
#[derive(Clone, Debug)]
pub struct BatchNormGradients<B: Backend> {
    /// By the input.
    pub x: Tensor<B, 4>,
    /// By the residual, if it was asked for.
    pub residual: Option<Tensor<B, 4>>,
    /// By the factors.
    pub gamma: Tensor<B, 1>,
    /// By the offsets.
    pub beta: Tensor<B, 1>,
}

/// Batch normalization by the batch's own mean and variance (Ioffe, Szegedy 2015, arXiv 1502.03167, algorithm 1), to which
/// a residual is added before the activation:
/// `activation((x - mean) / sqrt(variance + epsilon) * gamma + beta + residual)`.
///
/// `x` and `residual: [batch, channels, height, width]`, `gamma` and `beta: [channels]`. Gradients flow into all four, also
/// through mean and variance. On the CPU it is one operation, with gradients of its own.
///
/// # Panics
/// When the shapes do not fit.
pub fn batch_norm_train<B: Backend>(
    x: Tensor<B, 4>,
    gamma: Tensor<B, 1>,
    beta: Tensor<B, 1>,
    epsilon: f64,
    residual: Option<Tensor<B, 4>>,
    activation: Activation,
) -> BatchNormalized<B> {
    match lookup::<B>() {
        Some(ops) => (ops.batch_norm_train)(x, gamma, beta, epsilon, residual, activation),
        None => portable::batch_norm_train(x, gamma, beta, epsilon, residual, activation),
    }
}
