//! The operations a backend may specialise.

use crate::activation::Activation;
use crate::batch_norm::{BatchNormGradients, BatchNormPass, BatchNormalized};
use crate::convolution::ConvolutionTail;
use crate::linear::PackedLayer;
use crate::nodes;
use crate::optimizer::{AdamWState, AdamWStep};
use crate::packed_matrix::{Code, PackedMatrix};
use crate::portable;
use crate::product_kernel::{FLOAT_CONVOLUTION, PORTABLE, PackedConvolution, PackedProduct};
use crate::quantize::{QuantizedRows, TokenQuant};
use crate::sparse_matrix::SparseMatrix;
use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::prelude::*;
use burn::tensor::DType;
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::ops::{FloatTensor, PaddedConvOptions};

/// The operations of this crate on one backend. Every method has a portable body.
///
/// An implementation must give the same integers as the portable body (codes, integer sums) and
/// the same floats up to rounding, for any strides and any shape including empty ones. It need not
/// be differentiable: differentiable backends keep the portable bodies, except where it says that it trains.
pub trait CompressOps: Backend {
    /// Whether sums of 32-bit floats are carried out one after the other as written and rounded as IEEE 754 says, so
    /// that `(x + large) - large` rounds `x`. Compilers of shaders may take it for `x`.
    fn keeps_sums() -> bool {
        false
    }

    /// See [`crate::round_half_even`]. `x: [rows, columns]`.
    fn round_half_even(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        if Self::keeps_sums() { portable::round_by_adding(x) } else { portable::round_half_even(x) }
    }

    /// See [`crate::fake_quantize_rows`].
    fn fake_quantize_rows(x: Tensor<Self, 2>, q: TokenQuant) -> Tensor<Self, 2> {
        portable::fake_quantize_rows(x, q)
    }

    /// See [`crate::fake_binarize_rows`].
    fn fake_binarize_rows(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        portable::fake_binarize_rows(x)
    }

    /// See [`crate::fake_ternarize_rows`].
    fn fake_ternarize_rows(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        portable::fake_ternarize_rows(x)
    }

    /// See [`crate::conv2d_then`]. Where there are gradients it is asked for what this backend
    /// [trains](Self::trains_convolutions) only.
    fn conv2d(
        x: Tensor<Self, 4>,
        weight: Tensor<Self, 4>,
        bias: Option<Tensor<Self, 1>>,
        options: PaddedConvOptions<2>,
        tail: ConvolutionTail<Self>,
    ) -> Tensor<Self, 4> {
        tail.forward(burn::tensor::module::conv2d(x, weight, bias, options))
    }

    /// See [`crate::conv2d_quantized`].
    fn conv2d_quantized(
        x: Tensor<Self, 4>,
        q: TokenQuant,
        weight: &PackedMatrix<Self>,
        kernel: [usize; 2],
        bias: Option<Tensor<Self, 1>>,
        options: PaddedConvOptions<2>,
        tail: ConvolutionTail<Self>,
    ) -> Tensor<Self, 4> {
        portable::conv2d_quantized(x, q, weight, kernel, bias, options, tail)
    }

    /// Whether this backend has gradients of its own, as the two methods below, for a convolution of images
    /// `x: [batch, channels_in, height, width]` with a weight `[channels_out, channels_in / groups, kh, kw]`, of such floats.
    fn trains_convolutions(
        _floats: [DType; 2],
        _x: [usize; 4],
        _weight: [usize; 4],
        _options: &PaddedConvOptions<2>,
    ) -> bool {
        false
    }

    /// Gradient of [`crate::conv2d`] by its input, whose shape is `shape`, for that of its output.
    fn conv2d_input_gradient(
        shape: [usize; 4],
        weight: Tensor<Self, 4>,
        dy: Tensor<Self, 4>,
        options: &PaddedConvOptions<2>,
    ) -> Tensor<Self, 4> {
        portable::conv2d_input_gradient(shape, weight, dy, options)
    }

    /// Gradient of [`crate::conv2d`] by its weight, whose shape is `shape`, for that of its output.
    fn conv2d_weight_gradient(
        x: Tensor<Self, 4>,
        shape: [usize; 4],
        dy: Tensor<Self, 4>,
        options: &PaddedConvOptions<2>,
    ) -> Tensor<Self, 4> {
        portable::conv2d_weight_gradient(x, shape, dy, options)
    }

    /// Whether [`batch_norm_train`](Self::batch_norm_train) of such floats, `[batch, channels, height, width]`, is one
    /// operation where it has gradients.
    fn trains_batch_norm(_floats: DType, _x: [usize; 4]) -> bool {
        false
    }

    /// See [`crate::batch_norm_train`].
    fn batch_norm_train(
        x: Tensor<Self, 4>,
        gamma: Tensor<Self, 1>,
        beta: Tensor<Self, 1>,
        epsilon: f64,
        residual: Option<Tensor<Self, 4>>,
        activation: Activation,
    ) -> BatchNormalized<Self> {
        portable::batch_norm_train(x, gamma, beta, epsilon, residual, activation)
    }

