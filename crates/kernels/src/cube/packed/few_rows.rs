//! Products of few rows with a packed weight: bound by how fast the packed words come from memory.
//!
//! A cube computes [`OUTPUTS`] outputs of all rows. Its threads share the inputs: neighbouring threads read
//! neighbouring chunks of words, so that a load of all threads is one run of memory, and each thread has the words of
//! several outputs and chunks on their way at a time. What a thread reads of the inputs serves all outputs.
//!
//! Codes become floats without being converted, lifted by a power of two (`codes`). With one or two rows the products
//! are summed as they are and the lift times the sum of the inputs taken off once a group; with more rows weights are
//! made whole first, once for all rows. Sums are of 32-bit floats.

use super::codes::{RUN, code_at, codes_per_chunk, lift, lifted, words_per_chunk};
use super::forms::CUBES;
use super::unpack::{load_words, value, word_vector};
use super::{Coding, Weight};
use crate::activation::Activation;
use crate::cube::activation::activated;
use crate::packing::words_per_row;
use burn::prelude::Shape;
use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::ops::numeric::empty_device_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Threads of a cube; a power of two.
const THREADS: u32 = 128;
/// Outputs of a cube.
const OUTPUTS: usize = 4;
/// Sums that the threads add up at a time, in as much shared memory.
const BATCH: usize = 16;
/// Threads that add up one sum.
const HELPERS: usize = THREADS as usize / BATCH;
/// Room for one sum's parts: so far apart that threads read from different banks of shared memory.
const ROOM: usize = THREADS as usize + HELPERS;

/// How a kernel computes: known when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Plan {
    coding: Coding,
    /// Rows of a cube.
    rows: usize,
    /// Chunks of each output that a thread reads at a time; a power of two.
    ahead: usize,
    /// Whether rows end within a chunk.
    ragged: bool,
    /// Whether each row is multiplied with a scale of its own.
    scaled: bool,
    /// Whether there is a bias.
    biased: bool,
    /// What is applied to each output.
    activation: Activation,
}

impl Plan {
    /// Whether the lift is taken off sums and not off codes.
    fn lifts_sums(self) -> bool {
        self.rows <= 2
    }

    /// Sums that a thread has.
    fn sums(self) -> usize {
        self.rows * OUTPUTS
    }

    /// Chunks of a group.
    fn chunks_of_group(self) -> usize {
        self.coding.group / codes_per_chunk(self.coding.bits)
    }
}

/// What a cube computes; in place of rows and outputs beyond the end it has the last ones again.
#[derive(CubeType)]
struct Share {
    first_row: usize,
    first_output: usize,
    /// Where the rows begin in the input.
    rows: Array<usize>,
    /// Where the outputs begin in the words.
    words: Array<usize>,
    /// Where the outputs begin in the scales.
    scales: Array<usize>,
    /// Where the outputs begin in the zeros.
    zeros: Array<usize>,
}

#[cube]
impl Share {
    fn new<X: CubePrimitive, W: CubePrimitive, S: CubePrimitive, Y: CubePrimitive>(
        x: &Tensor<X>,
        words: &Tensor<W>,
        scales: &Tensor<S>,
        zeros: &Tensor<S>,
        y: &Tensor<Y>,
        #[comptime] plan: Plan,
    ) -> Share {
        let mut share = Share {
            first_row: CUBE_POS_Y as usize * comptime!(plan.rows),
            first_output: (CUBE_POS_Z * CUBE_COUNT_X + CUBE_POS_X) as usize * comptime!(OUTPUTS),
            rows: Array::<usize>::new(comptime!(plan.rows)),
            words: Array::<usize>::new(OUTPUTS),
            scales: Array::<usize>::new(OUTPUTS),
            zeros: Array::<usize>::new(OUTPUTS),
        };
        #[unroll]
        for m in 0..comptime!(plan.rows) {
            let row = share.first_row + m;
            share.rows[m] = select(row < y.shape(0), row, y.shape(0) - 1) * x.stride(0);
        }
        #[unroll]
        for o in 0..OUTPUTS {
            let output = share.first_output + o;
            let output = select(output < y.shape(1), output, y.shape(1) - 1);
            share.words[o] = output * words.stride(0);
            share.scales[o] = output * scales.stride(0);
            share.zeros[o] = output * zeros.stride(0);
        }
        share
    }
}

