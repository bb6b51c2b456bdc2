//! GPU backends, with and without fusion: kernels of our own where they pay, the portable bodies elsewhere.

mod activation;
mod adamw;
mod fusion;
mod layer_norm;
mod linear;
mod norm;
mod packed;
mod rows;
mod tensor_cores;
mod tree;

use crate::activation::Activation;
use crate::linear::PackedLayer;
use crate::ops::CompressOps;
use crate::optimizer::{AdamWState, AdamWStep};
use crate::packed_matrix::{Code, PackedMatrix};
use crate::portable;
use crate::product_kernel::PackedProduct;
use crate::quantize::{QuantizedRows, TokenQuant};
use burn::prelude::*;
use burn::tensor::backend::DeviceOps;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, TensorPrimitive};
use burn_cubecl::element::BoolElement;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeRuntime, FloatElement, IntElement};
use cubecl::server::ComputeServer;
use packed::Weight;

impl<R, F, I, BT> CompressOps for CubeBackend<R, F, I, BT>
where
    R: CubeRuntime,
    R::Server: ComputeServer,
    R::Device: DeviceOps,
    F: FloatElement,
    I: IntElement,
    BT: BoolElement,
{
    fn keeps_sums() -> bool {
        // NVIDIA's compiler reorders nothing unless told to; those of Vulkan and Metal may.
        std::any::type_name::<R>().ends_with("CudaRuntime")
    }

    fn fake_quantize_rows(x: Tensor<Self, 2>, q: TokenQuant) -> Tensor<Self, 2> {
        rowwise(x, |x| rows::fake_quantize(x, q), |x| portable::fake_quantize_rows(x, q))
    }

    fn fake_binarize_rows(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        rowwise(x, rows::fake_binarize, portable::fake_binarize_rows)
    }

    fn fake_ternarize_rows(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        rowwise(x, rows::fake_ternarize, portable::fake_ternarize_rows)
    }

    fn rows_in_one_pass() -> bool {
        true
    }

    fn unfolds_convolutions() -> bool {
        true
    }

    fn unpack(p: &PackedMatrix<Self>) -> Tensor<Self, 2> {
        if is_empty(p) || !computes_in(&p.scales.clone().into_primitive().tensor()) {
            return portable::unpack(p);
        }
        float(packed::unpack(Weight::of(p), None, p.scales.dtype()))
    }

    fn quantize_rows(x: Tensor<Self, 2>, q: TokenQuant) -> QuantizedRows<Self> {
        let floats = x.clone().into_primitive().tensor();
        if empty(&floats) || !computes_in(&floats) {
            return portable::quantize_rows(x, q);
        }
        let rows::Codes { codes, scales, zeros } = rows::quantize(floats, q, I::dtype());
        let zero = (!q.symmetric).then(|| float(zeros));
        QuantizedRows { codes: Tensor::from_primitive(codes), scale: float(scales), zero }
    }

    fn linear_packed(
        x: Tensor<Self, 2>,
        p: &PackedMatrix<Self>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, 2> {
        one(linear::linear_all(x, None, vec![(p, bias)], Activation::Identity))
    }

    fn linear_quantized(
        x: Tensor<Self, 2>,
        q: TokenQuant,
        p: &PackedMatrix<Self>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, 2> {
        one(linear::linear_all(x, Some(q), vec![(p, bias)], Activation::Identity))
    }

    fn linear_all(
        x: Tensor<Self, 2>,
        q: Option<TokenQuant>,
        layers: Vec<PackedLayer<'_, Self>>,
        activation: Activation,
    ) -> Vec<Tensor<Self, 2>> {
        linear::linear_all(x, q, layers, activation)
    }

    fn embedding_packed(p: &PackedMatrix<Self>, ids: Tensor<Self, 2, Int>) -> Tensor<Self, 3> {
        let [batch, seq] = ids.dims();
        if is_empty(p) || batch * seq == 0 || !computes_in(&p.scales.clone().into_primitive().tensor()) {
            return portable::embedding_packed(p, ids);
        }
        let rows = packed::unpack(Weight::of(p), Some(ids.into_primitive()), p.scales.dtype());
        float::<Self, R, 2>(rows).reshape([batch, seq, p.shape[1]])
    }

    fn layer_norm(
        x: Tensor<Self, 2>,
        gamma: Tensor<Self, 1>,
        beta: Tensor<Self, 1>,
        epsilon: f64,
    ) -> Tensor<Self, 2> {
        if normalizes(&x, &gamma, &beta) {
            let scales = [gamma, beta].map(|x| x.into_primitive().tensor());
            return float(layer_norm::layer_norm(x.into_primitive().tensor(), None, scales, epsilon));
        }
        portable::layer_norm(x, gamma, beta, epsilon)
    }

    fn add_layer_norm(
        x: Tensor<Self, 2>,
        residual: Tensor<Self, 2>,
        gamma: Tensor<Self, 1>,
        beta: Tensor<Self, 1>,
        epsilon: f64,
    ) -> Tensor<Self, 2> {
        if normalizes(&x, &gamma, &beta) && residual.dtype() == x.dtype() {
            let [x, residual] = [x, residual].map(|x| x.into_primitive().tensor());
            let scales = [gamma, beta].map(|x| x.into_primitive().tensor());
            return float(layer_norm::layer_norm(x, Some(residual), scales, epsilon));
        }
        portable::layer_norm(portable::add_to_every(x, residual), gamma, beta, epsilon)
    }

    fn gelu(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        rowwise(x, |x| activation::activate(x, Activation::Gelu), portable::gelu)
    }

    fn gelu_tanh(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        rowwise(x, |x| activation::activate(x, Activation::GeluTanh), portable::gelu_tanh)
    }

    fn product_kernel(product: PackedProduct, device: &Self::Device) -> String {
        linear::kernel::<R>(product, F::dtype(), device)
    }

    fn multiplies_codes(code: Code, shape: [usize; 2], group: usize) -> bool {
        tensor_cores::multiplies_codes::<R>(code, shape, group)
    }

    fn multiplies_halves(floats: DType, shape: [usize; 2]) -> bool {
        tensor_cores::multiplies_halves::<R>(floats, shape)
    }

    fn attends(dtype: DType, width: usize) -> bool {
        tensor_cores::attends::<R>(dtype, width)
    }

    fn attention(
        q: Tensor<Self, 4>,
        k: Tensor<Self, 4>,
        v: Tensor<Self, 4>,
        mask: Option<Tensor<Self, 4>>,
        causal: bool,
        scale: f64,
    ) -> Tensor<Self, 4> {
        tensor_cores::attention([&q, &k, &v], mask.as_ref(), causal, scale)
            .unwrap_or_else(|| portable::attention(q, k, v, mask, causal, scale))
    }

    fn adamw(
        state: AdamWState<FloatTensor<Self>>,
        gradient: FloatTensor<Self>,
        factor: Option<FloatTensor<Self>>,
        step: AdamWStep,
    ) -> AdamWState<FloatTensor<Self>> {
        if empty(&gradient) {
            state
        } else if computes_in(&gradient) {
            adamw::adamw(state, gradient, factor, step)
        } else {
            portable::adamw::<Self>(state, gradient, factor, step)
        }
    }

    fn clip_factor(mut gradients: Vec<FloatTensor<Self>>, limit: f64) -> FloatTensor<Self> {
        let first = gradients[0].clone();
        gradients.retain(|gradient| !empty(gradient));
        if gradients.is_empty() {
            Tensor::<Self, 1>::ones([1], (&first.device, first.dtype)).into_primitive().tensor()
        } else if gradients.iter().all(computes_in) {
            norm::clip_factor(gradients, limit)
        } else {
            portable::clip_factor::<Self>(gradients, limit)
        }
    }
}

/// What an operation with one result gives.
fn one<T>(found: Vec<T>) -> T {
    found.into_iter().next().expect("one result")
}

/// A kernel of ours on a matrix, or the portable body where its elements are none that the kernels compute with.
/// Nothing can be launched on nothing.
fn rowwise<B, R>(
    x: Tensor<B, 2>,
    kernel: impl FnOnce(CubeTensor<R>) -> CubeTensor<R>,
    portable: impl FnOnce(Tensor<B, 2>) -> Tensor<B, 2>,
) -> Tensor<B, 2>
where
    B: Backend<FloatTensorPrimitive = CubeTensor<R>>,
    R: CubeRuntime,
{
    let inside = x.into_primitive().tensor();
    if empty(&inside) {
        float(inside)
    } else if computes_in(&inside) {
        float(kernel(inside))
    } else {
        portable(float(inside))
    }
}

/// A float tensor of burn's types.
fn float<B, R, const D: usize>(x: CubeTensor<R>) -> Tensor<B, D>
where
    B: Backend<FloatTensorPrimitive = CubeTensor<R>>,
    R: CubeRuntime,
{
    Tensor::from_primitive(TensorPrimitive::Float(x))
}

fn is_empty<B: Backend>(p: &PackedMatrix<B>) -> bool {
    p.shape.contains(&0)
}

/// Whether the kernel for layer normalization takes these tensors.
fn normalizes<B: Backend>(x: &Tensor<B, 2>, gamma: &Tensor<B, 1>, beta: &Tensor<B, 1>) -> bool {
    let [rows, columns] = x.dims();
    let [x, gamma, beta] = [x.dtype(), gamma.dtype(), beta.dtype()];
    let known = [x, gamma].iter().all(|dtype| is_float(*dtype));
    rows > 0 && (1..=layer_norm::WIDEST).contains(&columns) && known && gamma == beta
}

fn empty<R: CubeRuntime>(x: &CubeTensor<R>) -> bool {
    x.meta.num_elements() == 0
}

/// Whether the kernels take the tensor's elements: they compute in 32 bits.
fn computes_in<R: CubeRuntime>(x: &CubeTensor<R>) -> bool {
    is_float(x.dtype)
}

fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}
