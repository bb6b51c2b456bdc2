//! The common norm of many tensors: a kernel for each of them, and one that adds up.

use super::tree::{THREADS, total};
use burn::prelude::Shape;
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Cubes that share a tensor at most.
const CUBES: usize = 64;
/// Elements that are worth a cube.
const SHARE: usize = 8 * THREADS as usize;

#[cube(launch)]
fn squares_kernel<F: Float>(
    input: &Array<F>,
    sums: &mut Array<f32>,
    offset: u32,
    #[define(F)] _dtype: StorageType,
) {
    let mut sum = 0.0f32;
    let mut at = ABSOLUTE_POS;
    let step = (CUBE_COUNT_X * CUBE_DIM_X) as usize;
    while at < input.len() {
        let x = f32::cast_from(input[at]);
        sum += x * x;
        at += step;
    }
    let sum = total(sum);
    if UNIT_POS_X == 0 {
        sums[(offset + CUBE_POS_X) as usize] = sum;
    }
}

#[cube(launch)]
fn factor_kernel<F: Float>(
    sums: &Array<f32>,
    factor: &mut Array<F>,
    limit: f32,
    #[define(F)] _dtype: StorageType,
) {
    let mut sum = 0.0f32;
    let mut at = UNIT_POS_X as usize;
    while at < sums.len() {
        sum += sums[at];
        at += CUBE_DIM_X as usize;
    }
    let sum = total(sum);
    if UNIT_POS_X == 0 {
        let wanted = limit / (f32::sqrt(sum) + 1e-6f32);
        let mut found = 1.0f32;
        if wanted < 1.0f32 {
            found = wanted;
        }
        factor[0] = F::cast_from(found);
    }
}

/// See [`crate::clip_factor`]; no gradient is empty, and there is one at least.
pub(super) fn clip_factor<R: CubeRuntime>(gradients: Vec<CubeTensor<R>>, limit: f64) -> CubeTensor<R> {
    let (client, device) = (gradients[0].client.clone(), gradients[0].device.clone());
    let dtype = gradients[0].dtype;
    let cubes: Vec<usize> =
        gradients.iter().map(|g| g.meta.num_elements().div_ceil(SHARE).min(CUBES)).collect();
    let one = |elements, dtype| {
        let shape = Shape::new([elements]);
        empty_device_contiguous_dtype::<R>(client.clone(), device.clone(), shape, dtype)
    };
    let sums = one(cubes.iter().sum(), burn::tensor::DType::F32);
    let mut offset = 0;
    for (gradient, cubes) in gradients.into_iter().zip(cubes) {
        squares_kernel::launch::<R>(
            &client,
            CubeCount::Static(cubes as u32, 1, 1),
            CubeDim::new_1d(THREADS),
            into_contiguous(gradient).into_array_arg(),
            sums.clone().into_array_arg(),
            offset as u32,
            dtype.into(),
        );
        offset += cubes;
    }
    let factor = one(1, dtype);
    factor_kernel::launch::<R>(
        &client,
        CubeCount::Static(1, 1, 1),
        CubeDim::new_1d(THREADS),
        sums.into_array_arg(),
        factor.clone().into_array_arg(),
        limit as f32,
        dtype.into(),
    );
    factor
}