/// What a thread has summed up.
#[derive(CubeType)]
struct Sums {
    /// Finished products, `[rows, outputs]`.
    done: Array<f32>,
    /// Products of inputs and lifted codes, `[rows, outputs]`.
    lifted: Array<f32>,
    /// Products of inputs and lifts, `[rows]`.
    lifts: Array<f32>,
    /// Sums of inputs, `[rows]`.
    inputs: Array<f32>,
}

#[cube]
impl Sums {
    fn new(#[comptime] plan: Plan) -> Sums {
        let mut sums = Sums {
            done: Array::<f32>::new(comptime!(plan.sums())),
            lifted: Array::<f32>::new(comptime!(plan.sums())),
            lifts: Array::<f32>::new(comptime!(plan.rows)),
            inputs: Array::<f32>::new(comptime!(plan.rows)),
        };
        #[unroll]
        for i in 0..comptime!(plan.sums()) {
            sums.done[i] = 0.0f32;
        }
        sums.start(plan);
        sums
    }

    /// Nothing of a group is summed yet.
    fn start(&mut self, #[comptime] plan: Plan) {
        #[unroll]
        for i in 0..comptime!(plan.sums()) {
            self.lifted[i] = 0.0f32;
        }
        #[unroll]
        for m in 0..comptime!(plan.rows) {
            self.lifts[m] = 0.0f32;
            self.inputs[m] = 0.0f32;
        }
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "a kernel's arguments are its interface")]
fn few_rows_kernel<X: Float, S: Float, P: Float, Y: Float, NX: Size, NW: Size>(
    x: &Tensor<Vector<X, NX>>,
    words: &Tensor<Vector<u32, NW>>,
    scales: &Tensor<S>,
    zeros: &Tensor<S>,
    row_scales: &Array<f32>,
    bias: &Array<P>,
    y: &mut Tensor<Y>,
    columns: usize,
    #[comptime] plan: Plan,
    #[define(X, S, P, Y)] _dtypes: [StorageType; 4],
) {
    let share = Share::new::<Vector<X, NX>, Vector<u32, NW>, S, Y>(x, words, scales, zeros, y, plan);
    let mut sums = Sums::new(plan);
    let chunks = columns / comptime!(codes_per_chunk(plan.coding.bits));
    let step = comptime!(THREADS as usize);
    let mut at = UNIT_POS_X as usize;
    // As many chunks at a time as are left, by halves: most of them with many loads on their way.
    #[unroll]
    for halving in 0..comptime!(plan.ahead.ilog2() as usize + 1) {
        let count = comptime!(plan.ahead >> halving);
        while at + comptime!((count - 1) * step) < chunks {
            chunks_from::<X, S, NX, NW>(x, words, scales, zeros, &share, &mut sums, at, count, plan);
            at += comptime!(count * step);
        }
    }
    if comptime!(plan.lifts_sums() && plan.coding.by_row) {
        finish_group::<S>(scales, zeros, &share, &mut sums, 0usize, plan);
    }
    if comptime!(plan.ragged) {
        let column = chunks * comptime!(codes_per_chunk(plan.coding.bits)) + UNIT_POS_X as usize;
        if column < columns {
            last_column::<X, S, NX, NW>(x, words, scales, zeros, &share, &mut sums, column, plan);
        }
    }
    write::<P, Y>(row_scales, bias, y, &share, &sums, plan);
}