    /// Gradients of [`crate::batch_norm_train`] for that of its output (Ioffe, Szegedy 2015, arXiv 1502.03167, section 3);
    /// `dy: [batch, channels, height, width]`, and `residual` says whether that by the residual is wanted.
    fn batch_norm_gradients(
        pass: BatchNormPass<Self>,
        dy: Tensor<Self, 4>,
        residual: bool,
    ) -> BatchNormGradients<Self> {
        portable::batch_norm_gradients(pass, dy, residual)
    }

    /// Whether [`crate::conv2d`] is a product of matrices where it has gradients.
    fn unfolds_convolutions() -> bool {
        false
    }

    /// See [`crate::rows_in_one_pass`].
    fn rows_in_one_pass() -> bool {
        false
    }

    /// See [`crate::straight_through`]. Tensors of any rank.
    fn straight_through(_x: FloatTensor<Self>, quantized: FloatTensor<Self>) -> FloatTensor<Self> {
        quantized
    }

    /// See [`crate::quantize_rows`].
    fn quantize_rows(x: Tensor<Self, 2>, q: TokenQuant) -> QuantizedRows<Self> {
        portable::quantize_rows(x, q)
    }

    /// See [`crate::unpack`].
    fn unpack(p: &PackedMatrix<Self>) -> Tensor<Self, 2> {
        portable::unpack(p)
    }

