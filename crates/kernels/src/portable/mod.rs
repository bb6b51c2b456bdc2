//! The operations in terms of burn's own: what every backend can do, and what differentiates.

mod batch_norm;
mod convolution;
mod fused;
mod optimizer;
mod packed;
mod quantize;
mod sparse;

pub(crate) use batch_norm::{batch_norm_gradients, batch_norm_train};
pub(crate) use convolution::{
    conv2d_input_gradient, conv2d_quantized, conv2d_weight_gradient, normalize_channels, unfolded_conv2d,
};
pub(crate) use fused::{add_to_every, attention, gelu, gelu_tanh, layer_norm};
pub(crate) use optimizer::{adamw, clip_factor};
pub(crate) use packed::{embedding_packed, linear, linear_packed, linear_quantized, unpack};
pub(crate) use quantize::{
    fake_binarize_rows, fake_quantize_rows, fake_ternarize_rows, quantize_rows, round_by_adding,
    round_half_even,
};
pub(crate) use sparse::linear_sparse;
