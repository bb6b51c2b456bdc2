//! Layer normalization as one kernel: a plane or, of a wide row, a cube holds it in registers.

use super::tree::{THREADS, total};
use burn::tensor::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::features::Plane;
use cubecl::prelude::*;
use cubecl::tensor_vector_size_parallel;

/// Cubes that a launch has at most; each takes every so manieth row, or several of them.
const CUBES: usize = 32_768;
/// Elements of a row that a thread of a plane holds at most; of a wider row, a cube's threads share it.
const HELD: usize = 64;
/// Columns that a cube's registers hold.
pub(super) const WIDEST: usize = 8192;

/// How a kernel computes: known when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Plan {
    /// Vectors of a row that a thread holds.
    parts: usize,
    /// Whether something is added to the rows first.
    added: bool,
    /// Threads that share a row.
    team: u32,
    /// Whether they are a plane, which adds up without meeting in shared memory.
    plane: bool,
}

impl Plan {
    /// For rows of some vectors of `width` elements on a device whose planes all have `plane` threads, or `None`.
    fn new(vectors: usize, width: usize, plane: Option<u32>, added: bool) -> Self {
        let held = |team: u32| vectors.div_ceil(team as usize);
        match plane.filter(|plane| held(*plane) * width <= HELD) {
            Some(plane) => Self { parts: held(plane), added, team: plane, plane: true },
            None => Self { parts: held(THREADS), added, team: THREADS, plane: false },
        }
    }

    /// Rows that a cube takes at once.
    fn rows(self) -> u32 {
        THREADS / self.team
    }
}

/// Threads of every plane that a cube of [`THREADS`] consists of, where the device adds up within planes.
fn plane_of<R: CubeRuntime>(client: &ComputeClient<R>) -> Option<u32> {
    let properties = client.properties();
    let [least, most] = [properties.hardware.plane_size_min, properties.hardware.plane_size_max];
    let fits = least == most && least > 1 && THREADS.is_multiple_of(least);
    (fits && properties.features.plane.contains(Plane::Ops)).then_some(least)
}

/// `share` is one by the number of columns. Row `r` gets row `r % n` of the residual's `n` rows.
#[cube(launch)]
#[allow(clippy::too_many_arguments, reason = "a kernel's arguments are its interface")]
fn layer_norm_kernel<F: Float, P: Float, N: Size>(
    x: &Tensor<Vector<F, N>>,
    residual: &Tensor<Vector<F, N>>,
    gamma: &Array<Vector<P, N>>,
    beta: &Array<Vector<P, N>>,
    y: &mut Tensor<Vector<F, N>>,
    share: f32,
    epsilon: f32,
    #[comptime] plan: Plan,
    #[define(F, P)] _dtypes: [StorageType; 2],
) {
    let width = x.vector_size();
    let vectors = x.shape(1) / width;
    let mut row = (CUBE_POS_X * CUBE_DIM_Y + UNIT_POS_Y) as usize;
    while row < x.shape(0) {
        let mut values = Array::<f32>::new(comptime!(plan.parts * width));
        load_row::<F, N>(x, row, vectors, &mut values, false, plan);
        if comptime!(plan.added) {
            load_row::<F, N>(residual, row % residual.shape(0), vectors, &mut values, true, plan);
        }
        let mean = team_total(sum_of(&values, comptime!(plan.parts * width)), plan) * share;
        let squares = squares_about(&values, mean, vectors, width, plan);
        let factor = 1.0f32 / f32::sqrt(team_total(squares, plan) * share + epsilon);
        let to = row * y.stride(0) / width;
        #[unroll]
        for part in 0..comptime!(plan.parts) {
            let at = UNIT_POS_X as usize + comptime!(part * plan.team as usize);
            if at < vectors {
                let mut normal = Vector::<F, N>::empty();
                let (scales, offsets) = (gamma[at], beta[at]);
                #[unroll]
                for i in 0..width {
                    let value = (values[comptime!(part * width + i)] - mean) * factor;
                    normal[i] = F::cast_from(value * f32::cast_from(scales[i]) + f32::cast_from(offsets[i]));
                }
                y[to + at] = normal;
            }
        }
        row += (CUBE_COUNT_X * CUBE_DIM_Y) as usize;
    }
}

