//! The public functions on a GPU against the CPU: an NVIDIA GPU where CUDA is built in, else Vulkan, a software device
//! included.

mod fused;
mod products;
mod rows;
mod unpacking;

use super::*;
#[cfg(feature = "cuda")]
use crate::backend::Cuda as Gpu;
#[cfg(not(feature = "cuda"))]
use crate::backend::FusedWgpu as Gpu;

/// Graphics processors round divisions differently: a code may be off by one where it is near a tie.
const RELATIVE: f64 = 1e-3;

fn on_gpu<const D: usize>(values: &[f32], shape: [usize; D]) -> Tensor<Gpu, D> {
    crate::register::<Gpu>();
    Tensor::from_data(TensorData::new(values.to_vec(), shape), &Default::default())
}

fn back<const D: usize>(x: Tensor<Gpu, D>) -> Vec<f32> {
    super::host(x)
}

#[track_caller]
fn near(got: &[f32], expected: &[f32], what: &str) {
    let expected: Vec<f64> = expected.iter().map(|v| f64::from(*v)).collect();
    let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    assert_close(got, &expected, RELATIVE * largest.max(1e-6), what);
}

#[test]
fn optimizer_steps_and_norms_equal_plain_loops() {
    crate::register::<Gpu>();
    super::optimizer::steps_are_those_of_the_paper::<Gpu>();
    super::optimizer::the_factor_limits_the_common_norm::<Gpu>();
}
