//! The operations on the CPU backend's memory: slices, vector units and all threads.

mod attention;
mod batch_norm;
mod codes;
pub(crate) mod convolution;
mod fused;
mod linear;
mod lines;
mod math;
mod memory;
mod outputs;
#[cfg(target_arch = "x86_64")]
mod outputs_avx512;
mod pack;
mod panels;
mod parallel;
mod product;
mod quantize;
#[cfg(target_arch = "x86_64")]
mod round;
mod simd;
mod sparse;
mod sparse_lanes;
pub(crate) mod sparse_product;
mod sparse_transpose;
mod team;
pub(crate) mod tile;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod units;

use crate::activation::Activation;
use crate::batch_norm::{BatchNormGradients, BatchNormPass, BatchNormalized};
use crate::convolution::ConvolutionTail;
use crate::linear::PackedLayer;
use crate::ops::CompressOps;
use crate::packed_matrix::PackedMatrix;
use crate::portable;
use crate::product_kernel::{PackedConvolution, PackedProduct};
use crate::quantize::{QuantizedRows, TokenQuant};
use crate::sparse_matrix::SparseMatrix;
use burn::backend::Flex;
use burn::prelude::*;
use burn::tensor::DType;
use burn::tensor::ops::PaddedConvOptions;
use tile::Unit;

/// Whether the loops of this module apply: other float types are rare on a CPU and take the
/// portable way, and packed words are read as little-endian bytes.
fn native(dtypes: &[DType]) -> bool {
    cfg!(target_endian = "little") && dtypes.iter().all(|d| *d == DType::F32)
}

/// Rows whose widest intermediate results, a few thousand floats each, stay in a second-level cache.
const ROWS_OF_A_THREAD: usize = 128;

/// The only one.
fn one<T>(values: Vec<T>) -> T {
    values.into_iter().next().expect("as many results as layers")
}

impl CompressOps for Flex {
    fn round_half_even(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        if native(&[x.dtype()]) { quantize::round_half_even(x) } else { portable::round_half_even(x) }
    }

    fn fake_quantize_rows(x: Tensor<Self, 2>, q: TokenQuant) -> Tensor<Self, 2> {
        if native(&[x.dtype()]) {
            quantize::fake_quantize_rows(x, q)
        } else {
            portable::fake_quantize_rows(x, q)
        }
    }

    fn quantize_rows(x: Tensor<Self, 2>, q: TokenQuant) -> QuantizedRows<Self> {
        if native(&[x.dtype()]) { quantize::quantize_rows(x, q) } else { portable::quantize_rows(x, q) }
    }

    fn unpack(p: &PackedMatrix<Self>) -> Tensor<Self, 2> {
        if native(&[p.scales.dtype()]) { codes::unpack(p) } else { portable::unpack(p) }
    }

