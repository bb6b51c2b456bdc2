//! Tensor operations for compressed models, each with a plain oracle.
//!
//! The public functions ask of a backend only that it is a [`Backend`](burn::prelude::Backend). At
//! run time they look the backend up in a table: where it has registered its own [`CompressOps`],
//! these run; everywhere else the portable bodies in terms of burn's tensor operations do. The CPU
//! backend [`Cpu`](backend::Cpu) registers itself. [`oracle`] says once more, in plain loops over
//! slices, what each operation means; tests compare all three.
//!
//! Axes: `out` and `in` are a weight's outputs and inputs, `rows` the tokens (or whatever else is
//! quantized one by one), `group` the number of neighbouring inputs that share a scale.

mod activation;
mod attention;
pub mod backend;
mod batch_norm;
mod convolution;
mod cpu;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "cuda")]
mod cuda;
mod fused;
mod linear;
mod nodes;
mod ops;
mod optimizer;
pub mod oracle;
mod packed_matrix;
mod packing;
mod portable;
mod product_kernel;
mod quantize;
mod registry;
mod sparse_layout;
mod sparse_matrix;
mod straight_through;
#[cfg(test)]
mod tests;

pub use activation::Activation;
pub use attention::attention;
pub use batch_norm::{BatchNormGradients, BatchNormPass, BatchNormalized, batch_norm_train};
pub use convolution::{ChannelNorm, ConvolutionTail, conv2d, conv2d_quantized, conv2d_then};
pub use fused::{add_layer_norm, gelu, gelu_tanh, layer_norm};
pub use linear::{
    PackedLayer, embedding_packed, linear, linear_all, linear_packed, linear_quantized, rows_at_once, unpack,
};
pub use ops::CompressOps;
pub use optimizer::{AdamWState, AdamWStep, adamw, clip_factor};
pub use packed_matrix::{Code, PackedMatrix};
pub use packing::{pack_rows, unpack_rows, words_per_row};
pub use product_kernel::{PackedConvolution, PackedProduct, convolution_kernel, product_kernel};
pub use quantize::{
    QuantizedRows, TokenQuant, fake_binarize_rows, fake_quantize_rows, fake_ternarize_rows, quantize_rows,
    round_half_even, rows_in_one_pass,
};
pub use registry::register;
pub use sparse_matrix::{SparseMatrix, linear_sparse, runs_sparse};
pub use straight_through::straight_through;
