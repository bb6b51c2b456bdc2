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
        let x = x.into_primitive().tensor();
        if !ours(&x) {
            return portable::fake_quantize_rows(Tensor::from_primitive(TensorPrimitive::Float(x)), q);
        }
        Tensor::from_primitive(TensorPrimitive::Float(rows::fake_quantize(x, q)))
    }

    fn fake_binarize_rows(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let x = x.into_primitive().tensor();
        if !ours(&x) {
            return portable::fake_binarize_rows(Tensor::from_primitive(TensorPrimitive::Float(x)));
        }
        Tensor::from_primitive(TensorPrimitive::Float(rows::fake_binarize(x)))
    }

    fn fake_ternarize_rows(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let x = x.into_primitive().tensor();
        if !ours(&x) {
            return portable::fake_ternarize_rows(Tensor::from_primitive(TensorPrimitive::Float(x)));
        }
        Tensor::from_primitive(TensorPrimitive::Float(rows::fake_ternarize(x)))
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
        if ours(&gradient) {
            adamw::adamw(state, gradient, factor, step)
        } else {
            portable::adamw::<Self>(state, gradient, factor, step)
        }
    }

    fn clip_factor(gradients: Vec<FloatTensor<Self>>, limit: f64) -> FloatTensor<Self> {
        if gradients.iter().all(ours) {
            norm::clip_factor(gradients, limit)
        } else {
            portable::clip_factor::<Self>(gradients, limit)
        }
    }
}

/// Whether the kernels take the tensor: nothing can be launched on nothing, and they compute in 32 bits.
fn ours<R: CubeRuntime>(x: &CubeTensor<R>) -> bool {
    x.meta.num_elements() > 0 && matches!(x.dtype, DType::F32 | DType::F16 | DType::BF16)
}
