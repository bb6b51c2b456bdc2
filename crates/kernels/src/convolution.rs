//! Convolutions that have gradients worth their time everywhere.

use crate::portable;
use crate::registry::lookup;
use burn::prelude::*;
use burn::tensor::ops::PaddedConvOptions;

/// A two-dimensional convolution, as [`burn::tensor::module::conv2d`].
///
/// `x: [batch, channels_in, height, width]`, `weight: [channels_out, channels_in / groups, kh, kw]`,
/// `bias: [channels_out]` -> `[batch, channels_out, height_out, width_out]`.
///
/// On the CPU without gradients, tiles of this crate multiply the weight with pixels gathered block by block. On a GPU that
/// trains it is one product of matrices with all pixels under the kernel side by side (Chellapilla et al.
/// 2006, "High performance convolutional neural networks for document processing"): burn 0.21 sums a weight's gradient
/// over all pixels of all images in as many workgroups as the weight has tiles, which leaves most of the device idle.
///
/// # Panics
/// When the shapes do not fit.
pub fn conv2d<B: Backend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 4>,
    bias: Option<Tensor<B, 1>>,
    options: PaddedConvOptions<2>,
) -> Tensor<B, 4> {
    let trains = B::ad_enabled(&x.device());
    match lookup::<B>() {
        Some(ops) if !trains => (ops.conv2d)(x, weight, bias, options),
        Some(ops) if (ops.unfolds_convolutions)() && options.options.groups == 1 => {
            portable::unfolded_conv2d(x, weight, bias, &options)
        }
        _ => burn::tensor::module::conv2d(x, weight, bias, options),
    }
}