    /// See [`crate::linear_packed`].
    fn linear_packed(
        x: Tensor<Self, 2>,
        p: &PackedMatrix<Self>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, 2> {
        portable::linear_packed(x, p, bias)
    }

    /// See [`crate::linear_quantized`].
    fn linear_quantized(
        x: Tensor<Self, 2>,
        q: TokenQuant,
        p: &PackedMatrix<Self>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, 2> {
        portable::linear_quantized(x, q, p, bias)
    }

    /// Whether [`linear_quantized`](Self::linear_quantized) multiplies the codes of many rows with those of a weight
    /// `[out, in]` as they are. A layer that fuses operations fuses those of the portable body otherwise.
    fn multiplies_codes(_code: Code, _shape: [usize; 2], _group: usize) -> bool {
        false
    }

    /// Whether products of such floats with a weight `[out, in]` are this backend's own. A layer that fuses operations fuses
    /// those of the portable body otherwise.
    fn multiplies_halves(_floats: DType, _shape: [usize; 2]) -> bool {
        false
    }

    /// Whether [`linear_sparse`](Self::linear_sparse) leaves zeros out, so that it can be faster than a dense product.
    fn runs_sparse() -> bool {
        false
    }

    /// See [`crate::linear_sparse`].
    fn linear_sparse(
        x: Tensor<Self, 2>,
        w: &SparseMatrix<Self>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, 2> {
        portable::linear_sparse(x, w, bias)
    }

    /// See [`crate::linear_all`].
    fn linear_all(
        x: Tensor<Self, 2>,
        q: Option<TokenQuant>,
        layers: Vec<PackedLayer<'_, Self>>,
        activation: Activation,
    ) -> Vec<Tensor<Self, 2>> {
        let one = |(p, bias)| match q {
            Some(q) => <Self as CompressOps>::linear_quantized(x.clone(), q, p, bias),
            None => Self::linear_packed(x.clone(), p, bias),
        };
        layers.into_iter().map(one).map(|y| activation.forward(y)).collect()
    }

    /// See [`crate::linear`].
    fn linear(
        x: Tensor<Self, 2>,
        w: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
        activation: Activation,
    ) -> Tensor<Self, 2> {
        portable::linear(x, w, bias, activation)
    }

    /// See [`crate::product_kernel`].
    fn product_kernel(_product: PackedProduct, _device: &Self::Device) -> String {
        PORTABLE.into()
    }

    /// See [`crate::convolution_kernel`].
    fn convolution_kernel(_convolution: PackedConvolution) -> String {
        FLOAT_CONVOLUTION.into()
    }

    /// See [`crate::embedding_packed`].
    fn embedding_packed(p: &PackedMatrix<Self>, ids: Tensor<Self, 2, Int>) -> Tensor<Self, 3> {
        portable::embedding_packed(p, ids)
    }

    /// See [`crate::layer_norm`]. `x: [rows, width]`.
    fn layer_norm(
        x: Tensor<Self, 2>,
        gamma: Tensor<Self, 1>,
        beta: Tensor<Self, 1>,
        epsilon: f64,
    ) -> Tensor<Self, 2> {
        portable::layer_norm(x, gamma, beta, epsilon)
    }

    /// See [`crate::rows_at_once`].
    fn rows_at_once() -> Option<usize> {
        None
    }

    /// Whether [`add_layer_norm`](Self::add_layer_norm) takes a residual of fewer rows, `[n, width]`, and adds it to every
    /// `n` rows. Elsewhere it gets as many as `x` has.
    fn repeats_residual() -> bool {
        false
    }

    /// See [`crate::add_layer_norm`]. `x` and `residual: [rows, width]`.
    fn add_layer_norm(
        x: Tensor<Self, 2>,
        residual: Tensor<Self, 2>,
        gamma: Tensor<Self, 1>,
        beta: Tensor<Self, 1>,
        epsilon: f64,
    ) -> Tensor<Self, 2> {
        <Self as CompressOps>::layer_norm(x + residual, gamma, beta, epsilon)
    }

    /// See [`crate::gelu`]. `x: [rows, columns]`.
    fn gelu(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        portable::gelu(x)
    }

    /// See [`crate::gelu_tanh`]. `x: [rows, columns]`.
    fn gelu_tanh(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        portable::gelu_tanh(x)
    }

    /// Whether [`attention`](Self::attention) is one kernel for elements and widths of heads like these. A layer that fuses
    /// operations fuses those of the portable body otherwise.
    fn attends(_dtype: DType, _width: usize) -> bool {
        false
    }

    /// See [`crate::attention`].
    fn attention(
        q: Tensor<Self, 4>,
        k: Tensor<Self, 4>,
        v: Tensor<Self, 4>,
        mask: Option<Tensor<Self, 4>>,
        causal: bool,
        scale: f64,
    ) -> Tensor<Self, 4> {
        portable::attention(q, k, v, mask, causal, scale)
    }

    /// See [`crate::adamw`]. Tensors of any rank; `factor` is `[1]`.
    fn adamw(
        state: AdamWState<FloatTensor<Self>>,
        gradient: FloatTensor<Self>,
        factor: Option<FloatTensor<Self>>,
        step: AdamWStep,
    ) -> AdamWState<FloatTensor<Self>> {
        portable::adamw::<Self>(state, gradient, factor, step)
    }

    /// See [`crate::clip_factor`]. Tensors of any rank, at least one.
    fn clip_factor(gradients: Vec<FloatTensor<Self>>, limit: f64) -> FloatTensor<Self> {
        portable::clip_factor::<Self>(gradients, limit)
    }
}

/// Gradients flow through the portable bodies, except for operations that have gradients of their own, and where they are
/// zero anyway: rounding and quantization run on the inner backend. Callers put the straight-through estimator around them.
impl<B: CompressOps, C: CheckpointStrategy> CompressOps for Autodiff<B, C>
where
    Self: AutodiffBackend<InnerBackend = B>,
{
    fn round_half_even(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        Tensor::from_inner(B::round_half_even(x.inner()))
    }

    fn fake_quantize_rows(x: Tensor<Self, 2>, q: TokenQuant) -> Tensor<Self, 2> {
        Tensor::from_inner(B::fake_quantize_rows(x.inner(), q))
    }

    fn fake_binarize_rows(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        Tensor::from_inner(B::fake_binarize_rows(x.inner()))
    }

    fn fake_ternarize_rows(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        Tensor::from_inner(B::fake_ternarize_rows(x.inner()))
    }

    fn straight_through(x: FloatTensor<Self>, quantized: FloatTensor<Self>) -> FloatTensor<Self> {
        nodes::straight_through::<B, C>(x, Self::inner(quantized))
    }

    fn rows_in_one_pass() -> bool {
        B::rows_in_one_pass()
    }

    fn unfolds_convolutions() -> bool {
        B::unfolds_convolutions()
    }

    fn trains_convolutions(
        floats: [DType; 2],
        x: [usize; 4],
        weight: [usize; 4],
        options: &PaddedConvOptions<2>,
    ) -> bool {
        B::trains_convolutions(floats, x, weight, options)
    }

    fn conv2d(
        x: Tensor<Self, 4>,
        weight: Tensor<Self, 4>,
        bias: Option<Tensor<Self, 1>>,
        options: PaddedConvOptions<2>,
        tail: ConvolutionTail<Self>,
    ) -> Tensor<Self, 4> {
        tail.forward(nodes::conv2d(x, weight, bias, options))
    }

    fn batch_norm_train(
        x: Tensor<Self, 4>,
        gamma: Tensor<Self, 1>,
        beta: Tensor<Self, 1>,
        epsilon: f64,
        residual: Option<Tensor<Self, 4>>,
        activation: Activation,
    ) -> BatchNormalized<Self> {
        if B::trains_batch_norm(x.dtype(), x.dims()) {
            nodes::batch_norm_train(x, gamma, beta, epsilon, residual, activation)
        } else {
            portable::batch_norm_train(x, gamma, beta, epsilon, residual, activation)
        }
    }

    fn quantize_rows(x: Tensor<Self, 2>, q: TokenQuant) -> QuantizedRows<Self> {
        let rows = B::quantize_rows(x.inner(), q);
        QuantizedRows {
            codes: Tensor::from_inner(rows.codes),
            scale: Tensor::from_inner(rows.scale),
            zero: rows.zero.map(Tensor::from_inner),
        }
    }

    fn unpack(p: &PackedMatrix<Self>) -> Tensor<Self, 2> {
        Tensor::from_inner(B::unpack(&p.inner()))
    }
}
