//! Batch normalization while it learns, in terms of burn's operations.

use crate::activation::Activation;
use crate::batch_norm::{BatchNormGradients, BatchNormPass, BatchNormalized};
use crate::convolution::ConvolutionTail;
use burn::prelude::*;

/// The mean over images and pixels, `[1, channels, 1]`: over an image's pixels first, over images then, so that a GPU has as
/// many sums side by side as there are rows, and nothing is transposed for them.
fn mean_of<B: Backend>(x: Tensor<B, 3>) -> Tensor<B, 3> {
    x.mean_dim(2).mean_dim(0)
}

/// See [`crate::batch_norm_train`].
pub(crate) fn batch_norm_train<B: Backend>(
    x: Tensor<B, 4>,
    gamma: Tensor<B, 1>,
    beta: Tensor<B, 1>,
    epsilon: f64,
    residual: Option<Tensor<B, 4>>,
    activation: Activation,
) -> BatchNormalized<B> {
    let dims = x.dims();
    let [batch, channels, height, width] = dims;
    let x = x.reshape([batch, channels, height * width]);
    let mean = mean_of(x.clone());
    let centred = x - mean.clone();
    let variance = mean_of(centred.clone() * centred.clone());
    let factor = gamma.reshape([1, channels, 1]) / (variance.clone() + epsilon).sqrt();
    let y = (centred * factor + beta.reshape([1, channels, 1])).reshape(dims);
    let tail = ConvolutionTail { norm: None, residual, activation };
    let [mean, variance] = [mean, variance].map(|v| v.detach().reshape([channels]));
    BatchNormalized { y: tail.forward(y), mean, variance }
}

/// See [`crate::CompressOps::batch_norm_gradients`].
pub(crate) fn batch_norm_gradients<B: Backend>(
    pass: BatchNormPass<B>,
    dy: Tensor<B, 4>,
    residual: bool,
) -> BatchNormGradients<B> {
    let dims = pass.x.dims();
    let [batch, channels, height, width] = dims;
    let dy = match pass.rectified {
        Some(y) => dy.mask_fill(y.lower_equal_elem(0.0), 0.0),
        None => dy,
    };
    let of_channels = |v: Tensor<B, 1>| v.reshape([1, channels, 1]);
    let rows = |x: Tensor<B, 4>| x.reshape([batch, channels, height * width]);
    let inverse = of_channels((pass.variance + pass.epsilon).sqrt().recip());
    let centred = (rows(pass.x) - of_channels(pass.mean)) * inverse.clone();
    let (by_beta, by_gamma) = (mean_of(rows(dy.clone())), mean_of(rows(dy.clone()) * centred.clone()));
    let dx = rows(dy.clone()) - by_beta.clone() - centred * by_gamma.clone();
    let count = (batch * height * width) as f32;
    BatchNormGradients {
        x: (dx * inverse * of_channels(pass.gamma)).reshape(dims),
        residual: residual.then_some(dy),
        gamma: (by_gamma * count).reshape([channels]),
        beta: (by_beta * count).reshape([channels]),
    }
}