/// Adds the products of `count` chunks, a cube's threads apart: all words are asked for before any is used.
#[cube]
#[allow(clippy::too_many_arguments, reason = "what a kernel has at hand")]
fn chunks_from<X: Float, S: Float, NX: Size, NW: Size>(
    x: &Tensor<Vector<X, NX>>,
    words: &Tensor<Vector<u32, NW>>,
    scales: &Tensor<S>,
    zeros: &Tensor<S>,
    share: &Share,
    sums: &mut Sums,
    first: usize,
    #[comptime] count: usize,
    #[comptime] plan: Plan,
) {
    let bits = comptime!(plan.coding.bits);
    let size = comptime!(words_per_chunk(bits));
    let mut packed = Array::<u32>::new(comptime!(count * OUTPUTS * size));
    #[unroll]
    for c in 0..count {
        let chunk = first + comptime!(c * THREADS as usize);
        #[unroll]
        for o in 0..OUTPUTS {
            let from = share.words[o] + chunk * size;
            load_words::<NW>(words, from, &mut packed, comptime!((c * OUTPUTS + o) * size), bits);
        }
    }
    #[unroll]
    for c in 0..count {
        let chunk = first + comptime!(c * THREADS as usize);
        let from = comptime!(c * OUTPUTS * size);
        if comptime!(plan.lifts_sums()) {
            lifted_chunk::<X, NX>(x, share, sums, &packed, from, chunk, plan);
            if comptime!(!plan.coding.by_row) {
                let group = chunk / comptime!(plan.chunks_of_group());
                finish_group::<S>(scales, zeros, share, sums, group, plan);
            }
        } else {
            whole_chunk::<X, S, NX>(x, scales, zeros, share, sums, &packed, from, chunk, plan);
        }
    }
}

/// Loads a run of inputs that begins at `from`.
#[cube]
fn load_run<X: Float, NX: Size>(x: &Tensor<Vector<X, NX>>, from: usize, into: &mut Array<f32>) {
    let width = x.vector_size();
    let from = from / width;
    #[unroll]
    for part in 0..comptime!(RUN / width) {
        let found = x[from + part];
        #[unroll]
        for i in 0..width {
            into[comptime!(part * width + i)] = f32::cast_from(found[i]);
        }
    }
}

/// Adds products with the codes as they were lifted, and with the lifts themselves.
#[cube]
fn lifted_chunk<X: Float, NX: Size>(
    x: &Tensor<Vector<X, NX>>,
    share: &Share,
    sums: &mut Sums,
    packed: &Array<u32>,
    #[comptime] from: usize,
    chunk: usize,
    #[comptime] plan: Plan,
) {
    let bits = comptime!(plan.coding.bits);
    let codes = comptime!(codes_per_chunk(bits));
    let mut inputs = Array::<f32>::new(RUN);
    #[unroll]
    for run in 0..comptime!(codes / RUN) {
        #[unroll]
        for m in 0..comptime!(plan.rows) {
            load_run::<X, NX>(x, share.rows[m] + chunk * codes + comptime!(run * RUN), &mut inputs);
            #[unroll]
            for i in 0..RUN {
                let place = comptime!(run * RUN + i);
                let input = inputs[i];
                sums.lifts[m] += input * comptime!(lift(place, bits) + plan.coding.middle());
                if comptime!(plan.coding.has_zeros()) {
                    sums.inputs[m] += input;
                }
                #[unroll]
                for o in 0..OUTPUTS {
                    let words = comptime!(from + o * words_per_chunk(bits));
                    sums.lifted[comptime!(m * OUTPUTS + o)] += input * lifted(packed, words, place, bits);
                }
            }
        }
    }
}

