//! AdamW as one kernel for each parameter.

use crate::optimizer::{AdamWState, AdamWStep};
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

const THREADS: u32 = 256;
/// Cubes that a launch has at most.
const CUBES: usize = 4096;

#[cube(launch)]
#[allow(clippy::too_many_arguments, reason = "a kernel's arguments are its interface")]
fn adamw_kernel<F: Float>(
    weight: &Array<F>,
    first: &Array<F>,
    second: &Array<F>,
    gradient: &Array<F>,
    factor: &Array<F>,
    new_weight: &mut Array<F>,
    new_first: &mut Array<F>,
    new_second: &mut Array<F>,
    beta_1: f32,
    beta_2: f32,
    rest_1: f32,
    rest_2: f32,
    epsilon: f32,
    kept: f32,
    rate: f32,
    root: f32,
    #[comptime] scaled: bool,
    #[define(F)] _dtype: StorageType,
) {
    let mut at = ABSOLUTE_POS;
    let step = (CUBE_COUNT_X * CUBE_DIM_X) as usize;
    while at < weight.len() {
        let mut g = f32::cast_from(gradient[at]);
        if comptime!(scaled) {
            g *= f32::cast_from(factor[0]);
        }
        let m = f32::cast_from(first[at]) * beta_1 + g * rest_1;
        let v = f32::cast_from(second[at]) * beta_2 + g * g * rest_2;
        let size = f32::sqrt(v) / root + epsilon;
        new_weight[at] = F::cast_from(f32::cast_from(weight[at]) * kept - m * rate / size);
        new_first[at] = F::cast_from(m);
        new_second[at] = F::cast_from(v);
        at += step;
    }
}

/// See [`crate::adamw`]; the parameter is not empty.
pub(super) fn adamw<R: CubeRuntime>(
    state: AdamWState<CubeTensor<R>>,
    gradient: CubeTensor<R>,
    factor: Option<CubeTensor<R>>,
    s: AdamWStep,
) -> AdamWState<CubeTensor<R>> {
    let AdamWState { weight, first, second } = state;
    let [weight, first, second, gradient] = [weight, first, second, gradient].map(into_contiguous);
    let (client, device, dtype) = (weight.client.clone(), weight.device.clone(), weight.dtype);
    let shape = weight.meta.shape().clone();
    let empty = || empty_device_contiguous_dtype(client.clone(), device.clone(), shape.clone(), dtype);
    let new = AdamWState { weight: empty(), first: empty(), second: empty() };
    let elements = weight.meta.num_elements();
    let scaled = factor.is_some();
    let factor = factor.unwrap_or_else(|| gradient.clone());
    adamw_kernel::launch::<R>(
        &client,
        CubeCount::Static(elements.div_ceil(THREADS as usize).min(CUBES) as u32, 1, 1),
        CubeDim::new_1d(THREADS),
        weight.into_array_arg(),
        first.into_array_arg(),
        second.into_array_arg(),
        gradient.into_array_arg(),
        factor.into_array_arg(),
        new.weight.clone().into_array_arg(),
        new.first.clone().into_array_arg(),
        new.second.clone().into_array_arg(),
        s.beta_1 as f32,
        s.beta_2 as f32,
        (1.0 - s.beta_1) as f32,
        (1.0 - s.beta_2) as f32,
        s.epsilon as f32,
        s.kept as f32,
        s.rate as f32,
        s.root as f32,
        scaled,
        dtype.into(),
    );
    new
}