    fn linear_packed(
        x: Tensor<Self, 2>,
        p: &PackedMatrix<Self>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, 2> {
        if native(&[x.dtype(), p.scales.dtype()]) {
            linear::linear_packed(Unit::best(), x, p, bias, Activation::Identity)
        } else {
            portable::linear_packed(x, p, bias)
        }
    }

    fn linear_quantized(
        x: Tensor<Self, 2>,
        q: TokenQuant,
        p: &PackedMatrix<Self>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, 2> {
        if native(&[x.dtype(), p.scales.dtype()]) {
            one(product::linear_quantized(Unit::best(), x, q, vec![(p, bias)], Activation::Identity))
        } else {
            portable::linear_quantized(x, q, p, bias)
        }
    }

    fn rows_at_once() -> Option<usize> {
        Some(ROWS_OF_A_THREAD * rayon::current_num_threads())
    }

    fn repeats_residual() -> bool {
        true
    }

    fn runs_sparse() -> bool {
        sparse::runs_sparse()
    }

    fn linear_sparse(
        x: Tensor<Self, 2>,
        w: &SparseMatrix<Self>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, 2> {
        if native(&[x.dtype()]) {
            sparse::linear_sparse(x, w, bias)
        } else {
            portable::linear_sparse(x, w, bias)
        }
    }

    fn linear_all(
        x: Tensor<Self, 2>,
        q: Option<TokenQuant>,
        layers: Vec<PackedLayer<'_, Self>>,
        activation: Activation,
    ) -> Vec<Tensor<Self, 2>> {
        let all_native = layers.iter().all(|(p, _)| native(&[x.dtype(), p.scales.dtype()]));
        match q {
            Some(q) if all_native => product::linear_quantized(Unit::best(), x, q, layers, activation),
            Some(q) => {
                let one = |(p, bias)| activation.forward(portable::linear_quantized(x.clone(), q, p, bias));
                layers.into_iter().map(one).collect()
            }
            None if all_native => {
                let one = |(p, bias)| linear::linear_packed(Unit::best(), x.clone(), p, bias, activation);
                layers.into_iter().map(one).collect()
            }
            None => {
                let one = |(p, bias)| activation.forward(portable::linear_packed(x.clone(), p, bias));
                layers.into_iter().map(one).collect()
            }
        }
    }

    fn linear(
        x: Tensor<Self, 2>,
        w: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
        activation: Activation,
    ) -> Tensor<Self, 2> {
        if native(&[x.dtype(), w.dtype()]) {
            linear::linear(x, w, bias, activation)
        } else {
            portable::linear(x, w, bias, activation)
        }
    }

    fn product_kernel(product: PackedProduct, _device: &Self::Device) -> String {
        let unit = tile::Unit::best().name();
        match product.input {
            Some(_) => format!("int8 tiles, {unit}"),
            None if linear::by_panels(product.rows) => {
                format!("float tiles, {unit}, panels unpacked on the way")
            }
            None => "gemm on blocks unpacked on the way".into(),
        }
    }

    fn convolution_kernel(convolution: PackedConvolution) -> String {
        let unit = Unit::best().name();
        match convolution::refuses(convolution) {
            None => format!("int8 tiles, {unit}"),
            Some(why) => format!("float tiles of the unpacked weight, {unit}; not int8: {why}"),
        }
    }

    fn embedding_packed(p: &PackedMatrix<Self>, ids: Tensor<Self, 2, Int>) -> Tensor<Self, 3> {
        if native(&[p.scales.dtype()]) {
            codes::embedding(p, ids)
        } else {
            portable::embedding_packed(p, ids)
        }
    }

    fn conv2d(
        x: Tensor<Self, 4>,
        weight: Tensor<Self, 4>,
        bias: Option<Tensor<Self, 1>>,
        options: PaddedConvOptions<2>,
        tail: ConvolutionTail<Self>,
    ) -> Tensor<Self, 4> {
        if native(&[x.dtype(), weight.dtype()]) && convolution::suits(x.dims(), weight.dims(), &options) {
            convolution::conv2d(Unit::best(), x, weight, bias, &options, tail)
        } else {
            tail.forward(burn::tensor::module::conv2d(x, weight, bias, options))
        }
    }

    fn trains_convolutions(
        floats: [DType; 2],
        x: [usize; 4],
        weight: [usize; 4],
        options: &PaddedConvOptions<2>,
    ) -> bool {
        native(&floats) && convolution::differentiates(x, weight, options)
    }

    fn conv2d_input_gradient(
        shape: [usize; 4],
        weight: Tensor<Self, 4>,
        dy: Tensor<Self, 4>,
        options: &PaddedConvOptions<2>,
    ) -> Tensor<Self, 4> {
        if Self::trains_convolutions([weight.dtype(), dy.dtype()], shape, weight.dims(), options) {
            convolution::input_gradient(Unit::best(), shape, weight, dy, options)
        } else {
            portable::conv2d_input_gradient(shape, weight, dy, options)
        }
    }

    fn conv2d_weight_gradient(
        x: Tensor<Self, 4>,
        shape: [usize; 4],
        dy: Tensor<Self, 4>,
        options: &PaddedConvOptions<2>,
    ) -> Tensor<Self, 4> {
        if Self::trains_convolutions([x.dtype(), dy.dtype()], x.dims(), shape, options) {
            convolution::weight_gradient(Unit::best(), x, shape, dy, options)
        } else {
            portable::conv2d_weight_gradient(x, shape, dy, options)
        }
    }

    fn trains_batch_norm(floats: DType, x: [usize; 4]) -> bool {
        native(&[floats]) && x.iter().all(|size| *size > 0)
    }

    fn batch_norm_train(
        x: Tensor<Self, 4>,
        gamma: Tensor<Self, 1>,
        beta: Tensor<Self, 1>,
        epsilon: f64,
        residual: Option<Tensor<Self, 4>>,
        activation: Activation,
    ) -> BatchNormalized<Self> {
        let residual_dtype = residual.as_ref().map_or(DType::F32, Tensor::dtype);
        if native(&[residual_dtype]) && Self::trains_batch_norm(x.dtype(), x.dims()) {
            batch_norm::train(x, gamma, beta, epsilon, residual, activation)
        } else {
            portable::batch_norm_train(x, gamma, beta, epsilon, residual, activation)
        }
    }

    fn batch_norm_gradients(
        pass: BatchNormPass<Self>,
        dy: Tensor<Self, 4>,
        residual: bool,
    ) -> BatchNormGradients<Self> {
        if native(&[dy.dtype()]) && Self::trains_batch_norm(pass.x.dtype(), pass.x.dims()) {
            batch_norm::gradients(pass, dy, residual)
        } else {
            portable::batch_norm_gradients(pass, dy, residual)
        }
    }

    fn conv2d_quantized(
        x: Tensor<Self, 4>,
        q: TokenQuant,
        weight: &PackedMatrix<Self>,
        kernel: [usize; 2],
        bias: Option<Tensor<Self, 1>>,
        options: PaddedConvOptions<2>,
        tail: ConvolutionTail<Self>,
    ) -> Tensor<Self, 4> {
        let floats = native(&[x.dtype(), weight.scales.dtype()]);
        if floats && convolution::in_integers(x.dims(), q, weight, kernel, &options) {
            convolution::conv2d_quantized(Unit::best(), x, q, weight, kernel, bias, &options, tail)
        } else {
            portable::conv2d_quantized(x, q, weight, kernel, bias, options, tail)
        }
    }

    fn add_layer_norm(
        x: Tensor<Self, 2>,
        residual: Tensor<Self, 2>,
        gamma: Tensor<Self, 1>,
        beta: Tensor<Self, 1>,
        epsilon: f64,
    ) -> Tensor<Self, 2> {
        if native(&[x.dtype(), residual.dtype()]) {
            fused::add_layer_norm(x, residual, gamma, beta, epsilon)
        } else {
            portable::layer_norm(portable::add_to_every(x, residual), gamma, beta, epsilon)
        }
    }

    fn layer_norm(
        x: Tensor<Self, 2>,
        gamma: Tensor<Self, 1>,
        beta: Tensor<Self, 1>,
        epsilon: f64,
    ) -> Tensor<Self, 2> {
        if native(&[x.dtype()]) {
            fused::layer_norm(x, gamma, beta, epsilon)
        } else {
            portable::layer_norm(x, gamma, beta, epsilon)
        }
    }

    fn gelu(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        if native(&[x.dtype()]) { fused::gelu(x) } else { portable::gelu(x) }
    }

    fn gelu_tanh(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        if native(&[x.dtype()]) { fused::gelu_tanh(x) } else { portable::gelu_tanh(x) }
    }

    fn attention(
        q: Tensor<Self, 4>,
        k: Tensor<Self, 4>,
        v: Tensor<Self, 4>,
        mask: Option<Tensor<Self, 4>>,
        causal: bool,
        scale: f64,
    ) -> Tensor<Self, 4> {
        let mask_dtype = mask.as_ref().map_or(DType::F32, Tensor::dtype);
        if native(&[q.dtype(), k.dtype(), v.dtype(), mask_dtype]) {
            attention::attention(Unit::best(), q, k, v, mask, causal, scale)
        } else {
            portable::attention(q, k, v, mask, causal, scale)
        }
    }
}
