//! Unpacking a weight, or the rows of it that are asked for, as one kernel: a thread for each chunk of codes.

use super::codes::{code_at, codes_per_chunk, lift, lifted, words_per_chunk};
use super::forms::CUBES;
use super::{Coding, Weight};
use burn::prelude::Shape;
use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::ops::numeric::{empty_device_contiguous_dtype, empty_device_dtype};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use cubecl::tensor_vector_size_parallel;

const THREADS: u32 = 256;

/// A launch has no more cubes than an axis holds: each thread takes every so manieth chunk. `picked`: row `r` of the output is row `ids[r]` of the weight. `ragged`: rows do not end with a chunk, or a chunk's
/// codes have several scales, so that each column is looked up by itself.
#[cube(launch)]
#[allow(clippy::too_many_arguments, reason = "a kernel's arguments are its interface")]
fn unpack_kernel<S: Float, O: Float, I: Int, NW: Size, NO: Size>(
    words: &Tensor<Vector<u32, NW>>,
    scales: &Tensor<S>,
    zeros: &Tensor<S>,
    ids: &Array<I>,
    output: &mut Tensor<Vector<O, NO>>,
    columns: usize,
    #[comptime] coding: Coding,
    #[comptime] picked: bool,
    #[comptime] ragged: bool,
    #[define(S, O, I)] _dtypes: [StorageType; 3],
) {
    let size = comptime!(codes_per_chunk(coding.bits));
    let chunks = (columns + comptime!(size - 1)) / size;
    let total = output.shape(0) * chunks;
    let step = (CUBE_COUNT_X * CUBE_DIM_X) as usize;
    let mut at = ABSOLUTE_POS;
    while at < total {
        let to = at / chunks;
        let chunk = at % chunks;
        let mut row = to;
        if comptime!(picked) {
            row = usize::cast_from(ids[to]);
        }
        if comptime!(ragged) {
            columns_of_chunk::<S, O, NW, NO>(
                words,
                scales,
                zeros,
                output,
                row,
                to,
                chunk * size,
                columns,
                coding,
            );
        } else {
            whole_chunk::<S, O, NW, NO>(words, scales, zeros, output, row, to, chunk, coding);
        }
        at += step;
    }
}

#[cube]
#[allow(clippy::too_many_arguments, reason = "what a kernel has at hand")]
fn whole_chunk<S: Float, O: Float, NW: Size, NO: Size>(
    words: &Tensor<Vector<u32, NW>>,
    scales: &Tensor<S>,
    zeros: &Tensor<S>,
    output: &mut Tensor<Vector<O, NO>>,
    row: usize,
    to: usize,
    chunk: usize,
    #[comptime] coding: Coding,
) {
    let bits = comptime!(coding.bits);
    let size = comptime!(codes_per_chunk(bits));
    let mut share = Array::<u32>::new(comptime!(words_per_chunk(bits)));
    load_words::<NW>(
        words,
        row * words.stride(0) + chunk * comptime!(words_per_chunk(bits)),
        &mut share,
        0usize,
        bits,
    );
    let mut group = 0usize;
    if comptime!(!coding.by_row) {
        group = chunk / comptime!(coding.group / size);
    }
    let scale = f32::cast_from(scales[row * scales.stride(0) + group * scales.stride(1)]);
    let mut zero = 0.0f32;
    if comptime!(coding.has_zeros()) {
        zero = f32::cast_from(zeros[row * zeros.stride(0) + group * zeros.stride(1)]);
    }
    let width = output.vector_size();
    let from = to * output.stride(0) + chunk * size;
    #[unroll]
    for part in 0..comptime!(size / width) {
        let mut values = Vector::<O, NO>::empty();
        #[unroll]
        for i in 0..width {
            let place = comptime!(part * width + i);
            let code = lifted(&share, 0usize, place, bits) - comptime!(lift(place, bits));
            values[i] = O::cast_from(value(code, scale, zero, coding));
        }
        output[(from + part * width) / width] = values;
    }
}

