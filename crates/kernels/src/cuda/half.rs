//! Products of half floats with packed weights: few rows unpack codes in registers, more rows multiply values that were
//! unpacked once.

use super::source::launch;
use super::variants::{Element, FewRows, HalfProduct, LayOutRows, Shares, WeightValues};
use super::{
    Client, Device, Matrix, ROWS, Unsupported, Weight, aligned, known, layout, multiprocessors, neighbours,
    scales_and_zeros, tile_columns, vector,
};
use crate::activation::Activation;
use crate::packed_matrix::Code;
use burn::prelude::*;
use burn::tensor::DType;
use burn_cubecl::ops::numeric::empty_device_dtype;
use cubecl::server::Handle;

/// Whether `x: [rows, in]` can be multiplied with `w`, and `bias` added.
pub(crate) fn supports(x: &Matrix, w: &Weight, bias: Option<&Matrix>) -> Result<(), Unsupported> {
    known(x, w, bias)?;
    suits(x.dtype, w.shape)
}

/// Whether floats of a type can be multiplied with a weight `[out, in]`.
pub(crate) fn suits(dtype: DType, shape: [usize; 2]) -> Result<(), Unsupported> {
    if !matches!(dtype, DType::F16 | DType::BF16) {
        return Err(Unsupported::Element(dtype));
    }
    if shape.contains(&0) { Err(Unsupported::Empty) } else { Ok(()) }
}

/// How the product of some rows with a weight `[out, in]` is shared out to threads that unpack codes in registers, if it is.
pub(crate) fn few_rows(
    rows: usize,
    bits: u32,
    [outputs, columns]: [usize; 2],
    group: usize,
) -> Option<Shares> {
    let step = FewRows::step(bits);
    let whole = columns.is_multiple_of(step) && (group == columns || group.is_multiple_of(step));
    Shares::of(rows, outputs, bits).filter(|_| whole && rows <= FewRows::MOST)
}

/// An input in the layout that the product of many rows reads.
pub(crate) struct LaidOut {
    values: Handle,
    rows: usize,
    columns: usize,
    device: Device,
    client: Client,
    dtype: DType,
}

/// Lays out `x: [rows, columns]`. It must be [supported](supports).
pub(crate) fn lay_out(x: Matrix) -> LaidOut {
    let x = neighbours(x);
    let [rows, columns] = x.meta.shape().dims();
    let (client, device, dtype) = (x.client.clone(), x.device.clone(), x.dtype);
    let values = client.empty(layout(rows, columns * dtype.size()));
    let kernel = LayOutRows { element: element(dtype) };
    let blocks = columns.div_ceil(HalfProduct::BLOCK);
    let info = vec![rows as u64, columns as u64, blocks as u64, x.meta.strides()[0] as u64];
    let pieces = rows * blocks * HalfProduct::BLOCK / 8;
    let buffers = vec![x.handle.binding(), values.clone().binding()];
    launch(&client, kernel, pieces.div_ceil(LayOutRows::PIECES) as u32, buffers, info);
    LaidOut { values, rows, columns, device, client, dtype }
}

/// `x w^T + bias`, then `activation`: `[rows, out]` of the type that the input had. `bias: [out]`. The weight's values take
/// memory while they are multiplied.
pub(crate) fn product(x: &LaidOut, w: &Weight, bias: Option<Matrix>, activation: Activation) -> Matrix {
    let [columns, _] = w.shape;
    let bias = bias.map(vector);
    let multiprocessors = multiprocessors(&x.client);
    let tile = tile_columns(x.rows, columns, multiprocessors);
    let kernel = HalfProduct {
        columns: tile as u32,
        element: element(x.dtype),
        activation,
        bias: bias.as_ref().map(|bias| element(bias.dtype)),
    };
    let y = empty_device_dtype(x.client.clone(), x.device.clone(), Shape::new([x.rows, columns]), x.dtype);
    let blocks = x.columns.div_ceil(HalfProduct::BLOCK) as u64;
    let info = vec![x.rows as u64, columns as u64, blocks, y.meta.strides()[0] as u64];
    let mut buffers = vec![x.values.clone().binding(), values(w, x.dtype).binding()];
    buffers.extend(bias.map(|bias| bias.handle.binding()));
    buffers.push(y.handle.clone().binding());
    let tiles = x.rows.div_ceil(ROWS) * columns.div_ceil(tile);
    launch(&x.client, kernel, tiles.min(multiprocessors) as u32, buffers, info);
    y
}

/// A weight's values in the layout that the product reads.
fn values(w: &Weight, dtype: DType) -> Handle {
    let ([rows, columns], client) = (w.shape, &w.words.client);
    let words = neighbours(w.words.clone());
    let (scales, zeros) = scales_and_zeros(w);
    let values = client.empty(layout(rows, columns * dtype.size()));
    let kernel = WeightValues {
        element: element(dtype),
        scale: element(scales.dtype),
        bits: w.bits,
        binary: w.code == Code::Binary,
        zero: zeros.is_some(),
        even: w.group.is_multiple_of(8) || w.group == columns,
    };
    let blocks = columns.div_ceil(HalfProduct::BLOCK);
    let info = vec![
        rows as u64,
        columns as u64,
        blocks as u64,
        words.meta.strides()[0] as u64,
        words.meta.shape()[1] as u64,
        scales.meta.strides()[0] as u64,
        w.group as u64,
    ];
    let pieces = rows * blocks * HalfProduct::BLOCK / 8;
    let mut buffers = vec![words.handle.binding(), scales.handle.binding()];
    buffers.extend(zeros.map(|zeros| zeros.handle.binding()));
    buffers.push(values.clone().binding());
    launch(client, kernel, pieces.div_ceil(WeightValues::PIECES) as u32, buffers, info);
    values
}

/// [`product`] for a few rows of `x: [rows, in]`, [as they are shared out](few_rows).
pub(crate) fn product_of_few(
    x: Matrix,
    shares: Shares,
    w: &Weight,
    bias: Option<Matrix>,
    activation: Activation,
) -> Matrix {
    let [outputs, columns] = w.shape;
    let x = aligned(x);
    let words = aligned(w.words.clone());
    let (scales, zeros) = scales_and_zeros(w);
    let bias = bias.map(vector);
    let rows = x.meta.shape()[0];
    let kernel = FewRows {
        element: element(x.dtype),
        bits: w.bits,
        scale: element(scales.dtype),
        binary: w.code == Code::Binary,
        zero: zeros.is_some(),
        grouped: w.group != columns,
        activation,
        bias: bias.as_ref().map(|bias| element(bias.dtype)),
        shares,
    };
    let y = empty_device_dtype(x.client.clone(), x.device.clone(), Shape::new([rows, outputs]), x.dtype);
    let strides = [&x, &words, &scales, &y].map(|x| x.meta.strides()[0] as u64);
    let mut info = vec![rows as u64, columns as u64, outputs as u64];
    info.extend(strides);
    info.push(w.group as u64);
    let client = x.client.clone();
    let mut buffers = vec![x.handle.binding(), words.handle.binding(), scales.handle.binding()];
    buffers.extend(zeros.map(|zeros| zeros.handle.binding()));
    buffers.extend(bias.map(|bias| bias.handle.binding()));
    buffers.push(y.handle.clone().binding());
    launch(&client, kernel, shares.blocks(rows, outputs) as u32, buffers, info);
    y
}

fn element(dtype: DType) -> Element {
    Element::of(dtype).expect("checked by supports()")
}
