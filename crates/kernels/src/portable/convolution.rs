//! A convolution as a product of matrices, and what goes with convolutions.

use crate::convolution::{ChannelNorm, ConvolutionTail};
use crate::packed_matrix::PackedMatrix;
use crate::quantize::TokenQuant;
use burn::prelude::*;
use burn::tensor::ops::{ConvOptions, PaddedConvOptions};
use burn::tensor::{Slice, TensorPrimitive};

/// See [`crate::conv2d`]; one group.
pub(crate) fn unfolded_conv2d<B: Backend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 4>,
    bias: Option<Tensor<B, 1>>,
    options: &PaddedConvOptions<2>,
) -> Tensor<B, 4> {
    let [channels_out, channels_in, kernel_height, kernel_width] = weight.dims();
    let columns = channels_in * kernel_height * kernel_width;
    let (pixels, [height, width]) = unfold(x, [kernel_height, kernel_width], options);
    let batch = pixels.dims()[0];
    // The kernel's elements go before the channels, as `unfold` lays them out.
    let weight = weight.permute([0, 2, 3, 1]).reshape([1, channels_out, columns]);
    let y = weight.matmul(pixels).reshape([batch, channels_out, height, width]);
    match bias {
        Some(bias) => y + bias.reshape([1, channels_out, 1, 1]),
        None => y,
    }
}

/// The pixels below each of the kernel's elements, `[batch, kh * kw * channels, height_out * width_out]`, and
/// `[height_out, width_out]`.
fn unfold<B: Backend>(
    x: Tensor<B, 4>,
    kernel: [usize; 2],
    options: &PaddedConvOptions<2>,
) -> (Tensor<B, 3>, [usize; 2]) {
    let (before, dilation, stride) =
        (options.options.padding, options.options.dilation, options.options.stride);
    let after = options.padding_end.unwrap_or(before);
    let [batch, channels, height, width] = x.dims();
    let size = [height, width];
    let out: [usize; 2] = std::array::from_fn(|axis| {
        let covered = dilation[axis] * (kernel[axis] - 1) + 1;
        (size[axis] + before[axis] + after[axis] - covered) / stride[axis] + 1
    });
    let padded = before.iter().chain(&after).any(|n| *n > 0);
    let x = if padded { x.pad((before[1], after[1], before[0], after[0]), 0.0) } else { x };
    let below = |row: usize, column: usize| {
        let span = |axis: usize, element: usize| {
            let first = element * dilation[axis];
            let last = first + (out[axis] - 1) * stride[axis];
            Slice::new(first as isize, Some(last as isize + 1), stride[axis] as isize)
        };
        x.clone().slice([Slice::full(), Slice::full(), span(0, row), span(1, column)])
    };
    let elements = (0..kernel[0]).flat_map(|row| (0..kernel[1]).map(move |column| (row, column)));
    let parts: Vec<Tensor<B, 4>> = elements.map(|(row, column)| below(row, column)).collect();
    let rows = kernel[0] * kernel[1] * channels;
    (Tensor::cat(parts, 1).reshape([batch, rows, out[0] * out[1]]), out)
}

/// See [`crate::conv2d_quantized`].
pub(crate) fn conv2d_quantized<B: Backend>(
    x: Tensor<B, 4>,
    q: TokenQuant,
    weight: &PackedMatrix<B>,
    kernel: [usize; 2],
    bias: Option<Tensor<B, 1>>,
    options: PaddedConvOptions<2>,
    tail: ConvolutionTail<B>,
) -> Tensor<B, 4> {
    let dims = x.dims();
    let [batch, channels, height, width] = dims;
    let seen = crate::fake_quantize_rows(x.reshape([batch, channels * height * width]), q).reshape(dims);
    let native = [weight.shape[0], weight.shape[1] / (kernel[0] * kernel[1]), kernel[0], kernel[1]];
    crate::conv2d_then(seen, crate::unpack(weight).reshape(native), bias, options, tail)
}

/// One product and one sum for each channel.
pub(crate) fn normalize_channels<B: Backend>(y: Tensor<B, 4>, norm: &ChannelNorm<B>) -> Tensor<B, 4> {
    let dims = y.dims();
    let [batch, channels, height, width] = dims;
    let factor = norm.gamma.clone() / (norm.variance.clone() + norm.epsilon).sqrt();
    let offset = norm.beta.clone() - norm.mean.clone() * factor.clone();
    // One row per channel of each image: broadcasting one number over a row is many times faster on the CPU than
    // broadcasting over the first axis and the last two.
    let rows = |v: Tensor<B, 1>| v.reshape([1, channels]).repeat_dim(0, batch).reshape([batch * channels, 1]);
    (y.reshape([batch * channels, height * width]) * rows(factor) + rows(offset)).reshape(dims)
}

/// `[left, right, top, bottom]` and the options that are left when an image has been padded.
fn around(options: &PaddedConvOptions<2>) -> ((usize, usize, usize, usize), ConvOptions<2>) {
    let ConvOptions { stride, padding: before, dilation, groups } = options.options.clone();
    let after = options.padding_end.unwrap_or(before);
    let plain = ConvOptions::new(stride, [0, 0], dilation, groups);
    ((before[1], after[1], before[0], after[0]), plain)
}

/// See [`crate::CompressOps::conv2d_input_gradient`].
pub(crate) fn conv2d_input_gradient<B: Backend>(
    shape: [usize; 4],
    weight: Tensor<B, 4>,
    dy: Tensor<B, 4>,
    options: &PaddedConvOptions<2>,
) -> Tensor<B, 4> {
    let [batch, channels, height, width] = shape;
    let ((left, right, top, bottom), plain) = around(options);
    let padded = [batch, channels, top + height + bottom, left + width + right];
    let x = Tensor::<B, 4>::zeros(padded, (&dy.device(), dy.dtype()));
    let [x, weight, dy] = [x, weight, dy].map(|t| t.into_primitive().tensor());
    let dx = Tensor::from_primitive(TensorPrimitive::Float(B::conv2d_x_backward(x, weight, dy, plain)));
    dx.slice([0..batch, 0..channels, top..top + height, left..left + width])
}

/// See [`crate::CompressOps::conv2d_weight_gradient`].
pub(crate) fn conv2d_weight_gradient<B: Backend>(
    x: Tensor<B, 4>,
    shape: [usize; 4],
    dy: Tensor<B, 4>,
    options: &PaddedConvOptions<2>,
) -> Tensor<B, 4> {
    let (padding, plain) = around(options);
    let x = x.pad(padding, 0.0);
    let weight = Tensor::<B, 4>::zeros(shape, (&dy.device(), dy.dtype()));
    let [x, weight, dy] = [x, weight, dy].map(|t| t.into_primitive().tensor());
    Tensor::from_primitive(TensorPrimitive::Float(B::conv2d_weight_backward(x, weight, dy, plain)))
}