#[cube]
#[allow(clippy::too_many_arguments, reason = "what a kernel has at hand")]
fn columns_of_chunk<S: Float, O: Float, NW: Size, NO: Size>(
    words: &Tensor<Vector<u32, NW>>,
    scales: &Tensor<S>,
    zeros: &Tensor<S>,
    output: &mut Tensor<Vector<O, NO>>,
    row: usize,
    to: usize,
    first: usize,
    columns: usize,
    #[comptime] coding: Coding,
) {
    let mut column = first;
    let mut end = first + comptime!(codes_per_chunk(coding.bits));
    if end > columns {
        end = columns;
    }
    while column < end {
        let code = code_at::<NW>(words, row * words.stride(0), column, comptime!(coding.bits));
        let group = column / comptime!(coding.group);
        let scale = f32::cast_from(scales[row * scales.stride(0) + group * scales.stride(1)]);
        let mut zero = 0.0f32;
        if comptime!(coding.has_zeros()) {
            zero = f32::cast_from(zeros[row * zeros.stride(0) + group * zeros.stride(1)]);
        }
        output[to * output.stride(0) + column] = Vector::cast_from(value(code, scale, zero, coding));
        column += 1;
    }
}

/// What a code stands for, in the order of operations that [`crate::unpack`] promises.
#[cube]
pub(super) fn value(code: f32, scale: f32, zero: f32, #[comptime] coding: Coding) -> f32 {
    if comptime!(coding.has_zeros()) {
        code * scale + zero
    } else {
        (code - comptime!(coding.middle())) * comptime!(coding.unit()) * scale
    }
}

/// Loads the words of a chunk that begins at `from` to `into`, from `place` on.
#[cube]
pub(super) fn load_words<N: Size>(
    words: &Tensor<Vector<u32, N>>,
    from: usize,
    into: &mut Array<u32>,
    #[comptime] place: usize,
    #[comptime] bits: u32,
) {
    let width = words.vector_size();
    #[unroll]
    for part in 0..comptime!(words_per_chunk(bits) / width) {
        let found = words[from / width + part];
        #[unroll]
        for i in 0..width {
            into[comptime!(place + part * width + i)] = found[i];
        }
    }
}

/// Words that are read at once: as many as divide a chunk and where each row's begin.
pub(super) fn word_vector<R: CubeRuntime>(words: &CubeTensor<R>, bits: u32) -> usize {
    let fits = |width: &usize| {
        words_per_chunk(bits).is_multiple_of(*width) && words.meta.strides()[0].is_multiple_of(*width)
    };
    words.client.io_optimized_vector_sizes(4).filter(fits).max().unwrap_or(1)
}

/// The values of `weight`, or of its rows `ids`, in elements of `dtype`: `[rows, in]`. Nothing of it is empty.
pub(in crate::cube) fn unpack<R: CubeRuntime>(
    weight: Weight<R>,
    ids: Option<CubeTensor<R>>,
    dtype: DType,
) -> CubeTensor<R> {
    let Weight { words, scales, zeros, coding, shape: [out, columns] } = weight;
    let words = super::rows_of_neighbours(words);
    let (client, device) = (words.client.clone(), words.device.clone());
    let rows = ids.as_ref().map_or(out, |ids| ids.meta.num_elements());
    let shape = Shape::new([rows, columns]);
    // Where rows are picked their number is split into two axes later, which wants them without gaps.
    let output = match ids {
        Some(_) => empty_device_contiguous_dtype(client.clone(), device, shape, dtype),
        None => empty_device_dtype(client.clone(), device, shape, dtype),
    };
    let size = codes_per_chunk(coding.bits);
    let ragged = !columns.is_multiple_of(size) || !coding.fits_chunks();
    let fitting = client.io_optimized_vector_sizes(dtype.size()).filter(|width| size.is_multiple_of(*width));
    let (shape, strides) = (output.meta.shape(), output.meta.strides());
    let output_vector = if ragged { 1 } else { tensor_vector_size_parallel(fitting, shape, strides, 1) };
    let picked = ids.is_some();
    let ids = ids.map_or_else(|| words.clone(), burn_cubecl::kernel::into_contiguous);
    let dtypes = [scales.dtype.into(), dtype.into(), ids.dtype.into()];
    unpack_kernel::launch::<R>(
        &client,
        CubeCount::Static((rows * columns.div_ceil(size)).div_ceil(THREADS as usize).min(CUBES) as u32, 1, 1),
        CubeDim::new_1d(THREADS),
        if ragged { 1 } else { word_vector(&words, coding.bits) },
        output_vector,
        words.into_tensor_arg(),
        scales.into_tensor_arg(),
        zeros.into_tensor_arg(),
        ids.into_array_arg(),
        output.clone().into_tensor_arg(),
        columns,
        coding,
        picked,
        ragged,
        dtypes,
    );
    output
}
