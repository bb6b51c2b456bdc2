//! Which backends have their own operations.
//!
//! A trait bound would make every module of every user carry it. A table keyed by the backend's
//! type keeps `B: Backend` the only bound, at the price of one lookup a call.

use crate::activation::Activation;
use crate::batch_norm::BatchNormalized;
use crate::convolution::ConvolutionTail;
use crate::linear::PackedLayer;
use crate::ops::CompressOps;
use crate::optimizer::{AdamWState, AdamWStep};
use crate::packed_matrix::PackedMatrix;
use crate::product_kernel::{PackedConvolution, PackedProduct};
use crate::quantize::{QuantizedRows, TokenQuant};
use crate::sparse_matrix::SparseMatrix;
use burn::backend::autodiff::checkpoint::strategy::BalancedCheckpointing;
use burn::backend::{Autodiff, Flex};
use burn::prelude::*;
use burn::tensor::DType;
use burn::tensor::ops::{FloatTensor, PaddedConvOptions};
use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};

type OptionalBias<B> = Option<Tensor<B, 1>>;
type LinearAll<B> =
    fn(Tensor<B, 2>, Option<TokenQuant>, Vec<PackedLayer<'_, B>>, Activation) -> Vec<Tensor<B, 2>>;
type Conv2d<B> =
    fn(Tensor<B, 4>, Tensor<B, 4>, OptionalBias<B>, PaddedConvOptions<2>, ConvolutionTail<B>) -> Tensor<B, 4>;
type Conv2dQuantized<B> = fn(
    Tensor<B, 4>,
    TokenQuant,
    &PackedMatrix<B>,
    [usize; 2],
    OptionalBias<B>,
    PaddedConvOptions<2>,
    ConvolutionTail<B>,
) -> Tensor<B, 4>;
pub(crate) type TrainsConvolutions = fn([DType; 2], [usize; 4], [usize; 4], &PaddedConvOptions<2>) -> bool;
type BatchNormTrain<B> =
    fn(Tensor<B, 4>, Tensor<B, 1>, Tensor<B, 1>, f64, Option<Tensor<B, 4>>, Activation) -> BatchNormalized<B>;
type Linear<B> = fn(Tensor<B, 2>, Tensor<B, 2>, OptionalBias<B>, Activation) -> Tensor<B, 2>;
type AddLayerNorm<B> = fn(Tensor<B, 2>, Tensor<B, 2>, Tensor<B, 1>, Tensor<B, 1>, f64) -> Tensor<B, 2>;
type LayerNorm<B> = fn(Tensor<B, 2>, Tensor<B, 1>, Tensor<B, 1>, f64) -> Tensor<B, 2>;
type Attention<B> =
    fn(Tensor<B, 4>, Tensor<B, 4>, Tensor<B, 4>, Option<Tensor<B, 4>>, bool, f64) -> Tensor<B, 4>;
type LinearPacked<B> = fn(Tensor<B, 2>, &PackedMatrix<B>, OptionalBias<B>) -> Tensor<B, 2>;
type LinearQuantized<B> = fn(Tensor<B, 2>, TokenQuant, &PackedMatrix<B>, OptionalBias<B>) -> Tensor<B, 2>;
type LinearSparse<B> = fn(Tensor<B, 2>, &SparseMatrix<B>, OptionalBias<B>) -> Tensor<B, 2>;
type AdamW<B> = fn(
    AdamWState<FloatTensor<B>>,
    FloatTensor<B>,
    Option<FloatTensor<B>>,
    AdamWStep,
) -> AdamWState<FloatTensor<B>>;

/// The methods of one backend's [`CompressOps`].
pub(crate) struct Ops<B: Backend> {
    pub(crate) round_half_even: fn(Tensor<B, 2>) -> Tensor<B, 2>,
    pub(crate) fake_quantize_rows: fn(Tensor<B, 2>, TokenQuant) -> Tensor<B, 2>,
    pub(crate) fake_binarize_rows: fn(Tensor<B, 2>) -> Tensor<B, 2>,
    pub(crate) fake_ternarize_rows: fn(Tensor<B, 2>) -> Tensor<B, 2>,
    pub(crate) straight_through: fn(FloatTensor<B>, FloatTensor<B>) -> FloatTensor<B>,
    pub(crate) rows_in_one_pass: fn() -> bool,
    pub(crate) conv2d: Conv2d<B>,
    pub(crate) conv2d_quantized: Conv2dQuantized<B>,
    pub(crate) unfolds_convolutions: fn() -> bool,
    pub(crate) trains_convolutions: TrainsConvolutions,
    pub(crate) batch_norm_train: BatchNormTrain<B>,
    pub(crate) quantize_rows: fn(Tensor<B, 2>, TokenQuant) -> QuantizedRows<B>,
    pub(crate) unpack: fn(&PackedMatrix<B>) -> Tensor<B, 2>,
    pub(crate) linear_packed: LinearPacked<B>,
    pub(crate) linear_quantized: LinearQuantized<B>,
    pub(crate) runs_sparse: fn() -> bool,
    pub(crate) linear_sparse: LinearSparse<B>,
    pub(crate) linear_all: LinearAll<B>,
    pub(crate) linear: Linear<B>,
    pub(crate) rows_at_once: fn() -> Option<usize>,
    pub(crate) repeats_residual: fn() -> bool,
    pub(crate) add_layer_norm: AddLayerNorm<B>,
    pub(crate) product_kernel: fn(PackedProduct, &B::Device) -> String,
    pub(crate) convolution_kernel: fn(PackedConvolution) -> String,
    pub(crate) embedding_packed: fn(&PackedMatrix<B>, Tensor<B, 2, Int>) -> Tensor<B, 3>,
    pub(crate) layer_norm: LayerNorm<B>,
    pub(crate) gelu: fn(Tensor<B, 2>) -> Tensor<B, 2>,
    pub(crate) gelu_tanh: fn(Tensor<B, 2>) -> Tensor<B, 2>,
    pub(crate) attention: Attention<B>,
    pub(crate) adamw: AdamW<B>,
    pub(crate) clip_factor: fn(Vec<FloatTensor<B>>, f64) -> FloatTensor<B>,
}

impl<B: CompressOps> Ops<B> {
    fn new() -> Self {
        Self {
            round_half_even: <B as CompressOps>::round_half_even,
            fake_quantize_rows: <B as CompressOps>::fake_quantize_rows,
            fake_binarize_rows: <B as CompressOps>::fake_binarize_rows,
            fake_ternarize_rows: <B as CompressOps>::fake_ternarize_rows,
            straight_through: <B as CompressOps>::straight_through,
            rows_in_one_pass: <B as CompressOps>::rows_in_one_pass,
            conv2d: <B as CompressOps>::conv2d,
            conv2d_quantized: <B as CompressOps>::conv2d_quantized,
            unfolds_convolutions: <B as CompressOps>::unfolds_convolutions,
            trains_convolutions: <B as CompressOps>::trains_convolutions,
            batch_norm_train: <B as CompressOps>::batch_norm_train,
            quantize_rows: <B as CompressOps>::quantize_rows,
            unpack: <B as CompressOps>::unpack,
            linear_packed: <B as CompressOps>::linear_packed,
            linear_quantized: <B as CompressOps>::linear_quantized,
            runs_sparse: <B as CompressOps>::runs_sparse,
            linear_sparse: <B as CompressOps>::linear_sparse,
            linear_all: <B as CompressOps>::linear_all,
            linear: <B as CompressOps>::linear,
            rows_at_once: <B as CompressOps>::rows_at_once,
            repeats_residual: <B as CompressOps>::repeats_residual,
            add_layer_norm: <B as CompressOps>::add_layer_norm,
            product_kernel: <B as CompressOps>::product_kernel,
            convolution_kernel: <B as CompressOps>::convolution_kernel,
            embedding_packed: <B as CompressOps>::embedding_packed,
            layer_norm: <B as CompressOps>::layer_norm,
            gelu: <B as CompressOps>::gelu,
            gelu_tanh: <B as CompressOps>::gelu_tanh,
            attention: <B as CompressOps>::attention,
            adamw: <B as CompressOps>::adamw,
            clip_factor: <B as CompressOps>::clip_factor,
        }
    }
}

type Table = HashMap<TypeId, &'static (dyn Any + Send + Sync)>;

static TABLE: LazyLock<RwLock<Table>> = LazyLock::new(|| {
    let mut table = Table::new();
    insert::<Flex>(&mut table);
    insert::<Autodiff<Flex>>(&mut table);
    insert::<Autodiff<Flex, BalancedCheckpointing>>(&mut table);
    RwLock::new(table)
});

/// Makes the public functions use `B`'s own operations from now on, in the whole process.
///
/// The CPU backend is there from the start. Registering twice changes nothing.
pub fn register<B: CompressOps>() {
    insert::<B>(&mut TABLE.write().unwrap_or_else(PoisonError::into_inner));
}

fn insert<B: CompressOps>(table: &mut Table) {
    // Entries live as long as the process: a lookup then hands out a reference without the lock.
    table.entry(TypeId::of::<B>()).or_insert_with(|| Box::leak(Box::new(Ops::<B>::new())));
}

/// The operations that `B` registered, if it did.
pub(crate) fn lookup<B: Backend>() -> Option<&'static Ops<B>> {
    let table = TABLE.read().unwrap_or_else(PoisonError::into_inner);
    table.get(&TypeId::of::<B>()).and_then(|ops| ops.downcast_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_registered_and_a_stranger_is_not() {
        assert!(lookup::<Flex>().is_some());
        assert!(lookup::<Autodiff<Flex>>().is_some());
        assert!(lookup::<Autodiff<Autodiff<Flex>>>().is_none());
        register::<Autodiff<Autodiff<Flex>>>();
        assert!(lookup::<Autodiff<Autodiff<Flex>>>().is_some());
    }
}