/// The sum of a team's `value`, for each of its threads.
#[cube]
fn team_total(value: f32, #[comptime] plan: Plan) -> f32 {
    if comptime!(plan.plane) { plane_sum(value) } else { total(value) }
}

/// Loads a thread's part of a row, or adds it; zeros beyond the end.
#[cube]
fn load_row<F: Float, N: Size>(
    x: &Tensor<Vector<F, N>>,
    row: usize,
    vectors: usize,
    values: &mut Array<f32>,
    #[comptime] add: bool,
    #[comptime] plan: Plan,
) {
    let width = x.vector_size();
    let from = row * x.stride(0) / width;
    #[unroll]
    for part in 0..comptime!(plan.parts) {
        let at = UNIT_POS_X as usize + comptime!(part * plan.team as usize);
        if comptime!(!add) {
            #[unroll]
            for i in 0..width {
                values[comptime!(part * width + i)] = 0.0f32;
            }
        }
        if at < vectors {
            let found = x[from + at];
            #[unroll]
            for i in 0..width {
                values[comptime!(part * width + i)] += f32::cast_from(found[i]);
            }
        }
    }
}

#[cube]
fn sum_of(values: &Array<f32>, #[comptime] count: usize) -> f32 {
    let mut sum = 0.0f32;
    #[unroll]
    for i in 0..count {
        sum += values[i];
    }
    sum
}

/// The sum of squared distances from the mean.
#[cube]
fn squares_about(
    values: &Array<f32>,
    mean: f32,
    vectors: usize,
    #[comptime] width: usize,
    #[comptime] plan: Plan,
) -> f32 {
    let mut sum = 0.0f32;
    #[unroll]
    for part in 0..comptime!(plan.parts) {
        if UNIT_POS_X as usize + comptime!(part * plan.team as usize) < vectors {
            #[unroll]
            for i in 0..width {
                let distance = values[comptime!(part * width + i)] - mean;
                sum += distance * distance;
            }
        }
    }
    sum
}

/// See [`crate::add_layer_norm`]; rows of 1 to [`WIDEST`] columns, `gamma` and `beta` of one type.
pub(super) fn layer_norm<R: CubeRuntime>(
    x: CubeTensor<R>,
    residual: Option<CubeTensor<R>>,
    [gamma, beta]: [CubeTensor<R>; 2],
    epsilon: f64,
) -> CubeTensor<R> {
    let x = neighbours(x);
    let residual = residual.map(neighbours);
    let (client, dtype) = (x.client.clone(), x.dtype);
    let [rows, columns] = x.meta.shape().dims();
    let y = empty_device_dtype(client.clone(), x.device.clone(), x.shape(), dtype);
    let vector = |x: &CubeTensor<R>| {
        let sizes = client.io_optimized_vector_sizes(dtype.size());
        tensor_vector_size_parallel(sizes, x.meta.shape(), x.meta.strides(), 1)
    };
    let width = [&x, &y].into_iter().chain(&residual).map(vector).min().unwrap_or(1);
    let plan = Plan::new(columns / width, width, plane_of(&client), residual.is_some());
    let residual = residual.unwrap_or_else(|| x.clone());
    let dtypes = [dtype.into(), gamma.dtype.into()];
    layer_norm_kernel::launch::<R>(
        &client,
        CubeCount::Static(rows.div_ceil(plan.rows() as usize).min(CUBES) as u32, 1, 1),
        CubeDim::new_2d(plan.team, plan.rows()),
        width,
        x.into_tensor_arg(),
        residual.into_tensor_arg(),
        into_contiguous(gamma).into_array_arg(),
        into_contiguous(beta).into_array_arg(),
        y.clone().into_tensor_arg(),
        1.0 / columns as f32,
        epsilon as f32,
        plan,
        dtypes,
    );
    y
}

/// The same matrix with neighbours of a row next to each other in memory.
fn neighbours<R: CubeRuntime>(x: CubeTensor<R>) -> CubeTensor<R> {
    if x.meta.strides()[1] == 1 { x } else { into_contiguous(x) }
}
