//! Between tensors and slices.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::prelude::*;
use burn::tensor::{DType, TensorPrimitive};
use rayon::prelude::*;

/// Elements below which a second thread costs more than it brings.
pub(crate) const PARALLEL_FROM: usize = 1 << 14;

/// A tensor's primitive, rows contiguous, offset zero.
pub(crate) fn contiguous<const D: usize>(x: Tensor<Flex, D>) -> FlexTensor {
    x.into_primitive().tensor().to_contiguous()
}

/// A tensor of these values.
pub(crate) fn from_vec<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<Flex, D> {
    let data = FlexTensor::from_data(TensorData::new(values, shape));
    Tensor::from_primitive(TensorPrimitive::Float(data))
}

/// The values of a small float tensor (a scale, a bias) of any dtype.
pub(crate) fn to_vec<const D: usize>(x: Tensor<Flex, D>) -> Vec<f32> {
    let x = contiguous(x.cast(DType::F32));
    x.storage::<f32>().to_vec()
}

/// Applies `kernel` to whole rows at a time, in parallel; in place where nobody else holds the
/// tensor.
pub(crate) fn map_rows(x: Tensor<Flex, 2>, kernel: impl Fn(&mut [f32]) + Send + Sync) -> Tensor<Flex, 2> {
    let [rows, columns] = x.dims();
    if rows * columns == 0 {
        return x;
    }
    let chunk = rows_per_task(rows, columns) * columns;
    let mut x = contiguous(x);
    if let Some(values) = x.try_storage_mut::<f32>() {
        values.par_chunks_mut(chunk).for_each(kernel);
        return Tensor::from_primitive(TensorPrimitive::Float(x));
    }
    let mut out = vec![0.0f32; rows * columns];
    out.par_chunks_mut(chunk).zip(x.storage::<f32>().par_chunks(chunk)).for_each(|(out, x)| {
        out.copy_from_slice(x);
        kernel(out);
    });
    from_vec(out, [rows, columns])
}

/// Rows of one parallel task: a few tasks for each thread, none of them tiny.
pub(crate) fn rows_per_task(rows: usize, columns: usize) -> usize {
    let enough = PARALLEL_FROM.div_ceil(columns.max(1));
    rows.div_ceil(4 * rayon::current_num_threads()).max(enough).max(1)
}
