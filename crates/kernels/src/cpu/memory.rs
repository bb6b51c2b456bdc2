//! Between tensors and slices.

use super::parallel::{self, Shared};
use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::prelude::*;
use burn::tensor::{DType, TensorPrimitive};

/// Elements below which a second thread costs more than it brings.
pub(crate) const PARALLEL_FROM: usize = 1 << 16;

/// A tensor's primitive, rows contiguous, offset zero.
pub(crate) fn contiguous<const D: usize>(x: Tensor<Flex, D>) -> FlexTensor {
    x.into_primitive().tensor().to_contiguous()
}

/// A tensor of these values.
pub(crate) fn from_vec<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<Flex, D> {
    let data = FlexTensor::from_data(TensorData::new(values, shape));
    Tensor::from_primitive(TensorPrimitive::Float(data))
}

/// What `fill` writes into room for a result.
///
/// # Safety
/// It must write every element before it reads any.
#[expect(unsafe_code, reason = "zeroing a result costs about as much as writing it")]
pub(crate) unsafe fn filled(length: usize, fill: impl FnOnce(&mut [f32])) -> Vec<f32> {
    let mut values: Vec<f32> = Vec::with_capacity(length);
    let room = &mut values.spare_capacity_mut()[..length];
    // SAFETY: the same memory; `fill` writes each element before it reads it, as the caller promises.
    fill(unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast(), length) });
    // SAFETY: within the capacity, and all of it has been written.
    unsafe { values.set_len(length) };
    values
}

/// Copies some elements, few as a rule: two halves of known length, which may overlap, take less time than a call.
#[inline]
pub(crate) fn copy_few<T: Copy>(to: &mut [T], from: &[T]) {
    match from.len() {
        16..=32 => copy_ends::<T, 16>(to, from),
        8..=15 => copy_ends::<T, 8>(to, from),
        4..=7 => copy_ends::<T, 4>(to, from),
        _ => to.copy_from_slice(from),
    }
}

/// The first and the last `N`.
#[inline(always)]
fn copy_ends<T: Copy, const N: usize>(to: &mut [T], from: &[T]) {
    assert_eq!(to.len(), from.len(), "lengths");
    if let (Some(to), Some(from)) = (to.first_chunk_mut::<N>(), from.first_chunk::<N>()) {
        *to = *from;
    }
    if let (Some(to), Some(from)) = (to.last_chunk_mut::<N>(), from.last_chunk::<N>()) {
        *to = *from;
    }
}

/// The values of a small float tensor (a scale, a bias) of any dtype.
pub(crate) fn to_vec<const D: usize>(x: Tensor<Flex, D>) -> Vec<f32> {
    let x = contiguous(x.cast(DType::F32));
    x.storage::<f32>().to_vec()
}

/// Applies `kernel` to whole rows at a time, in parallel; in place where nobody else holds the
/// tensor.
pub(crate) fn map_rows(x: Tensor<Flex, 2>, kernel: impl Fn(&mut [f32]) + Sync) -> Tensor<Flex, 2> {
    let [rows, columns] = x.dims();
    if rows * columns == 0 {
        return x;
    }
    let mut x = contiguous(x);
    in_chunks(x.storage_mut::<f32>(), rows_per_task(rows, columns) * columns, |chunk, _| kernel(chunk));
    Tensor::from_primitive(TensorPrimitive::Float(x))
}

/// The same for each row and that of a second tensor beside it, which begins anew after its last.
pub(crate) fn zip_rows(
    x: Tensor<Flex, 2>,
    other: Tensor<Flex, 2>,
    kernel: impl Fn(&mut [f32], &[f32]) + Sync,
) -> Tensor<Flex, 2> {
    let [rows, columns] = x.dims();
    if rows * columns == 0 {
        return x;
    }
    let (mut x, others) = (contiguous(x), other.dims()[0]);
    let other = contiguous(other);
    let other = &other.storage::<f32>()[..others * columns];
    in_chunks(x.storage_mut::<f32>(), rows_per_task(rows, columns) * columns, |chunk, from| {
        for (i, row) in chunk.chunks_exact_mut(columns).enumerate() {
            kernel(row, &other[(from / columns + i) % others * columns..][..columns]);
        }
    });
    Tensor::from_primitive(TensorPrimitive::Float(x))
}

/// Calls `kernel` with each chunk of `values` and its start, in parallel.
#[expect(unsafe_code, reason = "threads write disjoint chunks")]
pub(crate) fn in_chunks(values: &mut [f32], length: usize, kernel: impl Fn(&mut [f32], usize) + Sync) {
    let count = values.len();
    let shared = Shared::new(values);
    parallel::blocks(count.div_ceil(length), count, |block| {
        let from = block * length;
        // SAFETY: chunks do not overlap.
        kernel(unsafe { shared.range(from, length.min(count - from)) }, from);
    });
}

/// Rows of one parallel task: a few tasks for each thread, none of them tiny.
pub(crate) fn rows_per_task(rows: usize, columns: usize) -> usize {
    let enough = PARALLEL_FROM.div_ceil(columns.max(1));
    rows.div_ceil(4 * rayon::current_num_threads()).max(enough).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_elements_is_copied() {
        let from: Vec<u32> = (1..=70).collect();
        for count in 0..=from.len() {
            let mut to = vec![0; count + 1];
            copy_few(&mut to[..count], &from[..count]);
            assert_eq!((&to[..count], to[count]), (&from[..count], 0));
        }
    }
}
