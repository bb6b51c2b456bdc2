//! Convolutions that have gradients worth their time everywhere, and what follows them.

use crate::activation::Activation;
use crate::packed_matrix::PackedMatrix;
use crate::portable;
use crate::quantize::TokenQuant;
use crate::registry::{TrainsConvolutions, lookup};
use burn::prelude::*;
use burn::tensor::ops::PaddedConvOptions;

/// Batch normalization by statistics that are known (Ioffe, Szegedy 2015, arXiv 1502.03167, algorithm 2):
/// `(y - mean) / sqrt(variance + epsilon) * gamma + beta` for each channel of `y`. All are `[channels]`.
#[derive(Clone, Debug)]
pub struct ChannelNorm<B: Backend> {
    /// Factor of each channel.
    pub gamma: Tensor<B, 1>,
    /// What is added to each channel.
    pub beta: Tensor<B, 1>,
    /// Mean of each channel.
    pub mean: Tensor<B, 1>,
    /// Variance of each channel.
    pub variance: Tensor<B, 1>,
    /// Keeps a variance of zero from being divided by.
    pub epsilon: f64,
}

/// What becomes of a convolution's output `[batch, channels, height, width]`: it is normalized, the residual is added, the
/// activation is applied. The default leaves it as it is.
#[derive(Clone, Debug)]
pub struct ConvolutionTail<B: Backend> {
    /// The first step.
    pub norm: Option<ChannelNorm<B>>,
    /// Of the output's shape.
    pub residual: Option<Tensor<B, 4>>,
    /// The last step.
    pub activation: Activation,
}

impl<B: Backend> Default for ConvolutionTail<B> {
    fn default() -> Self {
        Self { norm: None, residual: None, activation: Activation::Identity }
    }
}

impl<B: Backend> ConvolutionTail<B> {
    /// Applies it to a convolution's output, operation by operation.
    pub fn forward(self, y: Tensor<B, 4>) -> Tensor<B, 4> {
        let y = match &self.norm {
            Some(norm) => portable::normalize_channels(y, norm),
            None => y,
        };
        let y = match self.residual {
            Some(residual) => y + residual,
            None => y,
        };
        self.activation.forward(y)
    }
}

/// A two-dimensional convolution, as [`burn::tensor::module::conv2d`].
///
/// `x: [batch, channels_in, height, width]`, `weight: [channels_out, channels_in / groups, kh, kw]`,
/// `bias: [channels_out]` -> `[batch, channels_out, height_out, width_out]`.
///
/// On the CPU, tiles of this crate multiply the weight with pixels block by block. With gradients they do where channels are
/// one group, the kernel is not dilated, and there is less padding on a side than the kernel has elements; gradients are then
/// this crate's own (Dumoulin, Visin 2016, arXiv 1603.07285, chapter 4).
///
/// On a GPU that trains it is one product of matrices with all pixels under the kernel side by side (Chellapilla et al. 2006,
/// "High performance convolutional neural networks for document processing"): burn 0.21 sums a weight's gradient over all
/// pixels of all images in as many workgroups as the weight has tiles, which leaves most of the device idle.
///
/// # Panics
/// When the shapes do not fit.
pub fn conv2d<B: Backend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 4>,
    bias: Option<Tensor<B, 1>>,
    options: PaddedConvOptions<2>,
) -> Tensor<B, 4> {
    conv2d_then(x, weight, bias, options, ConvolutionTail::default())
}

/// [`conv2d`] and what follows it, in one pass over the output where the backend can.
///
/// # Panics
/// When the shapes do not fit.
pub fn conv2d_then<B: Backend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 4>,
    bias: Option<Tensor<B, 1>>,
    options: PaddedConvOptions<2>,
    tail: ConvolutionTail<B>,
) -> Tensor<B, 4> {
    let trains = B::ad_enabled(&x.device());
    let suits = |trains_convolutions: TrainsConvolutions| {
        trains_convolutions([x.dtype(), weight.dtype()], x.dims(), weight.dims(), &options)
    };
    match lookup::<B>() {
        Some(ops) if !trains || suits(ops.trains_convolutions) => {
            (ops.conv2d)(x, weight, bias, options, tail)
        }
        Some(ops) if (ops.unfolds_convolutions)() && options.options.groups == 1 => {
            tail.forward(portable::unfolded_conv2d(x, weight, bias, &options))
        }
        _ => tail.forward(burn::tensor::module::conv2d(x, weight, bias, options)),
    }
}

/// [`conv2d_then`] of the codes of an input and a packed weight, whose rows are the kernels of the outputs one after
/// the other.
///
/// `kernel` is `[kh, kw]`. Each image has a range of its own where ranges are those of the values at hand. Zeros around an
/// image stay zero.
///
/// On the CPU the sums are exact, in integers, where codes are symmetric, an output has one scale, and there is one group
/// of channels; elsewhere both operands are multiplied as the floats that their codes stand for.
///
/// # Panics
/// When the shapes do not fit.
pub fn conv2d_quantized<B: Backend>(
    x: Tensor<B, 4>,
    q: TokenQuant,
    weight: &PackedMatrix<B>,
    kernel: [usize; 2],
    bias: Option<Tensor<B, 1>>,
    options: PaddedConvOptions<2>,
    tail: ConvolutionTail<B>,
) -> Tensor<B, 4> {
    match lookup::<B>() {
        Some(ops) => (ops.conv2d_quantized)(x, q, weight, kernel, bias, options, tail),
        None => portable::conv2d_quantized(x, q, weight, kernel, bias, options, tail),
    }
}
