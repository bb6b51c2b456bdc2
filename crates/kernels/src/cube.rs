//! GPU backends, with and without fusion: the portable bodies, until a kernel of our own is faster.

use crate::ops::CompressOps;
use burn::tensor::backend::Backend;
use burn_cubecl::element::BoolElement;
use burn_cubecl::{CubeBackend, CubeRuntime, FloatElement, IntElement};
use burn_fusion::{Fusion, FusionBackend};

impl<R, F, I, BT> CompressOps for CubeBackend<R, F, I, BT>
where
    Self: Backend,
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    BT: BoolElement,
{
    fn keeps_sums() -> bool {
        // NVIDIA's compiler reorders nothing unless told to; those of Vulkan and Metal may.
        std::any::type_name::<R>().ends_with("CudaRuntime")
    }
}

impl<B: FusionBackend + CompressOps> CompressOps for Fusion<B> {
    fn keeps_sums() -> bool {
        B::keeps_sums()
    }
}