/// Takes the lifts off a group's products and multiplies with its scale.
#[cube]
fn finish_group<S: Float>(
    scales: &Tensor<S>,
    zeros: &Tensor<S>,
    share: &Share,
    sums: &mut Sums,
    group: usize,
    #[comptime] plan: Plan,
) {
    #[unroll]
    for o in 0..OUTPUTS {
        let scale = f32::cast_from(scales[share.scales[o] + group * scales.stride(1)])
            * comptime!(plan.coding.unit());
        #[unroll]
        for m in 0..comptime!(plan.rows) {
            let place = comptime!(m * OUTPUTS + o);
            sums.done[place] += (sums.lifted[place] - sums.lifts[m]) * scale;
            if comptime!(plan.coding.has_zeros()) {
                let zero = f32::cast_from(zeros[share.zeros[o] + group * zeros.stride(1)]);
                sums.done[place] += sums.inputs[m] * zero;
            }
        }
    }
    sums.start(plan);
}

/// Adds products with values of the weight.
#[cube]
#[allow(clippy::too_many_arguments, reason = "what a kernel has at hand")]
fn whole_chunk<X: Float, S: Float, NX: Size>(
    x: &Tensor<Vector<X, NX>>,
    scales: &Tensor<S>,
    zeros: &Tensor<S>,
    share: &Share,
    sums: &mut Sums,
    packed: &Array<u32>,
    #[comptime] from: usize,
    chunk: usize,
    #[comptime] plan: Plan,
) {
    let codes = comptime!(codes_per_chunk(plan.coding.bits));
    let mut group = 0usize;
    if comptime!(!plan.coding.by_row) {
        group = chunk / comptime!(plan.chunks_of_group());
    }
    let mut scale = Array::<f32>::new(OUTPUTS);
    let mut zero = Array::<f32>::new(OUTPUTS);
    #[unroll]
    for o in 0..OUTPUTS {
        scale[o] = f32::cast_from(scales[share.scales[o] + group * scales.stride(1)]);
        if comptime!(plan.coding.has_zeros()) {
            zero[o] = f32::cast_from(zeros[share.zeros[o] + group * zeros.stride(1)]);
        } else {
            zero[o] = 0.0f32;
        }
    }
    let mut weights = Array::<f32>::new(comptime!(OUTPUTS * RUN));
    let mut inputs = Array::<f32>::new(RUN);
    #[unroll]
    for run in 0..comptime!(codes / RUN) {
        whole_run(packed, &scale, &zero, &mut weights, from, comptime!(run * RUN), plan);
        #[unroll]
        for m in 0..comptime!(plan.rows) {
            load_run::<X, NX>(x, share.rows[m] + chunk * codes + comptime!(run * RUN), &mut inputs);
            #[unroll]
            for i in 0..RUN {
                #[unroll]
                for o in 0..OUTPUTS {
                    sums.done[comptime!(m * OUTPUTS + o)] += inputs[i] * weights[comptime!(o * RUN + i)];
                }
            }
        }
    }
}

/// Values of a run of codes for each output: lift and middle are part of what is added after scaling.
#[cube]
fn whole_run(
    packed: &Array<u32>,
    scale: &Array<f32>,
    zero: &Array<f32>,
    weights: &mut Array<f32>,
    #[comptime] from: usize,
    #[comptime] first: usize,
    #[comptime] plan: Plan,
) {
    let bits = comptime!(plan.coding.bits);
    #[unroll]
    for o in 0..OUTPUTS {
        let unit = scale[o] * comptime!(plan.coding.unit());
        #[unroll]
        for i in 0..RUN {
            let place = comptime!(first + i);
            let added = zero[o] - unit * comptime!(lift(place, bits) + plan.coding.middle());
            let code = lifted(packed, comptime!(from + o * words_per_chunk(bits)), place, bits);
            weights[comptime!(o * RUN + i)] = code * unit + added;
        }
    }
}

