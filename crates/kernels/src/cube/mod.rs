//! GPU backends, with and without fusion: kernels of our own where they pay, the portable bodies elsewhere.

mod adamw;
mod fusion;
mod norm;
mod rows;
mod tree;

use crate::ops::CompressOps;
use crate::optimizer::{AdamWState, AdamWStep};
use crate::portable;
use crate::quantize::TokenQuant;
use burn::prelude::*;
use burn::tensor::backend::DeviceOps;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, TensorPrimitive};
use burn_cubecl::element::BoolElement;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeRuntime, FloatElement, IntElement};
use cubecl::server::ComputeServer;

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
    let tensor = |inside| Tensor::from_primitive(TensorPrimitive::Float(inside));
    if empty(&inside) {
        tensor(inside)
    } else if computes_in(&inside) {
        tensor(kernel(inside))
    } else {
        portable(tensor(inside))
    }
}

fn empty<R: CubeRuntime>(x: &CubeTensor<R>) -> bool {
    x.meta.num_elements() == 0
}

/// Whether the kernels take the tensor's elements: they compute in 32 bits.
fn computes_in<R: CubeRuntime>(x: &CubeTensor<R>) -> bool {
    matches!(x.dtype, DType::F32 | DType::F16 | DType::BF16)
}
