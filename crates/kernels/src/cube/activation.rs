//! Functions of single elements, in kernels that have them at hand.

use crate::activation::Activation;
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

const THREADS: u32 = 256;
/// Cubes that a launch has at most; each takes every so manieth share of the elements.
const CUBES: usize = 65_535;

/// `activation(x)`.
#[cube]
pub(super) fn activated(x: f32, #[comptime] activation: Activation) -> f32 {
    match comptime!(activation) {
        Activation::Identity => x,
        Activation::Relu => f32::max(x, 0.0f32),
        Activation::Gelu => 0.5f32 * x * (1.0f32 + Erf::erf(x * std::f32::consts::FRAC_1_SQRT_2)),
        Activation::GeluTanh => {
            let cube = x * x * x;
            let inner = (x + cube * 0.044_715f32) * comptime!(SQRT_2_OVER_PI);
            0.5f32 * x * (1.0f32 + f32::tanh(inner))
        }
    }
}

const SQRT_2_OVER_PI: f32 = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;

#[cube(launch)]
fn activation_kernel<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    y: &mut Array<Vector<F, N>>,
    #[comptime] activation: Activation,
    #[define(F)] _dtype: StorageType,
) {
    let width = x.vector_size();
    let mut at = ABSOLUTE_POS;
    while at < y.len() {
        let found = x[at];
        let mut values = Vector::<F, N>::empty();
        #[unroll]
        for i in 0..width {
            values[i] = F::cast_from(activated(f32::cast_from(found[i]), activation));
        }
        y[at] = values;
        at += (CUBE_COUNT_X * CUBE_DIM_X) as usize;
    }
}

/// `activation(x)` of every element; `x` is not empty.
pub(super) fn activate<R: CubeRuntime>(x: CubeTensor<R>, activation: Activation) -> CubeTensor<R> {
    let x = into_contiguous(x);
    let (client, dtype, elements) = (x.client.clone(), x.dtype, x.meta.num_elements());
    let shape = x.meta.shape().clone();
    let y = empty_device_contiguous_dtype(client.clone(), x.device.clone(), shape, dtype);
    let divides = |width: &usize| elements.is_multiple_of(*width);
    let width = client.io_optimized_vector_sizes(dtype.size()).filter(divides).max().unwrap_or(1);
    activation_kernel::launch::<R>(
        &client,
        CubeCount::Static((elements / width).div_ceil(THREADS as usize).min(CUBES) as u32, 1, 1),
        CubeDim::new_1d(THREADS),
        width,
        x.into_array_arg(),
        y.clone().into_array_arg(),
        activation,
        dtype.into(),
    );
    y
}