/// Adds the products of a column after the last chunk.
#[cube]
#[allow(clippy::too_many_arguments, reason = "what a kernel has at hand")]
fn last_column<X: Float, S: Float, NX: Size, NW: Size>(
    x: &Tensor<Vector<X, NX>>,
    words: &Tensor<Vector<u32, NW>>,
    scales: &Tensor<S>,
    zeros: &Tensor<S>,
    share: &Share,
    sums: &mut Sums,
    column: usize,
    #[comptime] plan: Plan,
) {
    let group = column / comptime!(plan.coding.group);
    #[unroll]
    for o in 0..OUTPUTS {
        let code = code_at::<NW>(words, share.words[o], column, comptime!(plan.coding.bits));
        let scale = f32::cast_from(scales[share.scales[o] + group * scales.stride(1)]);
        let mut zero = 0.0f32;
        if comptime!(plan.coding.has_zeros()) {
            zero = f32::cast_from(zeros[share.zeros[o] + group * zeros.stride(1)]);
        }
        let weight = value(code, scale, zero, comptime!(plan.coding));
        #[unroll]
        for m in 0..comptime!(plan.rows) {
            // Rows that end within a chunk are read one element at a time.
            let input = x[share.rows[m] + column];
            sums.done[comptime!(m * OUTPUTS + o)] += f32::cast_from(input[0]) * weight;
        }
    }
}

/// Adds up what the threads have, a batch of sums at a time, and writes the outputs.
#[cube]
fn write<P: Float, Y: Float>(
    row_scales: &Array<f32>,
    bias: &Array<P>,
    y: &mut Tensor<Y>,
    share: &Share,
    sums: &Sums,
    #[comptime] plan: Plan,
) {
    let thread = UNIT_POS_X as usize;
    let count = comptime!(if plan.sums() < BATCH { plan.sums() } else { BATCH });
    let mut parts = SharedMemory::<f32>::new(comptime!(BATCH * ROOM));
    let mut halves = SharedMemory::<f32>::new(comptime!(THREADS as usize));
    #[unroll]
    for batch in 0..comptime!(plan.sums() / count) {
        #[unroll]
        for i in 0..count {
            parts[comptime!(i * ROOM) + thread] = sums.done[comptime!(batch * count + i)];
        }
        sync_cube();
        // Threads are dealt out to the sums in turn, so that neighbours read neighbouring memory.
        let sum = thread / comptime!(HELPERS);
        let helper = thread % comptime!(HELPERS);
        let mut part = 0.0f32;
        if sum < count {
            #[unroll]
            for i in 0..BATCH {
                part += parts[sum * comptime!(ROOM) + comptime!(i * HELPERS) + helper];
            }
        }
        halves[thread] = part;
        sync_cube();
        if thread < count {
            let mut total = 0.0f32;
            #[unroll]
            for i in 0..HELPERS {
                total += halves[thread * comptime!(HELPERS) + i];
            }
            let place = comptime!(batch * count) + thread;
            store::<P, Y>(row_scales, bias, y, share, place, total, plan);
        }
    }
}

/// Writes one output, if it is not beyond the end.
#[cube]
#[allow(clippy::collapsible_if, reason = "`&&` of a kernel does not stop at the first")]
fn store<P: Float, Y: Float>(
    row_scales: &Array<f32>,
    bias: &Array<P>,
    y: &mut Tensor<Y>,
    share: &Share,
    place: usize,
    total: f32,
    #[comptime] plan: Plan,
) {
    let row = share.first_row + place / OUTPUTS;
    let output = share.first_output + place % OUTPUTS;
    if row < y.shape(0) {
        if output < y.shape(1) {
            let mut found = total;
            if comptime!(plan.scaled) {
                found *= row_scales[row];
            }
            if comptime!(plan.biased) {
                found += f32::cast_from(bias[output]);
            }
            found = activated(found, comptime!(plan.activation));
            y[row * y.stride(0) + output * y.stride(1)] = Y::cast_from(found);
        }
    }
}

/// Inputs of a product: floats, or whole numbers with a scale for each row.
#[derive(Clone)]
pub(in crate::cube) struct Inputs<R: CubeRuntime> {
    /// `[rows, in]`.
    pub(in crate::cube) values: CubeTensor<R>,
    /// `[rows]` 32-bit floats.
    pub(in crate::cube) scales: Option<CubeTensor<R>>,
}

