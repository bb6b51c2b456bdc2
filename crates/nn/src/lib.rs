//! Drop-in layers for burn models: the same fields, records and names as burn's, and inputs that can
//! be quantized, weights that can be packed, heads that can be removed.
//!
//! - [`Linear`], [`Embedding`], [`Conv2d`], [`MultiHeadAttention`], [`LayerNorm`]: change the import
//!   of a model from `burn::nn` and it is ready. Records of burn's layers load into these and the
//!   other way round.
//! - [`Compressible`], which is derived, reaches the layers of a model as what they are.
//! - [`Tapped`] models show their hidden states and attention to a loss; [`Blocks`] models run block by block.
//! - [`name_table`] and [`model_view`] give a model's layers the names of its checkpoint.

extern crate self as briquette_nn;

pub mod attention;
mod blocks;
mod compressible;
pub mod conv;
mod embedding;
mod layer_norm;
mod leaves;
mod linear;
mod module;
mod names;
mod path;
mod removal;
mod slots;
mod taps;

pub use attention::{MhaInput, MhaOutput, MultiHeadAttention, MultiHeadAttentionConfig};
pub use blocks::{BlockState, Blocks};
pub use briquette_nn_derive::Compressible;
pub use burn::nn::{Initializer, LinearLayout, PaddingConfig2d};
pub use compressible::{Compressible, LayerList, LayerMut, Number, visit_layers};
pub use conv::{Conv2d, Conv2dConfig};
pub use embedding::{Embedding, EmbeddingConfig};
pub use layer_norm::{LayerNorm, LayerNormConfig};
pub use linear::{Linear, LinearConfig};
pub use names::{model_view, name_table};
pub use path::LayerPath;
pub use removal::{AxisCut, Cuts, RemovalError, Removing, cut, remove, unshare, unshare_layer};
pub use slots::token_quant;
pub use taps::{Recorder, TapShape, Tapped, Taps, Wanted};

/// What the derive's expansion refers to; not for direct use.
#[doc(hidden)]
pub mod export {
    pub use briquette_core::Counts;
    pub use burn::tensor::backend::Backend;
}