/// `activation(x W^T + bias)` in elements of `dtype`, `rows` rows at a time; nothing of it is empty.
///
/// # Panics
/// When parts of the weight, the input and the bias do not fit each other.
pub(in crate::cube) fn few_rows<R: CubeRuntime>(
    x: Inputs<R>,
    weight: Weight<R>,
    bias: Option<CubeTensor<R>>,
    activation: Activation,
    rows: usize,
    dtype: DType,
) -> CubeTensor<R> {
    let Weight { words, scales, zeros, coding, shape: [out, columns] } = weight;
    let [words, values] = [words, x.values].map(super::rows_of_neighbours);
    let groups = Shape::new([out, columns / coding.group]);
    let fits = words.meta.shape().dims() == [out, words_per_row(columns, coding.bits)]
        && [&scales, &zeros].into_iter().all(|x| *x.meta.shape() == groups)
        && values.meta.shape()[1] == columns
        && bias.as_ref().is_none_or(|bias| bias.meta.num_elements() == out);
    assert!(
        fits,
        "parts of a packed weight [{out}, {columns}], its input and its bias do not fit each other"
    );
    let ragged = !columns.is_multiple_of(codes_per_chunk(coding.bits));
    let (scaled, biased) = (x.scales.is_some(), bias.is_some());
    let ahead = ahead(rows, coding.bits, ragged);
    let plan = Plan { coding, rows, ahead, ragged, scaled, biased, activation };
    let (client, device) = (values.client.clone(), values.device.clone());
    let all_rows = values.meta.shape()[0];
    let y = empty_device_dtype(client.clone(), device, Shape::new([all_rows, out]), dtype);
    let cubes = out.div_ceil(OUTPUTS);
    let count = [cubes.min(CUBES), all_rows.div_ceil(rows), cubes.div_ceil(CUBES)].map(|n| n as u32);
    // Arguments that are not there are not read: any tensor stands in for them.
    let row_scales = x.scales.unwrap_or_else(|| scales.clone());
    let bias = bias.map_or_else(|| scales.clone(), burn_cubecl::kernel::into_contiguous);
    let dtypes = [values.dtype.into(), scales.dtype.into(), bias.dtype.into(), dtype.into()];
    #[expect(unsafe_code, reason = "a check of every index costs more than the product of a code")]
    // SAFETY: rows and outputs beyond the end are replaced by the last ones, columns are those of whole chunks or
    // compared with their number, and what is stored is within the shape of `y`; shapes were compared above.
    unsafe {
        few_rows_kernel::launch_unchecked::<R>(
            &client,
            CubeCount::Static(count[0], count[1], count[2]),
            CubeDim::new_1d(THREADS),
            if ragged { 1 } else { input_vector(&values) },
            if ragged { 1 } else { word_vector(&words, coding.bits) },
            values.into_tensor_arg(),
            words.into_tensor_arg(),
            scales.into_tensor_arg(),
            zeros.into_tensor_arg(),
            row_scales.into_array_arg(),
            bias.into_array_arg(),
            y.clone().into_tensor_arg(),
            columns,
            plan,
            dtypes,
        );
    }
    y
}

/// Chunks of each output that a thread reads at a time, a power of two: as many as registers hold beside the sums, and
/// fewer where a chunk is much code by itself, as where inputs are read one by one.
fn ahead(rows: usize, bits: u32, ragged: bool) -> usize {
    let registers = match rows {
        1 if !ragged => 16,
        2 | 4 if !ragged => 8,
        _ => 4,
    };
    let size = words_per_chunk(bits).max(codes_per_chunk(bits) / RUN);
    (registers / (OUTPUTS * size)).clamp(1, 4)
}

/// Inputs that are read at once.
fn input_vector<R: CubeRuntime>(x: &CubeTensor<R>) -> usize {
    let fits = |width: &usize| RUN.is_multiple_of(*width) && x.meta.strides()[0].is_multiple_of(*width);
    x.client.io_optimized_vector_sizes(x.dtype.size()).filter(fits).max().unwrap_or(1)
}
